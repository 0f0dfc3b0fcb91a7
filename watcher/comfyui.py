"""ComfyUI's HTTP API: submit, look up, cancel, and what a server is. Every answer becomes a value, a `Failure` of the job,
or an edge error; nothing above this module knows requests. What answers mean is read by `prompts` and `refusals`.

Answers are foreign bytes: their size and the time they take are bounded, redirects are not followed, and values that
end up in messages are cut and masked.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlencode

import requests
from pydantic import BaseModel, ValidationError
from requests.utils import default_headers
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, NewConnectionError

from handoff.failures import EdgeError, Failure, Reason, Transient, Unavailable
from handoff.graph import Graph, check_graph
from handoff.masking import mask_urls
from watcher.graph import hide_secrets
from watcher.http_adapter import looking_beside, open_adapter
from watcher.prompts import CancelAnswer, HistoryEntry, JobAnswer, Prompt, PromptState, Queue, QueueAnswer
from watcher.refusals import PromptAnswer, read_refusal, read_unknown_refusal

CONNECT_S = 3.0
READ_S = 30.0  # between two bytes; garbage collection in ComfyUI's worker alone stops its HTTP for half a second
SUBMIT_S = 120.0  # custom nodes may do long work while a prompt is validated
LIMIT = 32 << 20  # bytes; a job's detail holds its graph, all extra_data and tensors printed as text
LIST_LIMIT = 64 << 20  # the queue holds every waiting graph, /object_info every model's name

_NEVER_CONNECTED = (
    requests.ConnectTimeout,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    LocationValueError,
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

FolderType = Literal["input", "output", "temp"]
_Model = TypeVar("_Model", bound=BaseModel)


class NotArrived(Unavailable):
    """Nothing reached ComfyUI, or it refused unread: the same prompt may be sent again without a look-up."""


class Unclear(Transient):
    """It may or may not have arrived. `status` is the answer's where there was one: a 500 can follow a queued prompt."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class _Taken(Exception):  # noqa: N818
    """ComfyUI has the prompt, though it has not answered."""


@dataclass(frozen=True)
class _Answer:
    status: int
    content_type: str
    body: bytes

    @property
    def is_json(self) -> bool:
        return self.content_type.startswith("application/json")


class ComfyUI:
    """One server. May be used from several threads at once.

    Its one adapter is safe to share: the connection pool in it has its own lock. There is no `requests.Session`, so no
    cookie is kept, no redirect read or followed, no proxy or password taken from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._shown_url = mask_urls(self.url)
        self._adapter = open_adapter()
        self._has_jobs: bool | None = None  # /api/jobs/{id}, since ComfyUI 0.6; unknown after each loss of connection

    def close(self) -> None:
        self._adapter.close()

    def submit(self, prompt_id: str, graph: Graph, *, client_id: str, extra_data: Mapping[str, Any]) -> None:
        """Returns when ComfyUI has queued the prompt whole.

        An answer that does not come may be lost on the way, or ComfyUI is still validating: it is looked up beside.
        Raises Failure (it refused: another try gives the same), NotArrived (send it again), or Unclear (wait for the
        quiet time and look it up before anything else). A prompt number is never sent: the same one twice kills
        ComfyUI's worker thread.
        """
        check_graph(graph)
        _check_extra_data(extra_data)
        document = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": dict(extra_data)}
        try:
            body = json.dumps(document, allow_nan=False).encode()
        except ValueError as error:
            raise Failure(Reason.BAD_GRAPH, problem=str(error)) from None
        try:
            with looking_beside(self._expect(prompt_id)):
                answer = self._exchange("POST", "/prompt", body=body, read_s=SUBMIT_S)
        except _Taken:
            raise Unclear(f"POST {self._shown_url}/prompt is not answered, though ComfyUI has the prompt") from None
        if answer.status == 200:
            self._check_accepted(prompt_id, answer, graph)
        elif answer.status == 400 and answer.is_json:
            raise _read_refusal(answer, graph)
        elif answer.status == 413:
            size = f"413, since the prompt has {len(body)} bytes (its limit: --max-upload-size)"
            raise Failure(Reason.COMFYUI_ERROR, problem=size)
        elif answer.status >= 500:
            raise Unclear(f"POST {self._shown_url}/prompt was answered {answer.status}", answer.status)
        else:
            raise NotArrived(
                f"POST {self._shown_url}/prompt was answered {answer.status}: is this ComfyUI, and may we use it?"
            )

    def _expect(self, prompt_id: str) -> Callable[[], None]:
        """Raises _Taken at the second look that finds the prompt: between the two the answer had time to come.

        That ComfyUI has not got it means nothing while the POST is open.
        """
        found = 0

        def look() -> None:
            nonlocal found
            with suppress(Exception):  # whatever the look meets, the POST beside it is not over
                found += self.look_up(prompt_id) is not None
            if found > 1:
                raise _Taken

        return look

    def look_up(self, prompt_id: str) -> Prompt | None:
        """What ComfyUI has of the prompt now. None: it was neither queued nor running nor in its history.

        Raises Unavailable or Transient where ComfyUI gives no clear answer.
        """
        if self._has_jobs is not False:
            path = f"/api/jobs/{quote(prompt_id, safe='')}"
            answer = self._exchange("GET", path)
            if answer.status == 200:
                self._has_jobs = True
                with suppress(
                    Unclear
                ):  # a newer ComfyUI may have another word for a state: the older road still stands
                    return _parse(answer, f"GET {path}", JobAnswer).to_prompt(prompt_id)
            elif answer.status == 404 and _says_not_found(answer):
                self._has_jobs = True
                return None
            elif answer.status in (404, 405):
                if not answer.is_json:  # JSON is a gateway's; an older ComfyUI has no such route
                    self._has_jobs = False
            elif answer.status != 500:  # 500: one odd entry in the history breaks this route for itself
                raise _unexpected(f"GET {self._shown_url}{path}", answer)
        return self._look_up_by_lists(prompt_id)

    def find_dropped(self, prompt_id: str, graph: Graph) -> list[str]:
        """Nodes that would have saved or shown something, and that ComfyUI left out since their inputs did not validate.

        Only the POST's answer tells this; here it is worked out for one that was not read.
        """
        entry = self._get_object(f"/history/{quote(prompt_id, safe='')}").get(prompt_id)
        with suppress(TypeError, LookupError):
            kept = entry["prompt"][4]  # type: ignore[index]  # foreign, so whatever it is
            if not isinstance(kept, list):
                return []
            left = [node for node in graph if node not in kept]
            classes = {str(graph[node]["class_type"]) for node in left}
            saving = {name for name in classes if (self.class_info(name) or {}).get("output_node") is True}
            return [node for node in left if graph[node]["class_type"] in saving]
        return []  # of another form: it cannot be told

    def cancel(self, prompt_id: str) -> bool:
        """Asks ComfyUI to drop or interrupt the prompt; whether it had it. A wish: only a look-up tells what came of it."""
        path = f"/api/jobs/{quote(prompt_id, safe='')}/cancel"
        answer = self._exchange("POST", path, body=b"{}")
        if answer.status == 200:
            return _parse(answer, f"POST {path}", CancelAnswer).cancelled
        if answer.status not in (404, 405):
            raise _unexpected(f"POST {self._shown_url}{path}", answer)
        queue = self.queue()
        if prompt_id in queue.waiting:
            self._post("/queue", {"delete": [prompt_id]})
        # Asked after the deletion, since it may have begun to run meanwhile. Before 0.3.57 /interrupt stops whatever runs.
        if prompt_id in self.queue().running:
            self._post("/interrupt", {"prompt_id": prompt_id})
        return prompt_id in queue.waiting or prompt_id in queue.running

    def queue(self) -> Queue:
        return self._get("/queue", QueueAnswer, limit=LIST_LIMIT).to_queue()

    def stats(self) -> dict[str, Any]:
        """/system_stats: version, memory, devices."""
        return self._get_object("/system_stats")

    def object_info(self) -> dict[str, Any]:
        """Every node class with its inputs; half a megabyte and more, and a quarter of a second."""
        found = self._get_object("/object_info", limit=LIST_LIMIT)
        if not any(isinstance(info, dict) and "input" in info for info in found.values()):  # no job could run there
            raise Unclear(f"GET {self._shown_url}/object_info names no node class", 200)
        return found

    def class_info(self, class_type: str) -> dict[str, Any] | None:
        """One node class, in a few milliseconds. None: ComfyUI has no such class."""
        found = self._get_object(f"/object_info/{quote(class_type, safe='')}").get(class_type)
        return found if isinstance(found, dict) else None

    def free(self) -> None:
        """Unloads all models and empties the node cache before the next prompt."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def view(self, filename: str, subfolder: str, folder: FolderType, to: BinaryIO, limit: int) -> int:
        """Copies a file of ComfyUI's folder into `to`; its size in bytes.

        Raises Failure OUTPUT_MISSING (404), OUTPUT_BROKEN (larger than `limit`, or a name ComfyUI refuses), and edge errors.
        """
        shown = f"{subfolder}/{filename}" if subfolder else filename
        with self._open(
            "GET", "/view", params={"filename": filename, "subfolder": subfolder, "type": folder}
        ) as response:
            if response.status_code == 404:
                raise Failure(Reason.OUTPUT_MISSING, file=shown)
            if response.status_code in (400, 403):
                raise Failure(
                    Reason.OUTPUT_BROKEN, file=shown, problem=f"ComfyUI answers {response.status_code} to this name"
                )
            if response.status_code != 200:
                raise _unexpected(f"GET {self._shown_url}/view", _Answer(response.status_code, "", b""))
            size = 0
            for part in _parts(response):
                size += len(part)
                if size > limit:
                    raise Failure(Reason.OUTPUT_BROKEN, file=shown, problem=f"it has more than {limit} bytes")
                to.write(part)
            return size

    def probe_shared(self, folder: FolderType, name: str, content: bytes) -> bool:
        """Whether ComfyUI's folder is ours: a file that we put there as `name` is what /view gives. For `handoff doctor`."""
        subfolder, _, filename = name.rpartition("/")
        answer = self._exchange("GET", "/view", params={"filename": filename, "subfolder": subfolder, "type": folder})
        if answer.status not in (200, 400, 403, 404):
            raise _unexpected(f"GET {self._shown_url}/view", answer)
        return answer.status == 200 and answer.body == content

    def _check_accepted(self, prompt_id: str, answer: _Answer, graph: Graph) -> None:
        accepted = _parse(answer, "POST /prompt", PromptAnswer)
        if accepted.node_errors:  # ComfyUI drops the outputs that fail and runs the rest: that would be a silent half
            with suppress(EdgeError):
                self.cancel(prompt_id)
            raise _read_refusal(answer, graph)
        if accepted.prompt_id is not None and accepted.prompt_id != prompt_id:
            with suppress(EdgeError):
                self.cancel(accepted.prompt_id)
            raise Unavailable(f"{self._shown_url} chose its own prompt id: ComfyUI of July 2025 or newer is needed")
        if accepted.prompt_id is None:
            raise Unclear(f"POST {self._shown_url}/prompt was answered 200 without a prompt id", 200)

    def _look_up_by_lists(self, prompt_id: str) -> Prompt | None:
        """The queue first, then the history: the other way round a prompt that ends in between is in neither."""
        queue = self.queue()
        if prompt_id in queue.running:
            return Prompt(id=prompt_id, state=PromptState.RUNNING, outputs={})
        if prompt_id in queue.waiting:
            return Prompt(id=prompt_id, state=PromptState.WAITING, outputs={})
        path = f"/history/{quote(prompt_id, safe='')}"
        history = self._get_object(path)
        if history == {}:
            return None
        return _validate(history.get(prompt_id), f"GET {path}", HistoryEntry).to_prompt(prompt_id)

    def _get(self, path: str, model: type[_Model], limit: int = LIMIT) -> _Model:
        answer = self._exchange("GET", path, limit=limit)
        if answer.status != 200:
            raise _unexpected(f"GET {self._shown_url}{path}", answer)
        return _parse(answer, f"GET {path}", model)

    def _get_object(self, path: str, limit: int = LIMIT) -> dict[str, Any]:
        answer = self._exchange("GET", path, limit=limit)
        if answer.status != 200:
            raise _unexpected(f"GET {self._shown_url}{path}", answer)
        document = _decode(answer, f"GET {path}")
        if not isinstance(document, dict):
            raise Unclear(f"GET {self._shown_url}{path} was not answered with an object", 200)
        return document

    def _post(self, path: str, document: Mapping[str, Any]) -> None:
        answer = self._exchange("POST", path, body=json.dumps(document).encode())
        if answer.status != 200:
            raise _unexpected(f"POST {self._shown_url}{path}", answer)

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        read_s: float = READ_S,
        limit: int = LIMIT,
    ) -> _Answer:
        with self._open(method, path, body=body, params=params, read_s=read_s) as response:
            content = bytearray()
            for part in _parts(response):
                content += part
                if len(content) > limit:
                    raise Unclear(
                        f"{method} {self._shown_url}{path} was answered with more than {limit} bytes",
                        response.status_code,
                    )
            return _Answer(response.status_code, response.headers.get("Content-Type", ""), bytes(content))

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        read_s: float = READ_S,
    ) -> Iterator[requests.Response]:
        """Raises NotArrived, Unclear, also from inside the block while the answer is read."""
        call = f"{method} {self._shown_url}{path}"
        try:
            request = self._prepare(method, path, body, params)
            with self._adapter.send(request, stream=True, timeout=(CONNECT_S, read_s)) as response:
                yield response
        except (requests.RequestException, HTTPError) as error:
            self._has_jobs = None  # what answers next may be another version
            if _is_before_sending(error):
                raise NotArrived(f"{call}: no connection ({_reason(error)})") from error
            raise Unclear(f"{call}: {_reason(error)}") from error

    def _prepare(
        self, method: str, path: str, body: bytes | None, params: Mapping[str, str] | None
    ) -> requests.PreparedRequest:
        """By hand, since what requests does to merge and check the same settings anew is a third of a call's time."""
        request = requests.PreparedRequest()
        request.method = method
        request.url = f"{self._bare.url}{path}" + (f"?{urlencode(params)}" if params else "")
        request.headers = self._bare.headers.copy()
        if body is not None:
            request.body = body
            request.headers["Content-Type"] = "application/json"
            request.headers["Content-Length"] = str(len(body))
        return request

    @cached_property
    def _bare(self) -> requests.PreparedRequest:
        """What all requests share: the address as it goes over the wire, and the headers, with the address's password."""
        headers = {**default_headers(), "Accept-Encoding": "identity"}
        bare = requests.Request("GET", self.url, headers=headers).prepare()
        bare.url = (bare.url or "").rstrip("/")
        return bare


def _parts(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes: `read1` gives what one read of the socket gives.

    Nothing is unpacked: a small packed answer could fill the memory, and none was asked for.
    """
    while part := response.raw.read1(1 << 18, decode_content=False):
        yield part


def _decode(answer: _Answer, call: str) -> Any:
    """The JSON, with `?` for half of a surrogate pair: Python's file errors hold such, and no status document can."""
    try:
        document = json.loads(answer.body.decode())
        if _SURROGATE.search(answer.body):
            document = json.loads(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
        return document
    except (ValueError, RecursionError):
        raise Unclear(f"{call} was not answered with JSON but with {answer.body[:40]!r}", answer.status) from None


def _parse(answer: _Answer, call: str, model: type[_Model]) -> _Model:
    return _validate(_decode(answer, call), call, model, answer.status)


def _validate(document: Any, call: str, model: type[_Model], status: int = 200) -> _Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise Unclear(f"{call} was answered with something unknown: {place}: {first['msg']}", status) from None


def _read_refusal(answer: _Answer, graph: Graph) -> Failure:
    document: Any = hide_secrets(answer.body.decode(errors="replace"), graph)
    with suppress(Unclear, RecursionError):
        document = hide_secrets(_decode(answer, "POST /prompt"), graph)
        return read_refusal(_validate(document, "POST /prompt", PromptAnswer), graph)
    return read_unknown_refusal(document)


def _says_not_found(answer: _Answer) -> bool:
    """Whether it is ComfyUI that does not know the job: a gateway in front of it has a 404 of its own, also as JSON."""
    with suppress(ValueError, RecursionError):
        return bool(json.loads(answer.body) == {"error": "Job not found"})  # ComfyUI 0.33
    return False


def _unexpected(call: str, answer: _Answer) -> EdgeError:
    text = f"{call} was answered {answer.status}"
    return (
        Unclear(text, answer.status)
        if answer.status >= 500
        else Unavailable(f"{text}: is this ComfyUI, and may we use it?")
    )


def _is_before_sending(error: Exception) -> bool:
    """Whether the connection was never made: refused, no such host, no route, no TLS."""
    if isinstance(error, _NEVER_CONNECTED):
        return True
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.exceptions.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" in str(cause) or "WRONG_VERSION_NUMBER" in str(cause)
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)


def _reason(error: Exception) -> str:
    cause: Any = error
    while (args := getattr(cause, "args", None)) and isinstance(args[-1], Exception):
        cause = args[-1]
    cause = getattr(cause, "reason", None) or cause
    return f"{type(error).__name__}: {mask_urls(str(cause))[:200]}"  # it may hold the address as it was set


def _check_extra_data(extra_data: Mapping[str, Any]) -> None:
    """ComfyUI answers 500 to GET /api/jobs for everybody once a job with such an extra_pnginfo is in its history."""
    if "extra_pnginfo" in extra_data:
        info = extra_data["extra_pnginfo"]
        if not isinstance(info, dict) or not isinstance(info.get("workflow", {}), dict):
            raise Failure(Reason.BAD_GRAPH, problem="extra_pnginfo and its workflow must be objects")

"""A client for Handoff's HTTP API in one file: copy it beside your program. It needs Python 3.9 and `requests`, nothing else.

    from handoff_client import Handoff

    handoff = Handoff("http://127.0.0.1:8080", key="…")
    job = handoff.submit("a lighthouse in the fog", width=768)
    handoff.wait(job)                      # raises JobFailed, which says why and what to do
    print(handoff.save(job, "pictures"))   # [PosixPath('pictures/….png')]

A job has an id before it is sent, so that a request whose answer is lost can be repeated: it stays one job.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

import requests

__all__ = ["Handoff", "HandoffError", "JobFailed", "Refused", "StillRunning", "Unreachable"]

_HOLD_S = 25.0
_ATTEMPTS = 5
_TRY_AGAIN = {429, 502, 503, 504}

Document = dict[str, Any]


class HandoffError(Exception):
    """`reason` is a short name for programs; the text is for people, and so is `hint`, which says what to do."""

    def __init__(self, reason: str, message: str, hint: str = "", *, document: Document | None = None) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.reason = reason
        self.message = message
        self.hint = hint
        self.document = document or {}


class Refused(HandoffError):  # noqa: N818
    """The request cannot be fulfilled as it is: a wrong parameter, an unknown id, a wrong key. `status` is HTTP's."""

    def __init__(self, status: int, document: Document) -> None:
        reason = str(document.get("reason") or document.get("title") or status)
        message = str(document.get("detail") or document.get("title") or f"HTTP {status}")
        super().__init__(reason, message, str(document.get("hint") or ""), document=document)
        self.status = status


class JobFailed(HandoffError):  # noqa: N818
    """The job ended otherwise than well. `document` is its whole status document."""

    def __init__(self, document: Document) -> None:
        error = document.get("error") or {}
        reason = error.get("reason") or document["status"]
        message = error.get("message") or f"The job ended as {document['status']}."
        super().__init__(reason, message, error.get("hint") or "", document=document)


class StillRunning(HandoffError):  # noqa: N818
    """The time to wait ran out; the job goes on. `document` says where it stands."""


class Unreachable(HandoffError):  # noqa: N818
    """No answer, several times."""


class Handoff:
    """May be used as a context. One thread at a time.

    `url` may hold a name and a key: http://shop:KEY@host:8080. `timeout` is how long an answer may take, in seconds.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._session = requests.Session()
        self._session.auth = None if key is None else _Bearer(key)

    def __enter__(self) -> Handoff:  # noqa: PYI034 - Self wants Python 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    def submit(
        self,
        prompt: str | None = None,
        *,
        workflow: str | None = None,
        graph: Mapping[str, Any] | None = None,
        images: Mapping[str, str | os.PathLike[str] | bytes] | None = None,
        id: str | None = None,
        priority: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> str:
        """Returns the job's id. `images` uploads a file, or bytes, as a parameter: images={"image": "cat.png"}.

        With an id of your own the same call twice is one job. Raises Refused, Unreachable.
        """
        id = id or str(uuid.uuid4())
        if prompt is not None:
            params["prompt"] = prompt
        for name, picture in (images or {}).items():
            params[name] = self.upload(picture)
        fields = {"priority": priority, "metadata": metadata, "graph": graph}
        body: Document = {name: value for name, value in fields.items() if value is not None}
        if graph is None:
            body |= {"params": params}
            if workflow is not None:
                body["workflow"] = workflow
        elif params or workflow is not None:
            raise TypeError("a graph takes neither a workflow nor parameters")
        self._ask("PUT", f"/v1/jobs/{quote(id, safe='')}", json=body)
        return id

    def upload(self, picture: str | os.PathLike[str] | bytes) -> str:
        """Returns the name by which a picture parameter refers to it. Raises Refused, Unreachable, OSError."""
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        name = "picture" if isinstance(picture, bytes) else Path(picture).name
        return str(self._ask("POST", "/v1/uploads", files={"image": (name, data)}).json()["name"])

    def status(self, id: str) -> Document:
        """The status document as it is now. Raises Refused (404) for an unknown id, Unreachable."""
        return self._look(id, 0)

    def wait(self, id: str, timeout: float | None = None) -> Document:
        """The final status document of a job that succeeded. Raises JobFailed, StillRunning, Refused, Unreachable."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _HOLD_S if end is None else max(0.0, min(_HOLD_S, end - time.monotonic()))
            document = self._look(id, left)
            if document["ok"]:
                return document
            if document["done"]:
                raise JobFailed(document)
            if end is not None and time.monotonic() >= end:
                raise StillRunning(
                    "still_running", f"The job is {document['status']}.", "Wait longer; it goes on.", document=document
                )

    def cancel(self, id: str) -> Document:
        """Asks to cancel; `wait` then raises JobFailed. A job that has ended stays as it is. Raises Refused, Unreachable."""
        document: Document = self._ask("POST", f"/v1/jobs/{quote(id, safe='')}/cancel").json()
        return document

    def save(self, id: str, folder: str | os.PathLike[str] = ".") -> list[Path]:
        """Downloads the outputs of a job that has ended into a folder, which is made; returns their paths.

        A file is there under its name only when it is whole. Raises JobFailed, StillRunning, Refused, Unreachable.
        """
        document = self.wait(id, timeout=0)
        os.makedirs(folder, exist_ok=True)
        return [self._save(id, output, Path(folder)) for output in document["outputs"]]

    def _save(self, id: str, output: Document, folder: Path) -> Path:
        name = os.path.basename(str(output["name"]))
        path, unfinished = folder / name, folder / f".{name}.unfinished"
        for attempt in range(_ATTEMPTS):
            address = f"/v1/jobs/{quote(id, safe='')}/outputs/{quote(output['name'], safe='')}"
            with contextlib.closing(self._ask("GET", address, stream=True)) as answer, unfinished.open("wb") as file:
                if _copy(answer, file) == output["bytes"]:
                    break
            _pause(attempt)
        else:
            unfinished.unlink(missing_ok=True)
            raise Unreachable("cut_off", f"The download of {name} was cut off {_ATTEMPTS} times.")
        os.replace(unfinished, path)
        return path

    def _look(self, id: str, wait_s: float) -> Document:
        address = f"/v1/jobs/{quote(id, safe='')}"
        document: Document = self._ask("GET", address, params={"wait": f"{wait_s:.3f}"}, hold_s=wait_s).json()
        return document

    def _ask(self, method: str, address: str, *, hold_s: float = 0.0, **options: Any) -> requests.Response:
        """Repeated after a lost or busy answer, which each call here allows. Raises Refused, Unreachable."""
        problem = ""
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._session.request(
                    method, self.url + address, timeout=(10.0, self.timeout + hold_s), **options
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = f"{type(error).__name__}"
                _pause(attempt)
                continue
            if answer.ok:
                return answer
            if answer.status_code not in _TRY_AGAIN:
                raise Refused(answer.status_code, _read_problem(answer))
            problem = f"HTTP {answer.status_code}: {_read_problem(answer).get('detail') or answer.reason}"
            _pause(attempt, answer.headers.get("Retry-After"))
        raise Unreachable(
            "unreachable",
            f"No useful answer to {method} {address} after {_ATTEMPTS} attempts: {problem}.",
            "Check the address, and that `handoff serve` runs there.",
        )


class _Bearer(requests.auth.AuthBase):
    """As a header alone it would give way to a line of ~/.netrc."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _copy(answer: requests.Response, file: BinaryIO) -> int:
    """How many bytes there were until the connection ended."""
    written = 0
    with contextlib.suppress(requests.RequestException):
        for part in answer.iter_content(1 << 20):
            written += file.write(part)
    return written


def _read_problem(answer: requests.Response) -> Document:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _pause(attempt: int, asked: str | None = None) -> None:
    if attempt < _ATTEMPTS - 1:
        longest = 30.0
        seconds = float(asked) if asked and asked.isdigit() else 0.5 * 2**attempt
        time.sleep(min(seconds, longest))

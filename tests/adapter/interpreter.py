"""Runs an imported Dify app as Dify does, as far as the shipped flows need it: start, HTTP request, loop, iteration,
if-else, variable assigner, answer and end nodes, behind a proxy that names itself.

What forced each rule: a variable that is missing is rendered as its own name; an HTTP body is always a text; bytes become
a file by their content type; a non-2xx fails the node only where retry or an error strategy is on, and a 401 or 403 that
came through the proxy always; a loop that reaches its count is no error; loop variables cannot hold files.
"""

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import yaml

MAX_STEPS = 500
MAX_TEXT = 1 << 20
MAX_BINARY = 10 << 20
PROXY = "1.1 ssrf_proxy (squid/5.7)"

_TEMPLATE = re.compile(r"\{\{#([a-zA-Z0-9_]{1,50}(?:\.[a-zA-Z_][a-zA-Z0-9_]{0,29}){1,10})#\}\}")
_TEXTS = ("json", "xml", "javascript", "yaml", "graphql", "x-www-form-urlencoded")
_MISSING = object()

Node = dict[str, Any]


class NodeFailed(Exception):  # noqa: N818
    """What a node's error strategy can catch."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Blocked(Exception):  # noqa: N818
    """Shown as "blocked by SSRF protection"; no error strategy catches it."""


class RunFailed(Exception):  # noqa: N818
    """The run ends here."""


@dataclass(frozen=True)
class File:
    name: str
    mime_type: str
    data: bytes


@dataclass
class Run:
    """`answers` are a chatflow's texts in their order, `outputs` what the end node that was reached gives."""

    id: str
    answers: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def answer(self) -> str:
        return "".join(self.answers)


def load(text: str) -> dict[str, Any]:
    """The document as Dify's importer takes it. Raises ValueError for what it refuses."""
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not isinstance(document.get("version"), str):
        raise ValueError("an app with a version in quotes is wanted")  # noqa: TRY004
    if document["app"]["mode"] not in {"workflow", "advanced-chat"} or not document["app"]["name"]:
        raise ValueError("a workflow or a chatflow with a name is wanted")
    assert isinstance(document["workflow"]["graph"]["nodes"], list)
    return document


class Dify:
    """One imported app. `patience` scales the pauses between an HTTP node's retries."""

    def __init__(
        self, app: dict[str, Any], environment: Mapping[str, str] | None = None, *, patience: float = 1.0
    ) -> None:
        self.app = app
        self._patience = patience
        self.runs: list[Run] = []
        graph = app["workflow"]["graph"]
        self._nodes: dict[str, Node] = {node["id"]: node for node in graph["nodes"]}
        self._edges: list[dict[str, Any]] = graph["edges"]
        self._environment = {entry["name"]: entry["value"] for entry in app["workflow"]["environment_variables"]}
        self._environment |= environment or {}

    def run(self, inputs: Mapping[str, Any] | None = None, *, query: str | None = None, id: str | None = None) -> Run:
        run = Run(id or str(uuid.uuid4()))
        self.runs.append(run)
        pool: dict[tuple[str, str], Any] = {("env", name): value for name, value in self._environment.items()}
        pool[("sys", "workflow_run_id")] = run.id
        if query is not None:
            pool[("sys", "query")] = query
        start = next(node for node in self._nodes.values() if node["data"]["type"] == "start")
        for variable in start["data"]["variables"]:
            pool[(start["id"], variable["variable"])] = _take_input(variable, inputs or {})
        try:
            self._walk(start["id"], pool, run)
        except (RunFailed, Blocked) as error:
            run.error = str(error)
        return run

    def _walk(self, first: str, pool: dict[tuple[str, str], Any], run: Run) -> None:
        """Executes a graph from its first node. A node waits until each edge to it was taken or passed over."""
        taken: dict[str, bool] = {}
        ready = [first]
        while ready:
            node = self._nodes[ready.pop(0)]
            handle = self._execute(node, pool, run)
            self._leave(node["id"], handle, taken, ready)

    def _leave(self, id: str, handle: str | None, taken: dict[str, bool], ready: list[str]) -> None:
        for edge in self._edges:
            if edge["source"] != id:
                continue
            taken[edge["id"]] = edge["sourceHandle"] == handle
            arriving = [other["id"] for other in self._edges if other["target"] == edge["target"]]
            if not all(other in taken for other in arriving):
                continue
            if any(taken[other] for other in arriving):
                ready.append(edge["target"])
            else:
                self._leave(edge["target"], None, taken, ready)

    def _execute(self, node: Node, pool: dict[tuple[str, str], Any], run: Run) -> str:
        """Runs one node; returns the handle of the edges by which it is left."""
        id, data = node["id"], node["data"]
        if not data["type"].endswith("-start"):
            run.nodes.append(id)
            if len(run.nodes) > MAX_STEPS:
                raise RunFailed(f"Max steps {MAX_STEPS} reached")
        match data["type"]:
            case "http-request":
                return self._request(node, pool, run)
            case "if-else":
                for case in data["cases"]:
                    if _holds(case["conditions"], case["logical_operator"], pool):
                        return str(case["case_id"])
                return "false"
            case "assigner":
                self._assign(data, pool)
            case "loop":
                self._loop(node, pool, run)
            case "iteration":
                self._iterate(node, pool, run)
            case "answer":
                run.answers.append(render(data["answer"], pool, run.files))
            case "end":
                run.outputs |= {
                    output["variable"]: pool.get(tuple(output["value_selector"])) for output in data["outputs"]
                }
            case "start" | "loop-start" | "iteration-start":
                pass
            case other:
                raise AssertionError(f"no shipped flow has a node of the type {other}")
        return "source"

    def _request(self, node: Node, pool: dict[tuple[str, str], Any], run: Run) -> str:
        id, data = node["id"], node["data"]
        retries = data["retry_config"] if data.get("retry_config", {}).get("retry_enabled") else {"max_retries": 0}
        strategy = data.get("error_strategy")
        for attempt in range(retries["max_retries"] + 1):
            if attempt:
                time.sleep(retries["retry_interval"] / 1000 * self._patience)
            try:
                outputs = _ask(data, pool)
                if (retries["max_retries"] or strategy) and not 200 <= outputs["status_code"] < 300:
                    raise NodeFailed(
                        "HTTPResponseCodeError", f"Request failed with status code {outputs['status_code']}"
                    )
            except NodeFailed as error:
                failure = error
                continue
            _set(pool, id, outputs)
            return "source"
        run.caught.append(id)
        if strategy is None:
            raise RunFailed(str(failure))
        outputs = {"error_message": str(failure), "error_type": failure.kind}
        if strategy == "default-value":
            outputs |= {entry["key"]: _to_type(entry["type"], entry["value"]) for entry in data["default_value"]}
        _set(pool, id, outputs)
        return "fail-branch" if strategy == "fail-branch" else "source"

    def _assign(self, data: dict[str, Any], pool: dict[tuple[str, str], Any]) -> None:
        assert data["version"] == "2"
        for item in data["items"]:
            assert (item["input_type"], item["operation"]) == ("variable", "over-write")
            value = pool.get(tuple(item["value"]), _MISSING)
            if value is _MISSING or not isinstance(value, str):
                raise RunFailed(f"variable {item['value']} not found or of another type")
            pool[_pair(item["variable_selector"])] = value

    def _loop(self, node: Node, pool: dict[tuple[str, str], Any], run: Run) -> None:
        id, data = node["id"], node["data"]
        for variable in data["loop_variables"]:
            if "file" in variable["var_type"]:
                raise RunFailed("loop variables cannot hold files")
            value = variable["value"]
            if variable["value_type"] == "variable":
                value = pool[_pair(value)]
            elif variable["var_type"].startswith("array"):
                value = json.loads(value)
            pool[(id, variable["label"])] = value
        conditions, operator = data["break_conditions"], data["logical_operator"]
        rounds = 0
        while rounds < data["loop_count"] and not _holds(conditions, operator, pool):
            rounds += 1
            self._walk(data["start_node_id"], pool, run)
        pool[(id, "loop_round")] = rounds

    def _iterate(self, node: Node, pool: dict[tuple[str, str], Any], run: Run) -> None:
        id, data = node["id"], node["data"]
        found: list[Any] = []
        for index, item in enumerate(pool[_pair(data["iterator_selector"])]):
            inside = {**pool, (id, "item"): item, (id, "index"): index}
            self._walk(data["start_node_id"], inside, run)
            found.append(inside.get(_pair(data["output_selector"])))
        if data.get("flatten_output", True) and all(isinstance(value, list) for value in found if value is not None):
            found = [entry for value in found for entry in value or []]
        if data["output_type"] == "array[file]" and not all(isinstance(entry, File) for entry in found):
            raise RunFailed("the iteration's outputs are no files")
        pool[(id, "output")] = found


def render(template: str, pool: Mapping[tuple[str, str], Any], shown: list[File] | None = None) -> str:
    """`shown` collects the files of an answer, which stand in it as markdown; elsewhere a file renders as nothing."""

    def put(match: re.Match[str]) -> str:
        value = pool.get(_pair(match[1].split(".")), _MISSING)
        return match[1] if value is _MISSING else _to_text(value, shown)

    return _TEMPLATE.sub(put, template)


def _to_text(value: Any, shown: list[File] | None) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case File():
            if shown is None:
                return ""
            shown.append(value)
            return f"![{value.name}](/files/tools/{value.name}?timestamp=0&nonce=0&sign=0)"
        case list() if all(isinstance(entry, File) for entry in value):
            return "\n".join(_to_text(entry, shown) for entry in value)
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def _ask(data: dict[str, Any], pool: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """One request. Raises NodeFailed for what the node's settings may catch."""
    url = render(data["url"], pool)
    if not url.startswith(("http://", "https://")):
        raise NodeFailed("InvalidURLError", f"not an http address: {url}")
    timeout = data["timeout"]
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                data["method"].upper(),
                url,
                params=list(_lines(render(data["params"], pool))),
                headers={"Via": PROXY, **dict(_lines(render(data["headers"], pool))), **_authorize(data, pool)},
                timeout=(min(timeout["connect"] or 10, 10), min(timeout["read"] or 600, 600)),
                **_body(data["body"], pool),
            )
    except requests.RequestException as error:
        raise NodeFailed("RequestError", f"Reached maximum retries for URL {url}: {type(error).__name__}") from error
    if answer.status_code in {401, 403}:
        raise Blocked(f"Access to '{url}' was blocked by SSRF protection")
    is_file = _is_file(answer)
    if len(answer.content) > (MAX_BINARY if is_file else MAX_TEXT):
        raise NodeFailed("ResponseSizeError", "File size is too large")
    mime = answer.headers.get("content-type", "").split(";")[0].strip()
    name = f"{uuid.uuid4().hex}.{mime.split('/')[-1]}"
    return {
        "status_code": answer.status_code,
        "body": "" if is_file else answer.content.decode(answer.encoding or "utf-8", "replace"),
        "headers": {key.lower(): value for key, value in answer.headers.items()},
        "files": [File(name, mime, answer.content)] if is_file else [],
    }


def _authorize(data: dict[str, Any], pool: Mapping[tuple[str, str], Any]) -> dict[str, str]:
    if data["authorization"]["type"] == "no-auth":
        return {}
    config = data["authorization"]["config"]
    key = render(config["api_key"], pool)
    if not key:
        raise NodeFailed("AuthorizationConfigError", "API key is required")
    assert config["type"] == "bearer"
    return {config["header"] or "Authorization": f"Bearer {key}"}


def _body(body: dict[str, Any], pool: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    texts = {entry["key"]: render(entry["value"], pool) for entry in body["data"] if entry["type"] == "text"}
    match body["type"]:
        case "none":
            return {}
        case "x-www-form-urlencoded":
            return {"data": texts}
        case "form-data":
            files = [
                (entry["key"], (file.name, file.data, file.mime_type))
                for entry in body["data"]
                if entry["type"] == "file"
                for file in _files(pool.get(_pair(entry["file"])))
            ]
            return {
                "data": texts,
                "files": files or [("__multipart_placeholder__", ("", b"", "application/octet-stream"))],
            }
        case "json":
            return {"json": json.loads(render(body["data"][0]["value"], pool), strict=False)}
        case other:
            raise AssertionError(f"no shipped flow sends {other}")


def _files(value: Any) -> list[File]:
    if isinstance(value, File):
        return [value]
    return [entry for entry in value or [] if isinstance(entry, File)]


def _is_file(answer: requests.Response) -> bool:
    disposition = answer.headers.get("content-disposition", "")
    if disposition.startswith("attachment") or "filename" in disposition:
        return True
    mime = answer.headers.get("content-type", "").split(";")[0].strip()
    main, _, sub = mime.partition("/")
    if main == "text" and sub != "csv":
        return False
    if main == "application" and any(part in sub for part in _TEXTS):
        return False
    return main in {"application", "image", "audio", "video"}


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line.strip():
            key, _, value = line.partition(":")
            yield key.strip(), value.strip()


def _holds(conditions: list[dict[str, Any]], operator: str, pool: Mapping[tuple[str, str], Any]) -> bool:
    found = []
    for condition in conditions:
        value, wanted = pool.get(_pair(condition["variable_selector"])), condition["value"]
        assert isinstance(wanted, str), "Dify wants the value of a condition as a text"
        match condition["comparison_operator"]:
            case "is":
                found.append(value == wanted)
            case "contains":
                found.append(isinstance(value, str) and wanted in value)
            case other:
                raise AssertionError(f"no shipped flow compares with {other}")
    return all(found) if operator == "and" else any(found)


def _take_input(variable: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
    name, kind = variable["variable"], variable["type"]
    value = inputs.get(name, variable.get("default"))
    if value in (None, "") and variable["required"]:
        raise ValueError(f"{name} is required in input form")
    if kind == "number" and isinstance(value, str):
        return float(value) if "." in value else int(value)
    if kind == "select" and value not in variable["options"]:
        raise ValueError(f"{name} must be one of {variable['options']}")
    if kind in {"paragraph", "text-input"} and value and len(value) > variable["max_length"]:
        raise ValueError(f"{name} must be less than {variable['max_length']} characters")
    assert (kind == "file") == isinstance(value, File)
    return value


def _to_type(kind: str, value: Any) -> Any:
    return json.loads(value) if kind in {"number", "object"} and isinstance(value, str) else value


def _set(pool: dict[tuple[str, str], Any], id: str, outputs: dict[str, Any]) -> None:
    pool.update({(id, name): value for name, value in outputs.items()})


def _pair(selector: list[str] | tuple[str, ...]) -> tuple[str, str]:
    node, name = selector
    return node, name

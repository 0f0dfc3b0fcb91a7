"""A job as submitted: its five forms, its fields, and the names that follow from it. Pure: time and chance are passed in.

What a job asks for is checked elsewhere: templates and their parameters in `workflows`, graphs in `handoff.graph`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from itertools import islice
from uuid import UUID, uuid5

from handoff.decode import JsonObject, JsonValue, body_sha256, canonical, excerpt
from handoff.failures import Failure, Node, Reason
from handoff.messages import nearest

ID_LENGTH = 64
PRIORITY = 100
TIMEOUT_S = 30 * 24 * 3600
METADATA_BYTES = 16 * 1024
WORKFLOW_LENGTH = 100
TARGET_LENGTH = 200

RESERVED = frozenset(
    {"id", "workflow", "params", "graph", "set", "priority", "queue_timeout_s", "run_timeout_s", "metadata"}
)
"""Names of job fields. Beside a text `prompt` every other name is a parameter, so no template may have one of these."""

_SHARED = RESERVED - {"workflow", "params", "graph"}
# A saved body of ComfyUI's POST /prompt also carries its client's own fields. They say whose browser it was and may hold
# keys for paid services, so they are neither stored nor part of the body; of extra_data the provenance alone is kept.
_CLIENTS = frozenset({"client_id", "prompt_id", "number", "front"})
_SAVED_BODY = _SHARED | _CLIENTS | {"prompt", "extra_data", "partial_execution_targets"}

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: an id is read out and typed again
_INBOX_NAME = re.compile(r"[0-9]{20}-([0-9a-f]{16})\.json")
_PROMPT_IDS = UUID("5f0c9c1e-6d0a-4d53-9a56-2f1f0a3f7b52")
_SEED_INPUTS = frozenset({"seed", "noise_seed"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """Exactly one of `workflow` and `graph` is there. Times in seconds; None = not given.

    `body` is what was submitted, without the id and without what a saved POST /prompt says about its client:
    `parse_job(body)` gives the same job without its id.
    """

    id: str | None
    workflow: str | None
    params: JsonObject
    graph: JsonObject | None
    overrides: JsonObject
    """The field `set`: "NODE.INPUT" to value."""
    priority: int | None
    queue_timeout_s: float | None
    run_timeout_s: float | None
    metadata: JsonObject
    extra_data: JsonObject
    """Empty, or `extra_pnginfo`, which ComfyUI writes into its pictures."""
    body: JsonObject

    @property
    def sha256(self) -> str:
        """What makes a second submission under the same id the same job."""
        return body_sha256(self.body)


def parse_job(value: JsonValue, *, default_workflow: str) -> Job:
    """The job that a decoded job file describes. Raises Failure: NOT_A_JOB, UI_FORMAT, UNKNOWN_FIELD, BAD_FIELD."""
    if not isinstance(value, dict):
        raise Failure(Reason.NOT_A_JOB, problem=f"the file holds {_kind(value)}, not an object")
    if not value:
        raise Failure(Reason.NOT_A_JOB, problem="the object is empty")
    for place in (value, value.get("graph"), value.get("prompt"), value.get("workflow")):
        if _is_saved_by_editor(place):
            raise Failure(Reason.UI_FORMAT)
    if "graph" in value:
        return _with_graph(value)
    has_text = isinstance(value.get("prompt"), str)
    if "params" in value or ("workflow" in value and not has_text):
        return _with_workflow(value, default_workflow)
    if not has_text and any(_is_node(node) for name, node in value.items() if name not in _SAVED_BODY):
        return _bare_graph(value)
    if isinstance(value.get("prompt"), dict):
        return _saved_body(value)
    return _short(value, default_workflow)


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def derive_id(source_name: str, time_utc: datetime, salt: str, n: int) -> str:
    """The n-th id to try for a job without one: `poster.json` → `poster-20261124-083015-k7q`. Always fits `is_id`.

    `salt` is random per submission, so that two sites which share a bucket do not meet. Raises ValueError for a time
    without zone.
    """
    stem = source_name.rpartition(".")[0] or source_name
    ascii_stem = re.sub(r"[^a-z0-9_]+", "-", stem.encode("ascii", "ignore").decode().lower())
    number = int.from_bytes(sha256(f"{salt}\n{n}".encode()).digest()[:2], "big")
    drawn = "".join(_ID_DIGITS[number >> shift & 31] for shift in (10, 5, 0))
    digits = _digits(time_utc)
    end = f"-{digits[:8]}-{digits[8:14]}-{drawn}"
    return (ascii_stem.lstrip("_-")[: ID_LENGTH - len(end)].rstrip("_-") or "job") + end


def submission_token(t: str, line: int) -> str:
    """16 hex digits for line `line` of the claimed drop named `t`: the same again after a crash."""
    return sha256(f"{t}\n{line}".encode()).hexdigest()[:16]


def prompt_id(token: str, attempt: int) -> str:
    """The id under which ComfyUI gets this attempt, in the lower-case form that it gives back."""
    return str(uuid5(_PROMPT_IDS, f"{token}/{attempt}"))


def rank(priority: int, accepted: datetime) -> str:
    """20 digits that sort in the order of work: the higher priority first, then the earlier time (to milliseconds).

    `priority` is within ±PRIORITY. Raises ValueError for a time without zone.
    """
    return f"{PRIORITY - priority:03d}{_digits(accepted)}"


def inbox_name(rank: str, token: str) -> str:
    return f"{rank}-{token}.json"


def inbox_token(name: str) -> str | None:
    """The token in the name of a waiting job's file; None for a name that `inbox_name` never makes."""
    match = _INBOX_NAME.fullmatch(name)
    return match[1] if match else None


def apply_set(graph: JsonObject, overrides: JsonObject) -> JsonObject:
    """A graph in which the named inputs have new values; `graph` itself stays as it is.

    A target is NODE.INPUT. NODE is an id, else a title, else a class that one node alone has. Both a title and an input
    ("format.bit_depth") may contain dots: the last dot counts at which a node and its input are found. Nodes that are no
    nodes are passed over. Raises Failure BAD_OVERRIDE; so does an input that is not there, since it is a slip of the pen.
    """
    nodes = _Nodes(graph)
    inputs: dict[str, JsonObject] = {}
    placed: dict[tuple[str, str], str] = {}
    for target, value in overrides.items():
        place = nodes.find_input(target)
        if place in placed:
            raise _bad_override(target, f"{excerpt(placed[place])} names the same input")
        placed[place] = target
        node_id, name = place
        inputs.setdefault(node_id, dict(_inputs(graph[node_id])))[name] = value
    return {
        node_id: {**node, "inputs": inputs[node_id]} if node_id in inputs and isinstance(node, dict) else node
        for node_id, node in graph.items()
    }


def open_seeds(graph: JsonObject) -> list[tuple[str, str]]:
    """Node id and input name of every seed that is -1, which asks for one to be drawn: ComfyUI refuses negative seeds."""
    return [
        (node_id, name)
        for node_id, node in graph.items()
        for name, value in _inputs(node).items()
        if name in _SEED_INPUTS and type(value) is int and value == -1
    ]


def _with_graph(value: JsonObject) -> Job:
    for field in ("workflow", "params", "prompt"):
        if field in value:
            raise _bad_field(field, "it cannot stand beside graph")
    _refuse_unknown(value, _SHARED | {"graph"})
    return _job(value, graph=_object(value, "graph"))


def _with_workflow(value: JsonObject, default_workflow: str) -> Job:
    if isinstance(value.get("prompt"), dict):
        raise _bad_field("prompt", "a graph cannot stand beside workflow or params")
    _refuse_unknown(value, _SHARED | {"workflow", "params"}, or_parameter=True)
    return _job(value, workflow=_workflow(value, default_workflow), params=_object(value, "params"))


def _bare_graph(value: JsonObject) -> Job:
    for field in value:
        if field in _SAVED_BODY and not _is_node(value[field]):
            raise _bad_field(
                field, 'an exported graph takes no job fields; put the graph into the field graph: {"graph": {…}, …}'
            )
    return _job({}, graph=value, body=value)


def _saved_body(value: JsonObject) -> Job:
    _refuse_unknown(value, _SAVED_BODY)
    if value.get("partial_execution_targets") is not None:
        raise _bad_field("partial_execution_targets", "a job always runs all its outputs; leave it out")
    body = {name: part for name, part in value.items() if name in _SHARED | {"prompt"} and name != "id"}
    extra_data = _provenance(value.get("extra_data"))
    if extra_data:
        body["extra_data"] = extra_data
    return _job(value, graph=_object(value, "prompt"), extra_data=extra_data, body=body)


def _short(value: JsonObject, default_workflow: str) -> Job:
    if "prompt" not in value:
        raise _without_form(value)
    if not isinstance(value["prompt"], str):
        raise _bad_field("prompt", f"it must be a text, or a graph as an object, and is {_kind(value['prompt'])}")
    params = {name: part for name, part in value.items() if name not in RESERVED}
    return _job(value, workflow=_workflow(value, default_workflow), params=params)


def _job(
    fields: JsonObject,
    *,
    workflow: str | None = None,
    params: JsonObject | None = None,
    graph: JsonObject | None = None,
    extra_data: JsonObject | None = None,
    body: JsonObject | None = None,
) -> Job:
    return Job(
        id=_id(fields),
        workflow=workflow,
        params=params or {},
        graph=graph,
        overrides=_object(fields, "set"),
        priority=_priority(fields),
        queue_timeout_s=_timeout(fields, "queue_timeout_s"),
        run_timeout_s=_timeout(fields, "run_timeout_s"),
        metadata=_metadata(fields),
        extra_data=extra_data or {},
        body={name: part for name, part in fields.items() if name != "id"} if body is None else body,
    )


def _id(fields: JsonObject) -> str | None:
    if "id" not in fields:
        return None
    given = fields["id"]
    if not isinstance(given, str):
        raise _bad_field("id", f"it must be a text and is {_kind(given)}")
    if is_id(given):
        return given
    if not given:
        raise _bad_field("id", "it is empty; leave it out to have one made")
    if len(given) > ID_LENGTH:
        raise _bad_field("id", f"it has {len(given)} characters, the limit is {ID_LENGTH}")
    if is_id(given.lower()):
        raise _bad_field("id", f"it has upper-case letters; write {given.lower()}")
    wrong = re.search(r"[^a-z0-9_-]", given.lower())
    problem = f"it contains {wrong[0]!a}" if wrong else f"it begins with {given[0]}"
    raise _bad_field("id", f"{problem}; take a-z, 0-9, _ and -, beginning with a letter or digit")


def _workflow(fields: JsonObject, default: str) -> str:
    name = fields.get("workflow", default)
    if not isinstance(name, str):
        raise _bad_field(
            "workflow", f"it must be the name of a workflow and is {_kind(name)}; a graph goes into the field graph"
        )
    if not 0 < len(name) <= WORKFLOW_LENGTH:
        raise _bad_field("workflow", f"a name has 1 to {WORKFLOW_LENGTH} characters, this one {len(name)}")
    return name


def _priority(fields: JsonObject) -> int | None:
    if "priority" not in fields:
        return None
    given = fields["priority"]
    if type(given) is not int or not -PRIORITY <= given <= PRIORITY:
        raise _bad_field("priority", f"it must be a whole number from -{PRIORITY} to {PRIORITY} and is {_kind(given)}")
    return given


def _timeout(fields: JsonObject, name: str) -> float | None:
    if name not in fields:
        return None
    given = fields[name]
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= TIMEOUT_S:
        raise _bad_field(
            name, f"it must be a number of seconds above 0, at most {TIMEOUT_S} (30 days), and is {_kind(given)}"
        )
    return float(given)


def _metadata(fields: JsonObject) -> JsonObject:
    given = _object(fields, "metadata")
    size = len(canonical(given))
    if size > METADATA_BYTES:
        raise _bad_field("metadata", f"it has {size} bytes, the limit is {METADATA_BYTES}")
    return given


def _object(fields: JsonObject, name: str) -> JsonObject:
    given = fields.get(name, {})
    if not isinstance(given, dict):
        raise _bad_field(name, f"it must be an object and is {_kind(given)}")
    return given


def _provenance(extra_data: JsonValue) -> JsonObject:
    """ComfyUI 0.33: a job list with one broken `extra_pnginfo` in it answers 500 to everybody; so it is left out."""
    found = extra_data.get("extra_pnginfo") if isinstance(extra_data, dict) else None
    if isinstance(found, dict) and isinstance(found.get("workflow", {}), dict):
        return {"extra_pnginfo": found}
    return {}


def _is_node(value: JsonValue) -> bool:
    return isinstance(value, dict) and ("class_type" in value or "inputs" in value)


def _is_saved_by_editor(value: JsonValue) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("nodes"), list)
        and not value.keys().isdisjoint({"links", "last_node_id", "last_link_id"})
    )


def _bad_field(field: str, problem: str) -> Failure:
    return Failure(Reason.BAD_FIELD, field=field, problem=problem)


def _refuse_unknown(value: JsonObject, known: frozenset[str], *, or_parameter: bool = False) -> None:
    for field in value:
        if field not in known:
            name = excerpt(field)
            inside = f", params.{name}" if or_parameter else ""
            raise Failure(Reason.UNKNOWN_FIELD, field=name, nearest=nearest(name, known - _CLIENTS) + inside)


def _without_form(value: JsonObject) -> Failure:
    forms = ("graph", "workflow", "params", "prompt")
    for field in value:
        if field not in RESERVED and get_close_matches(excerpt(field), forms, cutoff=0.7):
            return Failure(Reason.UNKNOWN_FIELD, field=excerpt(field), nearest=nearest(excerpt(field), forms))
    return Failure(Reason.NOT_A_JOB, problem="it has none of the fields graph, workflow, params and prompt")


def _kind(value: JsonValue) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return f"the text {excerpt(canonical(value).decode(), 40)}"
        case _:
            return canonical(value).decode()


def _digits(time: datetime) -> str:
    """17 digits: year to milliseconds in UTC, so that the order of texts is the order of times."""
    if time.tzinfo is None:
        raise ValueError("a time without zone")
    text = time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return re.sub(r"[^0-9]", "", text)


class _Nodes:
    """The nodes of a graph by id, title and class."""

    def __init__(self, graph: JsonObject) -> None:
        self._nodes = {node_id: node for node_id, node in graph.items() if isinstance(node, dict)}
        self._titles: dict[str, list[str]] = {}
        self._classes: dict[str, list[str]] = {}
        for node_id, node in self._nodes.items():
            for name, index in ((_title(node), self._titles), (node.get("class_type"), self._classes)):
                if isinstance(name, str):
                    index.setdefault(name, []).append(node_id)

    def find_input(self, target: str) -> tuple[str, str]:
        """Node id and input name. Raises Failure BAD_OVERRIDE."""
        if len(target) > TARGET_LENGTH:
            raise _bad_override(target, f"it has {len(target)} characters, the limit is {TARGET_LENGTH}")
        without_input = None
        for dot in reversed([at for at, letter in enumerate(target) if letter == "."]):
            name, input_name = target[:dot], target[dot + 1 :]
            node_id = self._find(name, target)
            if node_id is None:
                continue
            if input_name in _inputs(self._nodes[node_id]):
                return node_id, input_name
            without_input = without_input or (node_id, input_name)
        if without_input is not None:
            node_id, input_name = without_input
            found = _nearest(input_name, _inputs(self._nodes[node_id]))
            node = self._describe(node_id)
            raise _bad_override(
                target, f"{_called(node)} has no input {excerpt(input_name)}; the nearest: {found}", node
            )
        name, dot_sign, _ = target.rpartition(".")
        if not dot_sign:
            raise _bad_override(target, "it names no input, there is no dot in it")
        found = _nearest(name, [*self._nodes, *self._titles, *self._classes])
        raise _bad_override(target, f"no node is called {excerpt(name)}; the nearest: {found}")

    def _find(self, name: str, target: str) -> str | None:
        if name in self._nodes:
            return name
        for what, index in (("title", self._titles), ("class", self._classes)):
            ids = index.get(name, [])
            if len(ids) == 1:
                return ids[0]
            if ids:
                listed = excerpt(", ".join(ids[:20]))
                raise _bad_override(target, f"{len(ids)} nodes have the {what} {excerpt(name)}; use an id: {listed}")
        return None

    def _describe(self, node_id: str) -> Node:
        node = self._nodes[node_id]
        class_type, title = node.get("class_type"), _title(node)
        return Node(
            id=excerpt(node_id),
            class_type=excerpt(class_type) if isinstance(class_type, str) else None,
            title=None if title is None else excerpt(title),
        )


def _title(node: JsonObject) -> str | None:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) else None


def _inputs(node: JsonValue) -> JsonObject:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _called(node: Node) -> str:
    name = node.title or node.class_type
    return f"node {node.id} ({name})" if name else f"node {node.id}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Bounded, since a graph from outside may have any number of names of any length."""
    return nearest(excerpt(name), {excerpt(other) for other in islice(known, 500)})


def _bad_override(target: str, problem: str, node: Node | None = None) -> Failure:
    return Failure(Reason.BAD_OVERRIDE, node=node, target=excerpt(target), problem=problem)

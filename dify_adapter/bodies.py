"""From a request's fields to a job. Pure.

What Dify sends is text: a number in a form is a text, a variable without a value is an empty one, or its own name. So an
empty text means that nothing was given, a typed parameter is read from its text, and a name is refused with a sentence
that a flow builder understands. Every other text stays as it is, to the last byte.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from handoff.decode import BYTES, JsonObject, JsonValue, decode, excerpt
from handoff.failures import Failure, Reason
from handoff.job import RESERVED, Job, parse_job
from workflows.parameter import Kind, Parameter, read_text
from workflows.template import Template

PLACEHOLDER = "__multipart_placeholder__"
"""A part that Dify adds to a multipart body without files."""

_FIELDS = RESERVED - {"params", "graph"}
_STRUCTURED = frozenset({"params", "graph", "set", "metadata"})
_NUMBERS = frozenset({"priority", "queue_timeout_s", "run_timeout_s"})
_FILES = frozenset({Kind.IMAGE, Kind.MASK, Kind.MODEL})
_WHOLE = frozenset({Kind.INT, Kind.SEED})
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,20})\.0*")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?")
_WORDS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_TEMPLATE = re.compile(r"\{\{#[^{}\n]*#\}\}|\{\{[^{}\n]*\}\}")
_NODE_ID = re.compile(r"[0-9]{13}|start|sys|env|conversation", re.IGNORECASE)
_ENDING = re.compile(r"png|jpe?g|webp|gif|bmp|tiff?|safetensors|sft|ckpt|pth?|bin|gguf|onnx", re.IGNORECASE)


def read_json(data: bytes, limit: int = BYTES) -> JsonObject:
    """Raises Failure."""
    try:
        value = decode(data, limit=limit)
    except Failure as failure:
        if failure.reason is Reason.TRUNCATED:
            raise Failure(Reason.BAD_BODY, problem="the JSON ends in the middle") from None
        raise
    if not isinstance(value, dict):
        raise Failure(Reason.BAD_BODY, problem="it is no JSON object")
    return value


def read_urlencoded(data: bytes) -> list[tuple[str, str]]:
    """Raises Failure."""
    if len(data) > BYTES:
        raise Failure(Reason.TOO_LARGE, bytes=len(data), limit=BYTES)
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except UnicodeDecodeError as error:
        raise Failure(Reason.BAD_ENCODING, problem=f"{error.reason} in the form") from None
    except ValueError:
        raise Failure(Reason.BAD_BODY, problem="the form has more than 1000 fields") from None


def make_fields(pairs: Iterable[tuple[str, str]]) -> JsonObject:
    """The fields of a form; what holds an object or a number in JSON is one here, too. Raises Failure."""
    fields: JsonObject = {}
    for name, text in pairs:
        if name == PLACEHOLDER or (name in fields and fields[name] == text):
            continue
        if name in fields:
            raise Failure(Reason.DUPLICATE_KEY, key=excerpt(name))
        fields[name] = text
    for name in _STRUCTURED & fields.keys():
        fields[name] = _read_structure(name, str(fields[name]))
    return fields


def _read_structure(name: str, text: str) -> JsonValue:
    if not text.strip():
        return ""
    check_replaced(name, text)
    try:
        return decode(text.encode())
    except Failure as failure:
        raise Failure(Reason.BAD_FIELD, field=name, problem=f"it must be JSON, and {failure.reason} is wrong") from None


def name_files(parts: Iterable[str], given: Iterable[str]) -> list[str]:
    """Parameter names for file parts: the second part named `image` is `image2`, and so on."""
    taken, names = set(given), []
    for part in parts:
        number, name = 1, part
        while name in taken:
            number += 1
            name = f"{part}{number}"
        taken.add(name)
        names.append(name)
    return names


def is_graph(fields: JsonObject) -> bool:
    """Whether it asks for a graph rather than for a workflow by name."""
    if "graph" in fields or isinstance(fields.get("prompt"), dict):
        return True
    if "workflow" in fields or "params" in fields or isinstance(fields.get("prompt"), str):
        return False
    return any(isinstance(value, dict) and "class_type" in value for value in fields.values())


def find_workflow(fields: JsonObject, default: str) -> str:
    """The name of the workflow that is asked for. Raises Failure."""
    name = fields.get("workflow") or default
    check_replaced("workflow", name)
    if not isinstance(name, str):
        raise Failure(Reason.BAD_FIELD, field="workflow", problem="it must be the name of a workflow")
    return name


def make_job(fields: JsonObject, *, id: str | None, template: Template | None, default_workflow: str) -> Job:
    """The job that the fields ask for; `template` is None for a graph. Its parameters are typed, and not judged yet.

    Parameters may stand in `params` or beside the other fields. Raises Failure.
    """
    given = {name: _read_field(name, value) for name, value in fields.items() if value not in ("", None)}
    if id is not None:
        if given.get("id", id) != id:
            raise Failure(Reason.BAD_FIELD, field="id", problem=f"the address says {id}")
        given["id"] = id
    if template is not None:
        given = _with_params(given, template)
    return parse_job(given, default_workflow=default_workflow)


def _read_field(name: str, value: JsonValue) -> JsonValue:
    """Job fields as their own types. What is no number stays a text, and is refused as such."""
    if name in _FIELDS:
        check_replaced(name, value)
    if name in _NUMBERS and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value


def _with_params(given: JsonObject, template: Template) -> JsonObject:
    inside = given.get("params", {})
    beside = {name: value for name, value in given.items() if name not in RESERVED}
    if not isinstance(inside, dict):
        raise Failure(Reason.BAD_FIELD, field="params", problem="it must be an object")
    if twice := sorted(inside.keys() & beside.keys()):
        raise Failure(Reason.DUPLICATE_KEY, key=excerpt(twice[0]))
    job = {name: value for name, value in given.items() if name in RESERVED}
    return {**job, "workflow": template.name, "params": read_params(template, inside | beside)}


def read_params(template: Template, params: Mapping[str, JsonValue]) -> JsonObject:
    """Typed values; what was left empty is left out. What does not fit stays as it is, so that all is told together."""
    read: JsonObject = {}
    for name, value in params.items():
        if value in ("", None):
            continue
        parameter = template.parameters.get(name)
        check_replaced(name, value, parameter)
        read[name] = value if parameter is None else _read_value(parameter, value)
    return read


def _read_value(parameter: Parameter, value: JsonValue) -> JsonValue:
    """`512.0` is how Dify writes a whole number that it calculated."""
    if parameter.kind in _WHOLE:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and (found := _WHOLE_NUMBER.fullmatch(value.strip())):
            value = found[1]
    return read_text(parameter, value) if isinstance(value, str) else value


def check_replaced(name: str, value: JsonValue, parameter: Parameter | None = None) -> None:
    """Raises Failure where Dify sent a variable's name in place of its value: `start.seed`, `1718012345678.text`."""
    if isinstance(value, str) and len(value) <= 200 and _is_unreplaced(name, value.strip(), parameter):
        raise Failure(Reason.UNREPLACED_VARIABLE, field=excerpt(name), value=excerpt(value))


def _is_unreplaced(name: str, text: str, parameter: Parameter | None) -> bool:
    if _TEMPLATE.fullmatch(text):
        return True
    if not _WORDS.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        return False
    first, last = text.partition(".")[0], text.rpartition(".")[2]
    if (parameter is None or parameter.kind in _FILES) and _ENDING.fullmatch(last):
        return False  # a file's name
    return bool(_NODE_ID.fullmatch(first)) or last == name

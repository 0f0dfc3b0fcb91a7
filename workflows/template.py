"""A workflow template: the graph of NAME.json and the parameters of NAME.toml, checked against each other. Pure.

NAME.toml holds `title`, `description` (Chinese beside them as `title_zh`, `description_zh`) and one table for each
parameter, `[parameters.NAME]`:

    type       string, int, float, bool, enum, seed, image, mask or model
    to         "node.input", or a list of them: the node's id in NAME.json, and its input
    default    none: a job must give it, except a seed (drawn) and a model (the only one that ComfyUI has)
    minimum, maximum, step     for numbers; steps count from the minimum, else from 0. A seed takes only a maximum
    choices    for an enum
    folder     for a model: its folder below ComfyUI's models/
    help       one sentence for people (and help_zh)
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handoff.decode import decode, excerpt
from handoff.failures import Failure, Reason
from handoff.job import RESERVED
from handoff.messages import nearest, render
from workflows.parameter import Kind, Parameter, Place, Words, find_problem, show

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

Graph = dict[str, dict[str, Any]]
"""ComfyUI's API format: node id → {class_type, inputs, _meta}; an input is a value or a link [node id, output number]."""

_NUMERIC = frozenset({"default", "minimum", "maximum", "step"})
_KEYS: Mapping[Kind, frozenset[str]] = {
    Kind.STRING: frozenset({"default"}),
    Kind.INT: _NUMERIC,
    Kind.FLOAT: _NUMERIC,
    Kind.BOOL: frozenset({"default"}),
    Kind.ENUM: frozenset({"default", "choices"}),
    Kind.SEED: frozenset({"default", "maximum"}),
    Kind.IMAGE: frozenset(),
    Kind.MASK: frozenset(),
    Kind.MODEL: frozenset({"default", "folder"}),
}
_ALL_KEYS = frozenset().union(*_KEYS.values())
_COMMON_KEYS = frozenset({"type", "to", "help", "help_zh"})
_TOP_KEYS = frozenset({"title", "title_zh", "description", "description_zh", "parameters"})


@dataclass(frozen=True, kw_only=True)
class Template:
    """A workflow that can be filled. `graph` is shared by everyone who holds the template: copy before changing.

    `sha256` changes whenever a byte of either file does.
    """

    name: str
    title: Words
    description: Words
    parameters: Mapping[str, Parameter]
    graph: Graph
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A workflow that cannot be used, and everything that is wrong with it (at least one sentence without full stop)."""

    name: str
    problems: tuple[str, ...]


def parse(name: str, graph_file: bytes, parameters_file: bytes) -> Template | Broken:
    """The template that the bytes of NAME.json and NAME.toml make. Raises nothing, whatever they hold."""
    problems: list[str] = []
    if problem := find_name_problem(name):
        problems.append(problem)
    graph = _parse_graph(f"{name}.json", graph_file, problems)
    table = _parse_table(f"{name}.toml", parameters_file, problems)
    title, description = (_parse_words(table, key, f"{name}.toml: ", problems) for key in ("title", "description"))
    parameters = _parse_parameters(table.get("parameters", {}), graph, problems)
    if problems:
        return Broken(name=name, problems=tuple(problems))
    return Template(
        name=name,
        title=title if title["en"] else {"en": name, "zh": name},
        description=description,
        parameters={parameter.name: parameter for parameter in parameters},
        graph=graph,
        sha256=hash_files(graph_file, parameters_file),
    )


def find_name_problem(name: str) -> str | None:
    if NAME.fullmatch(name):
        return None
    return f"the name {excerpt(name)} is not of the form {NAME.pattern}: rename both files"


def hash_files(graph_file: bytes, parameters_file: bytes) -> str:
    """SHA-256 over the two files' SHA-256 digests, so that bytes moved from one to the other change it too."""
    return hashlib.sha256(hashlib.sha256(graph_file).digest() + hashlib.sha256(parameters_file).digest()).hexdigest()


def _parse_graph(file: str, data: bytes, problems: list[str]) -> Graph:
    """The graph, or {} beside at least one new problem."""
    try:
        graph: Any = decode(data)
    except Failure as failure:
        # The text for a cut file speaks of a job file that is watched while it is copied.
        cut = "it ends in the middle; is it still being written?" if failure.reason is Reason.TRUNCATED else None
        problems.append(f"{file}: {cut or render(failure, 'en').message.removesuffix('.')}")
        return {}
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        text = render(Failure(Reason.UI_FORMAT), "en")
        problems.append(f"{file}: {text.message} {text.hint}")
        return {}
    found = list(_find_graph_problems(graph))
    problems += [f"{file}: {problem}" for problem in found]
    return {} if found else graph


def _find_graph_problems(graph: Any) -> Iterator[str]:
    if not isinstance(graph, dict) or not graph:
        yield "a graph is wanted, an object of nodes by id"
        return
    for node_id, node in graph.items():
        if (
            not isinstance(node, dict)
            or not isinstance(node.get("class_type"), str)
            or not isinstance(node.get("inputs"), dict)
        ):
            yield f"{node_id} is no node: an object with class_type and inputs is wanted"
            continue
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in graph:
                yield f"{node_id}.{name} is linked to the node {value[0]}, which is not there"


def is_link(value: Any) -> bool:
    """[node id, output number], as ComfyUI exports it."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _parse_table(file: str, data: bytes, problems: list[str]) -> dict[str, Any]:
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.append(f"{file}: not UTF-8 text at byte {error.start}")
    except ValueError as error:  # TOMLDecodeError, and what int() says of 5,000 digits
        problems.append(f"{file}: {error}")
    except RecursionError:
        problems.append(f"{file}: nested too deeply")
    else:
        problems += [f"{file}: {problem}" for problem in _find_unknown_keys(table, _TOP_KEYS)]
        return table
    return {}


def _find_unknown_keys(table: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    for key in sorted(table.keys() - known):
        yield f"unknown key {key}, the nearest known: {nearest(key, known)}"


def _parse_words(table: Mapping[str, Any], key: str, where: str, problems: list[str]) -> Words:
    """The text in both languages; one that is missing is read from the other."""
    words = {name: table.get(name, "") for name in (key, f"{key}_zh")}
    for name, text in words.items():
        if not isinstance(text, str):
            problems.append(f"{where}{name} is no text")
            return {"en": "", "zh": ""}
    english, chinese = words.values()
    return {"en": english or chinese, "zh": chinese or english}


def _parse_parameters(tables: Any, graph: Graph, problems: list[str]) -> list[Parameter]:
    if not isinstance(tables, dict):
        problems.append("parameters is no table; write [parameters.NAME] for each")
        return []
    parameters = []
    owners: dict[str, str] = {}
    for name, table in tables.items():
        found: list[str] = []
        parameter = _parse_parameter(name, table, graph, found)
        for place in parameter.to if parameter else ():
            owner = owners.setdefault(str(place), name)
            if owner != name:
                found.append(f"{place} belongs to {owner} already")
        problems += [f"parameters.{name}: {problem}" for problem in found]
        if parameter and not found:
            parameters.append(parameter)
    return parameters


def _parse_parameter(name: str, table: Any, graph: Graph, problems: list[str]) -> Parameter | None:
    """The parameter, as far as it can be read at all; what is wrong is added to `problems`."""
    if not PARAMETER_NAME.fullmatch(name):
        problems.append(f"the name is not of the form {PARAMETER_NAME.pattern}")
    if name in RESERVED:
        problems.append("the name is reserved: it is a field of every job")
    if not isinstance(table, dict):
        problems.append("a table with type and to is wanted")
        return None
    try:
        kind = Kind(table.get("type", ""))
    except ValueError:
        problems.append(f"type is {table.get('type', 'missing')}, wanted is one of {', '.join(Kind)}")
        return None
    foreign = table.keys() & _ALL_KEYS - _KEYS[kind]
    problems += [f"{key} does not belong to the type {kind}" for key in sorted(foreign)]
    problems += _find_unknown_keys({key: None for key in table if key not in foreign}, _KEYS[kind] | _COMMON_KEYS)
    parameter = Parameter(
        name=name,
        kind=kind,
        to=_parse_places(table.get("to"), graph, problems),
        default=table.get("default") if "default" in _KEYS[kind] else None,
        minimum=_parse_number(table, "minimum", kind, problems),
        maximum=_parse_number(table, "maximum", kind, problems),
        step=_parse_number(table, "step", kind, problems),
        choices=_parse_choices(table.get("choices"), problems) if kind is Kind.ENUM else (),
        folder=_parse_folder(table.get("folder"), problems) if kind is Kind.MODEL else "",
        help=_parse_words(table, "help", "", problems),
    )
    if not problems:  # limits and default can be judged only by limits that are right
        problems += _find_limit_problems(parameter)
    return parameter


def _parse_places(to: Any, graph: Graph, problems: list[str]) -> tuple[Place, ...]:
    names = [to] if isinstance(to, str) else to
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        problems.append('to is wanted: "node.input", or a list of them')
        return ()
    places = []
    for name in names:
        node, _, input_name = name.partition(".")  # ids hold no dot, inputs may: "format.bit_depth"
        place = Place(node=node, input=input_name)
        problem = _find_place_problem(place, graph) if graph else None  # a graph that cannot be read is told once
        if problem:
            problems.append(f"to {name}: {problem}")
        elif place in places:
            problems.append(f"to {name}: it stands there twice")
        else:
            places.append(place)
    return tuple(places)


def _find_place_problem(place: Place, graph: Graph) -> str | None:
    if place.node not in graph:
        return f"the graph has no node {place.node}, the nearest: {nearest(place.node, graph)}"
    inputs = graph[place.node]["inputs"]
    if place.input not in inputs:
        return f"the node has no input {place.input}, the nearest: {nearest(place.input, inputs)}"
    if is_link(inputs[place.input]):
        return "another node is linked to this input; choose one that holds a value"
    return None


def _parse_number(table: Mapping[str, Any], key: str, kind: Kind, problems: list[str]) -> int | float | None:
    value = table.get(key) if key in _KEYS[kind] else None
    if value is None:
        return None
    free = Parameter(name=key, kind=Kind.FLOAT if kind is Kind.FLOAT else Kind.INT, to=(), help={})
    problem = find_problem(free, value)
    if problem is None:
        return value  # type: ignore[no-any-return] # it is a number, or there were a problem
    problems.append(f"{key} is {show(free, value)}: {problem}")
    return None


def _parse_choices(choices: Any, problems: list[str]) -> tuple[str, ...]:
    if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
        if len(set(choices)) < len(choices):
            problems.append("choices: one stands there twice")
        return tuple(choices)
    problems.append("choices is wanted: a list of texts")
    return ()


def _parse_folder(folder: Any, problems: list[str]) -> str:
    if isinstance(folder, str) and folder:
        return folder
    problems.append("folder is wanted: the model's folder below ComfyUI's models/, such as \"checkpoints\"")
    return ""


def _find_limit_problems(parameter: Parameter) -> Iterator[str]:
    low, high = parameter.lowest, parameter.highest
    if low is not None and high is not None and low > high:
        yield f"minimum {low} is above maximum {high}"
    if parameter.step is not None and parameter.step <= 0:
        yield f"step is {parameter.step}: it must be above 0"
    elif parameter.default is not None and (problem := find_problem(parameter, parameter.default)):
        yield f"default is {show(parameter, parameter.default)}: {problem}"

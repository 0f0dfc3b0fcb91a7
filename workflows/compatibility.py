"""Compares a template with what a ComfyUI says of its nodes (GET /object_info). Pure.

`check` finds what ComfyUI 0.33 would refuse with 400, and what it would accept and ignore: surplus inputs, a plain value where
a link is wanted. Descriptions come from custom nodes, too: what is not understood is not judged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handoff.messages import nearest
from workflows.parameter import Kind, Parameter, Place
from workflows.template import Template, is_link

_LINKS_ONLY = frozenset(
    {"MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "IMAGE", "MASK", "CONTROL_NET", "AUDIO", "VIDEO", "CLIP_VISION"}
)
_TAKES: Mapping[Kind, frozenset[str]] = {
    Kind.STRING: frozenset({"STRING"}),
    Kind.INT: frozenset({"INT", "FLOAT"}),
    Kind.FLOAT: frozenset({"FLOAT"}),
    Kind.BOOL: frozenset({"BOOLEAN"}),
    Kind.ENUM: frozenset({"COMBO", "STRING"}),
    Kind.SEED: frozenset({"INT"}),
    Kind.IMAGE: frozenset({"COMBO", "STRING"}),
    Kind.MASK: frozenset({"COMBO", "STRING"}),
    Kind.MODEL: frozenset({"COMBO"}),
}
_JUDGED = frozenset().union(*_TAKES.values())
_PLAIN: Mapping[str, type | tuple[type, ...]] = {
    "INT": (int, float),
    "FLOAT": (int, float),
    "BOOLEAN": bool,
    "STRING": str,
}


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One input of a node class. `types` are its type names; `choices` is None where a combo does not list them."""

    types: frozenset[str]
    options: Mapping[str, Any]
    choices: tuple[Any, ...] | None
    required: bool

    @property
    def takes_files(self) -> bool:
        """Its choices are the files of ComfyUI's input folder, which change with every upload."""
        return any(key.endswith("_upload") for key in self.options)


def check(template: Template, object_info: Mapping[str, Any]) -> list[str]:
    """One sentence, without full stop, for everything that would go wrong; [] where the template fits this ComfyUI."""
    problems: list[str] = []
    owners = {place: parameter for parameter in template.parameters.values() for place in parameter.to}
    saves = False
    for node_id, node in template.graph.items():
        described = object_info.get(node["class_type"])
        if not isinstance(described, Mapping):
            problems.append(f"ComfyUI has no node {node['class_type']}, which {_name(template, node_id)} is")
            saves = True  # it may be the one that saves
            continue
        saves |= described.get("output_node") is True
        problems += _check_node(template, node_id, _read_inputs(described), object_info, owners)
    if not saves:
        problems.append("no node saves or shows anything: ComfyUI refuses a graph without outputs")
    return problems


def _name(template: Template, node_id: str) -> str:
    meta = template.graph[node_id].get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return f"node {node_id} ({title or template.graph[node_id]['class_type']})"


def _read_inputs(described: Mapping[str, Any]) -> dict[str, _Input]:
    inputs: dict[str, _Input] = {}
    sections = described.get("input")
    for section in ("required", "optional"):
        named = sections.get(section) if isinstance(sections, Mapping) else None
        for name, description in named.items() if isinstance(named, Mapping) else ():
            inputs[name] = _read_input(description, required=section == "required")
    return inputs


def _read_input(description: Any, *, required: bool) -> _Input:
    """[type name or list of choices, options]: the second may be missing, and newer nodes keep the choices in it."""
    kind, options, *_ = [*description, None, None] if isinstance(description, list) else [None, None]
    options = options if isinstance(options, Mapping) else {}
    if isinstance(kind, list):
        return _Input(types=frozenset({"COMBO"}), options=options, choices=tuple(kind), required=required)
    listed = options.get("options")
    choices = tuple(listed) if kind == "COMBO" and isinstance(listed, list) and "remote" not in options else None
    types = frozenset(kind.split(",")) if isinstance(kind, str) else frozenset({"*"})
    return _Input(types=types, options=options, choices=choices, required=required)


def _check_node(
    template: Template,
    node_id: str,
    inputs: Mapping[str, _Input],
    object_info: Mapping[str, Any],
    owners: Mapping[Place, Parameter],
) -> Iterator[str]:
    given = template.graph[node_id]["inputs"]
    name = _name(template, node_id)
    for missing, described in inputs.items():
        grown = any(
            input_name.startswith(f"{missing}.") for input_name in given
        )  # "images.image0" of an input that grows
        if described.required and missing not in given and not grown and "COMFY_AUTOGROW_V3" not in described.types:
            yield f"{name} lacks its input {missing}"
    for input_name, value in given.items():
        place = Place(node=node_id, input=input_name)
        owner = owners.get(place)
        found = inputs.get(input_name)
        if found is None:
            if not _is_part(input_name, inputs) and (owner or not _is_left_by_upload(inputs)):
                yield f"{name} has no input {input_name}, so ComfyUI ignores it; the nearest: {nearest(input_name, inputs)}"
        elif owner:
            yield from (f"{owner.name}: {problem}" for problem in _check_parameter(owner, found))
        else:
            problem = _check_link(template, value, found, object_info) if is_link(value) else _check_value(value, found)
            if problem:
                yield f"{name}: {input_name} {problem}"


def _is_part(name: str, inputs: Mapping[str, _Input]) -> bool:
    """An input that grows, or that depends on a choice, is exported in parts: "images.image0", "format.bit_depth"."""
    return name.partition(".")[0] in inputs


def _is_left_by_upload(inputs: Mapping[str, _Input]) -> bool:
    """What the editor's own upload button holds is exported, too ("upload": "image"), and means nothing to the server."""
    return any(described.takes_files for described in inputs.values())


def _check_parameter(parameter: Parameter, found: _Input) -> Iterator[str]:
    if found.types & _LINKS_ONLY:
        yield f"its input wants a link to a node that gives {_join(found.types)}, not a value"
    elif found.types & _JUDGED and "*" not in found.types and not found.types & _TAKES[parameter.kind]:
        yield f"it is of the type {parameter.kind}, its input is {_join(found.types)}"
    if parameter.kind in {Kind.INT, Kind.FLOAT, Kind.SEED}:
        yield from _check_limits(parameter, found)
    if parameter.kind is Kind.ENUM and found.choices is not None:
        lost = [choice for choice in parameter.choices if choice not in found.choices]
        if lost:
            yield f"ComfyUI does not have its choices {', '.join(lost)}"
    if parameter.kind is Kind.MODEL and found.choices is not None:
        if parameter.default is not None and parameter.default not in found.choices:
            yield f"ComfyUI does not have its default {parameter.default} in models/{parameter.folder}"
        elif not found.choices:
            yield f"ComfyUI has no model in models/{parameter.folder}"


def _check_limits(parameter: Parameter, found: _Input) -> Iterator[str]:
    """Only limits that promise more than ComfyUI takes. Where none is set it refuses such a value itself, and says so."""
    low, high = (_read_limit(found.options, key) for key in ("min", "max"))
    drawn = parameter.kind is Kind.SEED  # nobody chose the value that would be refused
    least = 0 if drawn else parameter.lowest  # -1 is drawn, and never sent
    if low is not None and least is not None and (drawn or parameter.minimum is not None) and least < low:
        yield f"its minimum is {least}, and ComfyUI takes no less than {low}"
    most = parameter.highest
    if high is not None and most is not None and (drawn or parameter.maximum is not None) and most > high:
        yield f"its maximum is {most}, and ComfyUI takes no more than {high}"


def _read_limit(options: Mapping[str, Any], key: str) -> int | float | None:
    limit = options.get(key)
    return limit if isinstance(limit, int | float) and not isinstance(limit, bool) else None


def _check_link(template: Template, link: list[Any], found: _Input, object_info: Mapping[str, Any]) -> str | None:
    source, number = link
    described = object_info.get(template.graph[source]["class_type"])
    outputs = described.get("output") if isinstance(described, Mapping) else None
    if not isinstance(outputs, list):
        return None
    if not 0 <= number < len(outputs):
        return f"is linked to output {number} of {_name(template, source)}, which has {len(outputs)}"
    given = frozenset(outputs[number].split(",")) if isinstance(outputs[number], str) else frozenset({"*"})
    if (
        "*" in given | found.types
        or any(kind.startswith("COMFY_") for kind in given | found.types)
        or given & found.types
    ):
        return None
    return f"wants {_join(found.types)}, and {_name(template, source)} gives {_join(given)}"


def _check_value(value: Any, found: _Input) -> str | None:
    if found.types & _LINKS_ONLY:
        return f"wants a link to a node that gives {_join(found.types)}, not a value"
    if (
        found.choices is not None
        and not found.takes_files
        and not isinstance(value, list)
        and value not in found.choices
    ):
        return f"is {value!r}, which ComfyUI does not have"
    kinds = [_PLAIN[kind] for kind in found.types if kind in _PLAIN]
    if len(found.types) == len(kinds) == 1 and not isinstance(value, kinds[0]):
        return f"is {value!r}, wanted is {_join(found.types)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = (_read_limit(found.options, key) for key in ("min", "max"))
        if low is not None and value < low:
            return f"is {value}, and ComfyUI takes no less than {low}"
        if high is not None and value > high:
            return f"is {value}, and ComfyUI takes no more than {high}"
    return None


def _join(types: frozenset[str]) -> str:
    return " or ".join(sorted(types))

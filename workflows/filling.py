"""Puts a job's parameters into a template's graph: typed values at their places, never text into text. Pure."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from handoff.decode import JsonObject, JsonValue, excerpt
from handoff.failures import Failure, Reason
from handoff.messages import nearest
from workflows.parameter import DRAW, Kind, Parameter, Place, find_problem, read_text, show
from workflows.template import Graph, Template

DRAWN_BELOW = 2**53
"""Drawn seeds lie in [0, DRAWN_BELOW): JavaScript readers of a status or a graph would round a greater one."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that the graph needs; `reference` is as the job gave it and stands at `place` until it is replaced."""

    parameter: str
    place: Place
    reference: str
    is_mask: bool


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that was not given: whoever claims the job puts the only one that ComfyUI has at `place`.

    ComfyUI lists them as the choices of this input of `class_type`; `folder` is where they lie below its models/.
    """

    parameter: str
    place: Place
    class_type: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A graph of its own and the parameters that made it: defaults and drawn seeds are in `params`, open models are not."""

    graph: Graph
    params: JsonObject
    pictures: tuple[Picture, ...]
    models: tuple[OpenModel, ...]


def fill(template: Template, params: Mapping[str, JsonValue], *, draw_seed: Callable[[], int]) -> Filled:
    """`params` are JSON values by parameter name; `draw_seed` gives an integer in [0, DRAWN_BELOW).

    Filling again with the `params` of the result gives the same graph. Raises Failure: unknown_parameter, bad_parameter,
    missing_parameter (the first of `find_failures`).
    """
    for failure in find_failures(template, params):
        raise failure
    graph = copy.deepcopy(template.graph)
    given: JsonObject = {}
    pictures: list[Picture] = []
    models: list[OpenModel] = []
    for name, parameter in template.parameters.items():
        value = _resolve(parameter, params.get(name), draw_seed)
        if value is None:
            models += [_open(parameter, place, graph) for place in parameter.to]
            continue
        given[name] = value
        for place in parameter.to:
            graph[place.node]["inputs"][place.input] = value
        if parameter.kind in {Kind.IMAGE, Kind.MASK}:
            is_mask = parameter.kind is Kind.MASK
            pictures += [
                Picture(parameter=name, place=place, reference=str(value), is_mask=is_mask) for place in parameter.to
            ]
    return Filled(graph=graph, params=given, pictures=tuple(pictures), models=tuple(models))


def find_failures(template: Template, params: Mapping[str, JsonValue]) -> list[Failure]:
    """Everything that keeps these parameters from being filled in: unknown names first, then bad values, then missing ones."""
    failures = [_unknown(template, name) for name in params if name not in template.parameters]
    for name, value in params.items():
        parameter = template.parameters.get(name)
        if parameter and (problem := find_problem(parameter, value)):
            failures.append(_bad(template, parameter, value, problem))
    for name, parameter in template.parameters.items():
        if parameter.required and name not in params:
            said = parameter.help["en"] or f"a value of the type {parameter.kind}"
            failures.append(Failure(Reason.MISSING_PARAMETER, workflow=template.name, parameter=name, help=said))
    return failures


def coerce_text(template: Template, name: str, text: str) -> JsonValue:
    """The JSON value that a text from a command line or a form (`-p width=768`) means for this parameter.

    Raises Failure: unknown_parameter, bad_parameter.
    """
    parameter = template.parameters.get(name)
    if parameter is None:
        raise _unknown(template, name)
    value = read_text(parameter, text)
    if problem := find_problem(parameter, value):
        raise _bad(template, parameter, value, problem)
    return value


def _resolve(parameter: Parameter, given: JsonValue, draw_seed: Callable[[], int]) -> JsonValue:
    """The value to put in, which is known to fit; None for a model that is still open."""
    value = parameter.default if given is None else given
    if parameter.kind is Kind.SEED and (value is None or value == DRAW):
        return draw_seed() if parameter.maximum is None else draw_seed() % (int(parameter.maximum) + 1)
    if parameter.kind in {Kind.INT, Kind.SEED} and isinstance(value, float):
        return int(value)  # 768.0 is the same number in JSON, and ComfyUI's nodes want an integer
    return value


def _open(parameter: Parameter, place: Place, graph: Graph) -> OpenModel:
    class_type = graph[place.node]["class_type"]
    return OpenModel(parameter=parameter.name, place=place, class_type=class_type, folder=parameter.folder)


def _unknown(template: Template, name: str) -> Failure:
    short = excerpt(name)
    near = nearest(short, template.parameters)
    return Failure(Reason.UNKNOWN_PARAMETER, workflow=template.name, parameter=short, nearest=near)


def _bad(template: Template, parameter: Parameter, value: JsonValue, problem: str) -> Failure:
    said = show(parameter, value)
    return Failure(Reason.BAD_PARAMETER, workflow=template.name, parameter=parameter.name, value=said, problem=problem)

"""A template's parameters as JSON Schema (2020-12), for forms, OpenAPI and other programs. Pure."""

from typing import Any

from handoff.messages import Language
from workflows.parameter import DRAW, MAX_REFERENCE, MAX_TEXT, Kind, Parameter
from workflows.template import Template

_TYPES = {Kind.INT: "integer", Kind.SEED: "integer", Kind.FLOAT: "number", Kind.BOOL: "boolean"}


def json_schema(template: Template, language: Language = "en") -> dict[str, Any]:
    """What `params` must look like. `fill` takes nothing that this schema refuses, and refuses only what it cannot say:
    the steps of a float, and of an integer whose minimum is no multiple of its step.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": template.title[language],
        "description": template.description[language],
        "type": "object",
        "properties": {name: _describe(parameter, language) for name, parameter in template.parameters.items()},
        "required": [name for name, parameter in template.parameters.items() if parameter.required],
        "additionalProperties": False,
    }


def _describe(parameter: Parameter, language: Language) -> dict[str, Any]:
    said: dict[str, Any] = {"type": _TYPES.get(parameter.kind, "string"), "description": parameter.help[language]}
    default = DRAW if parameter.kind is Kind.SEED and parameter.default is None else parameter.default
    if default is not None:
        said["default"] = default
    if parameter.kind in {Kind.INT, Kind.SEED, Kind.FLOAT}:
        limits = {"minimum": parameter.lowest, "maximum": parameter.highest}
        said |= {key: limit for key, limit in limits.items() if limit is not None}
    if parameter.kind is Kind.INT and parameter.step and (parameter.minimum or 0) % parameter.step == 0:
        said["multipleOf"] = parameter.step
    if parameter.kind is Kind.ENUM:
        said["enum"] = list(parameter.choices)
    if parameter.kind in {Kind.IMAGE, Kind.MASK, Kind.MODEL}:
        said["minLength"] = 1
    if said["type"] == "string" and parameter.kind is not Kind.ENUM:
        said["maxLength"] = MAX_REFERENCE if parameter.kind in {Kind.IMAGE, Kind.MASK} else MAX_TEXT
    return said

"""The document that Dify imports as a custom tool keeps every rule of its importer, for any workflow."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dify_adapter.openapi import WAIT_S, describe
from workflows.catalogue import Catalogue
from workflows.parameter import Kind, Parameter, Words
from workflows.template import Template

SERVER = "http://handoff:8080"
METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}
PLAIN = ("string", "integer", "number", "boolean")

Document = dict[str, Any]


def find_problems(document: Document) -> Iterator[str]:
    """What Dify's importer would refuse, read wrongly or pass over in silence."""
    if not document.get("info", {}).get("title"):
        yield "no info"
    servers = document.get("servers") or [{}]
    if not re.match(r"https?://[^/]", servers[0].get("url", "")):
        yield "no absolute server"
    if not document["openapi"].startswith("3.0."):
        yield "not 3.0"
    yield from (f"{key} is not read" for key in _keys(document) if key in {"$ref", "anyOf", "oneOf", "allOf"})
    operations = [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]
    yield from (
        f"path-level {key} in {path}" for path, item in document["paths"].items() for key in item.keys() - METHODS
    )
    ids = [operation.get("operationId", "") for _, _, operation in operations]
    yield from (
        f"operationId {id!r}" for id in ids if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id) or ids.count(id) > 1
    )
    if len(operations) > 100:
        yield "more than 100 tools"
    for path, _, operation in operations:
        yield from (
            f"{operation.get('operationId')}: {problem}" for problem in _find_operation_problems(path, operation)
        )


def _find_operation_problems(path: str, operation: Document) -> Iterator[str]:
    if not operation.get("description"):
        yield "no description"
    names = [parameter["name"] for parameter in operation.get("parameters", [])]
    places = {(parameter["name"], parameter["in"]) for parameter in operation.get("parameters", [])}
    yield from (
        f"{{{name}}} is in the path only" for name in re.findall(r"{(\w+)}", path) if (name, "path") not in places
    )
    for parameter in operation.get("parameters", []):
        yield from _find_property_problems(parameter["name"], parameter["schema"], parameter.get("description"))
    content = operation.get("requestBody", {}).get("content", {})
    if content and list(content) != ["application/json"]:
        yield f"content types {list(content)}"
    for media in content.values():
        schema = media["schema"]
        if schema.get("type") != "object":
            yield "a body that is no object"
        for name, property in schema.get("properties", {}).items():
            names.append(name)
            yield from _find_property_problems(name, property, property.get("description"))
            if name not in schema.get("required", []) and "default" not in property:
                yield f"{name} is neither required nor has it a default: older versions send null"
    yield from (f"{name} stands twice" for name in set(names) if names.count(name) > 1)


def _find_property_problems(name: str, schema: Document, about: str | None) -> Iterator[str]:
    if schema.get("type") not in PLAIN or schema.get("nullable"):
        yield f"{name} is of the type {schema.get('type')}"
    if schema.get("type") == "boolean":
        yield f"{name}: a boolean false arrives as true"
    if not about:
        yield f"{name} has no description"
    for choice in schema.get("enum", []):
        if str(choice) not in (about or ""):
            yield f"{name}: the choice {choice} is not in its description"
    if isinstance(schema.get("default"), list | dict):
        yield f"{name}: its default is dropped"


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def shipped() -> list[Template]:
    return [template for template in Catalogue(None).list() if isinstance(template, Template)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_shipped_workflows_make_a_document_that_dify_reads_whole(language: Any) -> None:
    document = describe(shipped(), server=SERVER, language=language)
    assert list(find_problems(document)) == []
    assert {f"/v1/workflows/{template.name}" for template in shipped()} < document["paths"].keys()


def test_every_parameter_arrives_with_its_type_default_and_choices() -> None:
    operation = describe(shipped(), server=SERVER)["paths"]["/v1/workflows/txt2img"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    properties = schema["properties"]
    assert schema["required"] == ["prompt"]
    assert properties["width"] == {
        "type": "integer",
        "default": 512,
        "description": "Width in pixels, in steps of 8. SD 1.5 was made for 512, SDXL for 1024. From 64 to 4096. In steps of 8. Default: 512.",
    }
    assert properties["seed"]["default"] == -1
    assert properties["negative"]["default"] == ""
    assert properties["checkpoint"]["default"] == ""
    assert "dpmpp_2m_sde" in properties["sampler"]["description"]


def test_a_yes_or_no_is_a_text_with_two_choices() -> None:
    (property,) = _properties([_parameter("tiling", Kind.BOOL, default=True)]).values()
    assert (property["type"], property["default"], property["enum"]) == ("string", "true", ["true", "false"])


def test_a_parameter_named_like_a_query_takes_its_place() -> None:
    document = describe([_template([_parameter("wait", Kind.INT, default=1)])], server=SERVER)
    assert list(find_problems(document)) == []


def test_it_waits_less_than_the_60_seconds_that_a_custom_tool_reads() -> None:
    assert 25 < WAIT_S < 60


_parameters = some.lists(
    some.builds(
        lambda name, kind, gives, number: _parameter(name, kind, default=_default(kind, number) if gives else None),
        some.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True),
        some.sampled_from(Kind),
        some.booleans(),
        some.integers(0, 100),
    ),
    unique_by=lambda parameter: parameter.name,
    max_size=8,
)


@given(_parameters)
def test_no_workflow_breaks_a_rule(parameters: list[Parameter]) -> None:
    assert list(find_problems(describe([_template(parameters)], server=SERVER))) == []


def _plant_ref(document: Document) -> None:
    document["paths"]["/v1/jobs/{id}"]["get"]["responses"]["200"] = {"$ref": "#/components/responses/Job"}


def _plant_relative_server(document: Document) -> None:
    document["servers"] = [{"url": "/v1"}]


def _plant_no_server(document: Document) -> None:
    del document["servers"]


def _plant_no_id(document: Document) -> None:
    del document["paths"]["/v1/jobs/{id}"]["get"]["operationId"]


def _plant_path_level(document: Document) -> None:
    item = document["paths"]["/v1/jobs/{id}"]
    item["parameters"] = item["get"].pop("parameters")


def _plant_boolean(document: Document) -> None:
    _body(document)["seed"] = {"type": "boolean", "default": True, "description": "yes"}


def _plant_null_type(document: Document) -> None:
    _body(document)["seed"]["type"] = ["integer", "null"]


def _plant_hidden_choice(document: Document) -> None:
    _body(document)["sampler"]["enum"].append("secret")


def _plant_twice(document: Document) -> None:
    document["paths"]["/v1/workflows/txt2img"]["post"]["parameters"].append(
        {"name": "seed", "in": "query", "description": "again", "schema": {"type": "integer"}}
    )


def _plant_second_content_type(document: Document) -> None:
    content = document["paths"]["/v1/workflows/txt2img"]["post"]["requestBody"]["content"]
    content["application/x-www-form-urlencoded"] = content["application/json"]


@pytest.mark.parametrize(
    "plant", [function for name, function in sorted(globals().items()) if name.startswith("_plant_")]
)
def test_the_checker_finds(plant: Callable[[Document], None]) -> None:
    document = describe(shipped(), server=SERVER)
    plant(document)
    assert list(find_problems(document)) != []


def _body(document: Document) -> Document:
    content = document["paths"]["/v1/workflows/txt2img"]["post"]["requestBody"]["content"]
    properties: Document = content["application/json"]["schema"]["properties"]
    return properties


def _properties(parameters: list[Parameter]) -> Document:
    document = describe([_template(parameters)], server=SERVER)
    body = document["paths"]["/v1/workflows/made"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties: Document = body["properties"]
    return properties


def _template(parameters: list[Parameter]) -> Template:
    words: Words = {"en": "Made", "zh": "做"}
    by_name = {parameter.name: parameter for parameter in parameters}
    return Template(
        name="made", title=words, description={"en": "", "zh": ""}, parameters=by_name, graph={}, sha256="0" * 64
    )


def _parameter(name: str, kind: Kind, default: Any = None) -> Parameter:
    choices = ("a", "b") if kind is Kind.ENUM else ()
    words: Words = {"en": "Said.", "zh": "说。"}
    return Parameter(name=name, kind=kind, to=(), default=default, choices=choices, help=words)


def _default(kind: Kind, number: int) -> Any:
    match kind:
        case Kind.STRING | Kind.MODEL:
            return str(number)
        case Kind.BOOL:
            return bool(number % 2)
        case Kind.ENUM:
            return "ab"[number % 2]
        case Kind.INT | Kind.SEED | Kind.FLOAT:
            return number
        case _:
            return None

"""The flat OpenAPI 3.0.3 document for Dify's custom tools: one operation per workflow, and two for the job. Pure.

Dify's importer forces the form: an absolute server address, an operationId everywhere, parameters within the operation,
one content type, and plain types, since it reads `$ref`, `anyOf`, null types, enums and path-level parameters wrongly or
not at all. It sends "false" as true, so a yes-or-no parameter is a text with two choices.
"""

from collections.abc import Iterable
from typing import Any

from handoff.messages import Language
from workflows.parameter import Kind, Parameter
from workflows.schema import json_schema
from workflows.template import Template

WAIT_S = 50
"""Below the 60 s after which Dify's custom tools give up reading."""

Schema = dict[str, Any]

# Workflows are named in lower case, so that none can have one of these.
GET_JOB = "getJob"
CANCEL_JOB = "cancelJob"

_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "about": "Draws pictures with ComfyUI through Handoff.",
        "what_next": "When `ok` is true, show the answer's `markdown`. While `done` is false, call getJob with its `id`."
        " Otherwise say why not: `error.message`.",
        "get_job": "Where a job stands",
        "cancel_job": "Cancel a job",
        "id": "The job's id, from the answer to its start.",
        "wait": "Seconds to wait for the end; leave it as it is.",
        "errors": "Leave it as it is: errors are then readable here.",
        "range": "From {low} to {high}.",
        "least": "At least {low}.",
        "most": "At most {high}.",
        "step": "In steps of {step}.",
        "choices": "One of: {choices}.",
        "default": "Default: {default}.",
        "empty": "Empty: the only one there is.",
        "answer": "The job's status document",
    },
    "zh": {
        "about": "通过 Handoff 使用 ComfyUI 画图。",
        "what_next": "若 `ok` 为 true，显示返回的 `markdown`。若 `done` 为 false，用其 `id` 调用 getJob。否则说明原因：`error.message`。",
        "get_job": "任务进度",
        "cancel_job": "取消任务",
        "id": "任务的 id，来自提交时的返回。",
        "wait": "等待任务结束的秒数；请勿修改。",
        "errors": "请勿修改：这样才能看到错误内容。",
        "range": "{low} 到 {high}。",
        "least": "最小 {low}。",
        "most": "最大 {high}。",
        "step": "步长 {step}。",
        "choices": "可选：{choices}。",
        "default": "默认：{default}。",
        "empty": "留空：使用唯一的一个。",
        "answer": "任务状态文档",
    },
}


def describe(templates: Iterable[Template], *, server: str, language: Language = "en") -> Schema:
    """`server` is the address at which Dify reaches this adapter."""
    words = _WORDS[language]
    paths = {f"/v1/workflows/{template.name}": {"post": _describe_run(template, language)} for template in templates}
    id = {"name": "id", "in": "path", "required": True, "description": words["id"], "schema": {"type": "string"}}
    paths["/v1/jobs/{id}"] = {"get": _operation(GET_JOB, words["get_job"], "", (id, *_queries(words)), words)}
    paths["/v1/jobs/{id}/cancel"] = {
        "post": _operation(CANCEL_JOB, words["cancel_job"], "", (id, *_queries(words)[1:]), words)
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": "Handoff", "description": words["about"], "version": "1"},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def _describe_run(template: Template, language: Language) -> Schema:
    words = _WORDS[language]
    schema = json_schema(template, language)
    properties = {name: _flatten(template.parameters[name], said, words) for name, said in schema["properties"].items()}
    body: Schema = {"type": "object", "properties": properties}
    if schema["required"]:
        body["required"] = schema["required"]
    # The importer puts the names of query and body into one list.
    queries = [query for query in _queries(words) if query["name"] not in properties]
    return _operation(template.name, schema["title"], schema["description"], queries, words) | {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}}
    }


def _operation(id: str, title: str, about: str, parameters: Iterable[Schema], words: dict[str, str]) -> Schema:
    answer = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "status": {"type": "string"},
            "done": {"type": "boolean"},
            "ok": {"type": "boolean"},
            "markdown": {"type": "string", "nullable": True},
            "url": {"type": "string", "nullable": True},
        },
    }
    return {
        "operationId": id,
        "summary": title,
        "description": f"{about or title} {words['what_next']}",
        "parameters": list(parameters),
        "responses": {
            "200": {"description": words["answer"], "content": {"application/json": {"schema": answer}}},
        },
    }


def _queries(words: dict[str, str]) -> tuple[Schema, Schema]:
    return (
        _query("wait", words["wait"], {"type": "integer", "default": WAIT_S}),
        _query("errors", words["errors"], {"type": "string", "default": "200"}),
    )


def _query(name: str, about: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


def _flatten(parameter: Parameter, said: Schema, words: dict[str, str]) -> Schema:
    """A property of plain type, whose description says what Dify does not read elsewhere."""
    flat: Schema = {"type": said["type"]}
    default = said.get("default")
    if parameter.kind is Kind.BOOL:
        flat = {"type": "string", "enum": ["true", "false"]}
        default = None if default is None else str(default).lower()
    if parameter.kind is Kind.ENUM:
        flat["enum"] = list(parameter.choices)
    if parameter.kind is Kind.MODEL and default is None:
        default = ""
    if default is not None:
        flat["default"] = default
    sentences = [said["description"], *_tell_limits(parameter, flat, words)]
    return flat | {"description": " ".join(sentence for sentence in sentences if sentence)}


def _tell_limits(parameter: Parameter, flat: Schema, words: dict[str, str]) -> Iterable[str]:
    if parameter.kind in {Kind.INT, Kind.FLOAT}:
        low, high = parameter.minimum, parameter.maximum
        if low is not None and high is not None:
            yield words["range"].format(low=low, high=high)
        elif low is not None:
            yield words["least"].format(low=low)
        elif high is not None:
            yield words["most"].format(high=high)
        if parameter.step is not None:
            yield words["step"].format(step=parameter.step)
    if "enum" in flat:
        yield words["choices"].format(choices=", ".join(flat["enum"]))
    if parameter.kind is Kind.MODEL and flat["default"] == "":
        yield words["empty"]
    elif flat.get("default") not in (None, ""):
        yield words["default"].format(default=flat["default"])

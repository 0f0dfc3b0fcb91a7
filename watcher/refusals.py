"""Why ComfyUI refused a prompt, as a `Failure` with a sentence for each thing that is wrong. Pure.

What ends up in a sentence is foreign, and may be a job's secret: it is cut and masked.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from handoff.failures import Failure, Node, Reason
from handoff.graph import Graph, describe_node
from handoff.masking import mask_urls, mask_value
from handoff.messages import nearest
from watcher.capabilities import is_model
from watcher.graph import node_order

MAX_PROBLEM = 600  # characters of a message
MAX_SENTENCES = 3


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Error(_Loose):
    type: str
    message: str = ""
    details: str = ""
    extra_info: dict[str, Any] = {}


class _NodeErrors(_Loose):
    errors: list[_Error] = []
    class_type: str | None = None


class PromptAnswer(_Loose):
    """The answer of POST /prompt, of a refusal as of an acceptance; `node_errors` may come with both."""

    prompt_id: str | None = None
    error: _Error | str | None = None
    node_errors: dict[str, _NodeErrors] | list[Any] = {}


_OLD_MISSING = re.compile(r"node (\S+) does not exist")  # ComfyUI 0.3.64; later versions have a type of their own


def read_refusal(answer: PromptAnswer, graph: Graph) -> Failure:
    """WORKFLOW_UNAVAILABLE where only nodes or models are missing (another ComfyUI may have them), else VALIDATION_FAILED."""
    if isinstance(answer.node_errors, dict) and answer.node_errors:
        return _read_node_errors(answer.node_errors, graph)
    error = answer.error if isinstance(answer.error, _Error) else _Error(type="", message=str(answer.error or ""))
    if error.type == "missing_node_type":
        node = describe_node(graph, str(error.extra_info.get("node_id", "")))
        return Failure(Reason.WORKFLOW_UNAVAILABLE, node=node, lacks=f"the node class {_class_named(error, node)}")
    if error.type == "invalid_prompt" and (old := _OLD_MISSING.search(error.message)):
        found = re.search(r"#([^']+)'", error.details)
        node = describe_node(graph, found[1] if found else "", old[1][:200])
        return Failure(Reason.WORKFLOW_UNAVAILABLE, node=node, lacks=f"the node class {_cut(old[1], 200)}")
    if error.type == "prompt_no_outputs":
        return Failure(Reason.VALIDATION_FAILED, problem="it has no node that saves or shows anything")
    return Failure(
        Reason.VALIDATION_FAILED,
        problem=_cut(": ".join(filter(None, (error.message, error.details)))) or "it gave no reason",
    )


def read_unknown_refusal(said: Any) -> Failure:
    """VALIDATION_FAILED for a refusal in other words than ComfyUI's; values of inputs, which its `node_errors` hold, are left out."""
    if isinstance(said, dict):
        said = {name: part for name, part in said.items() if name != "node_errors"}
    return Failure(Reason.VALIDATION_FAILED, problem=_cut(f"it answered {_masked('', said)}"))


def _read_node_errors(node_errors: Mapping[str, _NodeErrors], graph: Graph) -> Failure:
    wrong: list[tuple[Node, str]] = []
    lacking: list[tuple[Node, str]] = []
    for node_id in sorted(node_errors, key=node_order):
        node = describe_node(graph, node_id, node_errors[node_id].class_type)
        for error in node_errors[node_id].errors:
            value = error.extra_info.get("received_value")
            if error.type == "value_not_in_list" and is_model(value, _options(error)):
                lacking.append((node, f"the model {_cut(str(value), 200)} ({node.class_type}.{_input(error)})"))
            else:
                wrong.append((node, _explain(node, error)))
    if lacking and not wrong:
        lacks = dict.fromkeys(text for _, text in lacking)
        return Failure(Reason.WORKFLOW_UNAVAILABLE, node=lacking[0][0], lacks=_cut(", ".join(lacks)))
    sentences = [text for _, text in wrong] + [f"it has not got {text}" for _, text in lacking]
    if len(sentences) > MAX_SENTENCES:
        sentences = [*sentences[:MAX_SENTENCES], f"and {len(sentences) - MAX_SENTENCES} more"]
    node_named = wrong[0][0] if wrong else None
    return Failure(Reason.VALIDATION_FAILED, node=node_named, problem=_cut("; ".join(sentences)) or "it gave no reason")


def _explain(node: Node, error: _Error) -> str:
    """For example: width of node 1 (EmptyImage) is 0, and the smallest allowed is 1."""
    where = f"node {node.id} ({node.title})" if node.title else f"node {node.id}"
    name = _input(error)
    value = _shown(name, error.extra_info.get("received_value"))
    limits = _limits(error)
    match error.type:
        case "value_smaller_than_min":
            return f"{name} of {where} is {value}, and the smallest allowed is {limits.get('min')}"
        case "value_bigger_than_max":
            return f"{name} of {where} is {value}, and the largest allowed is {limits.get('max')}"
        case "invalid_input_type":
            return f"{name} of {where} is {value}, which is no {_type(error)}"
        case "value_not_in_list":
            options = _options(error)
            offered = f"; it takes {nearest(str(error.extra_info.get('received_value')), options)}" if options else ""
            return f"{name} of {where} is {value}, which is none of its choices{offered}"
        case "required_input_missing":
            return f"{where} lacks its input {name}"
        case "bad_linked_input":
            return f"{name} of {where} is {value}, and a link is [node id, output number]"
        case "return_type_mismatch":
            return f"{name} of {where} is linked to an output of another type: {_cut(error.details, 200)}"
        case "custom_validation_failed":
            return f"{where}: {_cut(error.details, 300)}"
        case _:
            return f"{where}: {_cut(': '.join(filter(None, (error.message, error.details))), 300)}"


def _class_named(error: _Error, node: Node) -> str:
    named = error.extra_info.get("class_type")
    return _cut(named, 200) if isinstance(named, str) else node.class_type or "of a node without class_type"


def _input(error: _Error) -> str:
    name = error.extra_info.get("input_name")
    return _cut(name, 100) if isinstance(name, str) else _cut(error.details, 100)


def _shown(name: str, value: Any) -> str:
    shown = _masked(name, value)
    return _cut(f'"{shown}"' if isinstance(shown, str) else str(shown), 100)


def _masked(name: str, value: Any) -> Any:
    try:
        return mask_value(name, value)
    except RecursionError:
        return "something nested too deeply to show"


def _type(error: _Error) -> str:
    config = error.extra_info.get("input_config")
    return _cut(str(config[0]), 40) if isinstance(config, list) and config else "value it takes"


def _limits(error: _Error) -> Mapping[str, Any]:
    config = error.extra_info.get("input_config")
    return config[1] if isinstance(config, list) and len(config) > 1 and isinstance(config[1], dict) else {}


def _options(error: _Error) -> list[str]:
    """What may be chosen; ComfyUI leaves it out where there are more than 20."""
    config = error.extra_info.get("input_config")
    options = (
        config[0]
        if isinstance(config, list) and config and isinstance(config[0], list)
        else _limits(error).get("options")
    )
    return [option for option in options if isinstance(option, str)] if isinstance(options, list) else []


def _cut(text: str, limit: int = MAX_PROBLEM) -> str:
    text = mask_urls(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

"""Whether a graph is accepted by POST /prompt, and the error bodies if it is not.

The graph is changed as ComfyUI changes it: values become the type that the input wants. Shapes that ComfyUI's own code
trips over (a list in place of the graph) raise the same kinds of exception here, which become a 500 there as here.
"""

import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comfyui_simulator.catalogue import Catalogue
from comfyui_simulator.folders import Folders, OutsideFolderError

Graph = dict[str, dict[str, Any]]
Error = dict[str, Any]

_CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`error` is None when at least one output is valid; then only `outputs` run and `node_errors` tells what was dropped."""

    error: Error | None
    outputs: list[str]
    node_errors: dict[str, Any]


def make_error(kind: str, message: str, details: str, extra_info: dict[str, Any] | None = None) -> Error:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info or {}}


def validate(graph: Graph, targets: list[str] | None, catalogue: Catalogue, folders: Folders) -> Verdict:
    """`targets` narrows the output nodes to these; None means all."""
    for node in graph.values():
        if not isinstance(node.get("inputs", {}), dict):
            raise TypeError("inputs must be an object")
    outputs = []
    for node_id, node in graph.items():
        if unknown := _check_class(node_id, node, catalogue):
            return Verdict(error=unknown, outputs=[], node_errors={})
        if catalogue.is_output(node["class_type"]) and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=make_error("prompt_no_outputs", "Prompt has no outputs", ""), outputs=[], node_errors={})
    return _Validation(graph, catalogue, folders).judge(outputs)


def _check_class(node_id: str, node: dict[str, Any], catalogue: Catalogue) -> Error | None:
    class_type = node.get("class_type")
    if "class_type" in node and class_type in catalogue:
        return None
    title = node.get("_meta", {}).get("title", class_type)
    if "class_type" not in node:
        name = title or f"ID #{node_id}"
        message = f"Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing."
    else:
        message = f"Node '{title}' not found. The custom node may not be installed."
    extra = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return make_error("missing_node_type", message, f"Node ID '#{node_id}'", extra)


@dataclass
class _Validation:
    graph: Graph
    catalogue: Catalogue
    folders: Folders
    found: dict[str, list[Error]] = field(default_factory=dict)
    """Errors of the nodes looked at so far; a node that is here is not looked at again."""
    broken: set[str] = field(default_factory=set)

    def judge(self, outputs: Iterable[str]) -> Verdict:
        good: list[str] = []
        details: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            try:
                valid = self._check_node(output, [])
            except Exception as error:  # noqa: BLE001  # whatever goes wrong here is reported as the node's error
                valid = False
                self._add(
                    output, _describe_exception("exception_during_validation", "Exception when validating node", error)
                )
            if valid:
                good.append(output)
                continue
            details += [f"{error['message']}: {error['details']}" for error in self.found[output]]
            # ComfyUI names the failing output beside every error found so far, also beside those it does not need.
            for node_id, errors in self.found.items():
                if errors:
                    entry = {"errors": errors, "dependent_outputs": [], "class_type": self.graph[node_id]["class_type"]}
                    node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)
        refusal = None
        if not good:
            refusal = make_error(
                "prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(details)
            )
        return Verdict(error=refusal, outputs=good, node_errors=node_errors)

    def _add(self, node_id: str, *errors: Error) -> None:
        self.found.setdefault(node_id, []).extend(errors)
        self.broken.add(node_id)

    def _check_node(self, node_id: str, path: list[str]) -> bool:
        if node_id in path:
            self._report_cycle(path[path.index(node_id) :])
            return False
        if node_id in self.found:
            return node_id not in self.broken
        node = self.graph[node_id]
        class_type, values = node["class_type"], node["inputs"]
        errors: list[Error] = []
        upstream_is_valid = True
        for name, (kind, settings, required) in self.catalogue.inputs(class_type).items():
            if name not in values:
                if required:
                    errors.append(
                        make_error("required_input_missing", "Required input is missing", name, {"input_name": name})
                    )
            elif isinstance(values[name], list):
                problem, valid = self._check_link(name, values[name], kind, settings, [*path, node_id])
                errors += problem
                upstream_is_valid &= valid
            else:
                errors += self._check_value(class_type, name, values, kind, settings)
        self.found.setdefault(node_id, [])
        if errors or not upstream_is_valid:
            self._add(node_id, *errors)
        return node_id not in self.broken

    def _check_link(
        self, name: str, link: list[Any], kind: Any, settings: Any, path: list[str]
    ) -> tuple[list[Error], bool]:
        extra = {"input_name": name, "input_config": [kind, settings]}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [make_error("bad_linked_input", message, name, {**extra, "received_value": link})], True
        source, slot = link
        received = self.catalogue.output_types(self.graph[source]["class_type"])[slot]
        if not _fits(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            extra |= {"received_type": received, "linked_node": link}
            return [
                make_error("return_type_mismatch", "Return type mismatch between linked nodes", details, extra)
            ], True
        try:
            return [], self._check_node(source, path)
        except Exception as error:  # noqa: BLE001  # reported as the linked node's error
            problem = _describe_exception(
                "exception_during_inner_validation", "Exception when validating inner node", error
            )
            problem["extra_info"] = {
                **extra,
                "exception_message": str(error),
                **problem["extra_info"],
                "linked_node": link,
            }
            self._add(source, problem)
            return [], False

    def _check_value(self, class_type: str, name: str, values: dict[str, Any], kind: Any, settings: Any) -> list[Error]:
        value = values[name]
        extra = {"input_name": name, "input_config": [kind, settings], "received_value": value}
        if isinstance(kind, str) and kind in _CONVERSIONS:
            try:
                values[name] = value = _CONVERSIONS[kind](value)
            except (ValueError, TypeError, OverflowError) as error:
                message = f"Failed to convert an input value to a {kind} value"
                extra["exception_message"] = str(error)
                return [make_error("invalid_input_type", message, f"{name}, {value}, {error}", extra)]
        if self.catalogue.is_picture_input(class_type, name):
            return self._check_picture(name, value)
        if "min" in settings and value < settings["min"]:
            message = f"Value {value} smaller than min of {settings['min']}"
            return [make_error("value_smaller_than_min", message, name, extra)]
        if "max" in settings and value > settings["max"]:
            message = f"Value {value} bigger than max of {settings['max']}"
            return [make_error("value_bigger_than_max", message, name, extra)]
        options = kind if isinstance(kind, list) else settings.get("options") if kind == "COMBO" else None
        if options is not None and value not in options:
            shown = str(options)
            if len(options) > 20:
                shown, extra["input_config"] = f"(list of length {len(options)})", None
            return [make_error("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {shown}", extra)]
        return []

    def _check_picture(self, name: str, value: Any) -> list[Error]:
        try:
            if isinstance(value, str) and self.folders.find_annotated(value).exists():
                return []
        except (OutsideFolderError, ValueError):
            pass
        details = f"{name} - Invalid image file: {value}"
        return [
            make_error("custom_validation_failed", "Custom validation failed for node", details, {"input_name": name})
        ]

    def _report_cycle(self, cycle: list[str]) -> None:
        details = " -> ".join(f"{node_id} ({self.graph[node_id]['class_type']})" for node_id in [*cycle, cycle[0]])
        for node_id in cycle:
            extra = {"node_id": node_id, "cycle_nodes": cycle}
            self._add(node_id, make_error("dependency_cycle", "Dependency cycle detected", details, extra))


def _fits(received: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(received, list) or received in ("COMBO", "*", "STRING")
    if not isinstance(received, str) or "*" in (received, wanted):
        return True
    return set(received.split(",")) <= set(str(wanted).split(","))


def _describe_exception(kind: str, message: str, error: Exception) -> Error:
    extra = {"exception_type": type(error).__name__, "traceback": traceback.format_tb(error.__traceback__)}
    return make_error(kind, message, str(error), extra)

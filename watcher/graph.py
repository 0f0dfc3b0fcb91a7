"""How a graph is prepared for one attempt, and shown without its secrets. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from handoff.failures import Node
from handoff.graph import Graph, describe_node, title_of
from handoff.masking import find_secrets, hide, mask_value

Warnings = list[tuple[str, dict[str, str | float]]]
"""Key and details for `handoff.messages.warn`."""

MAX_LABEL = 40
DEFAULT_LABEL = "output"


def clean_graph(graph: Mapping[str, Mapping[str, Any]]) -> Graph:
    """Only the keys that ComfyUI reads: class_type, inputs and a title. Editors add others, which may hold anything."""
    cleaned: Graph = {}
    for node_id, node in graph.items():
        cleaned[node_id] = {"class_type": node["class_type"], "inputs": dict(node["inputs"])}
        if title := title_of(node):
            cleaned[node_id]["_meta"] = {"title": title}
    return cleaned


def denied(graph: Graph, classes: Collection[str]) -> Node | None:
    """The first node whose class nobody may use, for a Failure NODE_DENIED."""
    for node_id in sorted(graph, key=node_order):
        if graph[node_id]["class_type"] in classes:
            return describe_node(graph, node_id)
    return None


def attempt_graph(graph: Graph, folder: str) -> tuple[Graph, dict[str, str], Warnings]:
    """The graph for one attempt: every `filename_prefix` leads into `folder` (relative to ComfyUI's output folder).

    Also returns node id → label, the word that the node's outputs are named by, and warnings. A folder of its own per
    attempt keeps ComfyUI from answering with an old file from its cache, and its file counter from being shared.
    Labels may repeat; the prefixes never do, so that no two nodes share a counter whose order ComfyUI does not promise.
    """
    prepared = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in graph.items()}
    labels: dict[str, str] = {}
    warnings: Warnings = []
    times_used: dict[str, int] = {}
    for node_id in sorted(prepared, key=node_order):
        inputs = prepared[node_id]["inputs"]
        if "filename_prefix" not in inputs:
            continue
        prefix = inputs["filename_prefix"]
        label = labels[node_id] = make_label(prefix)
        if isinstance(prefix, list):
            warnings.append(("prefix_replaced", {"node": node_id}))
        # Compared without case, since a shared volume on a desktop machine may not tell Out from out.
        uses = times_used[label.casefold()] = times_used.get(label.casefold(), 0) + 1
        inputs["filename_prefix"] = f"{folder}/{label}" if uses == 1 else f"{folder}/{uses}/{label}"
    return prepared, labels, warnings


def make_label(prefix: Any) -> str:
    """The last part of a filename_prefix as a safe word: `%date%`-like tokens dropped, `[A-Za-z0-9_-]`, at most 40 characters."""
    if not isinstance(prefix, str):
        return DEFAULT_LABEL
    last = re.split(r"[/\\]", re.sub(r"%[^%]*%", "", prefix))[-1]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", last)[:MAX_LABEL].strip("-_") or DEFAULT_LABEL


def node_order(node_id: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key: 2 before 10, and 5:2 (in a subgraph) after 5. ComfyUI itself promises no order of nodes."""
    parts = node_id.split(":")
    return tuple((False, int(part), "") if _is_number(part) else (True, 0, part) for part in parts)


def masked_graph(graph: Graph) -> Graph:
    """For logs and job.json: texts in inputs named like secrets, and the user and query parts of URLs, become `***`."""
    return {node_id: {**node, "inputs": mask_value("inputs", node["inputs"])} for node_id, node in graph.items()}


def secrets_of(graph: Graph) -> set[str]:
    """The texts in inputs named like secrets."""
    return {secret for node in graph.values() for secret in find_secrets("inputs", node["inputs"])}


def hide_secrets(said: Any, graph: Graph) -> Any:
    """ComfyUI's words, also inside JSON, without what the graph keeps secret: nodes put keys into errors, refusals quote values."""
    secrets = secrets_of(graph)
    return _hide(said, secrets) if secrets else said


def _hide(said: Any, secrets: Collection[str]) -> Any:
    match said:
        case str():
            return hide(said, secrets)
        case list():
            return [_hide(part, secrets) for part in said]
        case dict():
            return {name: _hide(part, secrets) for name, part in said.items()}
        case _:
            return said


def _is_number(text: str) -> bool:
    return len(text) <= 18 and text.isascii() and text.isdigit()

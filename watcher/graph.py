"""What may be sent to ComfyUI at all, and how a graph is prepared for one attempt. Pure.

Some graphs kill the server instead of being refused: a node without `inputs` that no output needs ends ComfyUI's
worker thread (ComfyUI 0.33). So nothing is sent that was not checked here.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from handoff.failures import Failure, Node, Reason
from handoff.masking import find_secrets, hide, mask_value

Graph = dict[str, dict[str, Any]]
"""An API-format graph that passed `check_graph`: node id → {class_type, inputs, _meta?}."""

Warnings = list[tuple[str, dict[str, str | float]]]
"""Key and details for `handoff.messages.warn`."""

MAX_NODES = 5_000
MAX_LABEL = 40
DEFAULT_LABEL = "output"


def check_graph(graph: Any) -> None:
    """Raises Failure UI_FORMAT, or BAD_GRAPH for what would harm a server, give a 500, or could never run.

    Whether classes and values exist is ComfyUI's to say, and whether there is an output node, too.
    A list that is no link (`[512, 512]`) is left to ComfyUI: for some nodes it is a value.
    """
    if not isinstance(graph, dict):
        raise Failure(Reason.BAD_GRAPH, problem="it is not an object of nodes")
    if isinstance(graph.get("nodes"), list):
        raise Failure(Reason.UI_FORMAT)
    if not graph:
        raise Failure(Reason.BAD_GRAPH, problem="it has no nodes")
    if len(graph) > MAX_NODES:
        raise Failure(Reason.BAD_GRAPH, problem=f"it has {len(graph)} nodes, the limit is {MAX_NODES}")
    for node_id, node in graph.items():
        _check_node(node_id, node)
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if problem := _link_problem(value, graph):
                raise _bad(graph, node_id, f"input {_short(name)} {problem}")
    if cycle := _find_cycle(graph):
        shown = " → ".join(cycle if len(cycle) <= 12 else [*cycle[:6], "…", *cycle[-5:]])
        raise _bad(graph, cycle[0], f"its nodes depend on each other in a circle: {shown}")


def clean_graph(graph: Mapping[str, Mapping[str, Any]]) -> Graph:
    """Only the keys that ComfyUI reads: class_type, inputs and a title. Editors add others, which may hold anything."""
    cleaned: Graph = {}
    for node_id, node in graph.items():
        cleaned[node_id] = {"class_type": node["class_type"], "inputs": dict(node["inputs"])}
        if title := _title(node):
            cleaned[node_id]["_meta"] = {"title": title}
    return cleaned


def describe_node(graph: Mapping[str, Any], node_id: str, class_type: str | None = None) -> Node:
    """The node as failures name it. `class_type` stands in where the graph does not know the node (a subgraph's)."""
    node = graph.get(node_id)
    if not isinstance(node, Mapping):
        return Node(id=node_id[:100], class_type=class_type)
    named = node.get("class_type")
    known = named[:200] if isinstance(named, str) else class_type
    return Node(id=node_id[:100], class_type=known, title=_title(node) or known)


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


def is_link(value: Any) -> bool:
    """What ComfyUI takes for a link: `[node id, slot]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
        and not isinstance(value[1], bool)
    )


def _check_node(node_id: Any, node: Any) -> None:
    if not isinstance(node_id, str) or not node_id:
        raise Failure(Reason.BAD_GRAPH, problem=f"the node id {_short(node_id)} is not a text")
    if not isinstance(node, dict):
        raise Failure(Reason.BAD_GRAPH, node=Node(id=node_id[:100]), problem=f"node {_short(node_id)} is not an object")
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        raise _bad({node_id: node}, node_id, "it has no class_type")
    if not isinstance(node.get("inputs"), dict):
        raise _bad({node_id: node}, node_id, "it has no inputs; an empty {} is needed at least")


def _link_problem(value: Any, graph: Mapping[str, Any]) -> str | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    target, slot = value
    if isinstance(target, int) and not isinstance(target, bool):
        # [512, 512] is a size for some node; [4, 0] beside a node "4" is a link with its id written as a number
        is_meant = str(target) in graph and isinstance(slot, int) and 0 <= slot < 20
        return f'links to {value}: node ids are texts, write ["{target}", {slot}]' if is_meant else None
    if not isinstance(target, str) or not (target in graph or is_link(value)):
        return None
    if target not in graph:
        return f"links to node {_short(target)}, which does not exist"
    if not isinstance(slot, int) or isinstance(slot, bool) or slot < 0:
        return f"links to slot {repr(slot)[:40]} of node {_short(target)}: a slot is a whole number from 0"
    return None


def _find_cycle(graph: Graph) -> list[str] | None:
    """Node ids along a circle, the first one repeated at the end. A loop, not recursion: a chain may have 5,000 nodes."""
    done: set[str] = set()
    for start in graph:
        path: dict[str, Iterator[str]] = {}
        node_id: str | None = start
        while node_id is not None:
            if node_id in path:
                ids = list(path)
                return [*ids[ids.index(node_id) :], node_id]
            if node_id not in done:
                path[node_id] = _linked(graph[node_id])
            node_id = _next(path, done)
    return None


def _next(path: dict[str, Iterator[str]], done: set[str]) -> str | None:
    """The next node to visit; nodes whose links were all followed are taken off the path."""
    while path:
        last = next(reversed(path))
        if (following := next(path[last], None)) is not None:
            return following
        del path[last]
        done.add(last)
    return None


def _linked(node: Mapping[str, Any]) -> Iterator[str]:
    return (value[0] for value in node["inputs"].values() if is_link(value))


def _bad(graph: Mapping[str, Any], node_id: str, problem: str) -> Failure:
    node = describe_node(graph, node_id)
    shown = f"node {_short(node_id)} ({node.title[:60]})" if node.title else f"node {_short(node_id)}"
    return Failure(Reason.BAD_GRAPH, node=node, problem=f"{shown}: {problem}")


def _title(node: Mapping[str, Any]) -> str | None:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title[:200] if isinstance(title, str) and title else None


def _is_number(text: str) -> bool:
    return len(text) <= 18 and text.isascii() and text.isdigit()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)[:80]
    return text if len(text) <= 60 else f"{text[:60]}…"

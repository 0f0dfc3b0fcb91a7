"""A graph in ComfyUI's API format, and what may be sent to ComfyUI at all. Pure.

Some graphs kill the server instead of being refused: a node without `inputs` that no output needs ends ComfyUI's
worker thread (ComfyUI 0.33). So nothing is sent that was not checked here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from handoff.failures import Failure, Node, Reason

Graph = dict[str, dict[str, Any]]
"""An API-format graph that passed `check_graph`: node id → {class_type, inputs, _meta?}."""

MAX_NODES = 5_000


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


def describe_node(graph: Mapping[str, Any], node_id: str, class_type: str | None = None) -> Node:
    """The node as failures name it. `class_type` stands in where the graph does not know the node (a subgraph's)."""
    node = graph.get(node_id)
    if not isinstance(node, Mapping):
        return Node(id=node_id[:100], class_type=class_type)
    named = node.get("class_type")
    known = named[:200] if isinstance(named, str) else class_type
    return Node(id=node_id[:100], class_type=known, title=title_of(node) or known)


def title_of(node: Mapping[str, Any]) -> str | None:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title[:200] if isinstance(title, str) and title else None


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


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)[:80]
    return text if len(text) <= 60 else f"{text[:60]}…"

"""Which nodes of a graph run, in which order, and under which key their results are kept. Pure but for the hash of files."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from comfyui_simulator.folders import Folders
from comfyui_simulator.picture_nodes import hash_loaded_file

_LOADERS = frozenset({"LoadImage", "LoadImageMask"})


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def plan_nodes(graph: dict[str, Any], outputs: list[str], is_cached: Callable[[str], bool]) -> list[str]:
    """The outputs and what they need, dependencies first; what is cached is not looked behind."""
    plan: dict[str, None] = {}

    def visit(node_id: str) -> None:
        if node_id in plan:
            return
        if not is_cached(node_id):
            for value in graph[node_id]["inputs"].values():
                if is_link(value) and value[0] in graph and not is_cached(value[0]):
                    visit(value[0])
        plan[node_id] = None

    for output in outputs:
        visit(output)
    return list(plan)


def make_cache_keys(graph: dict[str, Any], folders: Folders) -> dict[str, str]:
    """A key for every node: class, values and the keys of what it is linked to. Node ids and extra_data do not count.

    Loading nodes get `is_changed`, the hash of their file, written into the graph, from where it goes into PNG files.
    """
    for node in graph.values():
        if node["class_type"] in _LOADERS:
            try:
                node["is_changed"] = [hash_loaded_file(folders, node["inputs"])]
            except Exception:  # noqa: BLE001  # as ComfyUI does: what cannot be hashed counts as changed
                node["is_changed"] = float("nan")
    keys: dict[str, str] = {}

    def key_of(node_id: str, path: tuple[str, ...]) -> str:
        if node_id in path:
            return "cycle"
        if node_id not in keys:
            node = graph[node_id]
            parts: list[Any] = [node["class_type"], node.get("is_changed")]
            for name, value in sorted(node["inputs"].items()):
                linked = is_link(value) and value[0] in graph
                parts.append([name, key_of(value[0], (*path, node_id)), value[1]] if linked else [name, value])
            keys[node_id] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return keys[node_id]

    for node_id in graph:
        key_of(node_id, ())
    return keys

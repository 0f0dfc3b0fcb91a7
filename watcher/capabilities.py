"""What one ComfyUI can run: its version, devices, node classes and model files. Pure: made from its answers, kept in `server.json`.

A watcher claims only what its ComfyUI has, and a job that no live watcher can run fails with what each one lacks.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from handoff.graph import Graph
from watcher.graph import node_order

_MODEL_FILE = re.compile(r"\.(safetensors|sft|ckpt|pt|pt2|pth|bin|gguf|onnx|engine|pkl)$", re.IGNORECASE)
_MODEL_INPUT = re.compile(r"(_name\d?$|model)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Memory in bytes; for a CPU, that of the machine."""

    name: str
    vram_total: int
    vram_free: int


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """`models`: "Class.input" → the names ComfyUI offers there, for inputs that choose files.

    Names that the folder has gained since are missing until it is asked again.
    """

    version: str
    devices: tuple[Device, ...]
    simulated: bool
    classes: frozenset[str]
    models: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "devices": [asdict(device) for device in self.devices],
            "simulated": self.simulated,
            "classes": sorted(self.classes),
            "models": {place: list(names) for place, names in sorted(self.models.items())},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Capabilities":
        """Raises KeyError, TypeError for what `to_json` did not write."""
        return cls(
            version=document["version"],
            devices=tuple(Device(**device) for device in document["devices"]),
            simulated=document["simulated"],
            classes=frozenset(document["classes"]),
            models={place: tuple(names) for place, names in document["models"].items()},
        )


def read_capabilities(system_stats: Mapping[str, Any], object_info: Mapping[str, Any]) -> Capabilities:
    """From the answers of /system_stats and /object_info. What is not as expected there is left out, never an error."""
    system = _dict(system_stats.get("system"))
    devices = system_stats.get("devices")
    return Capabilities(
        version=str(system.get("comfyui_version") or "unknown")[:40],
        devices=tuple(_read_device(_dict(device)) for device in devices) if isinstance(devices, list) else (),
        simulated=bool(system.get("simulated")),
        classes=frozenset(object_info),
        models={
            f"{class_type}.{name}": options
            for class_type, name, options in _choices(object_info)
            if _is_for_files(name, options)
        },
    )


def lacks(graph: Graph, capabilities: Capabilities) -> list[str]:
    """What this ComfyUI would need to run the graph: missing node classes, then missing model files. Empty: it can."""
    wanted = {node["class_type"] for node in graph.values()}
    missing = [f"the node class {class_type}" for class_type in sorted(wanted - capabilities.classes)]
    for node_id in sorted(graph, key=node_order):
        node = graph[node_id]
        for name, value in node["inputs"].items():
            offered = capabilities.models.get(f"{node['class_type']}.{name}")
            if offered is None or not isinstance(value, str) or value in offered:
                continue
            if is_model(value, offered):
                missing.append(f"the model {value} ({node['class_type']}.{name})")
    return list(dict.fromkeys(missing))


def choices(capabilities: Capabilities, class_type: str, input_name: str) -> tuple[str, ...] | None:
    """The files that this input offers; None where it chooses no files or the class is unknown."""
    return capabilities.models.get(f"{class_type}.{input_name}")


def is_model(value: Any, offered: Any = ()) -> bool:
    """Whether a refused value names a model file: it looks like one, or all that is offered does."""
    if not isinstance(value, str):
        return False
    names = [name for name in offered if isinstance(name, str)] if isinstance(offered, list | tuple) else []
    return bool(_MODEL_FILE.search(value)) or (bool(names) and all(_MODEL_FILE.search(name) for name in names))


def _read_device(device: Mapping[str, Any]) -> Device:
    return Device(
        name=str(device.get("name") or "unknown")[:200],
        vram_total=_int(device.get("vram_total")),
        vram_free=_int(device.get("vram_free")),
    )


def _choices(object_info: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Class, input and texts to choose from, of every input that is a choice: `[[…], {}]` or `["COMBO", {"options": […]}]`."""
    for class_type, info in object_info.items():
        inputs = _dict(_dict(info).get("input"))
        for section in ("required", "optional"):
            for name, declared in _dict(inputs.get(section)).items():
                if not isinstance(declared, list) or not declared:
                    continue
                settings = _dict(declared[1]) if len(declared) > 1 else {}
                options = settings.get("options") if declared[0] == "COMBO" else declared[0]
                if isinstance(options, list) and all(isinstance(option, str) for option in options):
                    yield class_type, name, tuple(options)


def _is_for_files(name: str, options: tuple[str, ...]) -> bool:
    # An empty list is a folder with nothing in it; `pixel_space` alone (VAELoader.vae_name) one with only built-in names.
    return not options or bool(_MODEL_INPUT.search(name)) or any(_MODEL_FILE.search(option) for option in options)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0

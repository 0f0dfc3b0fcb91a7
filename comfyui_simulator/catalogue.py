"""What `/object_info` says about the nodes the simulator has, with the lists that depend on the files on disk."""

import json
from functools import cache
from importlib import resources
from typing import Any

from comfyui_simulator.folders import Folders

_MODEL_INPUTS = {
    ("CheckpointLoaderSimple", "ckpt_name"): "checkpoints",
    ("LoraLoader", "lora_name"): "loras",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
    ("VAELoader", "vae_name"): "vae",
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("DualCLIPLoader", "clip_name1"): "text_encoders",
    ("DualCLIPLoader", "clip_name2"): "text_encoders",
    ("ControlNetLoader", "control_net_name"): "controlnet",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
}
_PICTURE_INPUTS = {("LoadImage", "image"), ("LoadImageMask", "image")}


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    text = resources.files("comfyui_simulator").joinpath("object_info.json").read_text("utf-8")
    described: dict[str, dict[str, Any]] = json.loads(text)
    return described


def _describe_probe(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "input": {"required": inputs}, "input_order": {"required": list(inputs)}, "is_input_list": False,
        "output": ["IMAGE"], "output_is_list": [False], "output_name": ["IMAGE"], "name": name, "display_name": name,
        "python_module": "custom_nodes.probe_nodes", "category": "probe", "output_node": False, "has_intermediate_output": False,
    }  # fmt: skip


_SLEEP = {
    "images": ["IMAGE"],
    "seconds": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0, "step": 0.05}],
    "preview": ["BOOLEAN", {"default": False}],
    "tag": ["STRING", {"default": ""}],
}
_PROBES = {
    "ProbeSleep": _describe_probe("ProbeSleep", _SLEEP),
    "ProbeBlockingSleep": _describe_probe("ProbeBlockingSleep", _SLEEP),
    "ProbeRaise": _describe_probe(
        "ProbeRaise", {"images": ["IMAGE"], "kind": [["value", "oom"]], "tag": ["STRING", {"default": ""}]}
    ),
}


class Catalogue:
    def __init__(self, folders: Folders, *, probe_nodes: bool) -> None:
        self._folders = folders
        self._nodes = {**_shipped(), **(_PROBES if probe_nodes else {})}

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def output_types(self, name: str) -> tuple[Any, ...]:
        return tuple(self._nodes[name]["output"])

    def is_output(self, name: str) -> bool:
        return bool(self._nodes[name]["output_node"])

    def is_picture_input(self, name: str, field: str) -> bool:
        return (name, field) in _PICTURE_INPUTS

    def inputs(self, name: str) -> dict[str, tuple[Any, dict[str, Any], bool]]:
        """Field → (type or list of options, settings, whether it is required)."""
        described = {}
        for category in ("required", "optional"):
            for field, spec in self._nodes[name]["input"].get(category, {}).items():
                kind, settings = self._fill(name, field, spec)
                described[field] = (kind, settings, category == "required")
        return described

    def hidden_inputs(self, name: str) -> list[str]:
        """The hidden inputs that reach a node's function as arguments (the newer kind of node does not get them so)."""
        hidden = self._nodes[name]["input"].get("hidden", {})
        return [field for field, kind in hidden.items() if isinstance(kind, str)]

    def describe(self, name: str) -> dict[str, Any]:
        """What `/object_info/NAME` has under the name."""
        node = self._nodes[name]
        inputs = {
            category: (
                fields
                if category == "hidden"
                else {field: self._describe_field(name, field, spec) for field, spec in fields.items()}
            )
            for category, fields in node["input"].items()
        }
        return {**node, "input": inputs}

    def describe_all(self) -> dict[str, Any]:
        return {name: self.describe(name) for name in self._nodes}

    def _describe_field(self, name: str, field: str, spec: list[Any]) -> list[Any]:
        kind, settings = self._fill(name, field, spec)
        return [kind, settings] if len(spec) > 1 else [kind]

    def _fill(self, name: str, field: str, spec: list[Any]) -> tuple[Any, dict[str, Any]]:
        kind, settings = spec[0], spec[1] if len(spec) > 1 else {}
        options: list[str] | None = None
        if (name, field) in _PICTURE_INPUTS:
            options = self._folders.list_inputs()
        elif folder := _MODEL_INPUTS.get((name, field)):
            options = self._folders.list_models(folder) + (["pixel_space"] if folder == "vae" else [])
        if options is None:
            return kind, settings
        return (options, settings) if isinstance(kind, list) else (kind, {**settings, "options": options})

"""What a server has, read from recorded answers of a real one."""

import json
from pathlib import Path
from typing import Any

import pytest

from watcher.capabilities import Capabilities, Device, choices, is_model, lacks, read_capabilities

RECORDED = json.loads((Path(__file__).parent / "data" / "server.json").read_text())
TXT2IMG = {
    "3": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "sampler_name": "nope", "seed": 1}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}


def server(**lists: list[str]) -> Capabilities:
    """The recorded server with these checkpoints and VAEs."""
    info = json.loads(json.dumps(RECORDED["object_info"]))
    for place, names in lists.items():
        class_type, _, name = place.partition("__")
        info[class_type]["input"]["required"][name][0] = names
    return read_capabilities(RECORDED["system_stats"], info)


def test_a_recorded_server() -> None:
    found = server()
    assert found.version == "0.33.0"
    assert found.devices == (Device(name="cpu", vram_total=25276514304, vram_free=22690717696),)
    assert found.simulated is False
    assert {"EmptyImage", "KSampler", "SaveImage"} <= found.classes
    assert choices(found, "CheckpointLoaderSimple", "ckpt_name") == ()
    assert choices(found, "VAELoader", "vae_name") == ("pixel_space",)
    assert choices(found, "UpscaleModelLoader", "model_name") == ()  # declared as ["COMBO", {"options": []}]
    assert choices(found, "CheckpointLoaderSimple", "nope") is None
    assert "KSampler.scheduler" not in found.models


def test_it_goes_through_json() -> None:
    found = server(CheckpointLoaderSimple__ckpt_name=["a.safetensors", "dir/b.ckpt"])
    assert Capabilities.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_is_missing_is_named() -> None:
    graph: dict[str, Any] = {
        **TXT2IMG,
        "8": {"class_type": "VAELoader", "inputs": {"vae_name": "x.pt"}},
        "7": {"class_type": "Fancy", "inputs": {}},
    }
    assert lacks(graph, server()) == [
        "the node class Fancy",
        "the model sd15.safetensors (CheckpointLoaderSimple.ckpt_name)",
        "the model x.pt (VAELoader.vae_name)",
    ]


def test_a_model_that_is_there_is_not_missing() -> None:
    assert lacks(TXT2IMG, server(CheckpointLoaderSimple__ckpt_name=["sd15.safetensors"])) == []


@pytest.mark.parametrize("value", ["pixel_space", ["5", 0], 7, None])
def test_links_built_in_names_and_other_values_are_comfyuis_to_judge(value: Any) -> None:
    assert lacks({"1": {"class_type": "VAELoader", "inputs": {"vae_name": value}}}, server()) == []


def test_pictures_in_input_are_no_models() -> None:
    assert lacks({"1": {"class_type": "LoadImage", "inputs": {"image": "uploads/cat.png"}}}, server()) == []


@pytest.mark.parametrize(
    ("value", "offered", "expected"),
    [
        ("a.safetensors", [], True),
        ("A.GGUF", ["x"], True),
        ("4x-upscaler", ["a.pth", "b.pth"], True),
        ("4x-upscaler", [], False),
        ("nope", ["euler", "a.pth"], False),
        (5, ["a.pth"], False),
    ],
)
def test_what_is_taken_for_a_model(value: Any, offered: list[str], expected: bool) -> None:
    assert is_model(value, offered) is expected


@pytest.mark.parametrize(
    ("stats", "info"),
    [
        ({}, {}),
        ({"system": None, "devices": None}, {"X": None}),
        (
            {"system": [], "devices": [None, {"vram_total": "much"}]},
            {"X": {"input": {"required": {"a": None, "b": [], "c": [None], "d": ["COMBO"]}}}},
        ),
        ({"system": {"comfyui_version": 5}}, {"X": {"input": {"required": {"a_name": [["x", 1]]}, "optional": []}}}),
    ],
)
def test_odd_answers_are_no_errors(stats: dict[str, Any], info: dict[str, Any]) -> None:
    found = read_capabilities(stats, info)
    assert found.classes == frozenset(info)
    assert found.models == {}

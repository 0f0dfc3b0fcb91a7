import copy
from typing import Any

import pytest

from tests.workflows.samples import OBJECT_INFO, read
from workflows.catalogue import Catalogue
from workflows.compatibility import check
from workflows.template import Template

CHECKPOINTS = "CheckpointLoaderSimple"


def _with_checkpoints(*names: str) -> dict[str, Any]:
    info = copy.deepcopy(OBJECT_INFO)
    info[CHECKPOINTS]["input"]["required"]["ckpt_name"][0] = list(names)
    return info


def _shipped() -> list[Template]:
    return [entry for entry in Catalogue(None).list() if isinstance(entry, Template)]


def test_the_shipped_ones_fit_a_comfyui_with_a_checkpoint() -> None:
    info = _with_checkpoints("any.safetensors")
    assert [(template.name, check(template, info)) for template in _shipped()] == [
        ("canvas", []),
        ("img2img", []),
        ("invert", []),
        ("txt2img", []),
    ]


def test_the_shipped_ones_that_draw_miss_a_checkpoint_where_there_is_none() -> None:
    found = {template.name: check(template, OBJECT_INFO) for template in _shipped()}
    lacking = ["checkpoint: ComfyUI has no model in models/checkpoints"]
    assert found == {"canvas": [], "img2img": lacking, "invert": [], "txt2img": lacking}


@pytest.mark.parametrize("template", _shipped(), ids=lambda template: template.name)
def test_the_shipped_ones_look_like_an_export_and_are_told_in_both_languages(template: Template) -> None:
    for node_id, node in template.graph.items():
        assert node_id.isdecimal()
        assert list(node) == ["inputs", "class_type", "_meta"]
        assert node["_meta"]["title"]
    words = [template.title, template.description, *(parameter.help for parameter in template.parameters.values())]
    for text in words:
        assert text["en"].isascii()
        assert text["zh"] != text["en"]


def _graph() -> dict[str, Any]:
    return {
        "1": {"inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}, "class_type": "EmptyImage"},
        "2": {"inputs": {"images": ["1", 0], "filename_prefix": "x"}, "class_type": "SaveImage"},
    }


def _check(parameters: str = "", **changes: Any) -> list[str]:
    """The graph above, with inputs set ("n1_width=5", None removes one), checked."""
    graph = _graph()
    for key, value in changes.items():
        node, _, name = key.removeprefix("n").partition("_")
        if value is None:
            del graph[node]["inputs"][name]
        else:
            graph[node]["inputs"][name] = value
    return check(read(parameters, graph), OBJECT_INFO)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n1_width": None}, "node 1 (EmptyImage) lacks its input width"),
        ({"n2_images": None}, "node 2 (SaveImage) lacks its input images"),
        ({"n1_widht": 5}, "node 1 (EmptyImage) has no input widht, so ComfyUI ignores it; the nearest: width"),
        ({"n1_width": "64"}, "node 1 (EmptyImage): width is '64', wanted is INT"),
        ({"n1_width": 0}, "node 1 (EmptyImage): width is 0, and ComfyUI takes no less than 1"),
        ({"n1_color": 2**24}, "node 1 (EmptyImage): color is 16777216, and ComfyUI takes no more than 16777215"),
        ({"n2_images": "1"}, "node 2 (SaveImage): images wants a link to a node that gives IMAGE, not a value"),
        (
            {"n2_images": ["1", 1]},
            "node 2 (SaveImage): images is linked to output 1 of node 1 (EmptyImage), which has 1",
        ),
        ({"n2_images": ["1", -1]}, "node 2 (SaveImage): images is linked to output -1 of node 1 (EmptyImage)"),
        ({"n2_filename_prefix": 5}, "node 2 (SaveImage): filename_prefix is 5, wanted is STRING"),
        ({"n2_filename_prefix": ["1", 0]}, "filename_prefix wants STRING, and node 1 (EmptyImage) gives IMAGE"),
    ],
)
def test_what_comfyui_would_refuse_or_ignore_is_said(changes: dict[str, Any], said: str) -> None:
    found = _check(**changes)
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ('type = "int"\nto = "1.width"\nminimum = 1\nmaximum = 20000', "x: its maximum is 20000, and ComfyUI takes no more than 16384"),
        ('type = "int"\nto = "1.width"\nminimum = 0\nmaximum = 5', "x: its minimum is 0, and ComfyUI takes no less than 1"),
        ('type = "seed"\nto = "1.color"', "x: its maximum is 18446744073709551615, and ComfyUI takes no more than 16777215"),
        ('type = "float"\nto = "1.width"\nminimum = 1\nmaximum = 5', "x: it is of the type float, its input is INT"),
        ('type = "string"\nto = "1.width"', "x: it is of the type string, its input is INT"),
        ('type = "bool"\nto = "1.width"', "x: it is of the type bool, its input is INT"),
        ('type = "image"\nto = "1.width"', "x: it is of the type image, its input is INT"),
        ('type = "model"\nfolder = "vae"\nto = "2.filename_prefix"', "x: it is of the type model, its input is STRING"),
    ],
)  # fmt: skip
def test_a_parameter_that_reaches_further_than_its_node_is_said(parameters: str, said: str) -> None:
    assert _check(f"[parameters.x]\n{parameters}") == [said]


@pytest.mark.parametrize("limit", ["minimum = 1", "maximum = 5", ""])
def test_a_limit_that_is_not_set_is_comfyuis_to_keep(limit: str) -> None:
    assert _check(f'[parameters.x]\ntype = "int"\nto = "1.width"\n{limit}') == []


def test_a_parameter_of_an_input_that_is_gone_is_said() -> None:
    found = _check('[parameters.x]\ntype = "int"\nto = "1.widht"', n1_widht=5)
    assert found == ["node 1 (EmptyImage) has no input widht, so ComfyUI ignores it; the nearest: width, height"]


def test_a_parameter_where_a_link_is_wanted_is_said() -> None:
    found = _check('[parameters.x]\ntype = "string"\nto = "2.images"', n2_images="a")
    assert found == ["x: its input wants a link to a node that gives IMAGE, not a value"]


def test_an_unknown_class_is_said_and_its_links_are_not_judged() -> None:
    graph = _graph()
    graph["1"]["class_type"] = "FancyImage"
    graph["1"]["_meta"] = {"title": "My picture"}
    found = check(read("", graph), OBJECT_INFO)
    assert found == ["ComfyUI has no node FancyImage, which node 1 (My picture) is"]


def test_an_unknown_class_may_be_the_one_that_saves() -> None:
    graph = _graph()
    graph["2"]["class_type"] = "FancySave"
    assert check(read("", graph), OBJECT_INFO) == ["ComfyUI has no node FancySave, which node 2 (FancySave) is"]


def test_a_graph_that_saves_nothing_is_said() -> None:
    graph = _graph()
    del graph["2"]
    assert check(read("", graph), OBJECT_INFO) == [
        "no node saves or shows anything: ComfyUI refuses a graph without outputs"
    ]


def _sampler(**changes: Any) -> list[str]:
    entry = next(template for template in _shipped() if template.name == "txt2img")
    graph = copy.deepcopy(entry.graph)
    graph["3"]["inputs"] |= changes
    return check(read("", graph), _with_checkpoints("v1-5-pruned-emaonly-fp16.safetensors"))


def test_a_choice_that_comfyui_does_not_have_is_said() -> None:
    assert _sampler() == []
    assert _sampler(sampler_name="eular") == ["node 3 (KSampler): sampler_name is 'eular', which ComfyUI does not have"]
    enum = '[parameters.x]\ntype = "enum"\nto = "3.scheduler"\nchoices = ["normal", "smooth"]'
    graph = next(template for template in _shipped() if template.name == "txt2img").graph
    info = _with_checkpoints("v1-5-pruned-emaonly-fp16.safetensors")
    assert check(read(enum, graph), info) == ["x: ComfyUI does not have its choices smooth"]


def test_a_default_model_that_comfyui_does_not_have_is_said() -> None:
    graph = next(template for template in _shipped() if template.name == "txt2img").graph
    model = '[parameters.x]\ntype = "model"\nto = "4.ckpt_name"\nfolder = "checkpoints"\ndefault = "a.safetensors"'
    assert check(read(model, graph), _with_checkpoints("a.safetensors", "b.safetensors")) == []
    assert check(read(model, graph), _with_checkpoints("b.safetensors")) == [
        "x: ComfyUI does not have its default a.safetensors in models/checkpoints"
    ]


def test_inputs_in_parts_and_what_an_upload_button_leaves_are_no_mistakes() -> None:
    graph = {
        "1": {"inputs": {"image": "gone.png", "upload": "image"}, "class_type": "LoadImage"},
        "2": {"inputs": {"images.image0": ["1", 0], "images.image1": ["1", 0]}, "class_type": "BatchImagesNode"},
        "3": {
            "inputs": {
                "images": ["2", 0],
                "filename_prefix": "x",
                "format": "png",
                "format.bit_depth": "8-bit",
                "format.input_color_space": "sRGB",
            },
            "class_type": "SaveImageAdvanced",
        },
    }
    enum = '[parameters.x]\ntype = "enum"\nto = "3.format.bit_depth"\nchoices = ["8-bit", "16-bit"]'
    assert check(read(enum, graph), OBJECT_INFO) == []


def test_choices_are_read_in_both_ways_that_comfyui_lists_them() -> None:
    inputs = {"images": ["1", 0], "codec": "h264", "crf": 32.0, "fps": 24, "filename_prefix": "x"}
    graph = {**_graph(), "2": {"inputs": inputs, "class_type": "SaveWEBM"}}
    assert check(read("", graph), OBJECT_INFO) == ["node 2 (SaveWEBM): codec is 'h264', which ComfyUI does not have"]


@pytest.mark.parametrize(
    "described",
    [
        None,
        {},
        {"input": None, "output": 5, "output_node": "yes"},
        {"input": {"required": []}, "output": [5]},
        {"input": {"required": {"width": None, "height": [], "batch_size": [None], "color": [5, []]}}, "output": [[]]},
        {"input": {"required": {"width": ["INT", {"min": "a", "max": True}], "height": ["COMBO", {"options": 5}]}}},
    ],
)
def test_a_description_that_makes_no_sense_raises_nothing(described: Any) -> None:
    info = {**OBJECT_INFO, "EmptyImage": described}
    parameters = '[parameters.x]\ntype = "int"\nto = "1.width"\n[parameters.y]\ntype = "int"\nto = "1.height"'
    assert all(isinstance(problem, str) for problem in check(read(parameters, _graph()), info))

"""A template with one parameter of every type, and what ComfyUI 0.33 says of the nodes used (GET /object_info, shortened)."""

import json
from pathlib import Path
from typing import Any

from workflows.template import Broken, Template, parse

OBJECT_INFO: dict[str, Any] = json.loads(Path(__file__).with_name("object_info.json").read_bytes())

GRAPH: dict[str, dict[str, Any]] = {
    "1": {"inputs": {"image": "a.png"}, "class_type": "LoadImage", "_meta": {"title": "Load Image"}},
    "2": {"inputs": {"image": "a.png", "channel": "alpha"}, "class_type": "LoadImageMask", "_meta": {"title": "Mask"}},
    "3": {"inputs": {"ckpt_name": "old.safetensors"}, "class_type": "CheckpointLoaderSimple", "_meta": {"title": "M"}},
    "4": {
        "inputs": {
            "text": "x",
            "count": 1,
            "ratio": 1.5,
            "flag": False,
            "mode": "fast",
            "seed": 5,
            "format.depth": 8,
            "image": ["1", 0],
            "mask": ["2", 0],
            "model": ["3", 0],
        },
        "class_type": "Everything",
        "_meta": {"title": "Everything"},
    },
    "5": {"inputs": {"text": "y", "seed": 6}, "class_type": "Everything", "_meta": {"title": "Again"}},
}

PARAMETERS = """
title = "All"
title_zh = "全部"
description = "One of each type."

[parameters.prompt]
type = "string"
to = ["4.text", "5.text"]
help = "What it shows."
help_zh = "内容。"

[parameters.count]
type = "int"
to = "4.count"
default = 4
minimum = 2
maximum = 100
step = 2

[parameters.ratio]
type = "float"
to = "4.ratio"
default = 0.3
minimum = 0.1
maximum = 2
step = 0.1

[parameters.flag]
type = "bool"
to = "4.flag"
default = false

[parameters.mode]
type = "enum"
to = "4.mode"
default = "fast"
choices = ["fast", "careful"]

[parameters.noise]
type = "seed"
to = ["4.seed", "5.seed"]

[parameters.depth]
type = "int"
to = "4.format.depth"
default = 8

[parameters.image]
type = "image"
to = "1.image"

[parameters.mask]
type = "mask"
to = "2.image"

[parameters.model]
type = "model"
to = "3.ckpt_name"
folder = "checkpoints"
"""


def read(parameters: str = PARAMETERS, graph: Any = None, name: str = "all") -> Template:
    entry = parse(name, json.dumps(GRAPH if graph is None else graph).encode(), parameters.encode())
    assert isinstance(entry, Template), entry
    return entry


def problems(parameters: str = PARAMETERS, graph: Any = None, name: str = "all") -> tuple[str, ...]:
    entry = parse(name, json.dumps(GRAPH if graph is None else graph).encode(), parameters.encode())
    assert isinstance(entry, Broken), entry
    return entry.problems

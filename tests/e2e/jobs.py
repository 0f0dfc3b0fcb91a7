"""Job files as people write them."""

import itertools
import json
from typing import Any

Job = dict[str, Any]

_colors = itertools.count(1)


def canvas(**fields: Any) -> Job:
    """A named workflow that needs no model. Every one has another colour."""
    return {"workflow": "canvas", "params": {"width": 32, "height": 24, "color": next(_colors)}, **fields}


def graph(*, seconds: float = 0.0, deaf: bool = False, prefix: str = "picture") -> Job:
    """An API-format graph. With `seconds` it sleeps on the way (`--probe-nodes`); `deaf`: and cannot be interrupted."""
    nodes: Job = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 24, "batch_size": 1, "color": next(_colors)},
            "_meta": {"title": "Paper"},
        },
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }
    if seconds:
        nodes["5"] = {
            "class_type": "ProbeBlockingSleep" if deaf else "ProbeSleep",
            "inputs": {"images": ["1", 0], "seconds": seconds, "preview": False, "tag": ""},
        }
        nodes["9"]["inputs"]["images"] = ["5", 0]
    return nodes


def sleeping(seconds: float, *, deaf: bool = False, **fields: Any) -> Job:
    return {"graph": graph(seconds=seconds, deaf=deaf), **fields}


def film() -> Job:
    """One output of 20 MiB, which goes to the bucket in parts."""
    size = {"width": 4096, "height": 4096, "batch_size": 5}
    return {
        "graph": {
            "1": {"class_type": "EmptyLatentImage", "inputs": size},
            "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "film"}},
        }
    }


def encode(job: Job | bytes) -> bytes:
    return job if isinstance(job, bytes) else json.dumps(job, ensure_ascii=False, indent=1).encode()

"""Graphs that the simulator's own tests submit."""

from typing import Any

Graph = dict[str, Any]


def save_color(color: int, *, prefix: str = "out", size: int = 64) -> Graph:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": size, "height": size, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def sleep(seconds: float, *, color: int = 1, preview: bool = False, prefix: str = "slept") -> Graph:
    inputs = {"images": ["1", 0], "seconds": seconds, "preview": preview, "tag": ""}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": color}},
        "2": {"class_type": "ProbeSleep", "inputs": inputs},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


def text_to_image(text: str, *, seed: int = 1, steps: int = 4, size: int = 128) -> Graph:
    sampling = {
        "seed": seed,
        "steps": steps,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": {**sampling, **links}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "simulated.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "drawn"}},
    }

"""Sound, video and latents: a real FLAC of silence, a real safetensors latent, and stand-ins where an encoder is missing.

A stand-in begins as a file of its kind does and says SIMULATED; no player will show anything.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

from comfyui_simulator.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Silence:
    """What EmptyAudio makes; no other node here makes sound."""

    seconds: float
    sample_rate: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class Video:
    frames: list[Picture]
    fps: float

    @property
    def caption(self) -> str:
        size = f" of {self.frames[0].width} x {self.frames[0].height}" if self.frames else ""
        return f"SIMULATED video: {len(self.frames)} frames{size} at {self.fps} per second"


def stand_in_mp4(caption: str) -> bytes:
    text = caption.encode()
    kind = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom")
    return kind + struct.pack(">I4s", 8 + len(text), b"free") + text


def stand_in_webm(caption: str) -> bytes:
    text = caption.encode()[:126]
    kind = b"\x42\x82\x84webm"
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 | len(kind)]) + kind + b"\xec" + bytes([0x80 | len(text)]) + text


def stand_in_mp3(caption: str) -> bytes:
    text = b"\x00" + caption.encode("latin-1", "replace")
    frame = b"TIT2" + struct.pack(">I", len(text)) + b"\x00\x00" + text
    return b"ID3\x03\x00\x00\x00\x00" + bytes([len(frame) >> 7 & 127, len(frame) & 127]) + frame


def encode_latent(shape: tuple[int, int, int, int], graph: Any) -> bytes:
    """A safetensors file with zeros."""
    size = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    header = {
        "__metadata__": {"prompt": json.dumps(graph)},
        "latent_tensor": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]},
        "latent_format_version_0": {"dtype": "F32", "shape": [0], "data_offsets": [size, size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


_BLOCK = 4096


def encode_flac(sound: Silence) -> bytes:
    """16 bits per sample, every block a constant zero."""
    samples = round(sound.seconds * sound.sample_rate)
    info = struct.pack(">HH", _BLOCK, _BLOCK) + bytes(6)
    info += (sound.sample_rate << 44 | (sound.channels - 1) << 41 | 15 << 36 | samples).to_bytes(8, "big") + bytes(16)
    blocks = [
        _flac_block(number, min(_BLOCK, samples - number * _BLOCK), sound.channels)
        for number in range(-(-samples // _BLOCK))
    ]
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + b"".join(blocks)


def _flac_block(number: int, samples: int, channels: int) -> bytes:
    # Fixed block size, size in 16 bits after the number, sample rate and sample size as in the stream's head.
    head = bytes([0xFF, 0xF8, 0x70, (channels - 1) << 4]) + _utf8_number(number) + struct.pack(">H", samples - 1)
    head += bytes([_crc(head, 8, 0x07)])
    body = head + b"\x00\x00\x00" * channels
    return body + _crc(body, 16, 0x8005).to_bytes(2, "big")


def _utf8_number(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass")


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value

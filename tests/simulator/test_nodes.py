"""What nodes make: placeholders that tell seeds apart, scaled pictures, sound, stand-ins."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyui_simulator import media, pictures
from comfyui_simulator.catalogue import Catalogue
from comfyui_simulator.folders import Folders
from comfyui_simulator.media import Silence
from comfyui_simulator.nodes import NODES
from comfyui_simulator.pictures import Picture


def _draw(**changes: Any) -> Picture:
    return pictures.draw_placeholder(
        **{"width": 256, "height": 192, "seed": 1, "text": "a cat", "base": None, "denoise": 1.0, **changes}
    )


def test_every_described_node_computes_and_no_other(tmp_path: Path) -> None:
    folders = Folders(input=tmp_path, output=tmp_path, temp=tmp_path, models=tmp_path)
    assert set(NODES) == set(Catalogue(folders, probe_nodes=True).describe_all())


def test_the_same_seed_and_text_give_the_same_placeholder_and_others_another() -> None:
    first = _draw().image
    assert first.size == (256, 192)
    assert first.tobytes() == _draw().image.tobytes()
    assert len({_draw(seed=seed).image.getpixel((255, 191)) for seed in range(8)}) == 8
    assert first.getpixel((255, 191)) != _draw(text="a dog").image.getpixel((255, 191))


def test_a_placeholder_is_stamped() -> None:
    image = _draw().image
    background = image.getpixel((255, 191))
    colors = image.getcolors(maxcolors=256 * 192)
    assert colors is not None
    assert any(isinstance(color, tuple) and min(color) > 200 for _, color in colors)
    assert max(colors)[1] == background


def test_a_picture_it_starts_from_shows_through() -> None:
    dark, light = (_draw(base=pictures.fill(64, 64, color), denoise=0.5).image for color in (0x000000, 0xFFFFFF))
    pixel = (255, 191)
    assert all(low < high for low, high in zip(dark.getpixel(pixel), light.getpixel(pixel), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_scaling_one_colour_keeps_it(method: str) -> None:
    scaled = pictures.scale(pictures.fill(30, 20, 0x123456), method, 7, 50)
    assert scaled.image.getcolors() == [(350, (0x12, 0x34, 0x56))]


@pytest.mark.parametrize(("size", "expected"), [((0, 10), (20, 10)), ((30, 0), (30, 15)), ((0, 0), (40, 20))])
def test_a_side_of_zero_keeps_the_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert pictures.scale(pictures.fill(40, 20, 1), "area", *size).image.size == expected


def test_a_center_crop_takes_the_middle() -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert pictures.scale(Picture(image), "nearest-exact", 10, 10, crop="center").image.getcolors() == [
        (100, (0, 0, 255))
    ]


def test_a_flac_begins_with_its_stream_info_and_its_blocks_are_checked() -> None:
    content = media.encode_flac(Silence(seconds=0.25, sample_rate=44100, channels=2))
    assert content[:4] == b"fLaC"
    packed = int.from_bytes(content[18:26], "big")
    assert (packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1) == (44100, 2, 11025)
    frame = content[42:]
    assert frame[:2] == b"\xff\xf8"
    length = len(frame) // 3
    for start in range(0, len(frame), length):
        block = frame[start : start + length]
        assert media._crc(block[:-2], 16, 0x8005) == struct.unpack(">H", block[-2:])[0]


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (media.stand_in_mp4("SIMULATED"), b"\x00\x00\x00\x14ftyp"),
        (media.stand_in_webm("SIMULATED"), b"\x1a\x45\xdf\xa3"),
        (media.stand_in_mp3("SIMULATED"), b"ID3"),
    ],
)
def test_a_stand_in_begins_like_its_kind_and_says_what_it_is(content: bytes, head: bytes) -> None:
    assert content.startswith(head)
    assert b"SIMULATED" in content


def test_a_latent_is_a_safetensors_file() -> None:
    content = media.encode_latent((1, 4, 8, 8), {"1": {}})
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    assert header["latent_tensor"] == {"dtype": "F32", "shape": [1, 4, 8, 8], "data_offsets": [0, 1024]}
    assert len(content) == 8 + length + 1024


def test_an_encoded_picture_opens_again() -> None:
    with Image.open(io.BytesIO(pictures.encode(pictures.fill(8, 6, 0x0A0B0C), "PNG"))) as image:
        assert image.getcolors() == [(48, (10, 11, 12))]

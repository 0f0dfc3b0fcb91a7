"""Pictures and masks as Pillow images: making, scaling, blending, stamping and encoding them. Pure, but for the encoder.

ComfyUI computes with 32-bit floats and cuts them off when saving; here every step is 8 bits, so a chain of steps may
differ from ComfyUI's by one or two levels of 255.
"""

import hashlib
import io
import json
import struct
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont, PngImagePlugin


@dataclass(frozen=True)
class Picture:
    """One picture (RGB) or one mask (L) of a batch; a batch is a list of them."""

    image: Image.Image

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels. Saving nodes ask for it first, so a plain value in place of a link fails as ComfyUI's does."""
        return self.height, self.width, len(self.image.getbands())


def fill(width: int, height: int, color: int) -> Picture:
    """`color` is 0xRRGGBB."""
    return Picture(Image.new("RGB", (width, height), (color >> 16 & 255, color >> 8 & 255, color & 255)))


def fill_mask(width: int, height: int, value: float) -> Picture:
    return Picture(Image.new("L", (width, height), int(255 * value)))


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


# 1 - x in 32-bit floats, cut off at saving: for many values that is one less than 255 - x.
_INVERTED = [int(_float32(255 * _float32(1 - _float32(value / 255)))) for value in range(256)]


def invert(picture: Picture) -> Picture:
    return Picture(picture.image.point(_INVERTED * len(picture.image.getbands())))


def scale(picture: Picture, method: str, width: int, height: int, *, crop: str = "disabled") -> Picture:
    """A width or height of 0 is computed from the other, keeping the shape; both 0 change nothing."""
    image = picture.image
    if not width and not height:
        return picture
    width = width or max(1, round(image.width * height / image.height))
    height = height or max(1, round(image.height * width / image.width))
    if crop == "center":
        image = _crop_to_shape(image, width, height)
    return Picture(_resize(image, method, width, height))


def _crop_to_shape(image: Image.Image, width: int, height: int) -> Image.Image:
    old_shape, new_shape = image.width / image.height, width / height
    x = round((image.width - image.width * (new_shape / old_shape)) / 2) if old_shape > new_shape else 0
    y = round((image.height - image.height * (old_shape / new_shape)) / 2) if old_shape < new_shape else 0
    return image.crop((x, y, image.width - x, image.height - y))


def _resize(image: Image.Image, method: str, width: int, height: int) -> Image.Image:
    """As torch does, which Pillow's own resize() is not: no smoothing when shrinking, other rounding between pixels."""
    if method == "nearest-exact":
        return _average(image, _nearest_spans(image.width, width), _nearest_spans(image.height, height))
    if method == "area":
        return _average(image, _area_spans(image.width, width), _area_spans(image.height, height))
    if method == "lanczos":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    matrix = (image.width / width, 0, 0, 0, image.height / height, 0)
    resampling = Image.Resampling.BILINEAR if method == "bilinear" else Image.Resampling.BICUBIC
    return image.transform((width, height), Image.Transform.AFFINE, matrix, resampling)


Spans = list[tuple[int, int]]


def _nearest_spans(old: int, new: int) -> Spans:
    centers = ((2 * index + 1) * old // (2 * new) for index in range(new))
    return [(center, center + 1) for center in centers]


def _area_spans(old: int, new: int) -> Spans:
    return [(index * old // new, -(-(index + 1) * old // new)) for index in range(new)]


def _average(image: Image.Image, columns: Spans, rows: Spans) -> Image.Image:
    """Each pixel is the mean of the pixels in its spans."""
    wide = Image.new(image.mode, (len(columns), image.height))
    for x, (left, right) in enumerate(columns):
        wide.paste(image.resize((1, image.height), Image.Resampling.BOX, (left, 0, right, image.height)), (x, 0))
    result = Image.new(image.mode, (len(columns), len(rows)))
    for y, (top, bottom) in enumerate(rows):
        result.paste(wide.resize((wide.width, 1), Image.Resampling.BOX, (0, top, wide.width, bottom)), (0, y))
    return result


def blend(first: Picture, second: Picture, factor: float, mode: str) -> Picture:
    over = (
        second.image
        if second.image.size == first.image.size
        else scale(second, "bicubic", first.width, first.height).image
    )
    below = first.image
    mixed = {
        "normal": lambda: over,
        "multiply": lambda: ImageChops.multiply(below, over),
        "screen": lambda: ImageChops.screen(below, over),
        "overlay": lambda: ImageChops.overlay(below, over),
        "soft_light": lambda: ImageChops.soft_light(below, over),
        "difference": lambda: ImageChops.subtract(below, over),
    }[mode]()
    return Picture(Image.blend(below, mixed, factor))


def draw_placeholder(*, width: int, height: int, seed: int, text: str, base: Picture | None, denoise: float) -> Picture:
    """A plain colour made from seed and text, or `base` tinted with it, stamped SIMULATED with text, size and seed."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    image = Image.new("RGB", (width, height), (40 + digest[0] // 2, 40 + digest[1] // 2, 40 + digest[2] // 2))
    if base is not None:
        image = Image.blend(scale(base, "area", width, height).image.convert("RGB"), image, denoise / 2)
    size = max(10, min(width, height) // 20)
    columns = max(8, int(width / (size * 0.6)) - 2)
    lines = ["SIMULATED", *textwrap.wrap(text[:1000], columns)[:12], f"{width} x {height}", f"seed {seed}"]
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((size // 2, size // 2 + number * int(size * 1.3)), line, fill="white", font=_font(size))
    return Picture(image)


_fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]


def text_chunks(graph: Any, extra_pnginfo: Any) -> PngImagePlugin.PngInfo:
    """The chunk `prompt` and one for each key of extra_pnginfo, as JSON."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", json.dumps(graph))
    if extra_pnginfo is not None:
        for key in extra_pnginfo:
            chunks.add_text(key, json.dumps(extra_pnginfo[key]))
    return chunks


def encode(picture: Picture, format_name: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.image.save(buffer, format_name, **settings)
    return buffer.getvalue()


def print_tensor(pictures: Sequence[Picture]) -> str:
    """About what torch prints for a batch: the corners, four digits. It stands in execution errors."""
    return (
        "tensor([" + ",\n\n        ".join(_print_rows(picture.image.convert("RGB")) for picture in pictures[:2]) + "])"
    )


def _print_rows(image: Image.Image) -> str:
    return "[[" + "],\n\n         [".join(_print_row(image, y) for y in _ends(image.height)) + "]]"


def _print_row(image: Image.Image, y: int) -> str:
    colors = [image.getpixel((x, y)) for x in _ends(image.width)]
    return ",\n          ".join(
        f"[{', '.join(f'{v / 255:.4f}' for v in color)}]" for color in colors if isinstance(color, tuple)
    )


def _ends(length: int) -> list[int]:
    return sorted({*range(min(3, length)), *range(max(0, length - 3), length)})

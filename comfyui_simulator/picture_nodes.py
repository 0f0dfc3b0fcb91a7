"""Nodes that make and change pictures, masks and plain values: they compute what ComfyUI computes."""

import hashlib
from typing import Any

from PIL import Image, ImageOps, ImageSequence

from comfyui_simulator import pictures
from comfyui_simulator.folders import Folders
from comfyui_simulator.node_types import NodeContext, Output, node
from comfyui_simulator.pictures import Picture

Pictures = list[Picture]


@node("EmptyImage")
def empty_image(_: NodeContext, *, width: int, height: int, batch_size: int, color: int) -> Output:
    return Output(values=([pictures.fill(width, height, color)] * batch_size,))


@node("LoadImage")
def load_image(context: NodeContext, *, image: str) -> Output:
    """RGB, and a mask that is the transparency; without alpha the mask is black, 64 x 64."""
    colors: Pictures = []
    masks: Pictures = []
    with Image.open(context.folders.find_annotated(image)) as file:
        for frame in ImageSequence.Iterator(file):
            upright = _to_8_bits(ImageOps.exif_transpose(frame))
            if colors and upright.size != colors[0].image.size:
                continue
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            if "A" in upright.getbands():
                masks.append(pictures.invert(Picture(upright.getchannel("A"))))
            else:
                masks.append(pictures.fill_mask(64, 64, 0))
            colors.append(Picture(upright.convert("RGB")))
            if file.format == "MPO":
                break
    return Output(values=(colors, masks))


def _to_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")


@node("LoadImageMask")
def load_image_mask(context: NodeContext, *, image: str, channel: str) -> Output:
    with Image.open(context.folders.find_annotated(image)) as file:
        upright = ImageOps.exif_transpose(file)
        if channel == "alpha":
            if "A" not in upright.getbands():
                return Output(values=([pictures.fill_mask(64, 64, 0)],))
            return Output(values=([pictures.invert(Picture(upright.getchannel("A")))],))
        return Output(values=([Picture(upright.convert("RGB").getchannel(channel[0].upper()))],))


def hash_loaded_file(folders: Folders, values: dict[str, Any]) -> str:
    """IS_CHANGED of the loading nodes: the sha256 of the file."""
    with open(folders.find_annotated(values["image"]), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@node("ImageInvert")
def image_invert(_: NodeContext, *, image: Pictures) -> Output:
    return Output(values=([pictures.invert(picture) for picture in image],))


@node("ImageScale")
def image_scale(_: NodeContext, *, image: Pictures, upscale_method: str, width: int, height: int, crop: str) -> Output:
    return Output(values=([pictures.scale(picture, upscale_method, width, height, crop=crop) for picture in image],))


@node("ImageScaleBy")
def image_scale_by(_: NodeContext, *, image: Pictures, upscale_method: str, scale_by: float) -> Output:
    width, height = round(image[0].width * scale_by), round(image[0].height * scale_by)
    return Output(values=([pictures.scale(picture, upscale_method, width, height) for picture in image],))


@node("ImageScaleToTotalPixels")
def image_scale_to_total_pixels(
    _: NodeContext, *, image: Pictures, upscale_method: str, megapixels: float, resolution_steps: int
) -> Output:
    factor = (megapixels * 1024 * 1024 / (image[0].width * image[0].height)) ** 0.5
    width = max(1, round(image[0].width * factor / resolution_steps)) * resolution_steps
    height = max(1, round(image[0].height * factor / resolution_steps)) * resolution_steps
    return Output(values=([pictures.scale(picture, upscale_method, width, height) for picture in image],))


@node("ImageCrop")
def image_crop(_: NodeContext, *, image: Pictures, width: int, height: int, x: int, y: int) -> Output:
    x, y = min(x, image[0].width - 1), min(y, image[0].height - 1)
    box = (x, y, min(x + width, image[0].width), min(y + height, image[0].height))
    return Output(values=([Picture(picture.image.crop(box)) for picture in image],))


@node("ImageBlend")
def image_blend(_: NodeContext, *, image1: Pictures, image2: Pictures, blend_factor: float, blend_mode: str) -> Output:
    pairs = zip(image1, image2, strict=False)
    return Output(values=([pictures.blend(first, second, blend_factor, blend_mode) for first, second in pairs],))


@node("ImageBatch")
def image_batch(_: NodeContext, *, image1: Pictures, image2: Pictures) -> Output:
    width, height = image1[0].image.size
    fitted = [pictures.scale(picture, "bilinear", width, height, crop="center") for picture in image2]
    return Output(values=([*image1, *fitted],))


@node("RepeatImageBatch")
def repeat_image_batch(_: NodeContext, *, image: Pictures, amount: int) -> Output:
    return Output(values=(image * amount,))


@node("SolidMask")
def solid_mask(_: NodeContext, *, value: float, width: int, height: int) -> Output:
    return Output(values=([pictures.fill_mask(width, height, value)],))


@node("MaskToImage")
def mask_to_image(_: NodeContext, *, mask: Pictures) -> Output:
    return Output(values=([Picture(picture.image.convert("RGB")) for picture in mask],))


@node("ImageToMask")
def image_to_mask(_: NodeContext, *, image: Pictures, channel: str) -> Output:
    band = "RGB"[["red", "green", "blue"].index(channel)] if channel != "alpha" else "R"
    return Output(values=([Picture(picture.image.convert("RGB").getchannel(band)) for picture in image],))


@node("InvertMask")
def invert_mask(_: NodeContext, *, mask: Pictures) -> Output:
    return Output(values=([pictures.invert(picture) for picture in mask],))


@node("PrimitiveString")
@node("PrimitiveStringMultiline")
@node("PrimitiveInt")
@node("PrimitiveFloat")
@node("PrimitiveBoolean")
def primitive(_: NodeContext, *, value: Any) -> Output:
    return Output(values=(value,))

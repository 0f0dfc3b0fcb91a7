"""Nodes that write files or texts. Files are written in place: whoever watches the folder sees them half-written."""

from typing import Any

from comfyui_simulator import media, pictures
from comfyui_simulator.folders import SavePlace, plan_save
from comfyui_simulator.media import Silence, Video
from comfyui_simulator.model_nodes import Latent
from comfyui_simulator.node_types import NodeContext, Output, node
from comfyui_simulator.pictures import Picture

Pictures = list[Picture]
Listed = dict[str, Any]


def _plan(context: NodeContext, prefix: str, *, like: Any = None) -> SavePlace:
    height, width = like.shape[:2] if like is not None else (0, 0)
    return plan_save(context.folders.output, "output", prefix, width=width, height=height)


def _plan_temp(context: NodeContext, prefix: str, class_name: str) -> SavePlace:
    return plan_save(context.folders.temp, "temp", f"{prefix}_temp_{context.suffixes(class_name)}")


def _write_pngs(
    context: NodeContext, place: SavePlace, images: Pictures, *, level: int, underscore: bool = True
) -> list[Listed]:
    listed = []
    for index, picture in enumerate(images):
        name = place.name(index, "png", underscore=underscore)
        chunks = pictures.text_chunks(context.graph, context.extra_pnginfo)
        (place.folder / name).write_bytes(pictures.encode(picture, "PNG", pnginfo=chunks, compress_level=level))
        listed.append(place.listed(name))
    return listed


def _write(place: SavePlace, content: bytes, extension: str, *, underscore: bool = True) -> list[Listed]:
    name = place.name(0, extension, underscore=underscore)
    (place.folder / name).write_bytes(content)
    return [place.listed(name)]


@node("SaveImage")
def save_image(context: NodeContext, *, images: Pictures, filename_prefix: str) -> Output:
    place = _plan(context, filename_prefix, like=images[0])
    return Output(values=(images,), ui={"images": _write_pngs(context, place, images, level=4)})


@node("PreviewImage")
def preview_image(context: NodeContext, *, images: Pictures) -> Output:
    place = _plan_temp(context, "ComfyUI", "PreviewImage")
    return Output(values=(images,), ui={"images": _write_pngs(context, place, images, level=1)})


@node("MaskPreview")
def preview_mask(context: NodeContext, *, mask: Pictures) -> Output:
    place = _plan_temp(context, "ComfyUI", "MaskPreview")
    images = [Picture(picture.image.convert("RGB")) for picture in mask]
    return Output(values=(mask,), ui={"images": _write_pngs(context, place, images, level=4), "animated": (False,)})


@node("ImageCompare")
def compare_images(
    context: NodeContext, *, image_a: Pictures | None = None, image_b: Pictures | None = None, compare_view: Any = None
) -> Output:
    del compare_view
    ui: dict[str, Any] = {}
    for letter, images in (("a", image_a), ("b", image_b)):
        place = _plan_temp(context, f"comfy.compare.{letter}", f"ImageCompare.{letter}")
        ui[f"{letter}_images"] = _write_pngs(context, place, images or [], level=4)
    return Output(ui=ui)


@node("SaveImageAdvanced")
def save_image_advanced(context: NodeContext, *, images: Pictures, filename_prefix: str, format: str) -> Output:
    """8 bits per channel whatever is asked for: Pillow writes no RGB with 16."""
    if format != "png":
        raise ValueError(f"the simulator writes png, not {format}")
    place = _plan(context, filename_prefix, like=images[0])
    return Output(values=(images,), ui={"images": _write_pngs(context, place, images, level=4, underscore=False)})


@node("SaveImageWebsocket")
def save_image_websocket(context: NodeContext, *, images: Pictures) -> Output:
    for index, picture in enumerate(images):
        context.send_png(index, len(images), pictures.encode(picture, "PNG"))
    return Output()


def _animate(images: Pictures, format_name: str, fps: float, **settings: Any) -> bytes:
    frames = [picture.image for picture in images[1:]]
    return pictures.encode(
        images[0], format_name, save_all=True, append_images=frames, duration=int(1000 / fps), **settings
    )


_WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}


@node("SaveAnimatedWEBP")
def save_animated_webp(
    context: NodeContext,
    *,
    images: Pictures,
    filename_prefix: str,
    fps: float,
    lossless: bool,
    quality: int,
    method: str,
) -> Output:
    content = _animate(images, "WEBP", fps, lossless=lossless, quality=quality, method=_WEBP_METHODS[method])
    listed = _write(_plan(context, filename_prefix, like=images[0]), content, "webp")
    return Output(values=(images,), ui={"images": listed, "animated": (True,)})


@node("SaveAnimatedPNG")
def save_animated_png(
    context: NodeContext, *, images: Pictures, filename_prefix: str, fps: float, compress_level: int
) -> Output:
    content = _animate(images, "PNG", fps, compress_level=compress_level)
    listed = _write(_plan(context, filename_prefix, like=images[0]), content, "png")
    return Output(values=(images,), ui={"images": listed, "animated": (True,)})


@node("SaveWEBM")
def save_webm(context: NodeContext, *, images: Pictures, filename_prefix: str, fps: float, **_: Any) -> Output:
    content = media.stand_in_webm(Video(frames=images, fps=fps).caption)
    listed = _write(_plan(context, filename_prefix, like=images[0]), content, "webm")
    return Output(values=(images,), ui={"images": listed, "animated": (True,)})


@node("CreateVideo")
def create_video(_: NodeContext, *, images: Pictures, fps: float, **__: Any) -> Output:
    return Output(values=(Video(frames=images, fps=fps),))


@node("SaveVideo")
def save_video(context: NodeContext, *, video: Video, filename_prefix: str, **_: Any) -> Output:
    listed = _write(_plan(context, filename_prefix, like=video.frames[0]), media.stand_in_mp4(video.caption), "mp4")
    return Output(values=(video,), ui={"images": listed, "animated": (True,)})


@node("EmptyAudio")
def empty_audio(_: NodeContext, *, duration: float, sample_rate: int, channels: int) -> Output:
    return Output(values=(Silence(seconds=duration, sample_rate=sample_rate, channels=channels),))


@node("SaveAudio")
def save_audio(context: NodeContext, *, audio: Silence, filename_prefix: str) -> Output:
    listed = _write(_plan(context, filename_prefix), media.encode_flac(audio), "flac", underscore=False)
    return Output(values=(audio,), ui={"audio": listed})


@node("SaveAudioMP3")
def save_audio_mp3(context: NodeContext, *, audio: Silence, filename_prefix: str, quality: str) -> Output:
    content = media.stand_in_mp3(f"SIMULATED sound of {audio.seconds} seconds, quality {quality}")
    listed = _write(_plan(context, filename_prefix), content, "mp3", underscore=False)
    return Output(values=(audio,), ui={"audio": listed})


@node("PreviewAudio")
def preview_audio(context: NodeContext, *, audio: Silence) -> Output:
    place = _plan_temp(context, "ComfyUI", "PreviewAudio")
    return Output(values=(audio,), ui={"audio": _write(place, media.encode_flac(audio), "flac", underscore=False)})


@node("SaveText")
def save_text(context: NodeContext, *, text: str, filename_prefix: str, format: str) -> Output:
    listed = _write(_plan(context, filename_prefix), text.encode(), format, underscore=False)
    return Output(values=(text,), ui={"text": (text,), "files": listed})


@node("PreviewAny")
def preview_any(_: NodeContext, *, source: Any) -> Output:
    text = source if isinstance(source, str) else str(source)
    return Output(values=(text,), ui={"text": (text,)})


@node("SaveLatent")
def save_latent(context: NodeContext, *, samples: Latent, filename_prefix: str) -> Output:
    shape = (samples.batch, 4, samples.height // 8, samples.width // 8)
    listed = _write(_plan(context, filename_prefix), media.encode_latent(shape, context.graph), "latent")
    return Output(values=(samples,), ui={"latents": listed})

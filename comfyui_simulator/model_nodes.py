"""Nodes that need a model: they pass on descriptions, and the decoder draws a placeholder from what was described."""

import struct
from dataclasses import dataclass, replace
from typing import Any

from comfyui_simulator import pictures
from comfyui_simulator.node_types import NODES, NodeContext, Output, node
from comfyui_simulator.pictures import Picture

SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced"})


class SafetensorError(Exception):
    """A model file is none."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A diffusion model, text encoder, VAE, ControlNet, sampler or schedule: whatever only has a name here."""

    name: str
    steps: int = 0
    denoise: float = 1.0
    seed: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    text: str


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Sizes in pixels of the picture it will become."""

    width: int
    height: int
    batch: int
    base: tuple[Picture, ...] = ()
    """The pictures it was encoded from."""
    seed: int | None = None
    """Set by a sampler; without one the decoder gives the base back."""
    text: str = ""
    denoise: float = 1.0


def _open_model(context: NodeContext, folder: str, name: str) -> Model:
    """A listed file must at least begin as safetensors do; the name that is always listed has no file."""
    path = context.folders.models / folder / name
    if path.is_file() and name.endswith(".safetensors"):
        with path.open("rb") as file:
            head = file.read(8)
        if len(head) < 8:
            raise SafetensorError("Error while deserializing header: header too small")
        if struct.unpack("<Q", head)[0] > 100_000_000:
            raise SafetensorError("Error while deserializing header: header too large")
    return Model(name=name)


@node("CheckpointLoaderSimple")
def load_checkpoint(context: NodeContext, *, ckpt_name: str) -> Output:
    model = _open_model(context, "checkpoints", ckpt_name)
    return Output(values=(model, model, model))


@node("UNETLoader")
def load_diffusion_model(context: NodeContext, *, unet_name: str, weight_dtype: str) -> Output:
    del weight_dtype
    return Output(values=(_open_model(context, "diffusion_models", unet_name),))


@node("VAELoader")
def load_vae(context: NodeContext, *, vae_name: str) -> Output:
    return Output(values=(_open_model(context, "vae", vae_name),))


@node("CLIPLoader")
@node("DualCLIPLoader")
def load_text_encoder(context: NodeContext, **names: str) -> Output:
    loaded = [_open_model(context, "text_encoders", name) for key, name in names.items() if key.startswith("clip_name")]
    return Output(values=(loaded[0],))


@node("ControlNetLoader")
def load_control_net(context: NodeContext, *, control_net_name: str) -> Output:
    return Output(values=(_open_model(context, "controlnet", control_net_name),))


@node("UpscaleModelLoader")
def load_upscale_model(context: NodeContext, *, model_name: str) -> Output:
    return Output(values=(_open_model(context, "upscale_models", model_name),))


@node("LoraLoader")
@node("LoraLoaderModelOnly")
def load_lora(context: NodeContext, *, model: Model, lora_name: str, clip: Model | None = None, **_: float) -> Output:
    _open_model(context, "loras", lora_name)
    return Output(values=(model, clip))


def _pass_on(*names: str) -> Any:
    def compute(_: NodeContext, **inputs: Any) -> Output:
        return Output(values=tuple(inputs[name] for name in names))

    return compute


for _class, _names in {
    "CLIPSetLastLayer": ["clip"],
    "ModelSamplingSD3": ["model"],
    "ModelSamplingFlux": ["model"],
    "ModelSamplingAuraFlow": ["model"],
    "FluxGuidance": ["conditioning"],
    "ConditioningZeroOut": ["conditioning"],
    "ControlNetApplyAdvanced": ["positive", "negative"],
    "SetLatentNoiseMask": ["samples"],
}.items():
    NODES[_class] = _pass_on(*_names)


@node("CLIPTextEncode")
def encode_text(_: NodeContext, *, text: str, clip: Model) -> Output:
    del clip
    return Output(values=(Conditioning(text=text),))


@node("ConditioningCombine")
def combine_conditionings(_: NodeContext, *, conditioning_1: Conditioning, conditioning_2: Conditioning) -> Output:
    return Output(values=(Conditioning(text=f"{conditioning_1.text}, {conditioning_2.text}"),))


@node("EmptyLatentImage")
@node("EmptySD3LatentImage")
def empty_latent(_: NodeContext, *, width: int, height: int, batch_size: int) -> Output:
    return Output(values=(Latent(width=width // 8 * 8, height=height // 8 * 8, batch=batch_size),))


@node("LatentUpscale")
def upscale_latent(_: NodeContext, *, samples: Latent, width: int, height: int, **__: str) -> Output:
    return Output(values=(replace(samples, width=width or samples.width, height=height or samples.height),))


@node("LatentUpscaleBy")
def upscale_latent_by(_: NodeContext, *, samples: Latent, scale_by: float, **__: str) -> Output:
    width, height = (round(side * scale_by / 8) * 8 for side in (samples.width, samples.height))
    return Output(values=(replace(samples, width=width, height=height),))


@node("VAEEncode")
@node("VAEEncodeForInpaint")
def encode_pictures(_: NodeContext, *, pixels: list[Picture], vae: Model, **__: Any) -> Output:
    del vae
    width, height = pixels[0].width // 8 * 8, pixels[0].height // 8 * 8
    return Output(values=(Latent(width=width, height=height, batch=len(pixels), base=tuple(pixels)),))


def _sample(context: NodeContext, latent: Latent, *, seed: int, steps: int, text: str, denoise: float) -> Latent:
    for step in range(1, steps + 1):
        context.wait(context.seconds / steps)
        context.report(step, steps, None)
    return replace(latent, seed=seed, text=text, denoise=denoise)


@node("KSampler")
def sample(
    context: NodeContext,
    *,
    seed: int,
    steps: int,
    denoise: float,
    positive: Conditioning,
    latent_image: Latent,
    **_: Any,
) -> Output:
    return Output(values=(_sample(context, latent_image, seed=seed, steps=steps, text=positive.text, denoise=denoise),))


@node("KSamplerAdvanced")
def sample_advanced(
    context: NodeContext, *, noise_seed: int, steps: int, positive: Conditioning, latent_image: Latent, **_: Any
) -> Output:
    return Output(
        values=(_sample(context, latent_image, seed=noise_seed, steps=steps, text=positive.text, denoise=1.0),)
    )


@node("RandomNoise")
def random_noise(_: NodeContext, *, noise_seed: int) -> Output:
    return Output(values=(Model(name="noise", seed=noise_seed),))


@node("KSamplerSelect")
def select_sampler(_: NodeContext, *, sampler_name: str) -> Output:
    return Output(values=(Model(name=sampler_name),))


@node("BasicScheduler")
def schedule(_: NodeContext, *, model: Model, scheduler: str, steps: int, denoise: float) -> Output:
    del model
    return Output(values=(Model(name=scheduler, steps=steps, denoise=denoise),))


@node("BasicGuider")
def guide(_: NodeContext, *, model: Model, conditioning: Conditioning) -> Output:
    return Output(values=(replace(model, text=conditioning.text),))


@node("SamplerCustomAdvanced")
def sample_custom(
    context: NodeContext, *, noise: Model, guider: Model, sampler: Model, sigmas: Model, latent_image: Latent
) -> Output:
    del sampler
    latent = _sample(
        context, latent_image, seed=noise.seed, steps=sigmas.steps, text=guider.text, denoise=sigmas.denoise
    )
    return Output(values=(latent, latent))


@node("VAEDecode")
@node("VAEDecodeTiled")
def decode_latent(_: NodeContext, *, samples: Latent, vae: Model, **__: int) -> Output:
    del vae
    return Output(values=([_draw(samples, index) for index in range(samples.batch)],))


def _draw(latent: Latent, index: int) -> Picture:
    base = latent.base[index] if index < len(latent.base) else None
    if latent.seed is None:
        return (
            pictures.scale(base, "area", latent.width, latent.height)
            if base
            else pictures.fill(latent.width, latent.height, 0x808080)
        )
    text, seed = latent.text, latent.seed + index
    return pictures.draw_placeholder(
        width=latent.width, height=latent.height, seed=seed, text=text, base=base, denoise=latent.denoise
    )


@node("ImageUpscaleWithModel")
def upscale_with_model(_: NodeContext, *, upscale_model: Model, image: list[Picture]) -> Output:
    del upscale_model
    return Output(values=([pictures.scale(p, "lanczos", p.width * 4, p.height * 4) for p in image],))

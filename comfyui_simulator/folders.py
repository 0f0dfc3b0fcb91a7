"""Where files lie and how they are named: ComfyUI's folders, `name [output]`, the counter of filename_prefix, models."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_simulator.options import Options

SIMULATED_MODEL = "simulated.safetensors"
"""Listed for every model folder that does not exist; an existing folder lists its own files, even if it is empty."""

MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models",
    "custom_nodes", "datasets", "hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders",
    "background_removal", "frame_interpolation", "geometry_estimation", "optical_flow", "detection",
)  # fmt: skip
FOLDERS_WITHOUT_MODELS = ("configs", "embeddings", "custom_nodes", "datasets")

_ANNOTATION = re.compile(r" ?\[(input|output|temp)\]$")


class OutsideFolderError(Exception):
    """A path leads out of the folder it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    input: Path
    output: Path
    temp: Path
    models: Path

    @classmethod
    def prepare(cls, options: Options) -> "Folders":
        """Makes the folders and empties temp, as every start of ComfyUI does."""
        folders = cls(
            input=options.input_directory,
            output=options.output_directory,
            temp=options.temp_directory,
            models=options.base_directory / "models",
        )
        for folder in (folders.input, folders.output):
            folder.mkdir(parents=True, exist_ok=True)
        folders.empty_temp()
        return folders

    def empty_temp(self) -> None:
        shutil.rmtree(self.temp, ignore_errors=True)
        self.temp.mkdir(parents=True, exist_ok=True)

    def of_type(self, kind: str) -> Path | None:
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def find_annotated(self, name: str) -> Path:
        """The file that `name`, `sub/name` or `name [output]` means; raises OutsideFolderError, looks at no file."""
        annotation = _ANNOTATION.search(name)
        folder = self.of_type(annotation.group(1)) if annotation else self.input
        assert folder is not None
        return confine(folder, name[: annotation.start()] if annotation else name)

    def list_inputs(self) -> list[str]:
        """The files at the top of input/, which is what LoadImage offers."""
        return sorted(entry.name for entry in os.scandir(self.input) if entry.is_file())

    def list_models(self, folder: str) -> list[str]:
        if folder not in MODEL_FOLDERS:
            raise KeyError(folder)
        path = self.models / folder
        if not path.is_dir():
            return [] if folder in FOLDERS_WITHOUT_MODELS else [SIMULATED_MODEL]
        return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def confine(folder: Path, name: str) -> Path:
    """`folder/name`, or OutsideFolderError if that leads out of the folder, by `..`, from the root or by a symlink."""
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise OutsideFolderError(name)
    return path


@dataclass(frozen=True, kw_only=True)
class SavePlace:
    """Where the files of one saving node go."""

    folder: Path
    subfolder: str
    stem: str
    kind: str
    first: int

    def name(self, index: int, extension: str, *, underscore: bool = True) -> str:
        """The file name of the `index`-th picture, counted from 0."""
        stem = self.stem.replace("%batch_num%", str(index))
        return f"{stem}_{self.first + index:05}{'_' if underscore else ''}.{extension}"

    def listed(self, name: str) -> dict[str, Any]:
        return {"filename": name, "subfolder": self.subfolder, "type": self.kind}


def plan_save(root: Path, kind: str, prefix: str, *, width: int = 0, height: int = 0) -> SavePlace:
    """Makes the folder. The counter is the largest existing one plus 1, whatever the extension: neither atomic nor unique."""
    normal = os.path.normpath(_fill_tokens(prefix, width, height))
    subfolder, stem = os.path.dirname(normal), os.path.basename(normal)
    folder = Path(os.path.abspath(root / subfolder))
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root)):
        raise Exception(  # noqa: TRY002  # ComfyUI raises a bare Exception, and its type is on the wire
            "**** ERROR: Saving image outside the output folder is not allowed.\n"
            f" full_output_folder: {folder}\n         output_dir: {root}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return SavePlace(folder=folder, subfolder=subfolder, stem=stem, kind=kind, first=_largest_counter(folder, stem) + 1)


def _largest_counter(folder: Path, stem: str) -> int:
    head = f"{stem}_"
    largest = 0
    for name in os.listdir(folder):
        if name.startswith(head):
            digits = re.split(r"[_.]", name[len(head) :], maxsplit=1)[0]
            if digits.isdecimal():
                largest = max(largest, int(digits))
    return largest


def _fill_tokens(prefix: str, width: int, height: int) -> str:
    """`%date:…%` and `%Node.widget%` are the frontend's and stay as they are."""
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    tokens = {
        "width": str(width), "height": str(height), "year": str(now.tm_year), "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}", "second": f"{now.tm_sec:02}",
    }  # fmt: skip
    for token, value in tokens.items():
        prefix = prefix.replace(f"%{token}%", value)
    return prefix

"""A volume caught in mid-life, as one text file: what a later version must be able to finish."""

import base64
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VOLUMES = Path(__file__).with_name("volumes")
PLACES = ("input", "output", "bucket")


@dataclass
class Frozen:
    """`files`: text, or {"base64": …}, or {"link": another path} for a second name of the same file."""

    version: str
    drops: dict[str, str]
    """What people dropped, by name."""
    bodies: dict[str, dict[str, Any]]
    """What adapters submitted, by id."""
    executed: list[str]
    """Ids of jobs that ComfyUI had finished."""
    running: list[str]
    """Names of drops that ComfyUI had, and forgot."""
    places: dict[str, str]
    """What each of the drops and bodies stands for."""
    folders: list[str] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, version: str) -> "Frozen":
        return cls(**json.loads((VOLUMES / f"{version}.json").read_text()))

    def save(self) -> None:
        (VOLUMES / f"{self.version}.json").write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    def take(self, root: Path) -> None:
        names: dict[int, str] = {}
        for place in PLACES:
            for path in sorted((root / place).rglob("*")):
                name = str(path.relative_to(root))
                if path.is_dir():
                    self.folders.append(name)
                elif (inode := path.stat().st_ino) in names:
                    self.files[name] = {"link": names[inode]}
                else:
                    names[inode] = name
                    self.files[name] = _show(path.read_bytes())

    def put(self, root: Path) -> None:
        for name in (*PLACES, *self.folders):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            match content:
                case {"link": other}:
                    os.link(root / other, root / name)
                case {"base64": text}:
                    (root / name).write_bytes(base64.b64decode(text))
                case _:
                    (root / name).write_text(content)


def _show(data: bytes) -> Any:
    try:
        return data.decode()
    except ValueError:
        return {"base64": base64.b64encode(data).decode()}

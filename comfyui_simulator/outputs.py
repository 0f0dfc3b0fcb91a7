"""Faults of output files: listed but missing, empty, torn, still being written, or leading out of the output folder."""

import threading
import time
from pathlib import Path
from typing import Any

from comfyui_simulator.faults import Faults
from comfyui_simulator.folders import Folders

CHANGING_S = 1.0


def spoil(ui: dict[str, Any], folders: Folders, faults: Faults) -> dict[str, Any]:
    """`ui` with the next output faults done to the files that it lists, one fault for each file."""
    return {key: [_spoil_entry(entry, folders, faults) for entry in entries] for key, entries in ui.items()}


def _spoil_entry(entry: Any, folders: Folders, faults: Faults) -> Any:
    if not isinstance(entry, dict) or (folder := folders.of_type(entry.get("type", ""))) is None:
        return entry
    fault = faults.next_output_fault()
    if fault is None:
        return entry
    path = folder / entry["subfolder"] / entry["filename"]
    if fault == "traversal":
        return {**entry, "filename": f"../../{entry['filename']}"}
    content = path.read_bytes()
    if fault == "changing":
        threading.Thread(target=_keep_changing, args=(path, len(content)), daemon=True).start()
        return entry
    path.unlink()
    if fault == "empty":
        path.touch()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "directory":
        path.mkdir()
    elif fault == "symlink":
        outside = folders.temp / f"outside-{path.name}"
        outside.write_bytes(content)
        path.symlink_to(outside)
    return entry


def _keep_changing(path: Path, size: int) -> None:
    """In place and without changing its size, as a node would that goes on writing after it was said to be done."""
    end = time.monotonic() + CHANGING_S
    number = 0
    with path.open("r+b") as file:
        while time.monotonic() < end:
            number += 1
            file.seek(size // 2)
            file.write(number.to_bytes(4, "little"))
            file.flush()
            time.sleep(0.001)

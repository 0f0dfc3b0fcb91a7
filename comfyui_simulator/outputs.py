"""Faults of output files: listed but missing, empty, torn, or leading out of the output folder."""

from typing import Any

from comfyui_simulator.faults import Faults
from comfyui_simulator.folders import Folders


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
    path.unlink()
    if fault == "empty":
        path.touch()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "symlink":
        outside = folders.temp / f"outside-{path.name}"
        outside.write_bytes(content)
        path.symlink_to(outside)
    return entry

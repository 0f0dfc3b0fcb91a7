"""`/view`, `/upload/image` and `/upload/mask`."""

import hashlib
import io
import json
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image

from comfyui_simulator.folders import Folders, OutsideFolderError, confine
from comfyui_simulator.server_state import STATE

# Not from the machine's own table, which differs from one to the next.
_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".flac": "audio/flac", ".mp3": "audio/mpeg", ".webm": "video/webm", ".mp4": "video/mp4", ".md": "text/markdown",
    ".txt": "text/plain", ".json": "application/json",
}  # fmt: skip
_DANGEROUS = frozenset({".html", ".htm", ".js", ".mjs", ".css", ".svg", ".xml", ".xhtml"})


def add_file_routes(app: web.Application) -> None:
    for prefix in ("", "/api"):
        app.router.add_get(f"{prefix}/view", get_view)
        app.router.add_post(f"{prefix}/upload/image", post_image)
        app.router.add_post(f"{prefix}/upload/mask", post_mask)


async def get_view(request: web.Request) -> web.StreamResponse:
    query = request.rel_url.query
    found = _find(request.app[STATE].folders, query)
    if isinstance(found, int):
        return web.Response(status=found)
    if "preview" in query:
        return _convert(found, *query["preview"].split(";"))
    if query.get("channel") in ("rgb", "a"):
        return _pick_channel(found, query["channel"])
    return _send(found)


def _find(folders: Folders, query: Mapping[str, str]) -> Path | int:
    """The file, or the status that says why not. Symlinks are followed, out of the folder too: so does ComfyUI."""
    if "filename" not in query:
        return 404
    filename, folder = query["filename"], folders.of_type(query.get("type", "output"))
    if not filename or filename[0] == "/" or ".." in filename or folder is None:
        return 400
    if subfolder := query.get("subfolder"):
        if not Path(os.path.abspath(folder / subfolder)).is_relative_to(folder):
            return 403
        folder /= subfolder
    path = folder / Path(filename).name
    return path if path.is_file() else 404


def _send(path: Path) -> web.StreamResponse:
    extension = path.suffix.lower()
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": f'filename="{path.name}"'}
    if extension in _DANGEROUS:
        headers |= {
            "Vary": "Sec-Fetch-Dest",
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{path.name}"',
        }
        kind = "application/octet-stream"
    else:
        kind = _TYPES.get(extension) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return web.FileResponse(path, headers={**headers, "Content-Type": kind})


def _convert(path: Path, format_name: str, quality: str = "90") -> web.Response:
    chosen = format_name if format_name in ("webp", "jpeg") else "webp"
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, chosen, quality=int(quality))
    headers = {"Content-Disposition": f'filename="{path.name}"'}
    return web.Response(body=buffer.getvalue(), content_type=f"image/{chosen}", headers=headers)


def _pick_channel(path: Path, channel: str) -> web.Response:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        if channel == "rgb":
            picked = image.convert("RGB")
        else:
            alpha = image.convert("RGBA").getchannel("A")
            picked = Image.new("RGBA", image.size)
            picked.putalpha(alpha)
        picked.save(buffer, "PNG")
    headers = {"Content-Disposition": f'filename="{path.name}"'}
    return web.Response(body=buffer.getvalue(), content_type="image/png", headers=headers)


async def post_image(request: web.Request) -> web.StreamResponse:
    fields = await request.post()
    return _store(request, fields, lambda path, content: path.write_bytes(content))


async def post_mask(request: web.Request) -> web.StreamResponse:
    """The mask's transparency is put into a copy of the picture it belongs to; without that picture nothing is written."""
    fields = await request.post()
    folders = request.app[STATE].folders

    def write_masked(path: Path, content: bytes) -> None:
        reference = json.loads(str(fields["original_ref"]))
        folder = folders.of_type(reference.get("type", "output"))
        assert folder is not None
        original = confine(folder, os.path.join(reference.get("subfolder", ""), reference["filename"]))
        if not original.is_file():
            return
        with Image.open(original) as picture, Image.open(io.BytesIO(content)) as mask:
            masked = picture.convert("RGBA")
            masked.putalpha(mask.convert("RGBA").getchannel("A").resize(masked.size))
            masked.save(path, "PNG")

    return _store(request, fields, write_masked)


def _store(request: web.Request, fields: Any, write: Any) -> web.Response:
    image = fields.get("image")
    if image is None:
        return web.Response(status=400)
    # A text field in place of a file has no .file: ComfyUI stumbles, too, and answers 500.
    content, filename = image.file.read(), image.filename
    assert isinstance(image, FileField)
    if not filename:
        return web.Response(status=400)
    kind = fields.get("type") or "input"
    subfolder = fields.get("subfolder", "")
    root = request.app[STATE].folders.of_type(kind)
    if root is None:
        raise ValueError(f"no folder of type {kind}")
    try:
        folder = confine(root, os.path.normpath(subfolder))
        path = confine(root, os.path.join(os.path.normpath(subfolder), filename))
    except OutsideFolderError:
        return web.Response(status=400)
    folder.mkdir(parents=True, exist_ok=True)
    if fields.get("overwrite") not in ("true", "1"):
        path, is_there = _find_free_name(path, content)
        if is_there:
            return web.json_response({"name": path.name, "subfolder": subfolder, "type": kind})
    write(path, content)
    return web.json_response({"name": str(path.relative_to(folder)), "subfolder": subfolder, "type": kind})


def _find_free_name(path: Path, content: bytes) -> tuple[Path, bool]:
    """`name (1).png` and so on; (path, True) for a file that is there with this very content."""
    stem, extension = os.path.splitext(path.name)
    candidate, number = path, 1
    while candidate.exists():
        if hashlib.sha256(candidate.read_bytes()).digest() == hashlib.sha256(content).digest():
            return candidate, True
        candidate = path.with_name(f"{stem} ({number}){extension}")
        number += 1
    return candidate, False

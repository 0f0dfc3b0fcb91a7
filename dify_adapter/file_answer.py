"""An output as an HTTP answer: its bytes with their exact type, whole or a part of them."""

from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO
from urllib.parse import quote

from anyio import to_thread
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from dify_adapter.ranges import UnsatisfiableRange, choose_range
from dify_adapter.reader import OpenOutput

CHUNK = 1 << 18
_SHOWN = ("image/", "video/", "audio/", "text/plain", "application/json")
_ACTIVE = ("image/svg",)  # a page in a picture's clothes
_CACHED = "private, max-age=86400, immutable"
"""The bytes under a name never change. Only who may see them keeps them."""


class FileAnswer(Response):
    """Sends what lies between `start` and `stop`, and closes the file whatever happens."""

    def __init__(self, file: BinaryIO, start: int, stop: int, *, status: int, headers: dict[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._file = file
        self._start, self._stop = start, stop
        self.headers["content-length"] = str(stop - start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        chunks = read_part(self._file, self._start, self._stop if scope["method"] != "HEAD" else self._start)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while chunk := await to_thread.run_sync(next, chunks, b""):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._file.close()


def read_part(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop and (data := file.read(min(CHUNK, stop - start))):
        start += len(data)
        yield data


def answer_output(request: Request, output: OpenOutput) -> Response:
    """Takes over the file."""
    headers = _describe(output)
    etag = headers["ETag"]
    asked = request.headers
    if etag in asked.get("if-none-match", "") or asked.get("if-none-match", "").strip() == "*":
        return _without_bytes(output, 304, headers)
    wanted = asked.get("range") if asked.get("if-range", etag) == etag else None
    try:
        part = choose_range(wanted, output.size)
    except UnsatisfiableRange:
        return _without_bytes(output, 416, {**headers, "Content-Range": f"bytes */{output.size}"})
    if part is None:
        return FileAnswer(output.file, 0, output.size, status=200, headers=headers)
    start, stop = part
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{output.size}"
    return FileAnswer(output.file, start, stop, status=206, headers=headers)


def _without_bytes(output: OpenOutput, status: int, headers: dict[str, str]) -> Response:
    with closing(output.file):
        return Response(status_code=status, headers=headers)


def _describe(output: OpenOutput) -> dict[str, str]:
    kind = output.media_type
    headers = {
        "Content-Type": f"{kind}; charset=utf-8" if kind == "text/plain" else kind,
        "ETag": f'"{output.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHED,
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    # No name for what may be shown: with one Dify takes JSON for a file, and a browser saves what it could show.
    if kind.startswith(_ACTIVE) or not kind.startswith(_SHOWN):
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(output.name, safe='')}"
    return headers

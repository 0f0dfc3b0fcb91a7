"""Reads the body of a request: JSON, a form, or multipart with files. What is too large is refused while it arrives."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dify_adapter import bodies
from dify_adapter.refusal import Refused
from handoff.decode import BYTES, JsonObject, excerpt
from handoff.failures import Failure, Reason

MOST_FILES = 32
MOST_FIELDS = 1000
_IN_MEMORY = 1 << 20  # bytes of a file; what is larger goes to a temporary file
_HEADER_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class File:
    name: str
    filename: str
    content: BinaryIO


@dataclass(frozen=True, kw_only=True)
class Body:
    fields: JsonObject
    files: tuple[File, ...] = ()


@asynccontextmanager
async def read_body(request: Request, *, limit: int = BYTES) -> AsyncIterator[Body]:
    """Its files are gone when the block ends. `limit` is for JSON. Raises Failure, Refused."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    match kind:
        case b"multipart/form-data":
            reader = _Multipart(options.get(b"boundary", b""))
            try:
                yield await reader.read(request)
            finally:
                reader.close()
        case b"application/x-www-form-urlencoded":
            data = await _read(request, BYTES)
            # curl -d '{"prompt": …}' says that JSON is a form
            said = (
                bodies.read_json(data)
                if data.lstrip()[:1] == b"{"
                else bodies.make_fields(bodies.read_urlencoded(data))
            )
            yield Body(fields=said)
        case b"application/json" | b"text/json" | b"text/plain" | b"application/octet-stream" | b"":
            yield Body(fields=bodies.read_json(await _read(request, limit) or b"{}", limit))
        case _ if kind.endswith(b"+json"):
            yield Body(fields=bodies.read_json(await _read(request, limit) or b"{}", limit))
        case _:
            problem = f"its Content-Type is {excerpt(kind.decode('latin-1'))}"
            raise Refused(Failure(Reason.BAD_BODY, problem=problem), status=415)


async def _read(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise Failure(Reason.TOO_LARGE, bytes=len(data), limit=limit)
    return bytes(data)


@dataclass
class _Part:
    disposition: bytes = b""
    name: str = ""
    filename: str | None = None
    text: bytearray = field(default_factory=bytearray)
    file: "SpooledTemporaryFile[bytes] | None" = None


class _Multipart:
    """Strict where Starlette's own reader guesses: texts are UTF-8 or refused, and a body without its end is none."""

    def __init__(self, boundary: bytes) -> None:
        if not boundary:
            raise Failure(Reason.BAD_BODY, problem="its Content-Type names no boundary")
        self._parts: list[_Part] = []
        self._header = (bytearray(), bytearray())
        self._text_bytes = 0
        self._whole = False
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type] # its TypedDict, in other words

    async def read(self, request: Request) -> Body:
        try:
            async for data in request.stream():
                self._parser.write(data)
        except FormParserError:
            raise Failure(Reason.BAD_BODY, problem="it is no multipart body") from None
        if not self._whole:
            raise Failure(Reason.BAD_BODY, problem="it ends in the middle")
        texts = [(part.name, _decode(part.text)) for part in self._parts if part.filename is None]
        files = []
        for part in self._parts:
            if part.file is None or part.name == bodies.PLACEHOLDER:
                continue
            if part.file.tell():  # a form's file field that was left empty is a part without a byte
                part.file.seek(0)
                files.append(File(name=part.name, filename=part.filename or "", content=cast(BinaryIO, part.file)))
        return Body(fields=bodies.make_fields(texts), files=tuple(files))

    def close(self) -> None:
        for part in self._parts:
            if part.file is not None:
                part.file.close()

    def _begin(self) -> None:
        if len(self._parts) >= MOST_FIELDS:
            raise Failure(Reason.BAD_BODY, problem=f"it has more than {MOST_FIELDS} parts")
        self._parts.append(_Part())

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        if len(self._header[which]) > _HEADER_BYTES:
            raise Failure(Reason.BAD_BODY, problem="a part has an endless header")

    def _end_header(self) -> None:
        name, value = map(bytes, self._header)
        if name.lower() == b"content-disposition":
            self._parts[-1].disposition = value
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        part = self._parts[-1]
        _, options = parse_options_header(part.disposition)
        part.name = _decode(options.get(b"name", b""))
        if not part.name:
            raise Failure(Reason.BAD_BODY, problem="a part has no name")
        if b"filename" in options:
            part.filename = options[b"filename"].decode("utf-8", "replace")
            if sum(other.file is not None for other in self._parts) >= MOST_FILES:
                raise Failure(Reason.BAD_BODY, problem=f"it has more than {MOST_FILES} files")
            part.file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by `close`

    def _add(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        if part.file is not None:
            part.file.write(data[start:end])
            return
        part.text += data[start:end]
        self._text_bytes += end - start
        if self._text_bytes > BYTES:
            raise Failure(Reason.TOO_LARGE, bytes=self._text_bytes, limit=BYTES)

    def _end(self) -> None:
        self._whole = True


def _decode(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failure(Reason.BAD_ENCODING, problem=f"{error.reason} in a part of the form") from None

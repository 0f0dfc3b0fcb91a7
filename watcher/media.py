"""What a media file is by its bytes, and whether they are all there: signatures, ends, sizes in pixels.

Nothing is decoded: the bytes are foreign, and a picture may be larger than the memory.
"""

import re
import struct
from codecs import getincrementaldecoder
from dataclasses import dataclass
from typing import BinaryIO

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from handoff.status import Kind

ENDS = 64  # bytes at either end: every signature and trailer that is looked for is shorter


class Broken(Exception):  # noqa: N818 - it is the file that is broken, not the program
    """The file is not whole, or not what its name says. The text tells what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """Width and height in pixels, for the pictures whose header is read."""

    kind: Kind
    media_type: str
    width: int | None
    height: int | None


def examine(stream: BinaryIO, filename: str, *, head: bytes, tail: bytes, size: int) -> Media:
    """What the file of `size` bytes is. `head` and `tail` are its first and last `ENDS` bytes; `stream` is moved about.

    The bytes decide; the name does where they have no signature, or where both say that it is text.
    Raises Broken, and OSError when the disk fails.
    """
    if size == 0:
        raise Broken("it is empty")
    format_ = _recognise(head, filename)
    if format_ is None:
        raise Broken("its content is not what its name says")
    if not _is_whole(format_, stream, head, tail, size):
        raise Broken("its end is missing")
    width, height = _measure(format_, stream, head)
    return Media(kind=format_.kind, media_type=format_.media_type, width=width, height=height)


def fitting_extension(filename: str, media_type: str) -> str:
    """The file's own extension where it fits what the file is; without the dot."""
    own = own_extension(filename)
    fitting = next((format_.extensions for _, format_ in _BY_HEAD if format_.media_type == media_type), ())
    return own if own and (own in fitting or not fitting) else fitting[0] if fitting else "bin"


def own_extension(filename: str) -> str:
    """In lower case and without the dot; empty where the name has none that is safe to use."""
    extension = filename.rpartition(".")[2].lower() if "." in filename else ""
    return extension if re.fullmatch(r"[a-z0-9]{1,16}", extension) else ""


@dataclass(frozen=True)
class _Format:
    kind: Kind
    media_type: str
    extensions: tuple[str, ...]  # the first one is given where the file has none of them


_PNG = _Format("image", "image/png", ("png", "apng"))
_JPEG = _Format("image", "image/jpeg", ("jpg", "jpeg"))
_GIF = _Format("image", "image/gif", ("gif",))
_WEBP = _Format("image", "image/webp", ("webp",))
_AVIF = _Format("image", "image/avif", ("avif",))
_MP4 = _Format("video", "video/mp4", ("mp4", "m4v"))
_WEBM = _Format("video", "video/webm", ("webm",))
_FILE = _Format("file", "application/octet-stream", ())

_BY_HEAD: tuple[tuple[re.Pattern[bytes], _Format], ...] = tuple(
    (re.compile(pattern, re.DOTALL), format_)
    for pattern, format_ in (
        (rb"\x89PNG\r\n\x1a\n", _PNG),
        (rb"\xff\xd8\xff", _JPEG),
        (rb"GIF8[79]a", _GIF),
        (rb"RIFF....WEBP", _WEBP),
        (rb"RIFF....WAVE", _Format("audio", "audio/wav", ("wav",))),
        (rb"RIFF....AVI ", _Format("video", "video/x-msvideo", ("avi",))),
        (rb"BM....\0\0\0\0", _Format("image", "image/bmp", ("bmp",))),
        (rb"II[*+]\0|MM\0[*+]", _Format("image", "image/tiff", ("tiff", "tif"))),
        (rb"\x76\x2f\x31\x01", _Format("image", "image/x-exr", ("exr",))),
        (rb"....ftyp(avif|avis)", _AVIF),
        (rb"....ftyp(heic|heix|mif1)", _Format("image", "image/heic", ("heic", "heif"))),
        (rb"....ftypM4A", _Format("audio", "audio/mp4", ("m4a",))),
        (rb"....ftypqt  ", _Format("video", "video/quicktime", ("mov",))),
        (rb"....ftyp", _MP4),
        (rb"\x1a\x45\xdf\xa3.{0,48}webm", _WEBM),
        (rb"\x1a\x45\xdf\xa3", _Format("video", "video/x-matroska", ("mkv",))),
        (rb"fLaC", _Format("audio", "audio/flac", ("flac",))),
        (rb"OggS", _Format("audio", "audio/ogg", ("ogg", "opus", "oga"))),
        (rb"ID3|\xff[\xfb\xfa\xf3\xf2]", _Format("audio", "audio/mpeg", ("mp3",))),
        (rb"glTF", _Format("model", "model/gltf-binary", ("glb",))),
        (rb"%PDF-", _Format("file", "application/pdf", ("pdf",))),
    )
)
_BY_EXTENSION: dict[str, _Format] = {
    format_.extensions[0]: format_
    for format_ in (
        _Format("text", "text/plain", ("txt",)),
        _Format("text", "text/markdown", ("md",)),
        _Format("text", "text/csv", ("csv",)),
        _Format("text", "application/x-subrip", ("srt",)),
        _Format("text", "text/vtt", ("vtt",)),
        _Format("text", "application/json", ("json",)),
        _Format("image", "image/svg+xml", ("svg",)),
        _Format("latent", "application/octet-stream", ("latent",)),
        _Format("model", "application/octet-stream", ("safetensors",)),
        _Format("model", "model/gltf+json", ("gltf",)),
        _Format("model", "model/obj", ("obj",)),
        _Format("model", "model/stl", ("stl",)),
        _Format("model", "application/octet-stream", ("ply",)),
        _Format("model", "application/octet-stream", ("fbx",)),
        _Format("model", "model/vnd.usdz+zip", ("usdz",)),
        _Format("file", "application/zip", ("zip",)),  # by name, since many formats are zip inside
    )
}
_HAVE_SIGNATURES = frozenset(extension for _, format_ in _BY_HEAD for extension in format_.extensions) - {"mp3"}


def _recognise(head: bytes, filename: str) -> _Format | None:
    """What the bytes are, whatever the name says; by the name where bytes have no signature. None: the name lies.

    Signatures that are letters (ID3, RIFF, GIF89a, %PDF-) may begin a text as well.
    """
    extension = own_extension(filename)
    named = _BY_EXTENSION.get(extension, _FILE)
    if named.kind == "text" and _is_text(head):
        return named
    for pattern, format_ in _BY_HEAD:
        if pattern.match(head):
            return format_
    if extension in _HAVE_SIGNATURES:
        return None
    return _FILE if named.kind == "text" and b"\0" in head else named


def _is_text(head: bytes) -> bool:
    try:
        getincrementaldecoder("utf-8")().decode(head)  # it may end within a character
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _is_whole(format_: _Format, stream: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    """Whether the file ends where its format says. Formats without an end of their own count as whole."""
    if format_ is _PNG:
        return tail.endswith(b"\0\0\0\0IEND\xaeB\x60\x82")
    if format_ is _JPEG:
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if format_ is _GIF:
        return tail.endswith(b";")
    if format_.kind in ("text", "file") and _is_text(head):
        return True
    if head.startswith(b"RIFF"):
        claimed = int.from_bytes(head[4:8], "little")
        is_streamed = claimed in (0, 0xFFFFFFFF) and format_ is not _WEBP
        return is_streamed or claimed + 8 <= size
    return not head[4:].startswith(b"ftyp") or _has_whole_boxes(stream, size)


def _has_whole_boxes(stream: BinaryIO, size: int) -> bool:
    """Walks an MP4's outermost boxes: each fits, and the index is among them (it is written last)."""
    place, has_index = 0, False
    for _ in range(100_000):
        if place >= size:
            break
        stream.seek(place)
        header = stream.read(16)
        length = int.from_bytes(header[:4], "big")
        if len(header) < (16 if length == 1 else 8):
            return False
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        has_index = has_index or header[4:8] in (b"moov", b"moof", b"meta")
        if length == 0:
            place = size
        elif length < 8 or place + length > size:
            return False
        else:
            place += length
    return has_index


def _measure(format_: _Format, stream: BinaryIO, head: bytes) -> tuple[int | None, int | None]:
    """Width and height from the header alone, and a PNG's checksums.

    The plugins are called directly: `Image.open` refuses large pictures, and here none is decoded.
    """
    if format_ is _GIF:
        width, height = struct.unpack("<HH", head[6:10].ljust(4, b"\0"))
        return width, height
    if format_ is _WEBP:
        return _measure_webp(head)
    if format_ not in (_PNG, _JPEG):
        return None, None
    stream.seek(0)
    try:
        if format_ is _JPEG:
            with JpegImageFile(stream) as picture:
                return picture.size
        with PngImageFile(stream) as picture:
            size: tuple[int, int] = picture.size
            picture.verify()
            return size
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; Pillow's own have no number, and it raises almost anything for hostile bytes
        raise Broken(f"it is damaged ({type(error).__name__}: {str(error)[:80]})") from None


def _measure_webp(head: bytes) -> tuple[int | None, int | None]:
    form, data = head[12:16], head[20:32].ljust(12, b"\0")
    if form == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if form == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if form == b"VP8 ":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    return None, None

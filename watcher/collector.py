"""From a prompt that ComfyUI calls a success to outputs that are proven: every listed file is there, whole and of this attempt.

`success` alone proves nothing: ComfyUI lists files that are long gone, and writes in place. File names and contents
are foreign: paths are opened below the output folder step by step without following links, and nothing is decoded.
"""

import errno
import hashlib
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from handoff.failures import Failure, Reason, Unavailable
from handoff.folders import FOLDER_MODE
from handoff.status import Kind, TextEntry
from watcher.comfyui import ComfyUI, Prompt
from watcher.graph import DEFAULT_LABEL, Graph, Warnings, describe_node, node_order

CLOCK_TOLERANCE_S = 2.0  # file times come in coarse steps, and from another clock on network volumes
PREVIEW_LIMIT = 512 << 20  # bytes of one preview
TEXT_LIMIT = 64 << 10  # bytes of one text: all texts stand in the status document
MAX_TEXTS = 64
PREVIEW_LABEL = "preview"

_HEAD = 64  # bytes at either end: every signature and trailer that is looked for is shorter
_READ_SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OWN_FOLDER = ".handoff/"
_TAKEN_NAMES = ("status.json", "job.json", "progress.json")  # lie beside the outputs, here or in the bucket


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file as ComfyUI lists it. Nothing about it is true yet."""

    node: str
    subfolder: str
    filename: str

    @property
    def path(self) -> str:
        """Relative to ComfyUI's folder, unless a hostile name says otherwise; empty and `.` parts are dropped."""
        joined = f"{self.subfolder}/{self.filename}" if self.subfolder else self.filename
        parts = "/".join(part for part in joined.split("/") if part not in ("", "."))
        return f"/{parts}" if joined.startswith("/") else parts

    @property
    def shown(self) -> str:
        """For messages: cut, and without what UTF-8 cannot say."""
        return self.path.encode("utf-8", "replace").decode()[:200]


@dataclass(frozen=True, kw_only=True)
class Listing:
    files: list[Listed]
    previews: list[Listed]
    texts: list[TextEntry]
    warnings: Warnings


@dataclass(frozen=True, kw_only=True)
class Output:
    """A verified file. `source` is where it lies now, flushed to the disk. Width and height in pixels, for pictures."""

    name: str
    node: str
    source: str
    kind: Kind
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, kw_only=True)
class Collected:
    outputs: list[Output]
    texts: list[TextEntry]
    warnings: Warnings


def collect(
    prompt: Prompt,
    graph: Graph,
    *,
    job_id: str,
    output: str,
    work: str,
    labels: Mapping[str, str],
    started: float,
    comfyui: ComfyUI,
) -> Collected:
    """The outputs of a succeeded prompt, named for `output/<job_id>/`; linking them there is the caller's.

    `output` is ComfyUI's output folder, `work` the attempt's own folder relative to it, `labels` as `attempt_graph`
    gave them, `started` when the attempt was journalled (seconds since 1970).
    Raises Failure NO_OUTPUTS, OUTPUT_MISSING, OUTPUT_BROKEN, with the node, and edge errors.
    """
    listing = listed(prompt.outputs)
    files, warnings, default_label = listing.files, list(listing.warnings), DEFAULT_LABEL
    if not files and listing.previews:
        # At once, since ComfyUI empties its temp folder at every start.
        files = [_fetch_preview(file, n, graph, output, work, comfyui) for n, file in enumerate(listing.previews, 1)]
        warnings.append(("previews", {}))
        default_label = PREVIEW_LABEL
    if not files and not listing.texts:
        raise Failure(Reason.NO_OUTPUTS)
    verified: list[Output] = []
    for file in files:
        with _blame(graph, file.node):
            if file.path.startswith(f"{work}/"):
                verified.append(_verify(file, output))
                continue
            if file.path.startswith(_OWN_FOLDER):
                raise _broken(file, "it belongs to another job")
            verified.append(_verify(file, output, not_before=started - CLOCK_TOLERANCE_S))
            warnings.append(("elsewhere", {"file": file.shown}))
    marked = [
        (labels.get(file.node, default_label), file.node, _extension(file.filename, made))
        for file, made in zip(files, verified, strict=True)
    ]
    names = name_outputs(job_id, marked)
    outputs = [replace(made, name=name) for made, name in zip(verified, names, strict=True)]
    return Collected(outputs=outputs, texts=listing.texts, warnings=warnings)


def listed(outputs: Mapping[str, Any]) -> Listing:
    """Every file and text in ComfyUI's listing, in the order of the nodes' ids. Pure.

    Nodes choose their keys freely (a video stands under `images`), so each list is looked through; a file listed twice
    is one. What has no `filename` and is no text is left out.
    """
    files: dict[str, Listed] = {}
    previews: dict[str, Listed] = {}
    texts: list[TextEntry] = []
    warnings: Warnings = []
    for node, listing in sorted(outputs.items(), key=lambda item: node_order(item[0])):
        if not isinstance(listing, Mapping) or len(node) > 200:
            continue
        for key, items in listing.items():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, str) and key == "text" and len(texts) < MAX_TEXTS:
                    text, is_cut = _cut(item)
                    texts.append(TextEntry(node=node, text=text))
                    if is_cut:
                        warnings.append(("text_cut", {"node": node, "bytes": TEXT_LIMIT}))
                elif isinstance(item, Mapping) and (file := _read_listed(node, item)):
                    folder = item.get("type", "output")
                    kept = files if folder == "output" else previews if folder == "temp" else None
                    if kept is not None:
                        kept.setdefault(file.path, file)
    return Listing(files=list(files.values()), previews=list(previews.values()), texts=texts, warnings=warnings)


def name_outputs(job_id: str, marked: list[tuple[str, str, str]]) -> list[str]:
    """`<id>[-<label>][-<n>].<ext>` for each (label, node, extension). Pure.

    The label is left out where one node saved, the number where its label has one file. Unique also where upper and
    lower case are the same.
    """
    is_alone = len({node for _, node, _ in marked}) == 1
    stems = [job_id if is_alone else f"{job_id}-{label}" for label, _, _ in marked]
    times = Counter(stem.casefold() for stem in stems)
    numbers: Counter[str] = Counter()
    taken = set(_TAKEN_NAMES)
    names: list[str] = []
    for stem, (_, _, extension) in zip(stems, marked, strict=True):
        key = stem.casefold()
        name = f"{stem}.{extension}"
        if times[key] > 1 or name.casefold() in taken:
            name = _number(stem, extension, numbers, taken)
        taken.add(name.casefold())
        names.append(name)
    return names


@dataclass(frozen=True)
class _Media:
    kind: Kind
    media_type: str
    extensions: tuple[str, ...]  # the first one is given where the file has none of them


_PNG = _Media("image", "image/png", ("png", "apng"))
_JPEG = _Media("image", "image/jpeg", ("jpg", "jpeg"))
_GIF = _Media("image", "image/gif", ("gif",))
_WEBP = _Media("image", "image/webp", ("webp",))
_AVIF = _Media("image", "image/avif", ("avif",))
_MP4 = _Media("video", "video/mp4", ("mp4", "m4v"))
_WEBM = _Media("video", "video/webm", ("webm",))
_FILE = _Media("file", "application/octet-stream", ())

_BY_HEAD: tuple[tuple[re.Pattern[bytes], _Media], ...] = tuple(
    (re.compile(pattern, re.DOTALL), media)
    for pattern, media in (
        (rb"\x89PNG\r\n\x1a\n", _PNG),
        (rb"\xff\xd8\xff", _JPEG),
        (rb"GIF8[79]a", _GIF),
        (rb"RIFF....WEBP", _WEBP),
        (rb"RIFF....WAVE", _Media("audio", "audio/wav", ("wav",))),
        (rb"RIFF....AVI ", _Media("video", "video/x-msvideo", ("avi",))),
        (rb"BM....\0\0\0\0", _Media("image", "image/bmp", ("bmp",))),
        (rb"II[*+]\0|MM\0[*+]", _Media("image", "image/tiff", ("tiff", "tif"))),
        (rb"\x76\x2f\x31\x01", _Media("image", "image/x-exr", ("exr",))),
        (rb"....ftyp(avif|avis)", _AVIF),
        (rb"....ftyp(heic|heix|mif1)", _Media("image", "image/heic", ("heic", "heif"))),
        (rb"....ftypM4A", _Media("audio", "audio/mp4", ("m4a",))),
        (rb"....ftypqt  ", _Media("video", "video/quicktime", ("mov",))),
        (rb"....ftyp", _MP4),
        (rb"\x1a\x45\xdf\xa3.{0,48}webm", _WEBM),
        (rb"\x1a\x45\xdf\xa3", _Media("video", "video/x-matroska", ("mkv",))),
        (rb"fLaC", _Media("audio", "audio/flac", ("flac",))),
        (rb"OggS", _Media("audio", "audio/ogg", ("ogg", "opus", "oga"))),
        (rb"ID3|\xff[\xfb\xfa\xf3\xf2]", _Media("audio", "audio/mpeg", ("mp3",))),
        (rb"glTF", _Media("model", "model/gltf-binary", ("glb",))),
        (rb"%PDF-", _Media("file", "application/pdf", ("pdf",))),
    )
)
_BY_EXTENSION: dict[str, _Media] = {
    media.extensions[0]: media
    for media in (
        _Media("text", "text/plain", ("txt",)),
        _Media("text", "text/markdown", ("md",)),
        _Media("text", "text/csv", ("csv",)),
        _Media("text", "application/x-subrip", ("srt",)),
        _Media("text", "text/vtt", ("vtt",)),
        _Media("text", "application/json", ("json",)),
        _Media("image", "image/svg+xml", ("svg",)),
        _Media("latent", "application/octet-stream", ("latent",)),
        _Media("model", "application/octet-stream", ("safetensors",)),
        _Media("model", "model/gltf+json", ("gltf",)),
        _Media("model", "model/obj", ("obj",)),
        _Media("model", "model/stl", ("stl",)),
        _Media("model", "application/octet-stream", ("ply",)),
        _Media("model", "application/octet-stream", ("fbx",)),
        _Media("model", "model/vnd.usdz+zip", ("usdz",)),
        _Media("file", "application/zip", ("zip",)),  # by name, since many formats are zip inside
    )
}
_HAVE_SIGNATURES = frozenset(extension for _, media in _BY_HEAD for extension in media.extensions) - {"mp3"}


def _cut(text: str) -> tuple[str, bool]:
    data = text.encode("utf-8", "replace")
    return data[:TEXT_LIMIT].decode("utf-8", "ignore"), len(data) > TEXT_LIMIT


def _read_listed(node: str, item: Mapping[str, Any]) -> Listed | None:
    filename, subfolder = item.get("filename"), item.get("subfolder") or ""
    if not isinstance(filename, str) or not filename or not isinstance(subfolder, str):
        return None
    return Listed(node=node, subfolder=subfolder, filename=filename)


def _number(stem: str, extension: str, numbers: Counter[str], taken: set[str]) -> str:
    while True:
        numbers[stem.casefold()] += 1
        name = f"{stem}-{numbers[stem.casefold()]}.{extension}"
        if name.casefold() not in taken:
            return name


def _extension(filename: str, output: Output) -> str:
    """The file's own extension where it fits what the file is."""
    own = _own_extension(filename)
    fitting = next((media.extensions for _, media in _BY_HEAD if media.media_type == output.media_type), ())
    return own if own and (own in fitting or not fitting) else fitting[0] if fitting else "bin"


def _own_extension(filename: str) -> str:
    extension = filename.rpartition(".")[2].lower() if "." in filename else ""
    return extension if re.fullmatch(r"[a-z0-9]{1,16}", extension) else ""


def _verify(file: Listed, output: str, not_before: float = 0.0) -> Output:
    """Reads the file once, from the first byte to the last. It gets its name later, when all are known."""
    with _open_below(output, file) as stream:
        if os.fstat(stream.fileno()).st_mtime < not_before:
            raise _broken(file, "it is older than this job")
        digest, head, tail, size = hashlib.sha256(), b"", b"", 0
        with _unavailable(f"cannot read {file.shown} in {output}"):
            while part := stream.read(1 << 20):
                digest.update(part)
                head = head or part[:_HEAD]
                tail = (tail + part)[-_HEAD:]
                size += len(part)
            os.fsync(stream.fileno())
        if size == 0:
            raise _broken(file, "it is empty")
        media = _recognise(head, file.filename)
        if media is None:
            raise _broken(file, "its content is not what its name says")
        if not _is_whole(media, stream, head, tail, size):
            raise _broken(file, "its end is missing")
        width, height = _measure(media, stream, head, file)
    return Output(
        name="",
        node=file.node,
        source=f"{output}/{file.path}",
        kind=media.kind,
        media_type=media.media_type,
        bytes=size,
        sha256=digest.hexdigest(),
        width=width,
        height=height,
    )


def _open_below(output: str, file: Listed) -> BinaryIO:
    """A regular file, opened without following a link and without waiting for the other end of a pipe."""
    path = file.path
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\0" in path:
        raise _broken(file, "its name leads out of the output folder")
    try:
        folder = _open_folder(output, parts[:-1])
        try:
            descriptor = os.open(parts[-1], _READ_SAFELY, dir_fd=folder)
        finally:
            os.close(folder)
    except UnicodeEncodeError:
        raise _broken(file, "its name is no text") from None
    except OSError as error:
        if error.errno == errno.ENOENT and os.path.isdir(output):
            raise Failure(Reason.OUTPUT_MISSING, file=file.shown) from None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _broken(file, "it is a link or lies behind one") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR):
            raise _broken(file, f"it cannot be opened ({error.strerror})") from None
        raise Unavailable(f"cannot open {file.shown} in {output}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _broken(file, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def _open_folder(root: str, parts: list[str]) -> int:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        outer = descriptor
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer)
        finally:
            os.close(outer)
    return descriptor


def _fetch_preview(preview: Listed, number: int, graph: Graph, output: str, work: str, comfyui: ComfyUI) -> Listed:
    """Copies a preview into the attempt's folder; what an earlier try left there is replaced."""
    extension = _own_extension(preview.filename) or "bin"
    fetched = Listed(node=preview.node, subfolder=work, filename=f"preview-{number}.{extension}")
    with _blame(graph, preview.node), _unavailable(f"cannot write {fetched.path} in {output}"):
        os.makedirs(f"{output}/{work}", mode=FOLDER_MODE, exist_ok=True)
        folder = _open_folder(output, work.split("/"))
        try:
            with suppress(FileNotFoundError):
                os.unlink(fetched.filename, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(fetched.filename, flags, 0o664, dir_fd=folder), "wb") as copy:
                comfyui.view(preview.filename, preview.subfolder, "temp", copy, PREVIEW_LIMIT)
        finally:
            os.close(folder)
    return fetched


def _recognise(head: bytes, filename: str) -> _Media | None:
    """What the bytes are, whatever the name says; by the name where bytes have no signature. None: the name lies."""
    extension = _own_extension(filename)
    for pattern, media in _BY_HEAD:
        if pattern.match(head):
            return media
    if extension in _HAVE_SIGNATURES:
        return None
    media = _BY_EXTENSION.get(extension, _FILE)
    return _FILE if media.kind == "text" and b"\0" in head else media


def _is_whole(media: _Media, stream: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    """Whether the file ends where its format says. Formats without an end of their own count as whole."""
    if media is _PNG:
        return tail.endswith(b"\0\0\0\0IEND\xaeB\x60\x82")
    if media is _JPEG:
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if media is _GIF:
        return tail.endswith(b";")
    if head.startswith(b"RIFF"):
        claimed = int.from_bytes(head[4:8], "little")
        is_streamed = claimed in (0, 0xFFFFFFFF) and media is not _WEBP
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


def _measure(media: _Media, stream: BinaryIO, head: bytes, file: Listed) -> tuple[int | None, int | None]:
    """Width and height from the header alone, and a PNG's checksums.

    The plugins are called directly: `Image.open` refuses large pictures, and here none is decoded.
    """
    if media is _GIF:
        width, height = struct.unpack("<HH", head[6:10].ljust(4, b"\0"))
        return width, height
    if media is _WEBP:
        return _measure_webp(head)
    if media not in (_PNG, _JPEG):
        return None, None
    stream.seek(0)
    try:
        if media is _JPEG:
            with JpegImageFile(stream) as picture:
                return picture.size
        with PngImageFile(stream) as picture:
            size: tuple[int, int] = picture.size
            picture.verify()
            return size
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything for hostile bytes
        raise _broken(file, f"it is damaged ({type(error).__name__}: {str(error)[:80]})") from None


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


@contextmanager
def _blame(graph: Graph, node: str) -> Iterator[None]:
    """Failures from inside name the node whose output it was."""
    try:
        yield
    except Failure as failure:
        raise Failure(failure.reason, node=describe_node(graph, node), **failure.details) from None


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    """Errors of the disk are the operator's, not the job's."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror or error}") from error


def _broken(file: Listed, problem: str) -> Failure:
    return Failure(Reason.OUTPUT_BROKEN, file=file.shown, problem=problem)

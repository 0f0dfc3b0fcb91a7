"""Turns what a picture parameter may hold into a file that ComfyUI's LoadImage and LoadImageMask can read.

A reference is a name in `input/` or `input/uploads/`, an http(s) URL, a `data:` URL, or `s3://bucket/key` below an
allowed prefix. Whatever it is, its bytes are copied unchanged, decoded once as proof, and published as
`uploads/<sha256>.<ext>`; deleting the original later does no harm. Not promised: that every node likes the picture
(ComfyUI 0.33 decodes with PyAV, which fails on tiny grey, palette or 16-bit pictures, 8×6 for example).
"""

import base64
import errno
import hashlib
import os
import re
import secrets
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes

from PIL import Image

from handoff import fetch
from handoff.durable import disk_errors, replace, sync_file, sync_folder
from handoff.failures import Failure, Permanent, Reason, Transient, Unavailable

Download = Callable[[str, str, Path, int], object]
"""(bucket, key, file to write, limit in bytes). Retries short trouble itself; Permanent and Transient mean "not fetched",
Unavailable means that the bucket is away, and is left to the caller of `resolve`."""

MAX_FRAMES = 1000
MAX_SCANS = 25
"""Each scan of a progressive JPEG is 100 bytes and a walk over all its pixels: 0.3 MB can take minutes. Usual are 1 to 14."""

_KINDS = {
    "PNG": ("png", "image/png"),
    "JPEG": ("jpg", "image/jpeg"),
    "MPO": ("jpg", "image/jpeg"),  # how Pillow calls the JPEG files of phones that hold a second picture
    "WEBP": ("webp", "image/webp"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
    "TIFF": ("tiff", "image/tiff"),
}
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
# Pillow draws its line by a number of its own, and only warns; `_measure` counts every frame before it is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A published picture. `name` is what LoadImage takes; width and height in pixels, of the first frame."""

    name: str
    sha256: str
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`pixels` counts all frames together (Pillow itself refuses frames of more than 178 million); `fetch_s` is for a
    URL in all, redirects and second tries included.
    """

    bytes: int = 64 << 20
    pixels: int = 100_000_000
    fetch_s: float = 30.0


class NotYet(Exception):  # noqa: N818 - no error yet
    """A named picture is missing or not whole. Call `resolve` again when something changes; give up with `failure`."""

    def __init__(self, picture: str, problem: str | None = None) -> None:
        super().__init__(picture, problem)
        self.picture = picture
        self.problem = problem

    def failure(self, waited_s: float) -> Failure:
        if self.problem is None:
            return Failure(Reason.MISSING_PICTURE, picture=self.picture, seconds=waited_s)
        return Failure(Reason.BAD_PICTURE, picture=self.picture, problem=self.problem)


class Pictures:
    """`scratch` is the watcher's own folder below `input/.handoff/`, so that a rename out of it stays on one mount and
    a fenced watcher cannot publish. Any number of threads and watchers may resolve at once.

    Raises ValueError for an entry of `url_allow` that cannot be read.
    """

    def __init__(
        self,
        input_folder: Path,
        scratch: Path,
        *,
        limits: Limits = Limits(),
        url_allow: Sequence[str] = (),
        s3_prefixes: Sequence[str] = (),
        download: Download | None = None,
    ) -> None:
        for entry in url_allow:
            fetch.parse_allowed(entry)
        self._input = input_folder
        self._uploads = input_folder / "uploads"
        self._scratch = scratch
        self._limits = limits
        self._url_allow = tuple(url_allow)
        self._s3_prefixes = tuple(prefix.strip().removeprefix("s3://").rstrip("/") for prefix in s3_prefixes)
        self._download = download

    def resolve(self, reference: str) -> Picture:
        """Never waits for a named picture: NotYet while it is missing, growing or cut off.

        Raises Failure: BAD_PICTURE, FORBIDDEN_URL, PICTURE_NOT_FETCHED; Unavailable (disk full, bucket away: try later);
        FileNotFoundError when one of the folders is gone.
        """
        reference = reference.strip()
        with self._temporary() as copy:
            if reference[:5].lower() == "data:":
                self._unpack(reference, copy)
            elif reference[:5].lower() == "s3://":
                self._download_object(reference, copy)
            elif "://" in reference:
                limits = self._limits
                fetch.fetch(
                    reference, to=copy, allow=self._url_allow, limit_bytes=limits.bytes, timeout_s=limits.fetch_s
                )
            else:
                self._copy_named(reference, copy)
                return self._publish(copy, reference, named=True)
            return self._publish(copy, reference, named=False)

    def keep(self, source: IO[bytes], label: str) -> Picture:
        """Takes what somebody sent; never more than the limit is read. `label` is how messages call it.

        Raises Failure(BAD_PICTURE), Unavailable, FileNotFoundError, as `resolve` does.
        """
        with self._temporary() as copy:
            size = 0
            with disk_errors(copy.name), copy.open("wb") as target:
                while size <= self._limits.bytes and (part := source.read(1 << 20)):
                    size += target.write(part)
            return self._publish(copy, label, named=False)

    def weigh(self, reference: str) -> int:
        """The bytes that `resolve` would decode, told without reading them; 0 for what has to be fetched first.

        Raises NotYet, Failure, Unavailable, as `resolve` does.
        """
        reference = reference.strip()
        if reference[:5].lower() == "data:":
            return len(reference)
        if "://" in reference:
            return 0
        with self._opened(reference) as source:
            return os.fstat(source).st_size

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self._scratch / f"picture-{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()

    def _unpack(self, reference: str, copy: Path) -> None:
        header = _DATA_URL.match(reference)
        if not header:
            raise _bad(reference, "a data: URL looks like data:image/png;base64,…")
        try:
            text = unquote_to_bytes(reference[header.end() :]).translate(None, delete=b" \t\r\n").rstrip(b"=")
            if len(text) // 4 * 3 > self._limits.bytes:
                raise _bad(reference, f"it is larger than {self._limits.bytes} bytes")
            content = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise _bad(reference, "what follows base64, is not Base64") from error
        with disk_errors(copy.name):
            copy.write_bytes(content)

    def _download_object(self, reference: str, copy: Path) -> None:
        found = _S3_URL.fullmatch(reference)
        if not found or not _is_text(reference) or {"", ".", ".."} & set(found["key"].split("/")):
            raise Failure(Reason.FORBIDDEN_URL, url=shown(reference), problem="it is not of the form s3://bucket/key")
        path = f"{found['bucket']}/{found['key']}"
        if not any(path == prefix or path.startswith(f"{prefix}/") for prefix in self._s3_prefixes if prefix):
            problem = "no entry of HANDOFF_S3_INPUT_PREFIXES covers it"
            raise Failure(Reason.FORBIDDEN_URL, url=shown(reference), problem=problem)
        if self._download is None:
            raise Failure(Reason.FORBIDDEN_URL, url=shown(reference), problem="no object storage is set up here")
        try:
            self._download(found["bucket"], found["key"], copy, self._limits.bytes)
        except (Permanent, Transient) as error:
            raise Failure(Reason.PICTURE_NOT_FETCHED, url=shown(reference), problem=str(error)) from error

    def _copy_named(self, name: str, copy: Path) -> None:
        with self._opened(name) as source:
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                raise _bad(name, "it is not a regular file")
            if before.st_size > self._limits.bytes:
                raise _bad(name, f"it is larger than {self._limits.bytes} bytes")
            size = 0
            with disk_errors(copy.name), copy.open("wb") as target:
                while size <= self._limits.bytes and (part := os.read(source, 1 << 20)):
                    size += target.write(part)
            after = os.fstat(source)
        if (size, before.st_size, before.st_mtime_ns) != (after.st_size, after.st_size, after.st_mtime_ns):
            raise NotYet(name, "it is still being written")

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Goes step by step from the input folder and follows no link on the way, so that no name leads elsewhere."""
        folder, _, file = name.rpartition("/")
        if folder not in ("", "uploads") or not _is_plain(file):
            raise _bad(name, "only names of files in input/ and input/uploads/ are read, without a leading dot")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with ExitStack() as opened:

            def enter(step: str | Path, flags: int, inside: int | None) -> int:
                descriptor = os.open(step, flags, dir_fd=inside)
                opened.callback(os.close, descriptor)
                return descriptor

            inside = enter(self._input, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, None)
            try:
                if folder:
                    inside = enter(folder, flags | os.O_DIRECTORY, inside)
                descriptor = enter(file, flags, inside)
            except FileNotFoundError:
                raise NotYet(name) from None
            except PermissionError as error:
                raise NotYet(name, "the watcher may not read it; chmod g+r helps") from error
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _bad(name, "it is a link, and links are not followed") from error
                if error.errno in (errno.ENXIO, errno.ENODEV):
                    raise _bad(name, "it is not a regular file") from error
                raise Unavailable(f"cannot read {name}: {error.strerror}") from error
            yield descriptor

    def _publish(self, copy: Path, reference: str, *, named: bool) -> Picture:
        if copy.stat().st_size > self._limits.bytes:
            raise _bad(reference, f"it is larger than {self._limits.bytes} bytes")
        with disk_errors(copy.name):
            content = copy.read_bytes()
        try:
            kind, width, height = _measure(content, self._limits)
        except _DecodeError as error:
            if named and error.torn:
                raise NotYet(shown(reference), str(error)) from error
            raise _bad(reference, str(error)) from error
        digest = hashlib.sha256(content).hexdigest()
        extension, media_type = _KINDS[kind]
        name = f"{digest}.{extension}"
        self._keep(copy, self._uploads / name)
        return Picture(name=f"uploads/{name}", sha256=digest, media_type=media_type, width=width, height=height)

    def _keep(self, copy: Path, target: Path) -> None:
        """Renames durably, unless the same content is there: whoever comes second finds the first one's file, and makes it
        as young as the own one would be, since old ones that nobody needs are removed.
        """
        with disk_errors(target.name):
            with suppress(FileNotFoundError, PermissionError):
                there = target.lstat()
                if stat.S_ISREG(there.st_mode) and there.st_size == copy.stat().st_size:
                    os.utime(target, follow_symlinks=False)
                    sync_folder(str(self._uploads))  # the other one's rename may not be on the disk yet
                    return
            sync_file(str(copy))
            replace(str(copy), str(target))


def shown(reference: str) -> str:
    """The reference as it may be kept and logged: URLs without query and user part, data: URLs without the data."""
    reference = reference.strip()
    if reference[:5].lower() == "data:":
        text = reference[:60].partition(",")[0] + ",…"
    elif "://" in reference and reference[:5].lower() != "s3://":
        text = fetch.shown(reference)
    else:
        text = reference[:200]
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "�", text)


class _DecodeError(Exception):
    """`torn`: it may be the beginning of a picture."""

    def __init__(self, problem: str, *, torn: bool) -> None:
        super().__init__(problem)
        self.torn = torn


def _measure(content: bytes, limits: Limits) -> tuple[str, int, int]:
    """Format and size, proven by decoding every frame: ComfyUI decodes all of them, too. Raises _DecodeError."""
    try:
        with Image.open(BytesIO(content), formats=[kind for kind in _KINDS if kind != "MPO"]) as image:
            kind, (width, height) = str(image.format), image.size
            if kind in ("JPEG", "MPO") and content.count(b"\xff\xda") > MAX_SCANS:
                raise _DecodeError(f"it has more than {MAX_SCANS} scans", torn=False)
            pixels = 0
            for frame in count():
                try:
                    image.seek(frame)
                except EOFError:
                    break
                pixels += image.width * image.height
                if pixels > limits.pixels:
                    raise _DecodeError(f"it has more than {limits.pixels} pixels", torn=False)
                if frame >= MAX_FRAMES:
                    raise _DecodeError(f"it has more than {MAX_FRAMES} frames", torn=False)
                image.load()
                if kind == "MPO":
                    break
    except _DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise _DecodeError(f"it has more than {limits.pixels} pixels", torn=False) from error
    except Exception as error:  # decoders of hostile bytes raise almost anything, MemoryError among it
        torn = _may_be_a_beginning(content)
        problem = "it is damaged or cut off" if torn else "it is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
        raise _DecodeError(problem, torn=torn) from error
    if not _has_its_end(content, kind):
        raise _DecodeError("it is cut off", torn=True)
    return kind, width, height


def _may_be_a_beginning(content: bytes) -> bool:
    """Known first bytes, too few to tell, or zeros: copying over SMB sets the size first and then fills the file."""
    return len(content) < 16 or content.startswith(_BEGINNINGS) or not any(content[:16])


def _has_its_end(content: bytes, kind: str) -> bool:
    """What Pillow does not ask for: the end mark, behind which nothing is missing, or at least no tail of zeros that a
    copying program has still to fill. Nothing can be told of BMP and TIFF, where zeros are black.
    """
    filled = content.rstrip(b"\0")
    if kind == "PNG":
        return b"IEND\xaeB`\x82" in content
    if kind == "GIF":
        return filled.rstrip(b"\r\n").endswith(b";")
    return kind in ("BMP", "TIFF") or len(content) - len(filled) < 64 or filled.endswith(b"\xff\xd9")


def _is_plain(name: str) -> bool:
    return len(name) > 0 and _is_text(name) and len(name.encode()) <= 255 and name[0] != "." and "\\" not in name


def _is_text(text: str) -> bool:
    """No control characters, and none that UTF-8 cannot write."""
    return not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text)


def _bad(reference: str, problem: str) -> Failure:
    return Failure(Reason.BAD_PICTURE, picture=shown(reference), problem=problem)

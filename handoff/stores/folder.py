"""The store for installations without S3: a folder laid out like the bucket, `<root>/<prefix>/<key>`.

Media types and cache rules have no place in a folder and are dropped; sha256 sums are computed when asked for.
"""

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handoff.failures import EdgeError, Permanent, Unavailable
from handoff.stores.contract import CHECK_KEY, CHECK_TEXT, Stored, clean_prefix, whole_key
from handoff.stores.source import Source, open_source

_CHUNK = 1 << 20
_UNFINISHED = ".unfinished"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REFUSED = {
    errno.ELOOP: "a link stands in the way, and links are not followed",
    errno.ENOTDIR: "a file or a link stands where a folder is needed",
    errno.EISDIR: "a folder stands where the file should go",
    errno.ENAMETOOLONG: "a part of the name is longer than this file system allows",
}
_REMEDIES = {
    errno.EACCES: "give this program's user or group write permission on it",
    errno.EPERM: "give this program's user or group write permission on it",
    errno.ENOSPC: "make room; it goes on by itself",
    errno.EDQUOT: "raise the quota or make room; it goes on by itself",
    errno.EROFS: "mount it writable",
    errno.EIO: "look into the kernel's log: the disk may be failing",
}


class FolderStore:
    """Half-written files lie in `<root>/.unfinished/`, outside every prefix, and are renamed into place when whole.

    `root` is made when missing; ValueError for a prefix that cannot be used. Folders and files get the modes the umask leaves (0777 and 0666 before it).
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        self._root = root
        self._prefix = clean_prefix(prefix)

    def put_file(self, key: str, path: Path, *, media_type: str, sha256: str, size: int, cache_control: str) -> None:
        del media_type, cache_control
        with open_source(path, size=size, sha256=sha256) as source:
            self._publish(key, lambda fd: _copy(source, fd), durable=True)

    def put_bytes(
        self, key: str, data: bytes, *, media_type: str, cache_control: str = "no-store", durable: bool = True
    ) -> None:
        del media_type, cache_control
        self._publish(key, lambda fd: _write(fd, data), durable=durable)

    def get_bytes(self, key: str, limit: int) -> bytes | None:
        with self._opened(key) as fd:
            if fd is None:
                return None
            data = b"".join(_chunks(fd, limit + 1))
        if len(data) > limit:
            raise Permanent(f"{self._place(key)} has more than {limit} bytes")
        return data

    def head(self, key: str) -> Stored | None:
        with self._opened(key) as fd:
            if fd is None:
                return None
            size, sha256 = 0, hashlib.sha256()
            for chunk in _chunks(fd):
                size += len(chunk)
                sha256.update(chunk)
        return Stored(size=size, sha256=sha256.hexdigest())

    def create(self, key: str, data: bytes, *, media_type: str) -> bool:
        del media_type
        return self._publish(key, lambda fd: _write(fd, data), durable=True, replace=False)

    def url(self, key: str, *, expires_s: int) -> str | None:
        del key, expires_s
        return None

    def download(self, bucket: str, key: str, path: Path, limit: int) -> int:
        del path, limit
        raise Permanent(f"s3://{bucket}/{key} cannot be fetched: no S3 is set up here (HANDOFF_BUCKET)")

    def describe(self) -> str:
        return f"folder {self._root}, prefix {self._prefix or '(none)'}"

    def check(self) -> None:
        try:
            self.put_bytes(CHECK_KEY, CHECK_TEXT, media_type="text/plain")
        except EdgeError as error:
            raise Unavailable(str(error)) from error
        self._sweep()

    def _sweep(self) -> None:
        """Removes what a killed process left unfinished more than a day ago."""
        with self._explained(CHECK_KEY), self._folder([_UNFINISHED]) as pen:
            for name in os.listdir(pen):
                with suppress(FileNotFoundError):
                    if os.stat(name, dir_fd=pen, follow_symlinks=False).st_mtime < time.time() - 86400:
                        os.unlink(name, dir_fd=pen)

    def _place(self, key: str) -> str:
        return f"{self._root}/{whole_key(self._prefix, key)}"

    def _publish(self, key: str, write: Callable[[int], None], *, durable: bool, replace: bool = True) -> bool:
        """False when `replace` is off and the name is taken."""
        whole = whole_key(self._prefix, key)
        if whole.startswith(f"{_UNFINISHED}/"):
            raise Permanent(f"the key {whole!r} is where this store keeps its unfinished files")
        *folders, name = whole.split("/")
        with self._explained(key), self._opened_root() as root, self._walk(root, [_UNFINISHED]) as pen:
            temporary = secrets.token_hex(8)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=pen)
            try:
                try:
                    write(fd)
                    if durable:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                with self._walk(root, folders) as folder:
                    if replace:
                        os.rename(temporary, name, src_dir_fd=pen, dst_dir_fd=folder)
                    elif not _link(temporary, name, pen, folder):
                        return False
                    if durable:
                        os.fsync(folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=pen)
        return True

    @contextmanager
    def _opened(self, key: str) -> Iterator[int | None]:
        """A file to read, or None where there is none."""
        *folders, name = whole_key(self._prefix, key).split("/")
        with self._explained(key):
            try:
                with self._folder(folders, make=False) as folder:
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                yield None
                return
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise Permanent(f"{self._place(key)} is not a regular file")
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _folder(self, names: list[str], *, make: bool = True) -> Iterator[int]:
        with self._opened_root(make=make) as root, self._walk(root, names, make=make) as folder:
            yield folder

    @contextmanager
    def _opened_root(self, *, make: bool = True) -> Iterator[int]:
        """A root that is no folder may be one again soon: it is a mount point that somebody is working on."""
        try:
            try:
                fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if not make:
                    raise
                os.makedirs(self._root, exist_ok=True)
                fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError) as error:
            raise Unavailable(f"{self._root} is no folder; see that it is mounted") from error
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _walk(self, root: int, names: list[str], *, make: bool = True) -> Iterator[int]:
        """Goes from the root name by name, so that no link on the way leads out of it."""
        fd = os.dup(root)
        try:
            for name in names:
                try:
                    inner = os.open(name, _FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    if not make:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                    os.fsync(fd)  # always: a durable put may come to lie in a folder that a courtesy put made
                    inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            if number in _REFUSED:
                raise Permanent(f"{self._place(key)}: {_REFUSED[number]}") from error
            remedy = _REMEDIES.get(number, "see that it is mounted and writable")
            raise Unavailable(f"{self._place(key)}: {os.strerror(number)}; {remedy}") from error


def _link(temporary: str, name: str, pen: int, folder: int) -> bool:
    """False: the name is taken."""
    try:
        os.link(temporary, name, src_dir_fd=pen, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _copy(source: Source, fd: int) -> None:
    while chunk := source.read(_CHUNK):
        _write(fd, chunk)
    source.verify()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _chunks(fd: int, limit: int | None = None) -> Iterator[bytes]:
    left = limit
    while chunk := os.read(fd, _CHUNK if left is None else min(_CHUNK, left)):
        yield chunk
        if left is not None:
            left -= len(chunk)

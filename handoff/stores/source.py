"""Reading a file that goes into a store: once, without following a link, and only if it is what was promised."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff.failures import Permanent, Unavailable

_NOT_A_FILE = {errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class Source:
    """An open regular file of a known size and sha256. `read` until b"", then `verify`."""

    def __init__(self, fd: int, path: Path, size: int, sha256: str) -> None:
        self.size, self.sha256 = size, sha256
        self._fd, self._path = fd, path
        self._left = size
        self._seen = hashlib.sha256()

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, fewer only at the end. Permanent when the file ends early."""
        parts = []
        wanted = min(count, self._left)
        while wanted:
            part = os.read(self._fd, wanted)
            if not part:
                raise Permanent(f"{self._path} became shorter than its {self.size} bytes while it was read")
            self._seen.update(part)
            parts.append(part)
            wanted -= len(part)
            self._left -= len(part)
        return b"".join(parts)

    def verify(self) -> None:
        """Permanent when what was read is not what was promised."""
        if os.read(self._fd, 1):
            raise Permanent(f"{self._path} became longer than its {self.size} bytes while it was read")
        if self._seen.hexdigest() != self.sha256:
            raise Permanent(f"{self._path} changed: its sha256 is no longer {self.sha256}")


@contextmanager
def open_source(path: Path, *, size: int, sha256: str) -> Iterator[Source]:
    """Permanent unless `path` is a regular file of `size` bytes; Unavailable when it may not be read or the disk fails."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        said = f"{path} cannot be opened: {os.strerror(error.errno or 0)}"
        if error.errno in _NOT_A_FILE:
            raise Permanent(f"{said} (links are not followed)") from error
        raise Unavailable(f"{said}; give this program's user or group read permission") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Permanent(f"{path} is not a regular file")
        if found.st_size != size:
            raise Permanent(f"{path} has {found.st_size} bytes, not {size}")
        yield Source(fd, path, size, sha256)
    finally:
        os.close(fd)

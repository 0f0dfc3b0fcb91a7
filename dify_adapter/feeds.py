"""The watchers' feeds: ids whose status changed, a line each, at the end of `output/.handoff/w-*/feed`."""

import os
import stat

_MOST = 4 << 20  # bytes read at once; a feed begins anew when it has grown by one


class Feeds:
    """Remembers how far each feed was read. What was written before the first look is not told."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, int]] = {}
        """By the pen: the feed's inode number and how many bytes of it were read."""

    def skip(self, pen: str) -> None:
        """What is there already is known."""
        found = _stat(pen)
        if found is not None:
            self._read[pen] = found.st_ino, found.st_size

    def read(self, pen: str) -> set[str]:
        """The ids that were announced since the last look; of a feed that began anew, everything in it."""
        try:
            descriptor = os.open(f"{pen}/feed", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # a hint that does not come: status.json is looked at by and by
            self._read.pop(pen, None)
            return set()
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return set()
            inode, start = self._read.get(pen, (found.st_ino, 0))
            if inode != found.st_ino or found.st_size < start:
                start = 0
            data = os.pread(descriptor, _MOST, start)
        finally:
            os.close(descriptor)
        whole = data.rfind(b"\n") + 1  # the rest of a line that is just being written comes with the next look
        self._read[pen] = found.st_ino, start + whole
        return set(data[:whole].decode("ascii", "replace").split("\n")) - {""}

    def forget(self, pens: frozenset[str]) -> None:
        """All pens but these are gone."""
        for pen in self._read.keys() - pens:
            del self._read[pen]


def _stat(pen: str) -> os.stat_result | None:
    try:
        return os.stat(f"{pen}/feed", follow_symlinks=False)
    except OSError:
        return None

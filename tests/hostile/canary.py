"""A tree beside the volume that nobody may touch: the kernel tells of each open and change, and the end is compared with the beginning."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# <sys/inotify.h>
_ACCESS, _MODIFY, _ATTRIB, _OPEN = 0x1, 0x2, 0x4, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_ALL = _ACCESS | _MODIFY | _ATTRIB | _OPEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_NAMES = {_ACCESS: "read", _MODIFY: "written", _ATTRIB: "attributes", _OPEN: "opened", _CREATE: "made", _DELETE: "deleted"}  # fmt: skip
_HEADER = struct.Struct("iIII")

Picture = dict[str, tuple[int, int, int, int, bytes]]


@dataclass
class Canary:
    """`touched` fills when the block ends: what happened in the tree, by path."""

    root: Path
    touched: set[str] = field(default_factory=set)


@contextmanager
def watched(root: Path) -> Iterator[Canary]:
    """The test may not look into the tree itself while the block lasts."""
    before = _look(root)
    canary = Canary(root)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    try:
        folders = {}
        for path in [folder for folder, _, _ in os.walk(root)]:
            watch = libc.inotify_add_watch(descriptor, os.fsencode(path), _ALL)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            folders[watch] = os.path.relpath(path, root)
        try:
            yield canary
        finally:
            canary.touched |= _read_events(descriptor, folders)
    finally:
        os.close(descriptor)
    after = _look(root)
    canary.touched |= {
        f"{path} differs" for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    }


def _read_events(descriptor: int, folders: dict[int, str]) -> set[str]:
    found: set[str] = set()
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return found
        while data:
            watch, mask, _, length = _HEADER.unpack_from(data)
            name = data[_HEADER.size : _HEADER.size + length].rstrip(b"\0").decode(errors="replace")
            data = data[_HEADER.size + length :]
            what = next((word for bit, word in _NAMES.items() if mask & bit), "moved")
            found.add(f"{os.path.normpath(os.path.join(folders.get(watch, '?'), name))} {what}")


def _look(root: Path) -> Picture:
    seen: Picture = {}
    for folder, names, files in os.walk(root):
        for name in ("", *names, *files):
            path = Path(folder, name)
            status = path.lstat()
            data = path.read_bytes() if name in files and path.is_file() else b""
            seen[str(path.relative_to(root))] = (
                status.st_mode,
                status.st_uid,
                status.st_mtime_ns,
                status.st_nlink,
                data,
            )
    return seen

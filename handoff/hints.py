"""Hints that something changed in a folder. Never the truth: `os.scandir` is; an event only says where to look now.

Watchdog as it comes holds every event back for half a second behind an unmatched rename, which each claim is, and with
a filter on moves it does not see files that are renamed in from outside. So the kernel is asked for neither: what is
created, closed after writing or renamed in is enough.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants, Mask

from handoff import log

DEAF = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fakeowner", "osxfs", "vboxsf", "prl_fs", "ceph", "lustre", "beegfs",
    "gfs2", "ocfs2", "afs",
})  # fmt: skip
"""File systems whose files others may change without this kernel's knowledge; FUSE's are more of them."""

OnHint = Callable[[str, str], None]
"""Called from another thread with a folder and a name in it; with an empty name: anything may have changed there."""


class _Emitter(InotifyEmitter):
    mask: ClassVar[Mask] = Mask(
        InotifyConstants.IN_MOVED_TO
        | InotifyConstants.IN_CLOSE_WRITE
        | InotifyConstants.IN_CREATE
        | InotifyConstants.IN_DELETE_SELF
    )

    def get_event_mask_from_filter(self) -> Mask:
        return self.mask


class _Handler(FileSystemEventHandler):
    def __init__(self, folder: str, on_hint: OnHint, removed: threading.Event) -> None:
        self._folder = folder
        self._on_hint = on_hint
        self._removed = removed

    def dispatch(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if path == self._folder:  # the folder itself was removed
            self._removed.set()
            self._on_hint(self._folder, "")
        elif os.path.dirname(path) == self._folder:
            self._on_hint(self._folder, os.path.basename(path))


class _Overflow(logging.Handler):
    """Watchdog tells of lost events in its log only."""

    def __init__(self, folders: Sequence[str], on_hint: OnHint) -> None:
        super().__init__(logging.WARNING)
        self._folders = folders
        self._on_hint = on_hint

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            log.get().warning(
                "events_lost", hint="more files came than the kernel remembers: the folders are looked through"
            )
            for folder in self._folders:
                self._on_hint(folder, "")


class Hints:
    """Watches some folders, not what lies below them."""

    def __init__(self, folders: Sequence[str], on_hint: OnHint) -> None:
        self._folders = folders
        self._on_hint = on_hint
        self._observer: BaseObserver | None = None
        self._armed: dict[str, int] = {}
        self._removed = threading.Event()
        """A folder was removed: one that is made anew may get the same inode number."""
        self._overflow = _Overflow(folders, on_hint)
        log = logging.getLogger("watchdog.observers")
        log.addHandler(self._overflow)
        log.propagate = False

    def arm(self) -> str | None:
        """Starts watching, or starts again where a folder was replaced. Returns why it cannot, or None.

        Look through the folders after this: what came before it raised no event.
        """
        inodes = {folder: _inode(folder) for folder in self._folders}
        if self._observer is not None and inodes == self._armed and not self._removed.is_set():
            return None
        self.stop()
        self._removed.clear()
        observer = BaseObserver(_Emitter)
        try:
            observer.start()
            for folder in self._folders:
                observer.schedule(
                    _Handler(folder, self._on_hint, self._removed),
                    folder,
                    event_filter=[FileCreatedEvent, FileClosedEvent, DirCreatedEvent, DirDeletedEvent],
                )
        except OSError as error:
            observer.stop()
            # the limits on watches and instances are shared by all programs of a user
            is_limit = error.errno in (errno.ENOSPC, errno.EMFILE)
            remedy = ": raise fs.inotify.max_user_watches and fs.inotify.max_user_instances" if is_limit else ""
            return f"{error.strerror}{remedy}"
        self._observer, self._armed = observer, inodes
        return None

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            with suppress(RuntimeError):
                self._observer.join(timeout=2)
            self._observer = None

    def close(self) -> None:
        self.stop()
        logging.getLogger("watchdog.observers").removeHandler(self._overflow)


def find_deaf_mount(folders: Sequence[str]) -> str | None:
    """Why events of what others write may not come, where that can be told beforehand: by the kind of file system."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        kinds = read_kinds(file)
    for folder in folders:
        with suppress(FileNotFoundError):
            device = os.stat(folder).st_dev
            kind = kinds.get(f"{os.major(device)}:{os.minor(device)}", "")
            if kind in DEAF or kind.startswith("fuse"):
                return f"{folder} is a mount ({kind}) that brings no events of what others write"
    return None


def read_kinds(mountinfo: Iterable[str]) -> dict[str, str]:
    """The file system of each device number."""
    halves = (line.partition(" - ") for line in mountinfo)
    return {mount.split()[2]: system.split()[0] for mount, _, system in halves}


def _inode(folder: str) -> int:
    try:
        return os.stat(folder).st_ino
    except FileNotFoundError:
        return 0

"""What one run of a watcher owns: its folder in `input/`, its pen in `output/`, and nothing else.

Everything a watcher publishes leaves one of these two by rename or link. Whoever takes its jobs over first removes
both, so that a frozen watcher that wakes up fails at the very call that would do harm. It need not check anything.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from handoff.durable import disk_errors, write_file
from handoff.failures import EdgeError
from handoff.folders import FOLDER_MODE, Folders
from handoff.spool import lease

TRIAL = ".trial-"  # what the names of trials begin with; a killed start may leave some
UNFINISHED = ("c-", "b-", "r-", "from-")  # what a watcher that leaves may not take with it


class Fenced(Exception):  # noqa: N818
    """Another watcher took this one's jobs over. Forget everything and start again as a new one."""


class UnfitVolume(EdgeError):  # noqa: N818
    """The file system cannot do what the protocol needs; the text says what, and the remedy."""


class SecondWatcher(EdgeError):  # noqa: N818
    """Another live watcher already serves the same ComfyUI."""


class Seat:
    def __init__(self, folders: Folders, server: str, give_up: Callable[[], bool] = lambda: False) -> None:
        """Takes a seat; waits a moment for a rival that is leaving, unless told to give up.

        Raises UnfitVolume, SecondWatcher, Unavailable.
        """
        self.folders = folders
        self.server = server
        self.wid = secrets.token_hex(8)
        self.suspects = Lock()  # see `suspicion`
        self.path = folders.watcher(self.wid)
        self.pen = folders.pen(self.wid)
        prove(folders)
        with disk_errors(self.pen):
            os.mkdir(self.pen)
            os.chmod(self.pen, FOLDER_MODE)
            starting = f"{folders.spool}/new-{self.wid}"
            os.mkdir(starting)
            os.chmod(starting, FOLDER_MODE)
            text = lease.LeaseText(wid=self.wid, server=server, boot_id=lease.boot_id(), beat=0)
            self.lease = lease.create(f"{starting}/lease", text)
            try:
                # a lease that can be seen before it is locked looks dead
                os.rename(starting, self.path)
                self._outwait_rivals(give_up)
                self.beat({})  # from here on one that starts later sees that this one stays
            except BaseException:
                self.leave()
                raise

    def _outwait_rivals(self, give_up: Callable[[], bool]) -> None:
        for _ in range(30):
            if (rival := self._find_rival()) is None:
                return
            if give_up():
                break
            time.sleep(0.1)
        raise SecondWatcher(
            f"another watcher ({rival}) already serves {self.server}; stop it, or give this one a ComfyUI and a"
            " HANDOFF_WATCHER_NAME of its own"
        )

    def _find_rival(self) -> str | None:
        """A live watcher on the same ComfyUI. Of two that start at once the one with the lower id stays."""
        for wid in other_watchers(self.folders, self.wid):
            path = f"{self.folders.watcher(wid)}/lease"
            text = lease.read(path)
            if text is None or text.server != self.server or text.boot_id != self.lease.text.boot_id:
                continue
            if not lease.is_released(path) and (text.beat > 0 or wid < self.wid):
                return wid
        return None

    @contextmanager
    def power(self) -> Iterator[None]:
        """Around every step that uses one of the two folders. Raises Fenced when they are no longer ours."""
        try:
            yield
        except FileNotFoundError as error:
            if not self.held():
                raise Fenced from error
            raise

    def held(self) -> bool:
        return os.path.isdir(self.path) and os.path.isdir(self.pen)

    def beat(self, health: dict[str, Any]) -> None:
        self.lease.beat(health, time.clock_gettime(time.CLOCK_BOOTTIME))

    def record_path(self, token: str) -> str:
        return f"{self.path}/r-{token}"

    def leave(self) -> None:
        """Ends this run. What is unfinished stays in the folder, unlocked, for the next watcher.

        Only `rmdir` may judge that nothing is left: a job may still come in after a look.
        """
        with suppress(OSError):
            names = os.listdir(self.path)
            if not any(name.startswith(UNFINISHED) for name in names):
                for name in sorted(names, key="lease".__eq__):
                    os.unlink(f"{self.path}/{name}")
                os.rmdir(self.path)
                shutil.rmtree(self.pen)
        self.lease.close()


def other_watchers(folders: Folders, wid: str) -> list[str]:
    """The ids of all other watchers that have a folder, alive or dead. Links and files of such names are no watchers."""
    with os.scandir(folders.spool) as entries:
        names = [entry.name for entry in entries if entry.name.startswith("w-") and entry.is_dir(follow_symlinks=False)]
    return sorted(name.removeprefix("w-") for name in names if name != f"w-{wid}")


def has_others(seat: Seat) -> bool:
    """Whether there is anybody who may have taken this watcher's jobs over."""
    try:
        return bool(other_watchers(seat.folders, seat.wid))
    except OSError:
        return False


def prove(folders: Folders) -> None:
    """Tries out what the protocol rests on. Comparing device numbers would not do: two bind mounts of one file system
    have the same number and still refuse a rename between them.

    Raises UnfitVolume with the remedy.
    """
    name = f"{TRIAL}{secrets.token_hex(8)}"
    scratch = [f"{folders.spool}/{name}", f"{folders.pens}/{name}"]
    try:
        with disk_errors(folders.spool):
            for folder in scratch:
                os.mkdir(folder)
                write_file(f"{folder}/a", b"handoff", durable=False)
        for folder in (folders.tmp, folders.ids):
            _prove_one_mount(folder, folders.inbox, "input/")
        _prove_one_mount(folders.work, folders.pens, "output/")
        _prove_rename(f"{scratch[0]}/a", f"{folders.input}/{name}", "input/")
        _prove_rename(f"{folders.input}/{name}", f"{folders.inbox}/{name}", "input/")
        for folder in (folders.uploads, folders.rejected, folders.done):
            _prove_rename(f"{folders.inbox}/{name}", f"{folder}/{name}", "input/")
            _prove_rename(f"{folder}/{name}", f"{folders.inbox}/{name}", "input/")
        os.unlink(f"{folders.inbox}/{name}")
        _prove_rename(f"{scratch[1]}/a", f"{folders.output}/{name}", "output/")
        os.unlink(f"{folders.output}/{name}")
        _prove_link(scratch[0], f"{folders.ids}/{name}")
    except FileNotFoundError as error:
        raise UnfitVolume(f"{error.filename} was removed while the volume was tried out: start again") from None
    finally:
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)


def _prove_one_mount(one: str, other: str, where: str) -> None:
    """By the rename of what is not there: the kernel looks at the mounts first, and nothing is left when it is killed."""
    name = f"{TRIAL}{secrets.token_hex(8)}"
    with suppress(FileNotFoundError):
        _prove_rename(f"{one}/{name}", f"{other}/{name}", where)


def _prove_rename(source: str, target: str, where: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise UnfitVolume(f"a file cannot be renamed inside {where}: {error.strerror}") from error
        raise UnfitVolume(
            f"{where} spans two mounts, and a rename between them is refused. Mount {where} as one volume;"
            " do not mount its subfolders one by one"
        ) from error


def _prove_link(scratch: str, target: str) -> None:
    write_file(f"{scratch}/b", b"handoff", durable=False)
    where = os.path.dirname(target)
    try:
        os.link(f"{scratch}/b", target)
        try:
            os.link(f"{scratch}/b", target)
        except FileExistsError:
            return
        raise UnfitVolume(f"{where}: a hard link replaced an existing name. Use a file system that refuses this")
    except OSError as error:
        raise UnfitVolume(
            f"{where}: hard links do not work ({error.strerror}). Use a local file system or NFS; on SMB and some"
            " desktop mounts they are missing"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(target)

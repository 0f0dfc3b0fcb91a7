"""What becomes of a dead watcher's jobs: who may say that it is dead, and in which order it is taken over.

Two proofs of death. On the same ComfyUI and machine: its lock is free. Any other: its beat did not change for the
lease's time on *our own* monotonic clock. Another GPU's watcher may not go by the lock alone: the first ComfyUI still
has the prompt, and its watcher may be back in two seconds. No wall clock, since one that is set forward would kill the living.
"""

import errno
import os
import shutil
import stat
import time
from contextlib import suppress

from handoff.durable import disk_errors, sync_folder
from handoff.failures import NotPermitted
from handoff.spool import lease
from handoff.spool.seat import TRIAL, Fenced, Seat, SecondWatcher, other_watchers

AGAIN_S, PATIENCE = 0.05, 40  # seconds between two tries, and how many
MOVED = ("c-", "b-", "x-", "r-", "from-")
"""In this order: `c-` before `b-`, else its owner could see a claim without the job made of it, and take it in again."""
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
STARTING_S = 60.0  # a watcher that has not finished starting by then died while it did


class DeathWatch:
    """What this watcher has seen of the others' beats."""

    def __init__(self, seat: Seat, lease_s: float) -> None:
        self._seat = seat
        self._lease_s = lease_s
        self._seen: dict[str, tuple[int | None, float]] = {}

    def find_dead(self, now: float) -> list[str]:
        """The ids of watchers proved dead. `now`: monotonic seconds.

        Raises Fenced when this one was taken over itself, SecondWatcher when an older one on another machine serves the
        same ComfyUI.
        """
        with self._seat.power():
            others = other_watchers(self._seat.folders, self._seat.wid)
        dead = [wid for wid in others if self._is_dead(wid, now)]
        self._seen = {wid: seen for wid, seen in self._seen.items() if wid in others}
        return dead

    def _is_dead(self, wid: str, now: float) -> bool:
        path = f"{self._seat.folders.watcher(wid)}/lease"
        text = lease.read(path)
        mine = self._seat.lease.text
        if text is not None and (text.server, text.boot_id) == (mine.server, mine.boot_id) and lease.is_released(path):
            return True
        beat = None if text is None else text.beat
        last, since = self._seen.get(wid, (None, now))
        if text is not None and text.server == mine.server and last not in (None, beat) and text.beat > mine.beat:
            raise SecondWatcher(
                f"a watcher on another machine ({wid}) already serves {mine.server}; give this one a HANDOFF_WATCHER_NAME"
            )
        if wid not in self._seen or last != beat:
            self._seen[wid] = (beat, now)
            return False
        return now - since >= self._lease_s


def take_over(seat: Seat, wid: str) -> bool:
    """Moves a dead watcher's jobs into this one's folder. False: another watcher was faster.

    One rename takes all of its power over `input/` at once. Raises Fenced when this watcher was taken over itself.
    """
    with seat.power(), disk_errors(seat.path):
        try:
            os.rename(seat.folders.watcher(wid), f"{seat.path}/from-{wid}")
        except FileNotFoundError:
            if not seat.held():
                raise
            return False
    finish_takeovers(seat)
    return True


def finish_takeovers(seat: Seat) -> bool:
    """Empties every `from-*` folder, also one that a watcher left behind which died while taking over. False: none was there.

    Before anything else: a job that was worked on earlier could be journalled twice or never come to rest.
    Raises Fenced, DiskUnavailable, and NotPermitted for what cannot be removed: come by again.
    """
    folders: list[str] = []
    with seat.power(), disk_errors(seat.path):
        for number in range(PATIENCE):
            folders = _find_unfinished(seat)
            if not folders:
                return number > 0
            emptied = [_finish_takeover(seat, name) for name in folders]
            if not all(emptied):
                time.sleep(AGAIN_S)
    raise NotPermitted(f"{seat.path}/{folders[0]} does not get empty: see who still writes there")


def is_unfinished(seat: Seat) -> bool:
    """Whether a takeover could not be finished: until it is, nothing that came with it may be gone on with. Raises Fenced."""
    with seat.power():
        return bool(_find_unfinished(seat))


def _find_unfinished(seat: Seat) -> list[str]:
    return sorted(name for name in os.listdir(seat.path) if name.startswith("from-"))


def _finish_takeover(seat: Seat, name: str) -> bool:
    """False: something came in meanwhile, since its owner may use the folder until it is gone. Come by again."""
    folder = f"{seat.path}/{name}"
    if not stat.S_ISDIR(os.lstat(folder).st_mode):  # planted: a link would lead out of the volume
        os.unlink(folder)
        return True
    _remove_pen(seat, name.removeprefix("from-"))  # from here on that watcher cannot publish a status
    names = os.listdir(folder)
    for prefix in MOVED:
        for entry in names:
            if entry.startswith(prefix):
                with suppress(FileNotFoundError):
                    os.rename(f"{folder}/{entry}", f"{seat.path}/{entry}")
    for entry in names:
        if not entry.startswith(MOVED):
            _remove(f"{folder}/{entry}")
    sync_folder(seat.path)  # while the folder is there, whatever fails is done again
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        return False
    return True


def _remove(path: str) -> None:
    """Whatever it is. It may still be there afterwards, if somebody puts something in or removes it at the same time."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        try:
            shutil.rmtree(path)
        except OSError as error:
            if error.errno not in (*_NOT_EMPTY, errno.ENOENT):
                error.filename = path  # it was a mere name, relative to a folder inside
                raise


def _remove_pen(seat: Seat, wid: str) -> None:
    pen = seat.folders.pen(wid)
    for _ in range(PATIENCE):
        _remove(pen)
        if not os.path.lexists(pen):
            return
        if not seat.held():
            raise Fenced
        time.sleep(AGAIN_S)
    raise NotPermitted(f"{pen} of a dead watcher cannot be removed: see who owns it")


def clear_leftovers(seat: Seat, *, thoroughly: bool) -> None:
    """Removes what watchers left that died while they started: trials, `new-*`, and pens without a folder in `input/`.

    Thoroughly: also in the folders that hold a name for everything ever done.
    """
    folders = seat.folders
    small = (folders.input, folders.spool, folders.inbox, folders.pens)
    large = (folders.uploads, folders.rejected, folders.done, folders.ids, folders.output)
    for folder in (*small, *large) if thoroughly else small:
        for name in os.listdir(folder):
            is_pen = folder == folders.pens and name.startswith("w-")
            is_start = folder == folders.spool and name.startswith("new-")
            if is_pen and os.path.lexists(folders.watcher(name.removeprefix("w-"))):
                continue
            if (is_pen or is_start or name.startswith(TRIAL)) and _is_old(f"{folder}/{name}"):
                with suppress(OSError):  # another user's: it harms nobody
                    _remove(f"{folder}/{name}")


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.stat(path, follow_symlinks=False).st_mtime > STARTING_S
    except FileNotFoundError:
        return False

"""Follows a job to its end, with a progress bar on a terminal and a line for each change elsewhere."""

import os
import sys
import time
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from handoff.folders import Folders
from handoff.spool import listing
from handoff.spool.record import Record, Tombstone
from handoff.spool.sight import Sight
from handoff.state import Status
from handoff.status import StatusDocument
from handoff_cli.exits import Exit, Stopped, unknown_id
from handoff_cli.rendering import clean, console, describe, note, print_job, print_json, to_json

_SHORTEST_S, _LONGEST_S = 0.1, 0.5  # between two looks


class Follower:
    """Looks cheaply: a status that did not change is not read again."""

    def __init__(self, folders: Folders, id: str) -> None:
        self._folders = folders
        self._id = id
        self._record: Record | None = None
        self._signature: tuple[int, ...] | None = None
        self._seen: Sight | None = None

    def look(self) -> Sight:
        """Raises Stopped (unknown id), UnreadableDocument."""
        signature = _sign(self._folders.status(self._id))
        if self._seen is None or signature is None or signature != self._signature:
            document = listing.find_status(self._folders, self._id)
            if document is None:
                raise unknown_id(self._id)
            self._seen, self._signature = Sight(document=document, position=self._find_position(document)), signature
        return self._seen

    def follow(self, *, wait_s: float | None) -> Iterator[Sight]:
        """What is seen now and then every change, until the job is done or the time is over. `wait_s` None: no limit."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        last, pause = None, _SHORTEST_S
        while True:
            sight = self.look()
            if sight != last:
                yield sight
                last, pause = sight, _SHORTEST_S
            left = None if deadline is None else deadline - time.monotonic()
            if sight.done or (left is not None and left <= 0):
                return
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.3, _LONGEST_S)

    def _find_position(self, document: StatusDocument | Tombstone) -> int | None:
        if document.status != Status.QUEUED:
            return None
        self._record = self._record or listing.find_record(self._folders, self._id)
        return None if self._record is None else listing.queue_position(self._folders, self._record)


def _sign(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def show_now(folders: Folders, id: str, *, as_json: bool) -> Exit:
    """Prints what is known of a job at this moment."""
    return _answer(Follower(folders, id).look(), folders, id, as_json=as_json)


def wait(folders: Folders, id: str, *, wait_s: float | None, as_json: bool) -> Exit:
    """Follows the job and prints how it ended. WAIT_OVER when it did not within `wait_s` seconds."""
    sights = Follower(folders, id).follow(wait_s=wait_s)
    try:
        last = _show_bar(sights) if sys.stderr.isatty() else _show_lines(sights)
    except KeyboardInterrupt:
        raise Stopped(
            Exit.INTERRUPTED, f"The job goes on. `handoff status {id}` shows it, `handoff cancel {id}` stops it."
        ) from None
    status = _answer(last, folders, id, as_json=as_json)
    if last.done:
        return status
    note(f"The wait is over and the job goes on: `handoff status {id} --wait`.")
    return Exit.WAIT_OVER


def _answer(sight: Sight, folders: Folders, id: str, *, as_json: bool) -> Exit:
    if as_json:
        print_json(to_json(sight.document, id, sight.position))
    else:
        print_job(sight.document, id, sight.position, folders)
    failed = sight.done and sight.status is not Status.SUCCEEDED  # one that goes on may still end well
    return Exit.JOB_FAILED if failed else Exit.DONE


def _show_bar(sights: Iterator[Sight]) -> Sight:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        for sight in sights:
            document = sight.document
            share = document.progress if isinstance(document, StatusDocument) and document.status == "running" else None
            line = clean(describe(document, sight.position))
            progress.update(task, description=line, completed=share or 0, total=None if share is None else 1.0)
    return sight


def _show_lines(sights: Iterator[Sight]) -> Sight:
    """One line for each change of status or place, none for each step of a sampler."""
    shown = None
    for sight in sights:
        key = (sight.document.status, sight.position)
        if key != shown and not sight.done:
            note(describe(sight.document, sight.position))
        shown = key
    return sight

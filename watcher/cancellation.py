"""Cancel marks: `input/<id>.cancel`, made by anybody. A mark stays until the final status is out, so no crash forgets it.

Any watcher may claim a waiting job to cancel it; the owner acts on one that is claimed; a mark for a job that is over is
removed, and one for an id that nobody knows is rejected after a while, since it would kill a later job of that id.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace

from handoff import log
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.job import is_id
from handoff.spool import reservations
from handoff.spool.journal import Journal
from handoff.spool.reservations import Reservation
from handoff.status import StatusDocument
from watcher.live import Jobs, Live
from watcher.tasks import Tasks

UNKNOWN_S = 60.0


class Cancellation:
    """`claim` takes a waiting job by its token, or gives None; `reject` moves a mark to `rejected/`."""

    def __init__(
        self,
        tasks: Tasks,
        jobs: Jobs,
        folders: Folders,
        journal: Journal,
        *,
        claim: Callable[[str], Live | None],
        reject: Callable[[str, Failure], None],
    ) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._folders = folders
        self._journal = journal
        self._claim = claim
        self._reject = reject
        self._unknown: dict[str, float] = {}
        self._log = log.get()

    def take(self, id: str) -> None:
        """Somebody's wish, seen now, perhaps again."""
        live = self._jobs.find(id)
        if live is None:
            self._tasks.aside("files", lambda: self._find(id), lambda found: self._act(id, found))
        elif not live.cancelled and not live.document.done:
            self._log.info("cancel", id=id, phase=live.phase.name)
            live.cancelled = True
            self._tasks.advance(live)

    def _find(self, id: str) -> Reservation | None:
        found = reservations.find(self._folders, id) if is_id(id) else None
        if found is None or found.finished:
            return found
        document = StatusDocument.find(self._folders.status(id))
        if document is None and found.token is None:  # somebody's folder of that name, and no job
            return None
        return replace(found, finished=document is not None and document.done)

    def _act(self, id: str, found: Reservation | None) -> None:
        if found is None:
            first = self._unknown.setdefault(id, time.monotonic())
            if time.monotonic() - first >= UNKNOWN_S:
                del self._unknown[id]
                self._reject(os.path.basename(self._folders.cancel_mark(id)), Failure(Reason.UNKNOWN_ID, id=id))
            return
        self._unknown.pop(id, None)
        if self._jobs.find(id) is not None:  # claimed meanwhile
            self.take(id)
        elif found.finished:
            self._tasks.aside("files", lambda: self._journal.remove_mark(id))
        elif found.token is not None and (live := self._claim(found.token)) is not None:
            self._log.info("cancel", id=id, phase="waiting")
            live.cancelled = True
            self._tasks.advance(live)

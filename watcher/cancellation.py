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
        self._unknown: dict[str, tuple[float, float]] = {}
        """Ids that nobody knows: when their mark was first and last seen."""
        self._asked: set[str] = set()
        self._log = log.get()

    def take(self, id: str) -> None:
        """Somebody's wish, seen now, perhaps again."""
        live = self._jobs.find(id)
        if live is None:
            if id not in self._asked:
                self._asked.add(id)
                self._tasks.aside(
                    "files",
                    lambda: self._find(id),
                    lambda found: self._act(id, found),
                    lambda: self._asked.discard(id),
                )
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
        self._asked.discard(id)
        if found is None:
            self._wait_for(id)
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

    def _wait_for(self, id: str) -> None:
        """The job may be on its way. A mark that was not seen for a while was taken back: the time starts anew."""
        now = time.monotonic()
        self._unknown = {id: seen for id, seen in self._unknown.items() if now - seen[1] < UNKNOWN_S}
        first = self._unknown.get(id, (now, now))[0]
        self._unknown[id] = (first, now)
        if now - first >= UNKNOWN_S:
            del self._unknown[id]
            self._reject(os.path.basename(self._folders.cancel_mark(id)), Failure(Reason.UNKNOWN_ID, id=id))

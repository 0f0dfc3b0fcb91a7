"""How long a job may still take, guessed by how long the last ones took. A guess; nothing depends on it."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from threading import Lock

from handoff import timestamps
from handoff.failures import EdgeError
from handoff.folders import Folders
from handoff.spool import listing
from handoff.spool.listing import FindStatus
from handoff.state import Status
from handoff.status import StatusDocument, seconds_between

RENEWED_S = 30.0
_SAMPLE = 20
_MOST_READ = 60


class Estimate:
    """The last finished jobs are looked through at most every RENEWED_S seconds."""

    def __init__(self, folders: Folders, find_published: FindStatus | None = None) -> None:
        self._folders = folders
        self._find_published = find_published
        self._lock = Lock()
        self._renewed_at: float | None = None
        self._usual: dict[str | None, float] = {}
        """Seconds of a run, by workflow; under None that of any."""
        self._watchers = 1
        self._inside = 0

    def guess(self, document: StatusDocument, position: int | None) -> float | None:
        """Seconds until the end. None where nothing is known: no job succeeded yet, or it is over."""
        if document.done:
            return None
        self._renew()
        usual = self._usual.get(document.workflow, self._usual.get(None))
        if usual is None:
            return None
        if document.status is Status.SAVING:
            return 0.0
        if document.status is Status.RUNNING:
            elapsed = seconds_between(document.started_at, timestamps.to_text(timestamps.now())) or 0.0
            return round(max(0.0, usual - elapsed), 1)
        ahead = self._inside + position if position else 1
        return round(usual * max(1.0, ahead / self._watchers), 1)

    def _renew(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._renewed_at is not None and now - self._renewed_at < RENEWED_S:
                return
            self._renewed_at = now
        runs: dict[str | None, list[float]] = {}
        for job in self._list_last():
            if job.run_s is not None:
                runs.setdefault(job.workflow, []).append(job.run_s)
                runs.setdefault(None, []).append(job.run_s)
        self._usual = {workflow: median(seconds) for workflow, seconds in runs.items()}
        seats = [name for name in _names(self._folders.spool) if name.startswith("w-")]
        self._watchers = max(1, len(seats))
        self._inside = sum(name.startswith("r-") for seat in seats for name in _names(f"{self._folders.spool}/{seat}"))

    def _list_last(self) -> Sequence[StatusDocument]:
        with suppress(EdgeError):
            return listing.list_jobs(
                self._folders,
                statuses={Status.SUCCEEDED},
                limit=_SAMPLE,
                find_published=self._find_published,
                most_read=_MOST_READ,
            ).jobs
        return ()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

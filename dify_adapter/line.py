"""The line of waiting jobs, by the names in the inbox, which are in the order of work. No file is opened."""

import os
import time
from bisect import bisect_left
from dataclasses import dataclass
from threading import Lock

from handoff.folders import Folders
from handoff.job import inbox_name, inbox_token
from handoff.spool.record import Record

_TICK_NS = 20_000_000
"""A folder's time of change moves in ticks of some milliseconds: what comes in the same tick as a look may not show."""


@dataclass(frozen=True)
class _Look:
    changed_ns: int
    settled: bool
    names: list[str]


class Line:
    """Looks again only when the inbox changed, so that a thousand pollers of a long line cost one listing."""

    def __init__(self, folders: Folders) -> None:
        self._inbox = folders.inbox
        self._lock = Lock()
        self._seen: _Look | None = None

    def find_place(self, waiting: Record) -> int | None:
        """1 is next. None when it does not wait in line: a watcher has it already."""
        mine = inbox_name(waiting.rank, waiting.token)
        try:
            names = self._look()
        except OSError:
            return None
        place = bisect_left(names, mine)
        return place + 1 if names[place : place + 1] == [mine] else None

    def _look(self) -> list[str]:
        with self._lock:
            changed_ns = os.stat(self._inbox).st_mtime_ns
            if self._seen is None or self._seen.changed_ns != changed_ns or not self._seen.settled:
                settled = abs(time.time_ns() - changed_ns) > _TICK_NS
                names = sorted(name for name in os.listdir(self._inbox) if inbox_token(name))
                self._seen = _Look(changed_ns, settled, names)
            return self._seen.names

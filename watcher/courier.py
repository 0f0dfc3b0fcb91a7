"""Progress for those who poll the bucket: the newest document of each job, at leisure. Nothing rests on it."""

import heapq
import threading
import time
from collections.abc import Callable

from handoff import log
from handoff.failures import EdgeError
from handoff.status import StatusDocument

FIRST_S = 1.0  # until the first word of a job: many are over before
PAUSE_S = 2.0  # between two puts for one job
_MOST = 1_000  # jobs whose progress waits to be put; beyond that it is dropped


class Courier:
    def __init__(self, put: Callable[[StatusDocument], None]) -> None:
        self._put = put
        self._newest: dict[str, StatusDocument] = {}
        self._due: dict[str, float] = {}
        """When a job may be told of next; kept until its last word."""
        self._order: list[tuple[float, str]] = []
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def tell(self, document: StatusDocument) -> None:
        """Replaces what is still waiting to be told of this job. The last word of a job is final."""
        with self._condition:
            if len(self._newest) >= _MOST and document.id not in self._newest:
                if document.done:
                    self._due.pop(document.id, None)
                return
            self._newest[document.id] = document
            now = time.monotonic()
            due = now if document.done else self._due.get(document.id, now + FIRST_S)
            self._due[document.id] = due
            heapq.heappush(self._order, (due, document.id))
            self._condition.notify()

    def close(self, *, by: float) -> None:
        """Tells nothing more; waits for a put that is under way until `by` (monotonic seconds)."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(max(0.0, by - time.monotonic()))

    def _run(self) -> None:
        while (document := self._next()) is not None:
            try:
                self._put(document)
            except EdgeError:
                time.sleep(PAUSE_S)  # the bucket is away; the final status has an outbox of its own
            except Exception:  # noqa: BLE001 - a courtesy may fail, and goes on with the next
                log.get().exception("courier", id=document.id)

    def _next(self) -> StatusDocument | None:
        """Waits for the next word that is due; None at the end."""
        with self._condition:
            while not self._stopping:
                wait = self._order[0][0] - time.monotonic() if self._order else None
                if wait is not None and wait <= 0:
                    due, id = heapq.heappop(self._order)
                    document = self._newest.get(id) if self._due.get(id) == due else None
                    if document is not None:
                        del self._newest[id]
                        if document.done:
                            del self._due[id]
                        else:
                            self._due[id] = time.monotonic() + PAUSE_S
                        return document
                else:
                    self._condition.wait(wait)
        return None

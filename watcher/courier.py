"""Progress for those who poll the bucket: the newest document of each job, at leisure. Nothing rests on it."""

import heapq
import threading
import time
from collections.abc import Callable

from handoff import log
from handoff.failures import EdgeError
from handoff.site import ForeignSite
from handoff.state import Status
from handoff.status import StatusDocument

FIRST_S = 1.0  # until the first word of a job: many are over before
PAUSE_S = 2.0  # between two puts for one job
_MOST = 1_000  # jobs whose progress waits to be put; beyond that it is dropped


class Courier:
    """`has_status`: whether a status of the job with this id was published. What is said of it as waiting is old then, and
    may be of a job that another watcher took: that one tells of it.
    """

    def __init__(
        self, put: Callable[[StatusDocument], None], *, has_status: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._put = put
        self._has_status = has_status
        self._newest: dict[str, StatusDocument] = {}
        self._due: dict[str, float] = {}
        """When a job may be told of next; forgotten when that comes and there is nothing to tell."""
        self._order: list[tuple[float, str]] = []
        """Each job's due time, and some that were replaced by an earlier one."""
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def tell(self, document: StatusDocument) -> None:
        """Replaces what is still waiting to be told of this job. The last word of a job is final."""
        with self._condition:
            if self._stopping or (len(self._newest) >= _MOST and document.id not in self._newest):
                return
            self._newest[document.id] = document
            now = time.monotonic()
            due = now if document.done else self._due.get(document.id, now + FIRST_S)
            self._set_due(document.id, due)

    def close(self, *, by: float) -> None:
        """Tells nothing more; waits for a put that is under way until `by` (monotonic seconds)."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(max(0.0, by - time.monotonic()))

    def _set_due(self, id: str, due: float) -> None:
        if self._due.get(id) != due:
            self._due[id] = due
            heapq.heappush(self._order, (due, id))
            self._condition.notify()

    def _run(self) -> None:
        while (document := self._next()) is not None:
            try:
                waiting = document.status is Status.QUEUED and document.attempt == 0
                if not (waiting and self._has_status(document.id)):
                    self._put(document)
            except ForeignSite as error:  # whoever puts the next result ends this run for it
                log.get().error("courier", error=str(error), hint="nothing more is told")
                with self._condition:
                    self._stopping = True
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
                    if self._due.get(id) != due:
                        continue
                    document = self._newest.pop(id, None)
                    if document is None or document.done:
                        del self._due[id]
                    else:
                        self._set_due(id, time.monotonic() + PAUSE_S)
                    if document is not None:
                        return document
                else:
                    self._condition.wait(wait)
        return None

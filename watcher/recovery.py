"""Where each job goes on: after a restart, a takeover or an outage of the bucket. From the disk alone, by record and status.

docs/protocol.md, "Running and resuming", has the table.
"""

from collections.abc import Callable

from handoff import documents, durable, log, state
from handoff.failures import Failure, Reason
from handoff.job import prompt_id
from handoff.spool import salvage
from handoff.spool.journal import Journal
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.state import Status
from handoff.status import StatusDocument
from watcher.comfyui import ComfyUI
from watcher.execution import Execution
from watcher.live import Jobs, Live, Phase
from watcher.publication import Publication
from watcher.tasks import Tasks

Found = tuple[Record, StatusDocument | None]
"""A record, and what was published of it."""


class Recovery:
    """`adopt` makes a live job of a record; `end` ends one."""

    def __init__(
        self,
        tasks: Tasks,
        jobs: Jobs,
        seat: Seat,
        journal: Journal,
        comfyui: ComfyUI,
        execution: Execution,
        publication: Publication,
        *,
        adopt: Callable[[Record], Live],
        end: Callable[[Live, state.Event, Failure], None],
    ) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._seat = seat
        self._journal = journal
        self._comfyui = comfyui
        self._execution = execution
        self._publication = publication
        self._adopt = adopt
        self._end = end
        self._log = log.get()

    def resume_all(self) -> None:
        for record in self._journal.records():
            if record.token not in self._jobs and record.token not in self._publication:
                try:
                    published = self._published(record)
                except documents.UnreadableDocument as error:
                    self._log.error("unreadable_status", id=record.id, error=str(error), hint="its job is left alone")
                    continue
                status = published.status if published else None
                self._log.info("resumed", id=record.id, attempt=record.attempt, status=status)
                self._resume(record, published)
        for token in self._journal.tokens():
            if token not in self._jobs and token not in self._publication:  # something could not be read
                self.salvage(token)

    def salvage(self, token: str) -> None:
        """Its record is damaged; an accepted job ends all the same."""

        def rebuild() -> Found | None:
            record = salvage.rebuild(self._seat, token)
            return None if record is None else (record, self._published(record))

        def end(found: Found | None) -> None:
            if token in self._jobs:
                return
            if found is None:
                hint = "nobody knows which job this was, or it is of a newer version"
                self._log.error("left_alone", file=f"r-{token}", hint=hint)
                return
            record, published = found
            if published is not None and (published.done or published.status is Status.SAVING):
                self._resume(record, published)
                return
            if (prompt := record.prompt_id) is not None:
                self._tasks.aside("comfyui", lambda: self._comfyui.cancel(prompt))
            failure = Failure(Reason.INTERNAL_ERROR, problem="its record is damaged")
            self._end(self._adopt(record), state.Event.FAILED, failure)

        self._tasks.aside("files", rebuild, end)

    def recall(self, token: str) -> None:
        """A job that was put away while the bucket was away goes on as after a restart."""

        def read() -> Found | None:
            try:
                with self._seat.power(), durable.disk_errors(self._seat.path):
                    record = Record.find(self._seat.record_path(token))
            except documents.UnreadableDocument as error:
                self._log.error("unreadable_record", file=f"r-{token}", error=str(error))
                record = salvage.rebuild(self._seat, token)
            return None if record is None else (record, self._published(record))

        def resume(found: Found | None) -> None:
            if token in self._jobs:
                return
            if found is not None:
                self._resume(*found)
            live = self._jobs.get(token)
            if live is None or live.phase not in (Phase.MIRROR, Phase.CONCLUDE):
                self._publication.give_way(token)

        self._tasks.aside("files", read, resume, lambda: self._publication.put_back(token))

    def _published(self, record: Record) -> StatusDocument | None:
        """Raises UnreadableDocument for a status of a newer version, or one that is closed to us: it may be final."""
        try:
            published = self._journal.status(record)
        except documents.DamagedDocument as error:
            self._log.error("unreadable_status", id=record.id, error=str(error))
            return None
        return published if published is not None and _is_of(record, published) else None

    def _resume(self, record: Record, published: StatusDocument | None) -> None:
        live = self._adopt(record)
        if published is not None and published.done:
            live.document, live.phase, live.decided = published, Phase.CONCLUDE, True
        elif published is not None and published.status is Status.SAVING and published.attempt == record.attempt:
            live.document, live.phase = published, Phase.MIRROR
        elif record.attempt > 0:
            self._execution.resume(live, published)
        self._tasks.advance(live)


def _is_of(record: Record, published: StatusDocument) -> bool:
    """Whether a status was published of this submission, not of one that had the same id before it."""
    ids = {prompt_id(record.token, attempt) for attempt in range(1, record.attempt + 1)}
    return published.comfyui.prompt_id is None or published.comfyui.prompt_id in ids

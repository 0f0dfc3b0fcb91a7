"""Where each job goes on: after a restart, a takeover or an outage of the bucket. From the disk alone, by record and status.

docs/protocol.md, "Running and resuming", has the table.
"""

from collections.abc import Callable

from handoff import documents, durable, log
from handoff.failures import Failure, Reason
from handoff.job import prompt_id
from handoff.spool import salvage, takeover
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting
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
    """`adopt` makes a live job of a record."""

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
    ) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._seat = seat
        self._journal = journal
        self._comfyui = comfyui
        self._execution = execution
        self._publication = publication
        self._adopt = adopt
        self._log = log.get()
        self._salvaged: set[str] = set()
        """Tokens of records that are being made anew: never twice at once, since each would decide."""

    def resume_all(self) -> None:
        """Nothing while a takeover is unfinished: its dead watcher may still be seen to do what is done here."""
        if takeover.is_unfinished(self._seat):
            return
        for record in self._journal.records():
            if not self._is_known(record.token):
                try:
                    published = self._published(record)
                except documents.UnreadableDocument as error:
                    self._log.error("unreadable_status", id=record.id, error=str(error), hint="its job is left alone")
                    continue
                status = published.status if published else None
                self._log.info("resumed", id=record.id, attempt=record.attempt, status=status)
                self._resume(record, published)
        for token in self._journal.tokens():
            if not self._is_known(token):  # something could not be read
                self.salvage(token)

    def _is_known(self, token: str) -> bool:
        """Whether somebody goes on with this job: it is live, put away, or being salvaged."""
        return token in self._jobs or token in self._publication or token in self._salvaged

    def salvage(self, token: str) -> None:
        """Its record is damaged; an accepted job ends all the same."""

        def resume(found: Found | None) -> None:
            self._salvaged.discard(token)
            if found is not None:
                record, published = found
                if (prompt := record.prompt_id) is not None and published is not None and published.error is not None:
                    self._tasks.aside("comfyui", lambda: self._comfyui.cancel(prompt))
                self._resume(record, published)
                return
            hint = "nobody knows which job this was, or it is of a newer version"
            self._log.error("left_alone", file=f"r-{token}", hint=hint)

        if token not in self._salvaged:
            self._salvaged.add(token)
            self._tasks.aside("files", lambda: self._rebuild(token), resume, lambda: self._salvaged.discard(token))

    def _rebuild(self, token: str) -> Found | None:
        """In a pool. Whatever kills it in between, the next one finds the record damaged, or the end decided."""
        record = salvage.rebuild(self._seat, token)
        if record is None:
            return None
        published = self._published(record)
        if not _is_past_comfyui(record, published):
            failure = Failure(Reason.INTERNAL_ERROR, problem="its record is damaged")
            published = self._publication.give_up(record, describe_waiting(record), failure)
        self._journal.write(record)
        return record, published

    def recall(self, token: str) -> None:
        """A job that was put away while the bucket was away goes on as after a restart."""

        def read() -> Found | None:
            try:
                with self._seat.power(), durable.disk_errors(self._seat.path):
                    record = Record.find(self._seat.record_path(token))
            except documents.UnreadableDocument as error:
                self._log.error("unreadable_record", file=f"r-{token}", error=str(error))
                return self._rebuild(token)
            return None if record is None else (record, self._published(record))

        def resume(found: Found | None) -> None:
            if found is not None:
                self._resume(*found)
            live = self._jobs.get(token)
            if live is None or live.phase not in (Phase.MIRROR, Phase.CONCLUDE):
                self._publication.give_way(token)

        self._tasks.aside("files", read, resume, lambda: self._publication.put_back(token))

    def _published(self, record: Record) -> StatusDocument | None:
        """Raises UnreadableDocument for a status of a newer version, or one that is closed to us: it may be final.

        Raises Fenced, DiskUnavailable.
        """
        try:
            published = self._journal.status(record)
        except documents.DamagedDocument as error:
            self._log.error("unreadable_status", id=record.id, error=str(error))
            return None
        if published is None or not _is_of(record, published):
            return None
        if published.done:
            self._journal.secure_decision(record)
        return published

    def _resume(self, record: Record, published: StatusDocument | None) -> None:
        if salvage.lacks_plan(record) and not _is_past_comfyui(record, published):
            self.salvage(record.token)
            return
        live = self._adopt(record)
        if published is not None and _is_past_comfyui(record, published):
            live.document, live.decided = published, published.done
            live.phase = Phase.CONCLUDE if published.done else Phase.MIRROR
        elif record.attempt > 0:
            self._execution.resume(live, published)
        self._tasks.advance(live)


def _is_past_comfyui(record: Record, published: StatusDocument | None) -> bool:
    """Its end is decided, or all that is missing stands in its status."""
    if published is None:
        return False
    return published.done or (published.status is Status.SAVING and published.attempt == record.attempt)


def _is_of(record: Record, published: StatusDocument) -> bool:
    """Whether a status was published of this submission, not of one that had the same id before it."""
    return published.comfyui.prompt_id in (None, prompt_id(record.token, published.attempt))

"""When waiting jobs expire. The deadline stands inside the file, so each is opened once, when its name is first seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from handoff import timestamps
from handoff.documents import UnreadableDocument
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Record
from handoff.status import StatusDocument

YOUNG_S = 10.0  # jobs accepted longer ago were told of before


@dataclass(frozen=True, kw_only=True)
class Deadline:
    token: str
    created_at: str
    timeout_s: float
    uptime: str | None = None

    def left(self, now: datetime) -> float:
        """Seconds until it expires; negative afterwards. By the wall clock only where the machine was restarted since."""
        waited = timestamps.seconds_since(self.uptime)
        if waited is None:
            waited = (now - timestamps.from_text(self.created_at)).total_seconds()
        return self.timeout_s - waited

    @classmethod
    def of(cls, record: Record) -> "Deadline | None":
        plan = record.job
        timeout_s = record.body.get("queue_timeout_s") if plan is None else plan.queue_timeout_s
        if not isinstance(timeout_s, int | float):
            return None
        try:
            return cls(
                token=record.token,
                created_at=record.received_at,
                timeout_s=float(timeout_s),
                uptime=record.received_uptime,
            )
        except OverflowError:  # a whole number with hundreds of digits, in a job that was not judged yet
            return None


def read_deadlines(inbox: str, names: Iterable[str], tell: Callable[[StatusDocument], None]) -> list[Deadline]:
    """Opens waiting jobs; `tell` gets the first status of those that were just accepted. What cannot be read is passed over."""
    deadlines = []
    for name in names:
        try:
            record = Record.find(f"{inbox}/{name}")
        except (UnreadableDocument, OSError):
            continue
        if record is None:  # claimed meanwhile
            continue
        if (timestamps.now() - timestamps.from_text(record.received_at)).total_seconds() < YOUNG_S:
            tell(describe_waiting(record))
        if (deadline := Deadline.of(record)) is not None:
            deadlines.append(deadline)
    return deadlines

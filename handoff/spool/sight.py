"""What a reader sees of one job at one moment."""

from dataclasses import dataclass

from handoff.spool.record import Tombstone
from handoff.state import FINAL, Status
from handoff.status import StatusDocument


@dataclass(frozen=True, kw_only=True)
class Sight:
    """`position` is the place in the line (1 is next), None where the job does not wait there; `eta_s` is a guess at the
    seconds until the end, None where nothing is known to guess by.
    """

    document: StatusDocument | Tombstone
    position: int | None = None
    eta_s: float | None = None

    @property
    def status(self) -> Status:
        return Status(self.document.status)

    @property
    def done(self) -> bool:
        """Final: it never changes again."""
        return self.status in FINAL

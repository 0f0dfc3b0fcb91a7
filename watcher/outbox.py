"""When the bucket may be tried. While it is away one job at a time finds out whether it is back; the others wait."""

from handoff.failures import EdgeError
from watcher.decisions import backoff


class Outbox:
    """The uploads themselves are durable elsewhere: a job in `saving` has its outputs and hashes in `status.json`."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._failures = 0
        self._try_at = 0.0
        self._trying: str | None = None

    def may_try(self, token: str, now: float) -> bool:
        """Whether this job may talk to the bucket now. `now`: monotonic seconds."""
        if self.trouble is None:
            return True
        if self._trying is None and now >= self._try_at:
            self._trying = token
        return self._trying == token

    def report_failure(self, token: str, error: EdgeError, now: float) -> float:
        """Returns in how many seconds to try again. `trouble` says what is wrong."""
        if self.trouble is None or self._trying == token:  # of uploads that fail together one counts
            self._failures += 1
            self._try_at = now + backoff(self._failures)
            self._trying = None
        self.trouble = str(error)
        return max(0.1, self._try_at - now)

    def give_way(self, token: str) -> bool:
        """The job whose turn it was has trouble of its own. True: somebody else may find out now."""
        if self._trying != token:
            return False
        self._trying = None
        return True

    def report_success(self) -> bool:
        """True when the bucket was away until now."""
        was_away = self.trouble is not None
        self.trouble, self._failures, self._trying = None, 0, None
        return was_away

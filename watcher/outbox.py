"""Whose results may be on their way to the bucket now. While it is away one job at a time finds out whether it is back."""

from handoff.failures import EdgeError
from watcher.decisions import backoff

MOST = 16  # at once; more than there are threads, so that these never wait


class Outbox:
    """The uploads themselves are durable elsewhere: a job in `saving` has its outputs and hashes in `status.json`."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._failures = 0
        self._try_at = 0.0
        self._under_way: set[str] = set()

    def may_try(self, token: str, now: float) -> bool:
        """Whether this job may talk to the bucket now, and until it tells what came of it. `now`: monotonic seconds."""
        if token in self._under_way:
            return True
        if len(self._under_way) >= (MOST if self.trouble is None else 1) or now < self._try_at:
            return False
        self._under_way.add(token)
        return True

    def report_failure(self, token: str, error: EdgeError, now: float) -> float:
        """Returns in how many seconds to try again. `trouble` says what is wrong."""
        if self.trouble is None or token in self._under_way:  # of uploads that fail together one counts
            self._failures += 1
            self._try_at = now + backoff(self._failures)
            self._under_way.clear()
        self.trouble = str(error)
        return max(0.1, self._try_at - now)

    def give_way(self, token: str) -> None:
        """The job has trouble of its own, which says nothing about the bucket: somebody else may try."""
        self._under_way.discard(token)

    def report_success(self, token: str) -> bool:
        """True when the bucket was away until now."""
        was_away = self.trouble is not None
        self.trouble, self._failures, self._try_at = None, 0, 0.0
        self._under_way.discard(token)
        return was_away

"""Who of the jobs whose results wait for the bucket may talk to it now. While it is away one at a time finds out whether it is back."""

from typing import Literal

from handoff.failures import EdgeError
from watcher.decisions import backoff

MOST = 16  # at once; more than there are threads, so that these never wait


class Outbox:
    """The uploads themselves are durable elsewhere: a job in `saving` has its outputs and hashes in `status.json`.

    A job is *out*: it is in memory and talks to the bucket, until it tells what came of it. Or it is *away*: its token is all
    that is kept. Or its turn has come, and it is *reading*: on its way back from the disk into memory. In the last two nobody
    else may make a live job of it.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._failures = 0
        self._try_at = 0.0
        self._away: dict[str, None] = {}
        """The oldest first."""
        self._going: dict[str, Literal["reading", "out"]] = {}

    def __len__(self) -> int:
        """How many are away or reading."""
        return len(self._away) + sum(how == "reading" for how in self._going.values())

    def __contains__(self, token: str) -> bool:
        """Whether it is away or reading."""
        return token in self._away or self._going.get(token) == "reading"

    def may_go(self, token: str, now: float) -> bool:
        """Whether this live job may talk to the bucket now; else it is away. `now`: monotonic seconds."""
        if self._going.get(token) == "out":
            return True
        self._going.pop(token, None)
        if not self._has_room(now):
            self._away[token] = None
            return False
        self._going[token] = "out"
        return True

    def call_back(self, now: float) -> str | None:
        """The oldest that is away, when there is room for one: it is to be read again, and then asks whether it may go."""
        if not self._away or not self._has_room(now):
            return None
        token = next(iter(self._away))
        del self._away[token]
        self._going[token] = "reading"
        return token

    def _has_room(self, now: float) -> bool:
        return len(self._going) < (MOST if self.trouble is None else 1) and now >= self._try_at

    def put_away(self, token: str) -> None:
        self._going.pop(token, None)
        self._away[token] = None

    def leave(self, token: str) -> None:
        """It is filed, or has trouble of its own, which says nothing about the bucket: somebody else may try."""
        self._going.pop(token, None)

    def report_failure(self, token: str, error: EdgeError, now: float) -> float:
        """It is away again. Returns in how many seconds to try again. `trouble` says what is wrong."""
        if self.trouble is None or token in self._going:  # of uploads that fail together one counts
            self._failures += 1
            self._try_at = now + backoff(self._failures)
            self._going = {other: how for other, how in self._going.items() if how == "reading"}
        self.trouble = str(error)
        self.put_away(token)
        return max(0.1, self._try_at - now)

    def report_success(self, token: str) -> bool:
        """True when the bucket was away until now."""
        was_away = self.trouble is not None
        self.trouble, self._failures, self._try_at = None, 0, 0.0
        self._going.pop(token, None)
        return was_away

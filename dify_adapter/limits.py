"""How much one owner may have under way: requests at the same time, and jobs that are not over."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dify_adapter.refusal import Refused
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.spool import listing


class Limits:
    """Requests are counted per process; jobs are counted on the volume, so that several adapters share their limit."""

    def __init__(self, folders: Folders, *, requests: int, jobs: int) -> None:
        self._folders = folders
        self._most_requests = requests
        self._most_jobs = jobs
        self._under_way: Counter[str] = Counter()
        self._owners: dict[str, str | None] = {}  # by the path's token: an owner never changes, so it is read once
        self._lock = threading.Lock()

    @contextmanager
    def request(self, owner: str) -> Iterator[None]:
        """Only on the event loop. Raises Refused."""
        if self._under_way[owner] >= self._most_requests:
            failure = Failure(Reason.TOO_MANY_REQUESTS, owner=owner, limit=self._most_requests)
            raise Refused(failure, headers={"Retry-After": "1"})
        self._under_way[owner] += 1
        try:
            yield
        finally:
            self._under_way[owner] -= 1
            if not self._under_way[owner]:
                del self._under_way[owner]

    def check_jobs(self, owner: str) -> None:
        """Raises Refused. Two submissions at the same moment may both be the last one that fits."""
        unfinished = listing.find_unfinished(self._folders)
        if len(unfinished) < self._most_jobs:
            return
        with self._lock:
            self._owners = {
                token: self._owners.get(token) or listing.find_owner(path) for token, path in unfinished.items()
            }
            count = sum(other == owner for other in self._owners.values())
        if count >= self._most_jobs:
            failure = Failure(Reason.TOO_MANY_JOBS, owner=owner, limit=self._most_jobs)
            raise Refused(failure, headers={"Retry-After": "10"})

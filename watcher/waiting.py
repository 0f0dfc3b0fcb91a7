"""The jobs in the inbox, as this watcher knows them: names in the order of work. Other watchers take from it, too.

A name says all that is needed to find the next job; files are opened only to learn of deadlines, once each.
"""

import heapq
import os
from collections.abc import Collection, Iterator

from handoff.job import inbox_token


class Waiting:
    """Adding, removing and finding the next cost O(log n), so that 100,000 waiting jobs slow nothing down."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._order: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, token: str) -> bool:
        return token in self._names

    def add(self, name: str) -> bool:
        """False: known already, or no job's name."""
        token = inbox_token(name)
        if token is None or token in self._names:
            return False
        self._names[token] = name
        heapq.heappush(self._order, name)
        return True

    def name(self, token: str) -> str | None:
        return self._names.get(token)

    def discard(self, token: str) -> None:
        self._names.pop(token, None)

    def next(self, skipped: Collection[str] = ()) -> tuple[str, str] | None:
        """Name and token of the job whose turn it is, left in place. Tokens in `skipped` are passed over."""
        passed = []
        found = None
        while self._order and found is None:
            name = self._order[0]
            token = inbox_token(name)
            if token is None or self._names.get(token) != name:
                heapq.heappop(self._order)
            elif token in skipped:
                passed.append(heapq.heappop(self._order))
            else:
                found = (name, token)
        for name in passed:
            heapq.heappush(self._order, name)
        return found

    def scan(self, inbox: str) -> Iterator[str]:
        """Looks at the folder itself: forgets what is gone, and yields the names that were not known."""
        with os.scandir(inbox) as entries:
            names = {entry.name for entry in entries}
        for token in [token for token, name in self._names.items() if name not in names]:
            self.discard(token)
        for name in sorted(names):
            if self.add(name):
                yield name

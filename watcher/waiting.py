"""The jobs in the inbox, as this watcher knows them: names in the order of work. Other watchers take from it, too.

A name says all that is needed to find the next job; files are opened only to learn of deadlines, once each.
"""

import heapq
import os
from collections.abc import Iterator

from handoff.job import inbox_token


class Waiting:
    """Adding, removing and finding the next cost O(log n), so that 100,000 waiting jobs slow nothing down."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._order: list[str] = []
        self._aside: set[str] = set()
        """Tokens that get no turn; they may be on their way back into the inbox, and not be known here yet."""

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
        if token not in self._aside:
            heapq.heappush(self._order, name)
        return True

    def name(self, token: str) -> str | None:
        return self._names.get(token)

    def discard(self, token: str) -> None:
        self._names.pop(token, None)
        self._aside.discard(token)

    def set_aside(self, token: str) -> None:
        """It waits, and its turn does not come until it is brought back."""
        self._aside.add(token)

    def bring_back(self, token: str) -> None:
        """It has its old place again."""
        if token in self._aside:
            self._aside.remove(token)
            if (name := self._names.get(token)) is not None:
                heapq.heappush(self._order, name)

    def next(self) -> str | None:
        """The token of the job whose turn it is, left in place."""
        while self._order:
            name = self._order[0]
            token = inbox_token(name)
            if token is not None and self._names.get(token) == name and token not in self._aside:
                return token
            heapq.heappop(self._order)
        return None

    def scan(self, inbox: str) -> Iterator[str]:
        """Looks at the folder itself: forgets what is gone, and yields the names that were not known."""
        with os.scandir(inbox) as entries:
            names = {entry.name for entry in entries}
        for token in [token for token, name in self._names.items() if name not in names]:
            self.discard(token)
        for name in sorted(names):
            if self.add(name):
                yield name

"""The queue of prompts and the history: what waits, what runs, what has ended. Everything here is lost at a restart."""

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

MAXIMUM_HISTORY = 10_000


class Item(NamedTuple):
    """One submission. Compared as a tuple, as ComfyUI does: two with equal number and id compare their graphs, and fail."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    outputs: list[str]


class PromptQueue:
    """`on_change` is called whenever the number of waiting or running prompts changes, before anybody can act on it."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lock = threading.RLock()
        self._filled = threading.Condition(self._lock)
        self._pending: list[Item] = []
        self._running: dict[int, Item] = {}
        self._tickets = itertools.count()
        self._history: dict[str, dict[str, Any]] = {}
        self._closed = False
        self.free_memory = False
        """Whether the node cache is to be emptied before the next prompt."""

    def put(self, item: Item) -> None:
        """Raises TypeError for a second waiting item with the same number and id, although it is queued then."""
        with self._lock:
            try:
                heapq.heappush(self._pending, item)
            finally:
                self._on_change()
                self._filled.notify()

    def has_twin(self, number: float, prompt_id: str) -> bool:
        with self._lock:
            return any(item.number == number and item.prompt_id == prompt_id for item in self._pending)

    def take(self, is_dead: Callable[[], bool]) -> tuple[int, Item] | None:
        """Waits for the next item and marks it running; None when the queue was closed or `is_dead` says so."""
        with self._lock:
            while not self._pending and not self._closed and not is_dead():
                self._filled.wait()
            if self._closed or is_dead():
                return None
            item = heapq.heappop(self._pending)
            ticket = next(self._tickets)
            self._running[ticket] = item
            self._on_change()
        return ticket, item

    def finish(self, ticket: int, outcome: dict[str, Any]) -> None:
        """Writes the history entry; one of the same id is replaced where it stands."""
        with self._lock:
            item = self._running.pop(ticket)
            if len(self._history) > MAXIMUM_HISTORY:
                del self._history[next(iter(self._history))]
            self._history[item.prompt_id] = {"prompt": list(item), **outcome}
            self._on_change()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._pending.clear()
            self._filled.notify_all()

    def wake(self) -> None:
        with self._lock:
            self._filled.notify_all()

    def remaining(self) -> int:
        with self._lock:
            return len(self._pending) + len(self._running)

    def snapshot(self) -> tuple[list[Item], list[Item]]:
        """Running and pending, the latter in heap order."""
        with self._lock:
            return list(self._running.values()), list(self._pending)

    def delete(self, prompt_id: str) -> bool:
        """Removes one waiting item with this id."""
        with self._lock:
            for index, item in enumerate(self._pending):
                if item.prompt_id == prompt_id:
                    del self._pending[index]
                    heapq.heapify(self._pending)
                    break
            else:
                return False
            self._on_change()
            return True

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()
            self._on_change()

    def is_running(self, prompt_id: str) -> bool:
        with self._lock:
            return any(item.prompt_id == prompt_id for item in self._running.values())

    def find(self, prompt_id: str) -> tuple[str, Item] | None:
        """("in_progress" or "pending", the first item with this id)."""
        with self._lock:
            for state, items in (("in_progress", self._running.values()), ("pending", self._pending)):
                for item in items:
                    if item.prompt_id == prompt_id:
                        return state, item
        return None

    def history(self, *, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """The last `max_items` entries, or those from `offset` on."""
        with self._lock:
            if max_items is None and offset <= 0:
                return dict(self._history)
            if offset < 0:
                offset = max(0, len(self._history) - (max_items or 0))
            end = None if max_items is None else offset + max_items
            return dict(itertools.islice(self._history.items(), offset, end))

    def history_entry(self, prompt_id: str) -> dict[str, Any] | None:
        with self._lock:
            return self._history.get(prompt_id)

    def forget(self, prompt_id: str) -> None:
        with self._lock:
            self._history.pop(prompt_id, None)

    def forget_all(self) -> None:
        with self._lock:
            self._history.clear()

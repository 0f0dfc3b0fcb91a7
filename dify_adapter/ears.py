"""What the kernel's events say about jobs: ids of those that may have changed. Hints only, and some get lost."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from dify_adapter.feeds import Feeds
from handoff import log
from handoff.hints import Hints, find_deaf_mount


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where to listen. In a folder of `named` a file with a job's id as its name appears when that job changes, in a pen
    the `feed` grows, and in a folder of `growing` further folders appear.
    """

    named: frozenset[str] = frozenset()
    pens: frozenset[str] = frozenset()
    growing: frozenset[str] = frozenset()


class Ears:
    """For one thread, except for `interrupt`."""

    def __init__(self, *, events: bool) -> None:
        self._queue: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._events = events
        self._feeds = Feeds()
        self._places = Places()
        self._hints: Hints | None = None
        self._trouble: str | None = None
        self._began = False
        self.are_outdated = True
        """There are other places now, or events were lost: arm again."""

    @property
    def work(self) -> bool:
        return self._began and self._trouble is None

    def arm(self, look: Callable[[], Places]) -> set[str]:
        """Listens from now on wherever `look` says, and returns what was announced since the last time, heard or not."""
        places = look()
        self._note(self._listen(places))
        # what came before the ears were there made no event
        self.are_outdated = look() != places
        named: set[str] = set()
        if self._began:
            named.update(*(_names(folder) for folder in places.named - self._places.named))
        else:
            for pen in places.pens:
                self._feeds.skip(pen)
        self._began, self._places = True, places
        self._feeds.forget(places.pens)
        return named | self._read(places.pens)

    def _listen(self, places: Places) -> str | None:
        """Why events do not come, or None."""
        if not self._events:
            return "they are switched off"
        folders = sorted(places.named | places.pens | places.growing)
        if self._hints is None or places != self._places:
            self.close()
            self._hints = Hints(folders, lambda folder, name: self._queue.put((folder, name)))
        return self._hints.arm() or find_deaf_mount(folders)

    def _note(self, trouble: str | None) -> None:
        if trouble != self._trouble or not self._began:
            self._trouble = trouble
            if trouble is None:
                log.get().info("changes_heard")
            else:
                log.get().info("changes_polled", hint=f"no events come: {trouble}; waiting jobs are looked at instead")

    def hear(self, timeout_s: float) -> set[str]:
        """The ids that the next events tell of; none when nothing happens in this time."""
        try:
            events = {self._queue.get(timeout=max(0.0, timeout_s))}
        except Empty:
            return set()
        with suppress(Empty):
            while True:
                events.add(self._queue.get_nowait())
        if any(not name or folder in self._places.growing for folder, name in events):
            self.are_outdated = True
        pens = {folder for folder, name in events if folder in self._places.pens and name == "feed"}
        named = {name for folder, name in events if folder in self._places.named and name}
        return named | self._read(frozenset(pens))

    def _read(self, pens: frozenset[str]) -> set[str]:
        return {id for pen in pens for id in self._feeds.read(pen)}

    def interrupt(self) -> None:
        """Ends `hear`. From any thread."""
        self._queue.put(("", ""))

    def close(self) -> None:
        if self._hints is not None:
            self._hints.close()
            self._hints = None


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []

"""Wakes who waits for a job, as soon as its status changes.

One thread hears the kernel's events of the folders that a reader names, and looks which jobs they tell of. An event is
only a hint, and a job that nobody waits for is not looked at. What somebody waits for is looked at now and then whatever
the events say; where none come, the feeds are read often. All other reading is done by a few threads, all waiting by the
event loop: a thousand who wait are a thousand entries in a table.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dify_adapter.ears import Ears
from dify_adapter.reader import Reader
from handoff import log
from handoff.spool.sight import Sight
from handoff.state import Status

LOOK_S = 5.0
"""Between two looks at all that is waited for, whatever events and feeds say."""
POLL_S = 0.5
"""Between two readings of the feeds where no events come, and the first pause of who waits for the bucket."""
LONGEST_PAUSE_S = 5.0
"""Where a look is a request to the bucket the pauses grow up to this while nothing changes."""
_READERS = 8


@dataclass(eq=False)
class _Watched:
    """A job that somebody waits for. Only the event loop changes it."""

    id: str
    visitors: int = 0
    sight: Sight | None = None
    """What was seen last; and `mark`, what the reader said before that."""
    mark: Hashable | None = None
    waiting: "set[asyncio.Future[None]]" = field(default_factory=set)
    """Of those who wait for another status."""
    next: "asyncio.Future[None] | None" = None
    """Ends with the next look; there is one when a look was asked for."""
    looking: "asyncio.Task[None] | None" = None
    due: float = math.inf
    """When to look again unasked, where that costs a request to the bucket."""
    pause_s: float = POLL_S

    @property
    def status(self) -> Status | None:
        return None if self.sight is None else self.sight.status


class Changes:
    """Start it in the event loop of its callers."""

    def __init__(self, reader: Reader, *, events: bool = True) -> None:
        self._reader = reader
        self._ears = Ears(events=events)
        self._watched: dict[str, _Watched] = {}
        self._stopped = threading.Event()
        self._released = False
        self._thread: threading.Thread | None = None

    # ── the event loop ──

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        self._release()
        self._stopped.set()
        self._ears.interrupt()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._readers.shutdown(wait=False)

    def release(self) -> None:
        """Answers everybody who waits, and from now on at once: the server stops. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._release)

    @property
    def released(self) -> bool:
        return self._released

    def _release(self) -> None:
        self._released = True
        for watched in self._watched.values():
            self._wake(watched)

    async def wait(self, id: str, wait_s: float) -> Sight | None:
        """The job as it is: at once when it is over, else after its status changed, `wait_s` at the latest.

        An id that nobody knows is waited for, too. None: it is still unknown. Raises what Reader.find raises.
        """
        watched = self._watched.setdefault(id, _Watched(id))
        watched.visitors += 1
        try:
            sight = await self._look(watched)
            if wait_s > 0 and not self._released and not (sight is not None and sight.done):
                changed = await self._await_change(watched, wait_s)
                # its place in the line and its progress are no news, but may have changed
                sight = watched.sight if changed else await self._look(watched)
            return sight
        finally:
            watched.visitors -= 1
            if not watched.visitors:
                del self._watched[id]

    async def _await_change(self, watched: _Watched, wait_s: float) -> bool:
        """Whether its status became another one than was seen last, within this time."""
        changed: asyncio.Future[None] = self._loop.create_future()
        watched.waiting.add(changed)
        try:
            async with asyncio.timeout(wait_s):
                await changed
        except TimeoutError:
            return False
        finally:
            watched.waiting.discard(changed)
        return not self._released

    async def _look(self, watched: _Watched) -> Sight | None:
        """The newest that is known after a look that begins from now on; everybody who asks meanwhile shares it."""
        await asyncio.shield(self._ask(watched))
        return watched.sight  # a later look may have ended before this one was told, and that one is told no more

    def _ask(self, watched: _Watched) -> "asyncio.Future[None]":
        if watched.next is None:
            watched.next = self._loop.create_future()
        if watched.looking is None:
            watched.looking = self._loop.create_task(self._keep_looking(watched))
        return watched.next

    async def _keep_looking(self, watched: _Watched) -> None:
        """One look at a time, so that what was seen later is the later state."""
        try:
            while (asked := watched.next) is not None:
                watched.next = None
                try:
                    mark, sight = await self._loop.run_in_executor(self._readers, self._find, watched.id)
                except Exception as error:  # noqa: BLE001 - whoever asked gets it; whoever waits goes on waiting
                    watched.due = time.monotonic() + watched.pause_s
                    asked.set_exception(error)
                    asked.exception()  # perhaps nobody asked: it was a hint
                else:
                    watched.mark = mark
                    self._tell(watched, sight)
                    asked.set_result(None)
        finally:
            watched.looking = None

    def _find(self, id: str) -> tuple[Hashable | None, Sight | None]:
        mark = self._reader.mark(id)  # first: a change in between is seen twice rather than never
        return mark, self._reader.find(id)

    def _tell(self, watched: _Watched, sight: Sight | None) -> None:
        is_news = watched.status is not (None if sight is None else sight.status)
        watched.sight = sight
        watched.pause_s = POLL_S if is_news else min(watched.pause_s * 1.3, LONGEST_PAUSE_S)
        watched.due = time.monotonic() + watched.pause_s
        if is_news:
            self._wake(watched)

    def _wake(self, watched: _Watched) -> None:
        for waiting in watched.waiting:
            if not waiting.done():
                waiting.set_result(None)

    def _look_at(self, ids: set[str]) -> None:
        for id in ids:
            if (watched := self._watched.get(id)) is not None:
                self._ask(watched)

    # ── the thread ──

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except OSError as error:  # the volume has trouble; so have those who wait, until they ask again
                log.get().warning("changes_not_heard", error=str(error))
                self._stopped.wait(LOOK_S)
        self._ears.close()

    def _listen(self) -> None:
        next_round, next_look = 0.0, 0.0
        while not self._stopped.is_set():
            now = time.monotonic()
            if now < next_round and not self._ears.are_outdated:
                ids = self._ears.hear(next_round - now)
            else:
                ids = self._ears.arm(self._reader.places) | self._find_due(now, look=now >= next_look)
                next_look = now + LOOK_S if now >= next_look else next_look
                next_round = now + POLL_S if self._must_poll() else next_look
            waited_for = {id for id in ids if id in self._watched}
            if waited_for:
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    self._loop.call_soon_threadsafe(self._look_at, waited_for)

    def _must_poll(self) -> bool:
        """Without events the feeds still tell of changes, when they are read."""
        return not (self._ears.work and self._reader.is_cheap)

    def _find_due(self, now: float, *, look: bool) -> set[str]:
        """Jobs that somebody waits for and that may have changed, whether anything told of it or not.

        Only now and then (`look`) all of them; no feed tells of a job that comes into being.
        """
        due = set()
        for watched in list(self._watched.values()):
            if not self._reader.is_cheap:
                if now >= watched.due:
                    due.add(watched.id)
            elif (look or watched.status is None) and self._reader.mark(watched.id) != watched.mark:
                due.add(watched.id)
        return due

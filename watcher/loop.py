"""The decision thread's loop: messages from other threads, timers, and pools for what takes time.

All state belongs to the thread that calls `turn`. Work in a pool may not touch it; what it found comes back as a message.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

Message = Callable[[], None]
Result = TypeVar("Result")
_MOST_PER_TURN = 1000  # so that timers and heartbeats are not starved by a flood of events
_FEW_TIMERS = 1000  # cancelled ones among so many may stay until they are due


class Timer:
    def __init__(self, message: Message) -> None:
        self.message: Message | None = message

    def cancel(self) -> None:
        self.message = None


class Pool:
    """Threads that end with the process, whatever they wait for: a call that hangs must not outlive a stop."""

    def __init__(self, name: str, threads: int) -> None:
        self._work: SimpleQueue[Message | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Message) -> None:
        self._work.put(work)

    def close(self) -> None:
        """Starts nothing more."""
        with suppress(Empty):
            while True:
                self._work.get_nowait()
        for _ in self._threads:
            self._work.put(None)

    def join(self, by: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, by - time.monotonic()))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class Loop:
    def __init__(self, **pools: int) -> None:
        """`pools`: name and number of threads."""
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._timers: list[tuple[float, int, Timer]] = []
        self._tidy_at = _FEW_TIMERS
        self._count = itertools.count()
        self._pools = {name: Pool(name, threads) for name, threads in pools.items()}

    def post(self, message: Message) -> None:
        """From any thread, also from a signal handler."""
        self._messages.put(message)

    def after(self, seconds: float, message: Message) -> Timer:
        timer = Timer(message)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._count), timer))
        if len(self._timers) > self._tidy_at:
            self._tidy()
        return timer

    def _tidy(self) -> None:
        """Removes cancelled timers: a deadline of next month would stay for a month. Again when there are twice as many."""
        self._timers = [entry for entry in self._timers if entry[2].message is not None]
        heapq.heapify(self._timers)
        self._tidy_at = max(_FEW_TIMERS, 2 * len(self._timers))

    def spawn(
        self,
        pool: str,
        work: Callable[[], Result],
        done: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Runs `work` in a pool and then one of the two others here."""

        def task() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to the decision thread, which decides
                self.post(lambda error=error: failed(error))  # type: ignore[misc]
            else:
                self.post(lambda: done(result))

        self._submit(pool, task)

    def _submit(self, pool: str, task: Message) -> None:
        self._pools[pool].submit(task)

    def turn(self) -> None:
        """Waits for the next message or timer, then handles all that is due."""
        now = time.monotonic()
        wait = max(0.0, self._timers[0][0] - now) if self._timers else None
        try:
            self._messages.get(timeout=wait)()
            for _ in range(_MOST_PER_TURN):
                self._messages.get_nowait()()
        except Empty:
            pass
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            message = heapq.heappop(self._timers)[2].message
            if message is not None:
                message()

    def close(self, *, by: float) -> None:
        """Starts no more work and waits for what is under way, until `by` (monotonic seconds)."""
        for pool in self._pools.values():
            pool.close()
        for pool in self._pools.values():
            pool.join(by)

"""A loop whose clock and pools the test moves on by hand: what took minutes takes none, and nothing happens by itself."""

import heapq
from types import ModuleType

import pytest

from watcher.loop import Loop, Message, Timer


class SteppingLoop(Loop):
    """`work` does what was given to the pools, one after the other; `pass_time` brings the timers that are due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.tasks: list[tuple[str, Message]] = []
        self._in_pool = False

    def monotonic(self) -> float:
        return self.now

    def after(self, seconds: float, message: Message) -> Timer:
        timer = Timer(message)
        heapq.heappush(self._timers, (self.now + seconds, next(self._count), timer))
        return timer

    def post(self, message: Message) -> None:
        """What a task in a pool found is heard at once; all else waits for a turn."""
        if self._in_pool:
            self._in_pool = False
            message()
        else:
            super().post(message)

    def _submit(self, pool: str, task: Message) -> None:
        self.tasks.append((pool, task))

    def work(self, *pools: str) -> None:
        """Until nothing is left to do; with names: in these pools alone, the others hang."""
        while chosen := [task for task in self.tasks if not pools or task[0] in pools]:
            self.tasks.remove(chosen[0])
            self._in_pool = True
            chosen[0][1]()

    def pass_time(self, seconds: float, *pools: str) -> None:
        end = self.now + seconds
        self.work(*pools)
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.message is not None:
                timer.message()
            self.work(*pools)
        self.now = end


class _Clock:
    def __init__(self, loop: SteppingLoop) -> None:
        self.monotonic = loop.monotonic


def use_clock(monkeypatch: pytest.MonkeyPatch, loop: SteppingLoop, *modules: ModuleType) -> None:
    """The modules' `time.monotonic` is the loop's."""
    for module in modules:
        monkeypatch.setattr(module, "time", _Clock(loop))

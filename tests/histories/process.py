"""A program that runs turn by turn: between two turns it stands still, and at any call of the system it may be killed or
frozen. It has no threads: of all that its loop and its pools could do next, one thing is drawn.
"""

import errno
import heapq
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from tests.histories.clock import Clock
from tests.spool.actors import LIMIT_S, Actor, Call, Killed
from watcher.courier import Courier
from watcher.loop import Loop, Message

TURN_S = 0.001
NEVER = float("inf")


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Source(Protocol):
    """A thread that the real program has beside its loop: it waits for something, and then does it."""

    def due_at(self) -> float: ...

    def act(self) -> None: ...


@dataclass(eq=False)
class Process(Actor):
    """`go` lets it make one turn. Only one process runs at a time, so the same history gives the same run."""

    name: str = ""
    is_full: Callable[[], bool] = lambda: False
    """Whether the disk is."""
    frozen: bool = False
    turns: int = 1
    """So many it makes in one go, if there is something to do."""
    patience: int = 0
    """After this many calls it stands still, in the middle of whatever it does, and somebody else goes on."""
    held: bool = False
    """It stands still there."""
    met_a_full_disk: bool = False
    was_frozen_while_it_started: bool = False
    asked_to_stop: bool = False
    sleeps_until: float | None = None
    loop: "TurningLoop | None" = None
    on_sigterm: Callable[[], None] | None = None
    _may_go: threading.Lock = field(default_factory=_locked)
    _stands: threading.Lock = field(default_factory=_locked)

    def arm(self, at: int, kind: str = "", *, freeze: bool = False) -> None:
        """It is killed or frozen just before the `at`-th call (of that kind) from now on."""
        self.stop_at, self.stop_before, self.freeze = at, kind, freeze

    def disarm(self) -> None:
        self.stop_at = 0

    def go(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._may_go.release()
        assert self._stands.acquire(timeout=LIMIT_S), f"{self.name} hangs"

    def _run(self) -> None:
        super()._run()
        if self.error is None:
            for descriptor in self._open:  # whatever a program leaves open its end closes
                os.close(descriptor)
        self._stands.release()

    def kill(self) -> None:
        self.dead = True
        if not self.over and self._thread is not None:
            self.go()
        self.over = True

    def terminate(self) -> None:
        """SIGTERM."""
        if not self.asked_to_stop and not self.over:
            self.asked_to_stop = True
            if self.on_sigterm is None:  # it has only just begun
                self.kill()
            else:
                self.on_sigterm()

    def pause(self) -> None:
        self._stands.release()
        self._may_go.acquire()
        if self.dead:
            raise Killed

    def hold(self) -> None:
        self.held = True
        self.pause()
        self.held = False

    def sleep(self, until: float) -> None:
        self.sleeps_until = until
        self.pause()
        self.sleeps_until = None

    def step(self, call: Call) -> None:
        if self.dead:
            raise Killed
        if self._outside:
            return
        if self.is_full() and _wants_room(call):
            self.met_a_full_disk = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(call.args[0]) if call.args else None)
        if self.patience > 0:
            self.patience -= 1
            if self.patience == 0:
                self.hold()
        if self.stop_at == 0 or self.stop_before not in ("", call.name):
            return
        self.stop_at -= 1
        if self.stop_at > 0:
            return
        self.calls.append(call)
        if self.freeze:
            self.frozen = True
            self.was_frozen_while_it_started |= self.loop is None
            self.hold()
        else:
            self.dead = True
            raise Killed

    def next_at(self) -> float:
        """From when on it has something to do."""
        if self.over or self.frozen:
            return NEVER
        if self.sleeps_until is not None:
            return self.sleeps_until
        return 0.0 if self.loop is None or self.held else self.loop.next_at()


def _wants_room(call: Call) -> bool:
    match call.name:
        case "open":
            return bool(call.args[1] & os.O_CREAT)
        case "mkdir":
            return not os.path.lexists(call.args[0])
    return call.name in ("link", "fsync", "fdopen")


class TurningLoop(Loop):
    def __init__(self, process: Process, clock: Clock, dice: random.Random, **pools: int) -> None:
        super().__init__()
        self._process = process
        self._clock = clock
        self._dice = dice
        self._tasks: dict[str, deque[Message]] = {name: deque() for name in pools}
        self._threads = pools
        self.sources: list[Source] = []
        process.loop = self

    def _submit(self, pool: str, task: Message) -> None:
        def work() -> None:
            task()
            if self._process.dead:  # the kill was caught as what the task raised
                raise Killed

        self._tasks[pool].append(work)

    def turn(self) -> None:
        self._process.turns -= 1
        if self._process.turns <= 0 or self.next_at() > self._clock.now:
            self._process.pause()
        self._clock.now += TURN_S
        if choices := self._choices():
            self._dice.choice(choices)()

    def next_at(self) -> float:
        if not self._messages.empty() or any(self._tasks.values()):
            return 0.0
        timer_at = self._timers[0][0] if self._timers else NEVER
        return min(timer_at, *(source.due_at() for source in self.sources), NEVER)

    def close(self, *, by: float) -> None:
        del by  # nothing is under way between two turns
        for tasks in self._tasks.values():
            tasks.clear()
        self.sources.clear()

    def _choices(self) -> list[Message]:
        now = self._clock.now
        choices: list[Message] = []
        if not self._messages.empty():
            choices.append(self._hear)
        if self._timers and self._timers[0][0] <= now:
            choices.append(self._ring)
        for pool, tasks in self._tasks.items():
            for number in range(min(len(tasks), self._threads[pool])):
                choices.append(lambda tasks=tasks, number=number: _do(tasks, number))  # type: ignore[misc]
        choices += [source.act for source in self.sources if source.due_at() <= now]
        return choices

    def _hear(self) -> None:
        self._messages.get_nowait()()

    def _ring(self) -> None:
        message = heapq.heappop(self._timers)[2].message
        if message is not None:
            message()


def _do(tasks: deque[Message], number: int) -> None:
    task = tasks[number]
    del tasks[number]
    task()


class _Waits(Exception):  # noqa: N818 - no error
    """The courier's thread would wait now."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Condition:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def notify(self) -> None: ...

    def wait(self, _seconds: float | None) -> None:
        raise _Waits(0.0)


def sleep_of_courier(seconds: float) -> None:
    raise _Waits(seconds)


THREADING_OF_COURIER = SimpleNamespace(
    Condition=_Condition, Thread=lambda **_: SimpleNamespace(start=lambda: None, join=lambda _: None)
)


class TurningCourier(Courier):
    """The real one, run by its process whenever it has something to tell."""

    def __init__(self, clock: Clock, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._clock = clock
        self._not_before = 0.0

    def due_at(self) -> float:
        return max(self._not_before, self._order[0][0]) if self._order and not self._stopping else NEVER

    def act(self) -> None:
        try:
            self._run()
        except _Waits as waits:
            self._not_before = self._clock.now + waits.seconds


class Hints:
    """Events of folders, in the order in which the world tells of them."""

    def __init__(self, folders: list[str], on_hint: Callable[[str, str], None]) -> None:
        self._folders = folders
        self._on_hint = on_hint
        self._news: deque[tuple[str, str]] = deque()

    def arm(self) -> None: ...

    def close(self) -> None:
        self._news.clear()

    def tell(self, folder: str, name: str) -> None:
        if folder in self._folders:
            self._news.append((folder, name))

    def due_at(self) -> float:
        return 0.0 if self._news else NEVER

    def act(self) -> None:
        self._on_hint(*self._news.popleft())

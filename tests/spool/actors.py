"""Processes that may be killed or frozen between any two system calls, without processes.

An actor runs in a thread of its own. Every call of `os` that it makes is a step; before a chosen one it is killed (that
step and all later ones do nothing, its descriptors are closed) or frozen until it is woken.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

WRITES = ("rename", "link", "unlink", "open", "mkdir", "rmdir", "chmod", "fsync", "write", "pwrite")
READS = ("lstat", "stat", "listdir", "scandir")
LIMIT_S = 30.0


class Killed(BaseException):
    """The process is gone: no handler for errors may run."""


@dataclass(frozen=True)
class Call:
    name: str
    args: tuple[Any, ...]
    inode: int | None = None
    """Of the file, for calls on a descriptor and for the source of renames and links."""

    def __str__(self) -> str:
        return f"{self.name}{self.args}"[:300]


@dataclass(eq=False)
class Actor:
    """`stop_at`: the step (1 = the first) before which it stops; `stop_before`: or the first call of this name.

    With `trouble`, an errno, it does not stop there: that call fails with it, if it is one that writes.
    """

    work: Callable[[], Any]
    stop_at: int = 0
    stop_before: str = ""
    freeze: bool = False
    trouble: int = 0
    calls: list[Call] = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None
    dead: bool = False
    over: bool = False
    _outside: bool = False
    _open: set[int] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _woken: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def stopped_before(self) -> str:
        return str(self.calls[self.stop_at - 1]) if 0 < self.stop_at <= len(self.calls) else "the end"

    def start(self) -> None:
        """Runs until it stops or ends."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._stopped.wait(LIMIT_S), "the actor hangs"

    def finish(self) -> None:
        """Wakes it where it was frozen, and runs it to its end."""
        self._stopped.clear()
        self._woken.set()
        assert self._thread is not None
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "the actor hangs"

    def _run(self) -> None:
        _ACTORS[threading.get_ident()] = self
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error.with_traceback(None)
        finally:
            del _ACTORS[threading.get_ident()]
            if self.error is not None:
                for descriptor in self._open:  # as the kernel does, and with them the lock goes
                    os.close(descriptor)
            self.over = True
            self._stopped.set()

    def step(self, call: Call) -> None:
        if self.dead:
            raise Killed
        if self._outside:
            return
        self.calls.append(call)
        if len(self.calls) != self.stop_at and call.name != self.stop_before:
            return
        self.stop_at, self.stop_before = len(self.calls), ""
        if self.trouble:
            if call.name in WRITES and (call.name != "open" or call.args[1] & (os.O_WRONLY | os.O_RDWR)):
                raise OSError(self.trouble, os.strerror(self.trouble), call.args[0])
            return
        if not self.freeze:
            self.dead = True
            raise Killed
        self._stopped.set()
        assert self._woken.wait(LIMIT_S), "nobody woke the actor"

    def note_descriptor(self, descriptor: int, *, opened: bool) -> None:
        (self._open.add if opened else self._open.discard)(descriptor)


_ACTORS: dict[int, Actor] = {}


def current() -> Actor | None:
    return _ACTORS.get(threading.get_ident())


def step(name: str, *args: Any) -> None:
    """A step that is no system call: a request to another server."""
    if (actor := _ACTORS.get(threading.get_ident())) is not None:
        actor.step(Call(name, args))


@contextmanager
def outside() -> Iterator[None]:
    """What another process does at the actor's request: it is not interrupted when the actor is."""
    actor = _ACTORS.get(threading.get_ident())
    if actor is None:
        yield
        return
    actor._outside = True
    try:
        yield
    finally:
        actor._outside = False


def run(
    work: Callable[[], Any], *, stop_at: int = 0, stop_before: str = "", freeze: bool = False, trouble: int = 0
) -> Actor:
    actor = Actor(work, stop_at, stop_before, freeze, trouble)
    actor.start()
    return actor


def install(monkeypatch: pytest.MonkeyPatch, on_done: Callable[[Call], None] = lambda _: None) -> None:
    """Makes the calls of `os` steps, for actors only. Nothing is really flushed: a kill is no power loss.

    `on_done` hears of each call that an actor made, just after it.
    """
    for name in (*WRITES, *READS):
        original = getattr(os, name) if name != "fsync" else lambda _: None
        monkeypatch.setattr(os, name, _stepping(name, original, on_done))
    close = os.close

    def close_noted(descriptor: int) -> None:
        if (actor := _ACTORS.get(threading.get_ident())) is not None:
            actor.note_descriptor(descriptor, opened=False)
        close(descriptor)

    monkeypatch.setattr(os, "close", close_noted)
    fdopen = os.fdopen

    def fdopen_noted(descriptor: int, *args: Any, **named: Any) -> Any:
        if (actor := _ACTORS.get(threading.get_ident())) is not None:
            actor.step(Call("fdopen", ()))  # killed here, the new file is empty
            actor.note_descriptor(descriptor, opened=False)  # its file object closes it
        return fdopen(descriptor, *args, **named)

    monkeypatch.setattr(os, "fdopen", fdopen_noted)


def _stepping(name: str, original: Callable[..., Any], on_done: Callable[[Call], None]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        actor = _ACTORS.get(threading.get_ident())
        if actor is None:
            return original(*args, **named)
        inode = _inode(name, args)
        if name == "fsync":
            _half_written(actor, Call("write", args, inode))
        made = Call(name, args, inode)
        actor.step(made)
        result = original(*args, **named)
        with outside():
            on_done(made)
        if name == "open" and isinstance(result, int):
            actor.note_descriptor(result, opened=True)
        return result

    return call


def _half_written(actor: Actor, call: Call) -> None:
    """Killed in the middle of writing what was to be flushed here."""
    try:
        actor.step(call)
    except Killed:
        status = os.fstat(call.args[0])
        if status.st_size and not os.path.isdir(f"/proc/self/fd/{call.args[0]}"):
            os.truncate(f"/proc/self/fd/{call.args[0]}", status.st_size // 2)
        raise


def _inode(name: str, args: tuple[Any, ...]) -> int | None:
    try:
        if name == "fsync":
            return os.fstat(args[0]).st_ino
        if name in ("rename", "link"):
            return _lstat(args[0]).st_ino
    except OSError:
        return None
    return None


_lstat = os.lstat

"""The decision thread's loop: messages, timers, pools."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from watcher.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(work=2)
    yield loop
    loop.close(by=time.monotonic() + 10)


def turn_until(loop: Loop, done: Sequence[object], count: int = 1) -> None:
    loop.after(10, lambda: pytest.fail("nothing came"))
    while len(done) < count:
        loop.turn()


def test_messages_come_in_order_and_all_in_one_turn(loop: Loop) -> None:
    heard: list[int] = []
    for number in range(5):
        loop.post(lambda number=number: heard.append(number))  # type: ignore[misc]
    loop.turn()
    assert heard == [0, 1, 2, 3, 4]


def test_a_message_of_another_thread_wakes_it(loop: Loop) -> None:
    heard: list[object] = []
    threading.Timer(0.05, lambda: loop.post(lambda: heard.append(threading.current_thread()))).start()
    turn_until(loop, heard)
    assert heard == [threading.current_thread()]


def test_timers_come_in_the_order_of_their_time_and_not_before(loop: Loop) -> None:
    heard: list[object] = []
    started = time.monotonic()
    loop.after(0.06, lambda: heard.append("late"))
    loop.after(0.02, lambda: heard.append("early"))
    loop.after(0.02, lambda: heard.append("early, but asked for later"))
    turn_until(loop, heard, 3)
    assert heard == ["early", "early, but asked for later", "late"]
    assert time.monotonic() - started >= 0.06


def test_a_cancelled_timer_does_not_come(loop: Loop) -> None:
    heard: list[object] = []
    loop.after(0.01, lambda: heard.append("cancelled")).cancel()
    loop.after(0.02, lambda: heard.append("kept"))
    turn_until(loop, heard)
    assert heard == ["kept"]


def test_cancelled_timers_do_not_stay_until_they_are_due(loop: Loop) -> None:
    kept = [loop.after(3600, lambda: None) for _ in range(10)]
    for _ in range(100_000):
        loop.after(86_400, lambda: None).cancel()
    assert len(loop._timers) <= 1001
    assert {id(timer) for timer in kept} <= {id(entry[2]) for entry in loop._timers}
    heard: list[object] = []
    loop.after(0.02, lambda: heard.append("due"))
    turn_until(loop, heard)


def test_a_flood_of_messages_does_not_starve_timers(loop: Loop) -> None:
    heard: list[object] = []
    flooding = True

    def flood() -> None:
        if flooding:
            loop.post(flood)

    loop.post(flood)
    loop.after(0.02, lambda: heard.append("timer"))
    turn_until(loop, heard)
    flooding = False


def test_work_is_done_elsewhere_and_told_here(loop: Loop) -> None:
    told: list[tuple[threading.Thread, threading.Thread]] = []
    loop.spawn(
        "work",
        threading.current_thread,
        lambda thread: told.append((thread, threading.current_thread())),
        lambda error: pytest.fail(repr(error)),
    )
    turn_until(loop, told)
    worker, listener = told[0]
    assert worker is not listener
    assert worker.name.startswith("work")
    assert listener is threading.current_thread()


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_whatever_work_raises_comes_back(loop: Loop, error: BaseException) -> None:
    told: list[object] = []

    def fail() -> None:
        raise error

    loop.spawn("work", fail, lambda _: pytest.fail("it did not work"), told.append)
    turn_until(loop, told)
    assert told == [error]


def test_an_error_of_a_message_is_the_callers(loop: Loop) -> None:
    """Fenced leaves the loop this way; what came after it is still there."""
    heard: list[object] = []

    def fail() -> None:
        raise ValueError("x")

    loop.post(fail)
    loop.post(lambda: heard.append("next"))
    with pytest.raises(ValueError, match="x"):
        loop.turn()
    loop.turn()
    assert heard == ["next"]


def test_closing_waits_for_what_is_under_way_and_drops_the_rest() -> None:
    loop = Loop(work=1)
    started, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        started.set()
        go_on.wait(10)
        done.append("first")

    loop.spawn("work", first, lambda _: None, lambda _: None)
    loop.spawn("work", lambda: done.append("second"), lambda _: None, lambda _: None)
    started.wait(10)
    threading.Timer(0.05, go_on.set).start()
    loop.close(by=time.monotonic() + 10)
    assert done == ["first"]


def test_closing_does_not_wait_for_ever() -> None:
    loop = Loop(work=1)
    started, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        go_on.wait(10)

    loop.spawn("work", hang, lambda _: None, lambda _: None)
    started.wait(10)
    began = time.monotonic()
    loop.close(by=began + 0.05)
    assert 0.05 <= time.monotonic() - began < 5
    go_on.set()

"""The disk refuses one call, each in turn; the same watcher tries again, and everything comes out as if nothing had been."""

import errno
from collections.abc import Callable

import pytest

from handoff.failures import EdgeError, Unavailable
from handoff.spool import publisher
from tests.spool.actors import run
from tests.spool.test_kills import prepare_two_dead_watchers
from tests.spool.world import Watcher, World, record_of, recover

BODY = {"prompt": "a cat"}


def start(world: World) -> Watcher:
    try:
        return Watcher(world)
    except (EdgeError, OSError):
        return Watcher(world)


def work_stubbornly(world: World) -> int:
    """Returns how often it had to try."""
    watcher = start(world)
    for number in range(1, 5):
        try:
            watcher.take_over_the_dead()
            watcher.world.sweep()
            watcher.take_in_all()
            watcher.work_all()
        except Unavailable:
            continue
        watcher.seat.leave()
        return number
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EIO])
def test_any_call_may_fail_once(new_world: Callable[[], World], trouble: int) -> None:
    number, tries = 0, 0
    while True:
        number += 1
        world = new_world()
        world.drop("a.json", BODY)
        world.drop("bad.json", b"{")
        publisher.publish(world.folders, record_of("p", BODY))
        actor = run(lambda world=world: work_stubbornly(world), stop_at=number, trouble=trouble)  # type: ignore[misc]
        try:
            assert actor.error is None, actor.error
            recover(world)
            world.check_at_rest(jobs=2, rejected={"bad.json": b"{"})
        except BaseException as error:
            error.add_note(f"failed at step {number}: {actor.stopped_before}")
            raise
        tries += actor.result
        if number > len(actor.calls):
            assert tries > number + 20, "hardly any call was refused"
            return


def test_any_call_of_a_takeover_may_fail_once(new_world: Callable[[], World]) -> None:
    for number in range(1, 90):
        world = new_world()
        prepare_two_dead_watchers(world)
        actor = run(lambda world=world: work_stubbornly(world), stop_at=number, trouble=errno.ENOSPC)  # type: ignore[misc]
        try:
            recover(world)
            world.check_at_rest(jobs=4)
        except BaseException as error:
            error.add_note(f"failed at step {number}: {actor.stopped_before}; {actor.error!r}")
            raise

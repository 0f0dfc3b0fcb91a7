"""Two that work at once: one is frozen before each of its system calls, the other does all its work, the first goes on."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.spool import publisher, reservations
from handoff.spool.drops import Claim, Drops
from handoff.spool.record import Record
from handoff.spool.seat import Fenced
from handoff.spool.takeover import take_over
from tests.spool.actors import Actor, run
from tests.spool.world import DAY, Make, Watcher, World, first_status, record_of, recover, run_watcher

BODY = {"prompt": "a cat"}


def interleave(
    new_world: Callable[[], World],
    prepare: Make,
    first: Callable[[World], object],
    second: Callable[[World], object],
    check: Callable[[World, Actor], None],
) -> None:
    """`check` is called when both are through."""
    number = 0
    while True:
        number += 1
        world = new_world()
        prepare(world)
        actor = run(lambda world=world: first(world), stop_at=number, freeze=True)  # type: ignore[misc]
        try:
            second(world)
            actor.finish()
            check(world, actor)
        except BaseException as error:
            actor.finish()
            error.add_note(f"the first froze at step {number}, before {actor.stopped_before}")
            raise
        if number > len(actor.calls):
            assert number > 5, "nothing was interleaved"
            return


def publish(world: World, id: str = "p", body: dict[str, object] | None = None) -> str:
    return publisher.publish(world.folders, record_of(id, dict(body or BODY)))


def test_two_watchers_with_one_drop(new_world: Callable[[], World]) -> None:
    def check(world: World, actor: Actor) -> None:
        assert actor.error is None, actor.error
        recover(world)
        world.check_at_rest(jobs=1)

    interleave(
        new_world,
        lambda world: world.drop("a.json", BODY),
        run_watcher,
        lambda world: run_watcher(world, "two"),
        check,
    )


def test_two_adapters_with_one_id(new_world: Callable[[], World]) -> None:
    """Look, then write: both must not answer 202."""

    def check(world: World, actor: Actor) -> None:
        answers = {str(actor.result or actor.error), str(world.notes["answer"])}
        assert answers == {"new", str(Failure(Reason.ID_TAKEN, id="p"))}
        recover(world)
        world.check_at_rest(jobs=1)

    def second(world: World) -> None:
        try:
            world.notes["answer"] = publish(world, body={"prompt": "a dog"})
        except Failure as failure:
            world.notes["answer"] = failure

    interleave(new_world, lambda _: None, publish, second, check)


def test_control_an_adapter_that_looks_and_then_writes(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_then_write(folders: Folders, source: str, *, id: str, token: str) -> bool:
        target = folders.reservation(id)
        if os.path.lexists(target):
            return False
        os.rename(source, f"{source}.moved")
        os.rename(f"{source}.moved", target)
        os.link(target, source)
        return True

    monkeypatch.setattr(reservations, "reserve", look_then_write)
    with pytest.raises(AssertionError, match="new"):
        test_two_adapters_with_one_id(new_world)


def test_two_adapters_with_the_same_job(new_world: Callable[[], World]) -> None:
    def check(world: World, actor: Actor) -> None:
        assert {actor.result, world.notes["answer"]} == {"new", "replay"}
        recover(world)
        world.check_at_rest(jobs=1)

    def second(world: World) -> None:
        world.notes["answer"] = publish(world)

    interleave(new_world, lambda _: None, publish, second, check)


def test_an_adapter_and_a_drop_with_one_id(new_world: Callable[[], World]) -> None:
    """Whoever is later is told so, and what was answered 202 runs."""
    dropped = b'{"id":"p","prompt":"a dog"}'

    def check(world: World, actor: Actor) -> None:
        recover(world)
        won = isinstance(actor.error, Failure)
        world.check_at_rest(jobs=1, rejected={} if won else {"a.json": dropped})
        assert world.reservations()["p"].body["prompt"] == ("a dog" if won else "a cat")

    interleave(new_world, lambda world: world.drop("a.json", dropped), publish, run_watcher, check)


def test_a_slow_adapter_and_the_sweep(new_world: Callable[[], World]) -> None:
    def sweep_and_work(world: World) -> None:
        world.sweep()
        run_watcher(world)

    def check(world: World, actor: Actor) -> None:
        assert actor.result == "new", actor.error
        recover(world)
        world.check_at_rest(jobs=1)

    interleave(new_world, lambda _: None, publish, sweep_and_work, check)


def test_a_slow_sweep_and_an_adapter_that_comes_again(new_world: Callable[[], World]) -> None:
    def check(world: World, actor: Actor) -> None:
        assert actor.error is None, actor.error
        recover(world)
        world.check_at_rest(jobs=1)

    def prepare(world: World) -> None:
        run(lambda: publish(world), stop_before="rename")

    interleave(new_world, prepare, World.sweep, publish, check)


def test_two_sweeps(new_world: Callable[[], World]) -> None:
    def prepare(world: World) -> None:
        run(lambda: publish(world, "reserved"), stop_before="rename")
        run(lambda: publish(world, "free"), stop_before="link")

    def check(world: World, actor: Actor) -> None:
        assert actor.error is None, actor.error
        recover(world)
        world.check_at_rest(jobs=1)

    interleave(new_world, prepare, World.sweep, World.sweep, check)


def prepare_a_stopped_adapter(world: World) -> None:
    """One that wrote its file and has not linked it yet; `publish_slowly` lets it go on."""
    world.notes["adapter"] = run(lambda: publish(world), stop_before="link", freeze=True)


def publish_slowly(world: World) -> None:
    world.notes["adapter"].finish()


def check_one_promise(world: World, actor: Actor) -> None:
    assert actor.error is None, actor.error
    assert world.notes["adapter"].result == "new", world.notes["adapter"].error
    recover(world)
    world.check_at_rest(jobs=1)


def test_a_slow_sweep_and_a_slow_adapter(new_world: Callable[[], World]) -> None:
    interleave(new_world, prepare_a_stopped_adapter, World.sweep, publish_slowly, check_one_promise)


# fencing


def all_kinds_of_work(world: World) -> None:
    world.drop("a.json", BODY)
    world.drop("b.json", {"id": "cat", **BODY})
    world.drop("c.json", b"{")
    publish(world)


def take_over_and_work(world: World) -> None:
    """By another ComfyUI's watcher, after the lease."""
    watcher = Watcher(world, "two")
    watcher.take_over_the_dead(after_the_lease=True)
    watcher.run()
    world.notes["before"] = world.visible()


def test_a_fenced_watcher_that_wakes_up_changes_nothing(new_world: Callable[[], World]) -> None:
    def check(world: World, actor: Actor) -> None:
        assert actor.error is None or isinstance(actor.error, Fenced), actor.error
        assert world.visible() == world.notes["before"]
        recover(world)
        world.check_at_rest(jobs=3, rejected={"c.json": b"{"}, runs=2)

    def work(world: World) -> None:
        watcher = Watcher(world)
        watcher.take_in_all()
        watcher.work_all()
        watcher.seat.leave()

    interleave(new_world, all_kinds_of_work, work, take_over_and_work, check)


def test_control_a_watcher_that_compares_and_then_writes_is_not_fenced(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same test with a pen that nobody takes away finds what it is for."""
    monkeypatch.setattr("handoff.spool.takeover._remove_pen", lambda *_: None)
    with pytest.raises((AssertionError, Fenced)):
        test_a_fenced_watcher_that_wakes_up_changes_nothing(new_world)


def prepare_a_dead_watcher(world: World) -> None:
    dead = Watcher(world)
    publish(world, "sent")
    run(dead.work_all, stop_before="PUT")
    world.drop("made.json", BODY)
    run(dead.take_in_all, stop_before="link")
    world.drop("claimed.json", BODY)
    assert dead.drops.claim("claimed.json")
    dead.seat.lease.close()


def test_two_takers(new_world: Callable[[], World]) -> None:
    """One is frozen while it takes over; the other takes what is left, and the first, too, when it is silent for long."""

    def check(world: World, actor: Actor) -> None:
        assert actor.error is None or isinstance(actor.error, Fenced), actor.error
        recover(world)
        world.check_at_rest(jobs=3)

    def first(world: World) -> None:
        watcher = Watcher(world)
        watcher.take_over_the_dead()
        watcher.take_in_all()
        watcher.seat.leave()

    interleave(new_world, prepare_a_dead_watcher, first, take_over_and_work, check)


def test_two_watchers_cannot_take_each_other_over(world: World) -> None:
    first, second = Watcher(world, "one"), Watcher(world, "two")
    assert take_over(first.seat, second.seat.wid)
    with pytest.raises(Fenced):
        take_over(second.seat, first.seat.wid)
    assert first.seat.held()


def test_exactly_one_of_many_watchers_claims_a_drop(world: World) -> None:
    watchers = [Watcher(world, f"server {number}") for number in range(8)]
    for round in range(20):
        world.drop("a.json", BODY)
        barrier = threading.Barrier(len(watchers))
        won: list[Claim] = []

        def claim(drops: Drops, barrier: threading.Barrier = barrier, won: list[Claim] = won) -> None:
            barrier.wait()
            if (claimed := drops.claim("a.json")) is not None:
                won.append(claimed)

        threads = [threading.Thread(target=claim, args=(watcher.drops,)) for watcher in watchers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, f"round {round}"


def test_every_publishing_call_of_a_fenced_watcher_fails(world: World) -> None:
    world.drop("a.json", BODY)
    world.drop("late.json", BODY)
    fenced, other = Watcher(world), Watcher(world, "two")
    claim = fenced.drops.claim("a.json")
    assert claim is not None
    publish(world)
    record = fenced.journal.claim(f"{record_of('p', BODY).rank}-{(token := token_of(world))}.json", token)
    assert record is not None
    source = Path(world.folders.output, "picture")
    source.write_bytes(b"picture")
    Path(world.folders.done, DAY).mkdir()
    assert take_over(other.seat, fenced.seat.wid)
    before = world.visible()
    journal, status = fenced.journal, first_status(record)
    calls: list[Callable[[], object]] = [
        lambda: fenced.drops.claim("late.json"),
        lambda: fenced.take(claim),
        lambda: fenced.drops.reject(claim, Failure(Reason.UI_FORMAT), "en"),
        fenced.drops.claims,
        journal.records,
        lambda: journal.write(record),
        lambda: journal.release(record),
        lambda: journal.publish_status(status, token, durable_write=True),
        lambda: journal.publish_job_document("p", b"{}", token),
        lambda: journal.publish_output(str(source), "p", "a.png", token, sha256=""),
        lambda: journal.announce("p"),
        lambda: journal.finish(record, DAY),
        lambda: take_over(fenced.seat, other.seat.wid),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(Fenced):
            call()
        assert world.visible() == before, f"call {number}"


def token_of(world: World) -> str:
    holder = reservations.find(world.folders, "p")
    assert holder is not None
    assert holder.token is not None
    return holder.token


def test_two_threads_with_one_claim_make_one_job(world: World) -> None:
    """A picture is being fetched for a claim when it is taken up a second time: one seed is drawn twice, one job made."""
    world.drop("a.json", BODY)
    watcher = Watcher(world)
    claim = watcher.drops.claim("a.json")
    assert claim is not None
    job = record_of("x", BODY)
    both = threading.Barrier(2)

    def make(id: str) -> Record:
        both.wait(10)
        return job.evolve(id=id, token=claim.token)

    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(watcher.drops.take_in(claim, id=None, sha256=job.sha256, make=make))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 2
    assert sorted(result.inbox_name is None for result in results) == [False, True]
    watcher.drops.settle([claim])
    watcher.work_all()
    watcher.seat.leave()
    world.check_at_rest(jobs=1)


def test_leaving_never_deletes_what_arrives_meanwhile(new_world: Callable[[], World]) -> None:
    """A thread that was not waited for claims a drop while the seat is given up."""

    def prepare(world: World) -> None:
        world.drop("a.json", BODY)
        world.notes["watcher"] = Watcher(world)

    def leave(world: World) -> None:
        world.notes["watcher"].seat.leave()

    def claim(world: World) -> None:
        with suppress(Fenced):
            world.notes["watcher"].drops.claim("a.json")

    def check(world: World, actor: Actor) -> None:
        assert actor.error is None
        recover(world)
        world.check_at_rest(jobs=1)

    interleave(new_world, prepare, leave, claim, check)

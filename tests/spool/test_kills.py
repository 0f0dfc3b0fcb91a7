"""A watcher or an adapter is killed before each of its system calls, one after the other; a successor finishes the rest."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from handoff.spool import publisher
from handoff.spool.drops import Drops
from handoff.spool.record import Record
from handoff.status import StatusDocument
from tests.spool.actors import Killed, run
from tests.spool.world import Make, Watcher, World, record_of, recover, run_watcher

BODY = {"prompt": "a cat"}
BAD = b'{"prompt": "a cat", '


def publish(world: World, id: str = "p", body: dict[str, object] | None = None) -> str:
    return publisher.publish(world.folders, record_of(id, body or dict(BODY)))


def kill_everywhere(
    new_world: Callable[[], World], prepare: Make, victim: Make, check: Make, finish: Make = recover
) -> int:
    """Returns the number of steps the victim has when nobody kills it."""
    whole = new_world()
    prepare(whole)
    steps = run(lambda: victim(whole))
    assert steps.error is None, steps.error
    finish(whole)
    check(whole)
    for number in range(1, len(steps.calls) + 1):
        world = new_world()
        prepare(world)
        actor = run(lambda world=world: victim(world), stop_at=number)  # type: ignore[misc]
        assert isinstance(actor.error, Killed), actor.error
        try:
            finish(world)
            check(world)
        except BaseException as error:
            error.add_note(f"killed at step {number}, before {actor.stopped_before}")
            raise
    return len(steps.calls)


def one_job(world: World) -> None:
    world.check_at_rest(jobs=1)


def test_a_drop_without_an_id(new_world: Callable[[], World]) -> None:
    steps = kill_everywhere(new_world, lambda world: world.drop("a.json", BODY), run_watcher, one_job)
    assert steps > 100


def test_a_drop_with_an_id(new_world: Callable[[], World]) -> None:
    kill_everywhere(new_world, lambda world: world.drop("a.json", {"id": "cat", **BODY}), run_watcher, one_job)


def test_the_same_job_dropped_twice(new_world: Callable[[], World]) -> None:
    def prepare(world: World) -> None:
        world.drop("a.json", {"id": "cat", **BODY})
        world.drop("b.json", {"id": "cat", **BODY})

    kill_everywhere(new_world, prepare, run_watcher, one_job)


def test_two_jobs_with_one_id(new_world: Callable[[], World]) -> None:
    other = b'{"id":"cat","prompt":"a dog"}'

    def prepare(world: World) -> None:
        world.drop("a.json", {"id": "cat", **BODY})
        world.drop("b.json", other)

    kill_everywhere(
        new_world, prepare, run_watcher, lambda world: world.check_at_rest(jobs=1, rejected={"b.json": other})
    )


def test_a_drop_that_is_no_job(new_world: Callable[[], World]) -> None:
    kill_everywhere(
        new_world,
        lambda world: world.drop("a.json", BAD),
        run_watcher,
        lambda world: world.check_at_rest(jobs=0, rejected={"a.json": BAD}),
    )


def test_a_rejected_drop_whose_name_is_taken(new_world: Callable[[], World]) -> None:
    def prepare(world: World) -> None:
        world.drop("rejected/a.json", b"older")
        world.drop("rejected/a.json.reason.json", b"{}")
        world.drop("a.json", BAD)

    expected = {"a.json": b"older", "a-2.json": BAD}
    kill_everywhere(new_world, prepare, run_watcher, lambda world: world.check_at_rest(jobs=0, rejected=expected))


def test_a_cancelled_drop(new_world: Callable[[], World]) -> None:
    def prepare(world: World) -> None:
        world.drop("a.json", {"id": "cat", **BODY})
        world.cancel("cat")

    def check(world: World) -> None:
        one_job(world)
        assert world.status("cat").status in ("cancelled", "succeeded")
        assert world.status("cat").status == "cancelled" or world.runs

    kill_everywhere(new_world, prepare, run_watcher, check)


@pytest.mark.parametrize("repeated", [True, False])
def test_a_publisher(new_world: Callable[[], World], *, repeated: bool) -> None:
    """Killed before its answer it may leave a job or none; repeated by its client it leaves exactly one."""

    def finish(world: World) -> None:
        if repeated:
            publish(world)
        recover(world)

    def check(world: World) -> None:
        world.check_at_rest(jobs=1 if repeated else len(world.reservations()))

    kill_everywhere(new_world, lambda _: None, publish_alone, check, finish)


def publish_alone(world: World) -> None:
    publish(world)


def test_the_sweep(new_world: Callable[[], World]) -> None:
    """What dead publishers left is swept; the sweeper is killed in turn."""

    def prepare(world: World) -> None:
        run(lambda: publish(world, "reserved"), stop_before="rename")
        run(lambda: publish(world, "free"), stop_before="link")
        run(lambda: publish(world, "torn"), stop_before="write")

    kill_everywhere(new_world, prepare, World.sweep, one_job)


def prepare_two_dead_watchers(world: World) -> None:
    """One that had claimed a drop, made a job of another and sent a third; and its successor, killed while taking it over."""
    first = Watcher(world)
    publish(world, "sent")
    run(first.work_all, stop_before="PUT")
    world.drop("made.json", BODY)
    run(first.take_in_all, stop_before="link")
    world.drop("claimed.json", BODY)
    assert first.drops.claim("claimed.json")
    first.seat.lease.close()
    second = Watcher(world)
    publish(world, "waiting")
    name = os.listdir(world.folders.inbox)[0]
    assert second.journal.claim(name, name[21:37])
    run(second.take_over_the_dead, stop_before="rmdir")
    second.seat.lease.close()


def test_a_takeover(new_world: Callable[[], World]) -> None:
    def take_over(world: World) -> None:
        watcher = Watcher(world)
        watcher.take_over_the_dead()
        watcher.take_in_all()
        watcher.seat.lease.close()

    kill_everywhere(new_world, prepare_two_dead_watchers, take_over, lambda world: world.check_at_rest(jobs=4))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, phases=[Phase.generate])
def test_kill_upon_kill(new_world: Callable[[], World], data: st.DataObject) -> None:
    """Several successors are killed, too."""
    world = new_world()
    prepare_two_dead_watchers(world)
    world.drop("bad.json", BAD)
    for _ in range(data.draw(st.integers(1, 5))):
        successor = run(lambda: run_watcher(world), stop_at=data.draw(st.integers(1, 400)))
        assert successor.error is None or isinstance(successor.error, Killed), successor.error
    recover(world)
    world.check_at_rest(jobs=4, rejected={"bad.json": BAD})


# the controls: what the tests above would find


def expect_a_violation(new_world: Callable[[], World]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        kill_everywhere(new_world, lambda world: world.drop("a.json", BODY), run_watcher, one_job)


def test_control_the_claim_is_cleared_away_before_the_job_is_out(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_made(drops: Drops, record: Record, made: str) -> None:
        drops.settle(drops.claims())
        original(drops, record, made)

    original = Drops._write_made
    monkeypatch.setattr(Drops, "_write_made", write_made)
    expect_a_violation(new_world)


def test_control_the_post_comes_before_the_journal(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(watcher: Watcher, record: Record) -> Record:
        assert record.job is not None
        coming = record.next_attempt(server="one", at=record.received_at, plan=record.job)
        watcher.world.post(str(coming.prompt_id), coming)
        watcher.journal.write(coming)
        return coming

    monkeypatch.setattr(Watcher, "send", send)
    expect_a_violation(new_world)


def test_control_the_bucket_hears_of_the_end_before_the_decision(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(watcher: Watcher, record: Record, status: StatusDocument) -> None:
        watcher.world.put(f"{record.id}/status.json", status.to_bytes())
        original(watcher, record, status)

    original = Watcher.decide
    monkeypatch.setattr(Watcher, "decide", decide)
    expect_a_violation(new_world)

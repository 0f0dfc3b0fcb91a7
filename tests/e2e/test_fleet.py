"""Two watchers on one volume, each with a ComfyUI of its own."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.servers.simulator import Simulator
from tests.servers.watcher import Stopped

LEASE_S = 5


@pytest.fixture
def other(volume: Volume) -> Iterator[Simulator]:
    with run_simulator(volume, name="comfyui-2") as simulator:
        yield simulator


def test_200_jobs_are_drawn_once_each_by_two(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher
) -> None:
    one, two = watch(simulator), watch(other)
    one.wait_for("comfyui_up")
    two.wait_for("comfyui_up")
    names = [f"job-{number}.json" for number in range(200)]
    for name in names:
        volume.drop(name, canvas())
    volume.succeed(*names, limit_s=90)
    check_promises(volume, simulator, other, watchers=(one, two))
    shares = [sum(server.control()["executions"].values()) for server in (simulator, other)]
    assert sum(shares) == len(names)
    assert min(shares) > 10, "one of the two did nearly nothing"


def test_one_id_in_many_files_at_once_is_one_job(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher
) -> None:
    one, two = watch(simulator), watch(other)
    one.wait_for("comfyui_up")
    two.wait_for("comfyui_up")
    same = canvas(id="contested")
    names = [f"same-{number}.json" for number in range(10)]
    others = [f"differs-{number}.json" for number in range(10)]
    for name, different in zip(names, others, strict=True):
        volume.drop(name, same)
        volume.drop(different, canvas(id="contested"))
    dropped = {*names, *others}
    status = eventually(
        lambda: (found := volume.status("contested")) is not None and found["done"] and found, "it ends"
    )
    assert status["ok"]

    def settled() -> bool:
        rejected = {path.name for path in (volume.input / "rejected").glob("*.json")}
        replayed = {line["file"] for watcher in (one, two) for line in watcher.find("replay")}
        return rejected | replayed | {status["source"]} >= dropped

    eventually(settled, "every file has its answer")
    winner = set(names) if status["source"] in names else {status["source"]}
    volume.replays |= winner - {status["source"]}
    for name in dropped - winner:
        assert volume.reason(name)["reason"] == "id_taken"
    check_promises(volume, simulator, other, watchers=(one, two))


def test_a_dead_watchers_jobs_are_taken_over_after_its_lease(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher
) -> None:
    dying, living = watch(simulator, lease_s=LEASE_S), watch(other, lease_s=LEASE_S)
    dying.wait_for("comfyui_up")
    living.wait_for("comfyui_up")
    # each has its hands full, so that the dying one certainly has some when it dies
    names = [f"job-{number}.json" for number in range(12)]
    for name in names:
        volume.drop(name, sleeping(0.2))
    eventually(lambda: sum(simulator.control()["executions"].values()) >= 1, "the first one draws")
    begun = time.monotonic()
    dying.kill()
    statuses = volume.succeed(*names, limit_s=90)
    living.wait_for("took_over")
    assert time.monotonic() - begun >= LEASE_S - 3, "it was declared dead before its lease ran out"
    # what the dead one had at its ComfyUI ran there, and once more here: nobody could know
    allowed = {status["source"]: status["attempt"] for status in statuses}
    assert max(allowed.values()) <= 2
    check_promises(volume, simulator, other, allowed=allowed, watchers=(living,))


def test_a_frozen_watcher_that_wakes_up_is_fenced_and_starts_anew(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher
) -> None:
    frozen = watch(simulator, lease_s=LEASE_S)
    frozen.wait_for("comfyui_up")
    volume.drop("contested.json", sleeping(600, id="contested", run_timeout_s=1))
    eventually(lambda: (found := volume.find("contested.json")) is not None and found["started_at"], "it runs")
    frozen.freeze()
    living = watch(other, lease_s=LEASE_S)
    living.wait_for("took_over")
    (status,) = volume.finish("contested.json")
    assert (status["status"], status["attempt"]) == ("failed", 2)
    frozen.thaw()
    frozen.wait_for("fenced")
    frozen.wait_for("watching", count=2)
    volume.drop("afterwards.json", canvas())
    volume.succeed("afterwards.json")
    check_promises(volume, simulator, other, allowed={"contested.json": 2}, watchers=(frozen, living))
    assert volume.status("contested") == status


def test_a_second_watcher_on_the_same_comfyui_refuses_to_start(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    first.wait_for("comfyui_up")
    second = watch(simulator)
    assert second.wait() == 2
    assert "another watcher" in second.text
    assert simulator.url in second.text
    assert "HANDOFF_WATCHER_NAME" in second.text
    with pytest.raises(Stopped):
        second.wait_for("watching")
    volume.drop("still-works.json", canvas())
    volume.succeed("still-works.json")
    check_promises(volume, simulator, watchers=(first,))


def test_a_job_goes_to_the_one_whose_comfyui_can_run_it(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    from tests.servers.simulator import start_simulator

    with start_simulator(
        volume.root / "plain", input_dir=volume.input, output_dir=volume.output
    ) as plain:  # without the probe nodes
        poor = watch(plain)
        poor.wait_for("comfyui_up")
        rich = watch(simulator)
        rich.wait_for("comfyui_up")
        eventually(lambda: len(list(volume.spool.glob("w-*/server.json"))) == 2, "both say what they can")
        names = [f"special-{number}.json" for number in range(6)]
        for name in names:
            volume.drop(name, sleeping(0.1))
        volume.succeed(*names)
        assert sum(plain.control()["executions"].values()) == 0
        check_promises(volume, simulator, plain, watchers=(poor, rich))


def test_sigterm_to_a_watcher_that_waits_for_its_rival_ends_it(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    first.wait_for("comfyui_up")
    second = watch(simulator)
    eventually(lambda: len(list(volume.spool.glob("w-*"))) == 2, "the second one has a seat")
    second.process.terminate()
    first.kill()
    assert second.wait(limit_s=20) in (0, 2)

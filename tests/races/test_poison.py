"""Jobs that do harm each time they are tried: they end after few attempts, also across deaths, and the next job does not wait long."""

import time
from collections.abc import Callable

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import House, StartWatcher
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Status, Volume, eventually
from tests.figures import Note
from tests.races import contenders
from tests.races.test_one_id import ended
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

WAIT_S = 30.0 if SOAK else 90.0  # one lease; a busy machine is slow at starting processes anew
ATTEMPTS = 4  # three strikes; the first time it is not alone at ComfyUI, and perhaps not to blame
DEATHS = 5


def drop_innocent(volume: Volume) -> None:
    volume.drop("innocent.json", canvas(id="innocent"))


def delay_s(volume: Volume) -> float:
    """How long the job behind the poison took in all; alone it takes some 50 ms."""
    eventually(lambda: (found := volume.status("innocent")) is not None and found["done"], "the innocent job ends")
    waited = time.time() - volume.drops["innocent.json"].at
    status = volume.status("innocent")
    assert status is not None
    assert status["ok"], status["error"]
    assert waited < WAIT_S
    return waited


@pytest.mark.parametrize("kills_watcher", [False, True] if SOAK else [True])
def test_a_job_that_brings_comfyui_down(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note, *, kills_watcher: bool
) -> None:
    """Each time that it runs ComfyUI dies, and the watcher, too, so that only the disk counts the attempts."""
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    volume.drop("poison.json", sleeping(600, id="poison"))
    eventually(lambda: runs(simulator, "poison"), "it runs")
    drop_innocent(volume)
    begun, deaths = time.monotonic(), 0
    while (status := volume.status("poison")) is None or not status["done"]:
        assert time.monotonic() - begun < 100
        if runs(simulator, "poison"):
            remember_executions(volume, simulator)
            if kills_watcher:
                watcher.kill()
            simulator.restart()
            if kills_watcher:
                watcher = watch(simulator)
            deaths += 1
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    waited = delay_s(volume)
    assert (status["status"], status["error"]["reason"]) == ("failed", "lost")
    assert deaths == status["attempt"]
    assert status["attempt"] <= ATTEMPTS
    allowed = {"poison.json": ATTEMPTS, "innocent.json": 2}
    check_promises(volume, simulator, allowed=allowed, watchers=(watcher,))
    note(attempts=status["attempt"], ends_after_s=seconds, next_job_waited_s=waited)


def runs(simulator: Simulator, id: str) -> bool:
    return any(tag.startswith(f"{id}/") for tag in simulator.control()["executions_by_tag"])


STEPS = {
    "poison-taken": "watcher.intake:Intake._make_record",
    "poison-planned": "watcher.planning:Planner.plan",
    "poison-sent": "watcher.submission:Submission.send",
    "poison-collected": "watcher.collector:collect",
    "poison-mirrored": "watcher.delivery:Delivery._put_output",
}
FATAL_STEPS = tuple(id for id in STEPS if id != "poison-sent") if SOAK else ("poison-collected",)


def bring(volume: Volume, id: str) -> None:
    body = canvas(metadata={"note": id})
    if id == "poison-planned":
        assert contenders.submit(volume.root, 0, id=id, body=body) == "new"
    else:
        volume.drop(f"{id}.json", {**body, "id": id})


def end_of(volume: Volume, id: str) -> Callable[[], Status | None]:
    """A drop that was never taken in is rejected; it has no status."""

    def look() -> Status | None:
        if (volume.input / "rejected" / f"{id}.json").exists():
            return {"error": volume.reason(f"{id}.json"), "attempt": 0}
        status = volume.status(id)
        return status if status is not None and status["done"] else None

    return look


def test_jobs_that_meet_a_bug_of_the_watcher(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    bugs = " ".join(f"{where}:{id}:raises" for id, where in STEPS.items())
    watcher = watch(simulator, module=f"tests.races.stumbling {bugs}")
    watcher.wait_for("comfyui_up")
    for id in STEPS:
        bring(volume, id)
    watcher.wait_for("bug")
    drop_innocent(volume)
    waited = delay_s(volume)
    begun = time.monotonic()
    for id in STEPS:
        status = eventually(end_of(volume, id), f"{id} ends")
        assert status["error"]["reason"] == "internal_error"
        assert "planted" in status["error"]["message"]
        assert status["attempt"] <= 1
    note(kinds=len(STEPS), ends_after_s=time.monotonic() - begun + waited, next_job_waited_s=waited)
    check_promises(volume, simulator)


@pytest.mark.parametrize("id", FATAL_STEPS)
def test_a_job_that_brings_the_watcher_down(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note, id: str
) -> None:
    watchers: list[Watcher] = []

    def keep_watching() -> None:
        """As a container's restart policy does."""
        if not watchers or watchers[-1].process.poll() is not None:
            watchers.append(watch(simulator, module=f"tests.races.stumbling {STEPS[id]}:{id}:dies"))

    keep_watching()
    watchers[0].wait_for("comfyui_up")
    bring(volume, id)
    eventually(lambda: watchers[0].process.poll() is not None, "it dies")
    drop_innocent(volume)

    def over() -> Status | None:
        keep_watching()
        innocent = volume.status("innocent")
        return end_of(volume, id)() if innocent is not None and innocent["done"] else None

    status = eventually(over, "both jobs end")
    assert status["error"]["reason"] == "internal_error"
    assert f"died {DEATHS} times" in status["error"]["message"]
    assert len(watchers) == DEATHS + 1
    note(job=id, deaths=DEATHS, next_job_waited_s=delay_s(volume))
    check_promises(volume, simulator, watchers=tuple(watchers))


def test_a_job_that_hangs_and_one_without_a_result(house: House, note: Note) -> None:
    waits = {}
    for id, body in {"hangs": sleeping(600, run_timeout_s=2), "empty": canvas()}.items():
        house.simulator.control(outputs=["missing"] if id == "empty" else [])
        house.volume.drop(f"{id}.json", {**body, "id": id})
        eventually(lambda id=id: runs(house.simulator, id), "it runs")  # type: ignore[misc]
        begun = time.monotonic()
        house.volume.drop(f"behind-{id}.json", canvas())
        house.volume.succeed(f"behind-{id}.json")
        waits[f"behind_one_that_{id}_s"] = time.monotonic() - begun
        assert not ended(house.volume, id)["ok"]
    house.simulator.control(reset=True)
    assert max(waits.values()) < WAIT_S
    note(**waits)
    house.check()

"""Nobody holds up the line: not those who wait for a picture, a model, a stubborn ComfyUI or a watcher that was killed."""

import time
from typing import Any

import requests
from PIL import Image

from handoff import timestamps
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.record import Record
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import Job, canvas, graph, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Status, Volume, eventually
from tests.servers.simulator import Simulator

CHECKPOINTS = "models/checkpoints"
SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def submit(volume: Volume, id: str, body: Job) -> None:
    """As an adapter does: it is planned only after the claim."""
    folders = Folders(str(volume.input), str(volume.output))
    job = parse_job(body, default_workflow="txt2img")
    received = timestamps.to_text(timestamps.now())
    record = Record(
        token="0" * 16, id=id, sha256=job.sha256, received_at=received, priority=job.priority or 0, body=job.body
    )
    assert publisher.publish(folders, record) == "new"


def with_picture(name: str) -> Job:
    job = graph()
    job["2"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    job["9"]["inputs"]["images"] = ["2", 0]
    return {"graph": job}


def ended(volume: Volume, id: str, *, limit_s: float = 20) -> Status:
    def look() -> Status | None:
        found = volume.status(id)
        return found if found is not None and found["done"] else None

    return eventually(look, f"{id} ends", limit_s=limit_s)


def claimed(volume: Volume) -> int:
    return len(list(volume.spool.glob("w-*/r-*")))


def tags(simulator: Simulator) -> list[str]:
    """Ids in the order in which they began."""
    return [tag.split("/")[0] for tag in simulator.control()["executions_by_tag"]]


def test_jobs_that_wait_for_a_picture_let_the_others_pass(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    Folders(str(volume.input), str(volume.output)).make()
    for number in range(6):
        submit(volume, f"waits-{number}", with_picture(f"missing-{number}.png"))
    submit(volume, "good", canvas())
    watcher = watch(simulator, picture_wait_s=4)
    assert ended(volume, "good")["ok"]
    assert not any(line["id"].startswith("waits") for line in watcher.find("job"))
    for number in range(6):
        status = ended(volume, f"waits-{number}")
        assert (status["status"], status["error"]["reason"]) == ("rejected", "missing_picture")
    assert tags(simulator) == ["good"]


def test_submitted_jobs_are_drawn_by_rank(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    Folders(str(volume.input), str(volume.output)).make()
    priorities = [0, 7, -3, 100, 55, -100, 20, 1, 99, -50, 3, 42]
    for priority in priorities:
        submit(volume, f"job{priority}", canvas(priority=priority))
    watcher = watch(simulator)
    for priority in priorities:
        ended(volume, f"job{priority}")
    assert tags(simulator) == [f"job{priority}" for priority in sorted(priorities, reverse=True)]
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_job_that_got_its_picture_late_keeps_its_rank(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    Folders(str(volume.input), str(volume.output)).make()
    submit(volume, "long", {**sleeping(2), "priority": 100})
    submit(volume, "urgent", {**with_picture("late.png"), "priority": 50})
    submit(volume, "patient", canvas())
    watcher = watch(simulator, window=1)
    eventually(lambda: claimed(volume) == 3 and tags(simulator) == ["long"], "all are claimed, one runs")
    Image.new("RGB", (8, 8)).save(volume.input / "late.png")
    volume.left.add("late.png")
    for name in ("long", "urgent", "patient"):
        assert ended(volume, name)["ok"]
    check_promises(volume, simulator, watchers=(watcher,))
    assert tags(simulator) == ["long", "urgent", "patient"]


def test_a_model_that_was_just_added_is_found(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    (simulator.base / CHECKPOINTS).mkdir(parents=True)  # empty: without this folder the simulator has a model
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    volume.drop("too-early.json", {"prompt": "a lighthouse"})
    (status,) = volume.finish("too-early.json")
    assert status["error"]["reason"] == "model_not_chosen"
    (simulator.base / CHECKPOINTS / "sd15.safetensors").write_bytes(SAFETENSORS)
    volume.drop("in-time.json", {"prompt": "a lighthouse"})
    volume.succeed("in-time.json")
    assert len(watcher.find("comfyui_up")) == 1
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_deadline_outlives_the_watcher_and_comfyui(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    """Claimed and planned, but not sent when both die: its time still runs."""
    Folders(str(volume.input), str(volume.output)).make()
    submit(volume, "long", sleeping(600))
    for number in range(2):
        submit(volume, f"late-{number}", {**sleeping(0.1), "queue_timeout_s": 5})
    first = watch(simulator, window=1)
    eventually(lambda: claimed(volume) == 3 and tags(simulator) == ["long"], "all are claimed, one runs")
    first.kill()
    simulator.kill()
    second = watch(simulator, window=1)
    second.wait_for("resumed", count=3)
    for number in range(2):
        status = ended(volume, f"late-{number}")
        assert (status["status"], status["error"]["reason"]) == ("expired", "queue_timeout")
    assert not second.find("comfyui_up")


def test_a_job_that_did_not_reach_comfyui_expires(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    simulator.kill()
    volume.drop("unlucky.json", canvas(queue_timeout_s=2))
    (status,) = volume.finish("unlucky.json", limit_s=10)
    assert status["status"] == "expired"
    simulator.restart()
    watcher.wait_for("comfyui_up", count=2)
    volume.drop("lucky.json", canvas(queue_timeout_s=20))
    volume.succeed("lucky.json")
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_prompt_that_does_not_stop_is_asked_now_and_then(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator)
    volume.drop("deaf.json", sleeping(5, deaf=True, id="deaf"))
    eventually(lambda: tags(simulator) == ["deaf"], "it runs")
    before = sum(simulator.control()["requests"].values())
    (volume.input / "deaf.cancel").touch()
    watcher.wait_for("cancel", id="deaf")
    (status,) = volume.finish("deaf.json")
    counters = simulator.control()["requests"]
    assert status["status"] in ("cancelled", "succeeded")
    stops = {route: count for route, count in counters.items() if "cancel" in route or "interrupt" in route}
    assert 1 <= sum(stops.values()) <= 12, stops
    assert sum(counters.values()) - before <= 40, counters
    check_promises(volume, simulator, watchers=(watcher,))


def test_the_time_a_job_may_run_goes_on_while_the_watcher_is_gone(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    volume.drop("endless.json", sleeping(600, run_timeout_s=4))
    started = eventually(lambda: (found := volume.find("endless.json")) is not None and found["started_at"], "it runs")

    def ran_s() -> float:
        return (timestamps.now() - timestamps.from_text(started)).total_seconds()

    eventually(lambda: ran_s() > 3, "it has run for a while")
    first.kill()
    second = watch(simulator)
    (status,) = volume.finish("endless.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "timeout")
    assert ran_s() < 7, "its time began anew"
    assert abs((timestamps.from_text(status["started_at"]) - timestamps.from_text(started)).total_seconds()) < 1
    check_promises(volume, simulator, watchers=(second,))


def test_a_cancelled_job_that_waits_for_its_turn_ends_at_once(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    Folders(str(volume.input), str(volume.output)).make()
    for name in ("long", "next", "third", "fourth"):
        submit(volume, name, sleeping(600))
    watcher = watch(simulator, window=1)
    eventually(lambda: claimed(volume) == 4 and tags(simulator) == ["long"], "all are claimed, one runs")
    (volume.input / "fourth.cancel").touch()
    assert ended(volume, "fourth", limit_s=5)["status"] == "cancelled"
    simulator.kill()
    watcher.wait_for("comfyui_down")
    (volume.input / "third.cancel").touch()
    assert ended(volume, "third", limit_s=5)["status"] == "cancelled"
    assert watcher.find("cancel", phase="READY")
    assert [volume.status(name) for name in ("next",)] in ([None], [{**(volume.status("next") or {}), "done": False}])


def test_comfyui_never_runs_dry_of_short_jobs(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    (volume.spool / "paused").touch()
    names = [f"short-{number}.json" for number in range(60)]
    for name in names:
        volume.drop(name, sleeping(0.05))
    watcher.wait_for("accepted", count=len(names))
    (volume.spool / "paused").unlink()
    waiting = []
    while (done := len(tags(simulator))) < 55:
        if done >= 10:  # by then it knows how short they are
            waiting.append(_count_waiting(simulator))
        time.sleep(0.005)
    volume.succeed(*names)
    assert len(waiting) > 20
    assert sum(count == 0 for count in waiting) <= len(waiting) / 10, waiting
    check_promises(volume, simulator, watchers=(watcher,))


def _count_waiting(simulator: Simulator) -> int:
    queue: dict[str, list[Any]] = requests.get(f"{simulator.url}/queue", timeout=10).json()
    return len(queue["queue_pending"])

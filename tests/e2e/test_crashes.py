"""Whatever is killed, restarted or comes late: nothing is lost, and nothing is drawn twice without need."""

import os
import random
import signal
import time
from functools import partial

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, encode, sleeping
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Volume, eventually
from tests.servers.simulator import Simulator


def runs(volume: Volume, name: str, attempt: int) -> bool:
    found = volume.find(name)
    return found is not None and found["attempt"] == attempt and found["started_at"] is not None


def wait_until_started(volume: Volume, name: str) -> None:
    eventually(lambda: (found := volume.find(name)) is not None and found["started_at"], f"{name} runs")


def test_a_killed_watcher_adopts_its_job_when_it_is_back(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    volume.drop("long.json", sleeping(2.0))
    volume.drop("waiting.json", canvas())
    wait_until_started(volume, "long.json")
    first.kill()
    second = watch(simulator)
    long, _ = volume.succeed("long.json", "waiting.json")
    assert long["attempt"] == 1
    assert second.find("resumed", id=long["id"])
    check_promises(volume, simulator, watchers=(second,))


def test_a_job_that_ended_while_nobody_watched_is_collected(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    volume.drop("alone.json", sleeping(0.5))
    wait_until_started(volume, "alone.json")
    first.kill()
    eventually(lambda: simulator.control()["requests"] and not _is_busy(simulator), "ComfyUI is done with it")
    second = watch(simulator)
    (status,) = volume.succeed("alone.json")
    assert status["attempt"] == 1
    check_promises(volume, simulator, watchers=(second,))


def _is_busy(simulator: Simulator) -> bool:
    import requests

    queue = requests.get(f"{simulator.url}/queue", timeout=10).json()
    return bool(queue["queue_running"] or queue["queue_pending"])


def test_files_dropped_while_no_watcher_runs_are_taken_in_at_the_start(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    volume.drop("before.json", canvas())
    volume.drop("before-broken.json", b'{"hello": 1}')
    watcher = watch(simulator, settle_s=0.3)
    volume.succeed("before.json")
    assert volume.reason("before-broken.json")["reason"] == "not_a_job"
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_pause_outlives_the_watcher(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    volume.spool.mkdir()
    (volume.spool / "paused").touch()
    first = watch(simulator)
    volume.drop("patient.json", canvas())
    first.wait_for("accepted", file="patient.json")
    first.kill()
    second = watch(simulator)
    second.wait_for("comfyui_up")
    time.sleep(0.5)  # time enough to do what it must not
    assert sum(simulator.control()["executions"].values()) == 0
    (volume.spool / "paused").unlink()
    volume.succeed("patient.json")
    check_promises(volume, simulator, watchers=(second,))


def test_killed_again_and_again_under_load_every_job_is_drawn_once(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    chance = random.Random(20261124)
    names = [f"load-{number}.json" for number in range(40)]
    watcher = watch(simulator, settle_s=0.3)
    for number, name in enumerate(names):
        volume.drop(name, canvas())
        if number % 8 == 7:
            volume.drop(f"bad-{number}.json", b'{"hello": %d}' % number)
            time.sleep(chance.uniform(0.0, 0.15))  # so that the kill falls somewhere else each time
            watcher.kill()
            watcher = watch(simulator, settle_s=0.3)
    volume.succeed(*names)
    for number in range(7, 40, 8):
        assert volume.reason(f"bad-{number}.json")["reason"] == "not_a_job"
    check_promises(volume, simulator, watchers=(watcher,))


def test_comfyui_restarts_in_the_middle_of_a_job(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    volume.drop("unlucky.json", sleeping(1.0))
    volume.drop("behind.json", canvas())
    wait_until_started(volume, "unlucky.json")
    remember_executions(volume, simulator)
    simulator.restart()
    unlucky, behind = volume.succeed("unlucky.json", "behind.json")
    assert unlucky["attempt"] == 2
    assert len(unlucky["warnings"]) == 1
    assert unlucky["outputs"][0]["key"].startswith(f"jobs/{unlucky['id']}/attempt-2/")
    assert behind["error"] is None
    check_promises(volume, simulator, allowed={"unlucky.json": 2}, watchers=(watcher,))


def test_comfyui_and_watcher_are_killed_together(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    volume.drop("both.json", sleeping(1.0))
    wait_until_started(volume, "both.json")
    remember_executions(volume, simulator)
    simulator.kill()
    watcher.kill()
    watcher = watch(simulator)
    watcher.wait_for("comfyui_down")
    simulator.restart()
    (status,) = volume.succeed("both.json")
    assert status["attempt"] == 2
    check_promises(volume, simulator, allowed={"both.json": 2}, watchers=(watcher,))


def test_comfyui_comes_later_than_the_watcher(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    simulator.kill()
    watcher = watch(simulator)
    watcher.wait_for("comfyui_down")
    volume.drop("early.json", canvas())
    watcher.wait_for("accepted", file="early.json")
    simulator.restart()
    (status,) = volume.succeed("early.json")
    assert status["attempt"] == 1
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_job_that_brings_comfyui_down_is_given_up_and_the_others_are_drawn(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    volume.drop("poison.json", sleeping(600, id="poison"))
    for attempt in (1, 2, 3):
        eventually(partial(runs, volume, "poison.json", attempt), f"attempt {attempt} runs")
        remember_executions(volume, simulator)
        simulator.restart()
    (status,) = volume.finish("poison.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "lost")
    volume.drop("innocent.json", canvas())
    volume.succeed("innocent.json")
    check_promises(volume, simulator, allowed={"poison.json": 3}, watchers=(watcher,))


def test_sigterm_under_load_ends_with_0_and_costs_no_attempt(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    names = [f"load-{number}.json" for number in range(12)]
    first = watch(simulator, grace_s=10)
    for name in names:
        volume.drop(name, sleeping(0.2))
    wait_until_started(volume, names[0])
    begun = time.monotonic()
    assert first.terminate() == 0
    assert time.monotonic() - begun < 10
    assert first.find("stopped")
    assert not list(volume.spool.glob("w-*/[bt]-*"))  # a claim whose job is out may still lie there
    second = watch(simulator)
    for status in volume.succeed(*names):
        assert status["attempt"] == 1
    check_promises(volume, simulator, watchers=(first, second))


def test_sigterm_while_idle_leaves_nothing_behind(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    volume.drop("one.json", canvas())
    volume.succeed("one.json")
    check_promises(volume, simulator, watchers=(watcher,))
    assert watcher.terminate() == 0
    assert not [name for name in os.listdir(volume.spool) if name.startswith(("w-", "new-"))]
    assert set(os.listdir(volume.output / ".handoff")) == {"site", "work"}


def test_sigterm_while_comfyui_hangs_ends_within_the_grace_time(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator, grace_s=2)
    watcher.wait_for("comfyui_up")
    simulator.control(hang=True)
    volume.drop("stuck.json", canvas())
    eventually(lambda: list(volume.spool.glob("w-*/r-*")), "it is claimed")
    time.sleep(0.3)
    begun = time.monotonic()
    assert watcher.terminate() == 0
    assert time.monotonic() - begun < 6
    simulator.control(hang=False)
    second = watch(simulator)
    volume.succeed("stuck.json")
    check_promises(volume, simulator, watchers=(second,))


def test_a_second_sigterm_ends_it_at_once(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator, grace_s=60)
    watcher.wait_for("comfyui_up")
    simulator.control(hang=True)
    volume.drop("stuck.json", canvas())
    eventually(lambda: list(volume.spool.glob("w-*/r-*")), "it is claimed")
    time.sleep(0.3)
    watcher.process.send_signal(signal.SIGTERM)
    watcher.wait_for("stopping")
    begun = time.monotonic()
    assert watcher.terminate() == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 10
    simulator.control(hang=False)
    second = watch(simulator)
    volume.succeed("stuck.json")
    check_promises(volume, simulator, watchers=(second,))


def test_ctrl_c_is_a_stop_too(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    watcher.process.send_signal(signal.SIGINT)
    assert watcher.wait() == 0


def test_a_torn_file_that_a_killed_watcher_saw_is_still_waited_for(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    data = encode(canvas())
    path = volume.input / "torn.json"
    path.write_bytes(data[:30])
    first = watch(simulator, settle_s=30)
    first.wait_for("comfyui_up")
    first.kill()
    second = watch(simulator, settle_s=30)
    second.wait_for("comfyui_up")
    path.write_bytes(data)
    volume.note("torn.json", data)
    volume.succeed("torn.json")
    check_promises(volume, simulator, watchers=(second,))

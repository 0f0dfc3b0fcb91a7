"""A ComfyUI that misbehaves: no success that is none, no second drawing without need, and a reason with a name."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.e2e.conftest import House, StartWatcher
from tests.e2e.jobs import canvas, graph, sleeping
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Status, Volume, eventually
from tests.servers.simulator import Simulator


@pytest.fixture
def faults(house: House) -> Iterator[Any]:
    """Sets faults of the house's ComfyUI; they are gone after the test."""
    yield house.simulator.control
    house.simulator.control(reset=True)


Faults = Any


def draw(house: House, name: str, job: Any = None, *, executions: int = 1) -> Status:
    house.allowed[f"{name}.json"] = executions
    house.volume.drop(f"{name}.json", job or canvas())
    (status,) = house.volume.finish(f"{name}.json")
    return status


def test_a_lost_reply_is_looked_up_and_not_sent_again(house: House, faults: Faults) -> None:
    faults(lost_replies=1)
    status = draw(house, "lost-reply")
    assert (status["status"], status["attempt"], status["warnings"]) == ("succeeded", 1, [])
    house.check()


def test_a_500_although_it_was_queued(house: House, faults: Faults) -> None:
    faults(errors_after_queue=1)
    status = draw(house, "error-500")
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.check()


@pytest.mark.parametrize("fault", ["lost_replies", "silent_replies", "errors_after_queue"])
def test_half_a_graph_is_no_success_though_nobody_read_that_it_was_half(
    house: House, faults: Faults, fault: str
) -> None:
    nodes = graph()
    nodes["2"] = {"class_type": "EmptyImage", "inputs": {**nodes["1"]["inputs"], "width": 0}}
    nodes["8"] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "other"}}
    faults(**{fault: 1})
    status = draw(house, f"half-{fault}", {"graph": nodes})
    assert (status["status"], status["error"]["reason"]) == ("failed", "validation_failed")
    assert status["error"]["node"]["id"] == "8"
    house.check()


def test_a_post_that_is_taken_up_late(house: House, faults: Faults) -> None:
    faults(delayed_posts=1, post_delay_s=4.0)
    status = draw(house, "late-post")
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.check()


def test_a_slow_server(house: House, faults: Faults) -> None:
    faults(slow_s=0.3)
    status = draw(house, "slow-server", executions=1)
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.check()


@pytest.mark.parametrize("websocket", ["silent", "refuse"])
def test_without_a_websocket_look_ups_find_the_end(house: House, faults: Faults, websocket: str) -> None:
    faults(websocket=websocket)
    status = draw(house, f"websocket-{websocket}", sleeping(0.3))
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.check()


def test_history_comes_after_the_success_was_told(house: House, faults: Faults) -> None:
    faults(history_lag_s=0.5)
    status = draw(house, "history-lag")
    assert (status["status"], status["attempt"], status["warnings"]) == ("succeeded", 1, [])
    house.check()


def test_an_older_server_without_the_jobs_api(house: House, faults: Faults) -> None:
    faults(no_jobs_api=True)
    status = draw(house, "older")
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.volume.drop("older-cancelled.json", sleeping(600, id="older-cancelled"))
    eventually(lambda: (found := house.volume.find("older-cancelled.json")) and found["started_at"], "it runs")
    (house.volume.input / "older-cancelled.cancel").touch()
    (status,) = house.volume.finish("older-cancelled.json")
    assert status["status"] == "cancelled"
    assert draw(house, "older-after")["ok"]
    house.check()


def test_an_older_server_and_a_lost_reply(house: House, faults: Faults) -> None:
    faults(no_jobs_api=True, lost_replies=1)
    status = draw(house, "older-lost")
    assert (status["status"], status["attempt"]) == ("succeeded", 1)
    house.check()


def test_out_of_memory_once_frees_the_models_and_tries_again(house: House, faults: Faults) -> None:
    before = faults()["requests"].get("POST /free", 0)
    faults(out_of_memory=1)
    status = draw(house, "memory-once", executions=2)
    assert (status["status"], status["attempt"]) == ("succeeded", 2)
    assert "memory" in status["warnings"][0]
    assert sum(count for path, count in faults()["requests"].items() if path.endswith("/free")) == before + 1
    house.check()


def test_out_of_memory_twice_fails_with_a_hint(house: House, faults: Faults) -> None:
    faults(out_of_memory=2)
    status = draw(house, "memory-twice", executions=2)
    assert (status["status"], status["error"]["reason"], status["attempt"]) == ("failed", "out_of_memory", 2)
    assert status["error"]["node"]["id"] == "1"
    assert draw(house, "memory-after")["ok"]
    house.check()


def test_a_node_that_raises_is_named_and_not_tried_again(house: House) -> None:
    nodes = graph(seconds=0.1)
    nodes["5"] = {
        "class_type": "ProbeRaise",
        "inputs": {"images": ["1", 0], "kind": "value", "tag": "of this test"},
        "_meta": {"title": "The culprit"},
    }
    status = draw(house, "raises", {"graph": nodes})
    assert (status["status"], status["error"]["reason"], status["attempt"]) == ("failed", "node_error", 1)
    assert status["error"]["node"] == {"id": "5", "class": "ProbeRaise", "title": "The culprit"}
    assert "probe error of this test" in status["error"]["message"]
    house.check()


def test_interrupted_once_is_tried_again(house: House, faults: Faults) -> None:
    faults(interrupted=1)
    status = draw(house, "interrupted-once", executions=2)
    assert (status["status"], status["attempt"]) == ("succeeded", 2)
    assert "interrupted" in status["warnings"][0]
    house.check()


def test_interrupted_twice_fails(house: House, faults: Faults) -> None:
    faults(interrupted=2)
    status = draw(house, "interrupted-twice", executions=2)
    assert (status["status"], status["error"]["reason"], status["attempt"]) == ("failed", "interrupted", 2)
    house.check()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "output_missing"),
        ("empty", "output_broken"),
        ("truncated", "output_broken"),
        ("symlink", "output_broken"),
        ("directory", "output_broken"),
        ("traversal", "output_broken"),
    ],
)
def test_an_output_that_is_none_is_no_success(house: House, faults: Faults, fault: str, reason: str) -> None:
    faults(outputs=[fault])
    status = draw(house, f"output-{fault}")
    assert (status["status"], status["error"]["reason"]) == ("failed", reason)
    assert status["outputs"] == []
    house.check()


def test_an_output_that_changes_while_it_is_read_is_no_success(house: House, faults: Faults) -> None:
    faults(outputs=["changing"])
    status = draw(house, "output-changing")
    assert (status["status"], status["outputs"], status["url"]) == ("failed", [], None)
    assert status["error"]["reason"] in ("output_broken", "output_refused")
    house.check()


def test_one_broken_output_of_two_is_no_success(house: House, faults: Faults) -> None:
    faults(outputs=["truncated"])
    job = canvas()
    job["params"]["batch_size"] = 2
    status = draw(house, "one-of-two", job)
    assert (status["status"], status["error"]["reason"]) == ("failed", "output_broken")
    house.check()


def test_a_result_from_the_cache_whose_file_is_gone_is_no_success(house: House, faults: Faults) -> None:
    faults(cached_gone=1)
    status = draw(house, "cached-gone")
    assert (status["status"], status["error"]["reason"]) == ("failed", "output_missing")
    house.check()


def test_the_same_graph_twice_gives_two_whole_results(house: House) -> None:
    nodes = graph()
    one, two = draw(house, "twin-a", {"graph": nodes}), draw(house, "twin-b", {"graph": nodes})
    assert one["ok"]
    assert two["ok"]
    assert one["outputs"][0]["name"] != two["outputs"][0]["name"]
    house.check()


def test_only_previews_are_outputs_with_a_warning(house: House) -> None:
    nodes = graph()
    nodes["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    status = draw(house, "previews", {"graph": nodes})
    assert status["ok"]
    assert len(status["outputs"]) == 1
    assert "preview" in status["warnings"][0]
    house.check()


def test_texts_and_sounds_are_outputs_too(house: House) -> None:
    nodes = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "一只猫"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "EmptyAudio", "inputs": {"duration": 0.1, "sample_rate": 8000, "channels": 1}},
        "4": {"class_type": "SaveAudio", "inputs": {"audio": ["3", 0], "filename_prefix": "sound"}},
    }
    status = draw(house, "texts", {"graph": nodes})
    assert status["ok"], status["error"]
    assert status["texts"] == [{"node": "2", "text": "一只猫"}]
    assert [output["kind"] for output in status["outputs"]] == ["audio"]
    house.check()


def test_labels_and_numbers_of_outputs(house: House) -> None:
    nodes = graph(prefix="sub/folder/left")
    nodes["1"]["inputs"]["batch_size"] = 2
    nodes["10"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../right"}}
    status = draw(house, "labels", {"graph": nodes, "id": "labels"})
    assert status["ok"], status["error"]
    assert sorted(output["name"] for output in status["outputs"]) == [
        "labels-left-1.png", "labels-left-2.png", "labels-right-1.png", "labels-right-2.png"
    ]  # fmt: skip
    house.check()


def test_a_picture_of_a_job_carries_what_comfyui_writes_into_it(house: House) -> None:
    body = {"prompt": graph(), "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [], "mine": True}}}}
    status = draw(house, "provenance", body)
    with Image.open(house.volume.output / status["id"] / status["outputs"][0]["name"]) as picture:
        assert '"mine": true' in picture.text["workflow"]  # type: ignore[attr-defined]
    house.check()


# --- a ComfyUI of their own ---


def test_comfyui_hangs_for_a_while(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    volume.drop("hung.json", sleeping(1.0))
    eventually(lambda: (found := volume.find("hung.json")) and found["started_at"], "it runs")
    simulator.pause()
    volume.drop("meanwhile.json", canvas())
    watcher.wait_for("accepted", file="meanwhile.json")
    time.sleep(3)
    simulator.resume()
    for status in volume.succeed("hung.json", "meanwhile.json"):
        assert status["attempt"] == 1
    check_promises(volume, simulator, watchers=(watcher,))


@pytest.mark.parametrize("moment", ["post", "execution"])
def test_comfyui_crashes_on_a_job(volume: Volume, simulator: Simulator, watch: StartWatcher, moment: str) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    simulator.control(crash=moment)
    volume.drop("crash.json", canvas())
    simulator.process.wait(30)
    simulator.restart()
    (status,) = volume.succeed("crash.json")
    assert status["attempt"] <= 2
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_dead_worker_is_noticed_and_restarted(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    script = volume.root / "restart.py"
    script.write_text(
        "import sys, urllib.request\n"
        f"urllib.request.urlopen(urllib.request.Request('{simulator.url}/simulator/faults',"
        " data=b'{\"dead_worker\": false, \"restart\": true}', headers={'Content-Type': 'application/json'}))\n"
    )
    watcher = watch(simulator, comfyui_restart=f"{sys.executable} {script}")
    watcher.wait_for("comfyui_up")
    simulator.control(dead_worker=True)
    volume.drop("stuck.json", canvas())
    volume.drop("behind.json", canvas())
    watcher.wait_for("comfyui_dead_worker")
    watcher.wait_for("comfyui_restart")
    volume.succeed("stuck.json", "behind.json")
    assert simulator.control()["restarts"] == 1
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_dead_worker_without_a_remedy_is_reported_and_waited_for(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    simulator.control(dead_worker=True)
    volume.drop("stuck.json", canvas())
    assert "HANDOFF_COMFYUI_RESTART" in watcher.wait_for("comfyui_dead_worker")["hint"]
    remember_executions(volume, simulator)
    simulator.restart()
    volume.succeed("stuck.json")
    check_promises(volume, simulator, watchers=(watcher,))

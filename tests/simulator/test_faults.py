"""Each misbehaviour that can be asked for happens, once or as long as asked, and is over afterwards."""

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from comfyui_simulator.faults import Faults
from tests.servers.simulator import Simulator, start_simulator
from tests.simulator.client import find_job, listed_files, post, run, submit, wait_for_end, wait_for_status
from tests.simulator.graphs import save_color, sleep

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("faults"), "--probe-nodes") as running:
        yield running


@pytest.fixture
def simulator(shared: Simulator) -> Simulator:
    shared.control(reset=True, restart=True)
    return shared


def _address(simulator: Simulator) -> str:
    return simulator.url.replace("http", "ws", 1) + "/ws?clientId=test"


def test_a_lost_reply_leaves_the_prompt_queued(simulator: Simulator) -> None:
    simulator.control(lost_replies=1)
    prompt_id = str(uuid.uuid4())
    with pytest.raises(requests.ConnectionError):
        post(simulator, save_color(1), prompt_id=prompt_id)
    assert wait_for_end(simulator, prompt_id)["status"] == "completed"
    assert post(simulator, save_color(2)).status_code == 200
    assert simulator.control()["executions"][prompt_id] == 1


def test_an_error_after_queueing_leaves_the_prompt_queued(simulator: Simulator) -> None:
    simulator.control(errors_after_queue=1)
    prompt_id = str(uuid.uuid4())
    answer = post(simulator, save_color(3), prompt_id=prompt_id)
    assert (answer.status_code, answer.text) == (500, "500 Internal Server Error\n\nServer got itself in trouble")
    assert wait_for_end(simulator, prompt_id)["status"] == "completed"


def test_a_delayed_post_is_taken_up_after_the_client_has_gone(simulator: Simulator) -> None:
    simulator.control(delayed_posts=1, post_delay_s=0.6)
    prompt_id = str(uuid.uuid4())
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{simulator.url}/prompt", json={"prompt": save_color(4), "prompt_id": prompt_id}, timeout=(5, 0.2)
        )
    assert find_job(simulator, prompt_id) is None
    time.sleep(0.6)
    assert wait_for_end(simulator, prompt_id)["status"] == "completed"


@pytest.mark.parametrize("moment", ["post", "execution", "saved"])
def test_a_crash_ends_the_process_and_a_start_remembers_nothing(moment: str, tmp_path: Path) -> None:
    with start_simulator(tmp_path) as simulator:
        before = submit(simulator, save_color(1))
        wait_for_end(simulator, before)
        simulator.control(crash=moment)
        if moment == "post":
            with pytest.raises(requests.ConnectionError):
                post(simulator, save_color(2))
        else:
            with contextlib.suppress(requests.ConnectionError):  # the reply may or may not get out
                post(simulator, save_color(2))
        assert simulator.process.wait(5) == 70
        assert (simulator.output_dir / "out_00002_.png").exists() == (moment == "saved")
        simulator.restart()
        assert find_job(simulator, before) is None
        assert post(simulator, save_color(3)).json()["number"] == 0


def test_a_dead_worker_answers_and_executes_nothing_until_a_restart(simulator: Simulator) -> None:
    simulator.control(dead_worker=True)
    prompt_id = submit(simulator, save_color(5))
    time.sleep(0.3)
    queue = requests.get(f"{simulator.url}/queue", timeout=5).json()
    assert (len(queue["queue_running"]), len(queue["queue_pending"])) == (0, 1)
    assert not simulator.control()["worker_alive"]
    simulator.control(dead_worker=False, restart=True)
    assert find_job(simulator, prompt_id) is None
    assert run(simulator, save_color(5))["status"] == "completed"


@pytest.mark.parametrize(
    ("fault", "kind"), [("out_of_memory", "torch.OutOfMemoryError"), ("node_exception", "RuntimeError")]
)
def test_a_node_fails_once(simulator: Simulator, fault: str, kind: str) -> None:
    simulator.control(**{fault: 1})
    failed = run(simulator, save_color(6))
    assert (failed["status"], failed["execution_error"]["exception_type"]) == ("failed", kind)
    assert run(simulator, save_color(6))["status"] == "completed"


def test_somebody_interrupts_the_next_prompt(simulator: Simulator) -> None:
    simulator.control(interrupted=1)
    assert run(simulator, save_color(7))["status"] == "cancelled"
    assert run(simulator, save_color(7))["status"] == "completed"


def test_a_cached_result_lists_a_file_that_is_gone(simulator: Simulator) -> None:
    simulator.control(cached_gone=1)
    job = run(simulator, save_color(8, prefix="gone"))
    messages = dict(job["execution_status"]["messages"])
    assert job["status"] == "completed"
    assert sorted(messages["execution_cached"]["nodes"]) == ["1", "2"]
    [listed] = listed_files(job)
    assert not (simulator.output_dir / listed["filename"]).exists()


def test_outputs_are_spoiled_one_by_one_in_the_order_asked_for(simulator: Simulator) -> None:
    faults = ["missing", "empty", "truncated", "symlink", "traversal"]
    simulator.control(outputs=faults)
    names = []
    for color in range(6):
        job = run(simulator, save_color(100 + color, prefix=f"spoiled{color}/x"))
        assert job["status"] == "completed"
        [listed] = listed_files(job)
        names.append(simulator.output_dir / listed["subfolder"] / listed["filename"])
    missing, empty, truncated, symlink, traversal, whole = names
    assert not missing.exists()
    assert empty.stat().st_size == 0
    with pytest.raises(OSError, match=r"(?i)truncated|cannot identify"), Image.open(truncated) as torn:
        torn.load()
    assert symlink.is_symlink()
    assert not symlink.resolve().is_relative_to(simulator.output_dir.resolve())
    assert not traversal.resolve().is_relative_to(simulator.output_dir.resolve())
    with Image.open(whole) as picture:
        picture.load()


def test_slow_answers_come_late(simulator: Simulator) -> None:
    simulator.control(slow_s=0.3)
    start = time.monotonic()
    requests.get(f"{simulator.url}/prompt", timeout=5)
    assert time.monotonic() - start >= 0.3


def test_a_hanging_server_takes_connections_and_says_nothing(simulator: Simulator) -> None:
    simulator.control(hang=True)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{simulator.url}/prompt", timeout=(5, 0.3))
    simulator.control(hang=False)
    assert requests.get(f"{simulator.url}/prompt", timeout=5).ok


def test_an_older_server_has_no_jobs(simulator: Simulator) -> None:
    prompt_id = submit(simulator, save_color(9))
    wait_for_end(simulator, prompt_id)
    simulator.control(no_jobs_api=True)
    for method, path in (
        ("GET", "/api/jobs"),
        ("GET", f"/api/jobs/{prompt_id}"),
        ("POST", f"/api/jobs/{prompt_id}/cancel"),
    ):
        assert requests.request(method, simulator.url + path, timeout=5).status_code == 404
    history = requests.get(f"{simulator.url}/history/{prompt_id}", timeout=5).json()
    assert history[prompt_id]["status"]["completed"] is True


def test_a_silent_websocket_says_nothing(simulator: Simulator) -> None:
    simulator.control(websocket="silent")
    with connect(_address(simulator)) as socket:
        run(simulator, save_color(10), client_id="test")
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.3)


def test_a_refused_websocket_is_no_websocket(simulator: Simulator) -> None:
    simulator.control(websocket="refuse")
    with pytest.raises(InvalidStatus, match="503"), connect(_address(simulator)):
        pass


def test_history_can_be_cleared(simulator: Simulator) -> None:
    prompt_id = submit(simulator, save_color(11))
    wait_for_end(simulator, prompt_id)
    simulator.control(clear_history=True)
    assert find_job(simulator, prompt_id) is None


def test_a_restart_loses_everything_but_the_output(simulator: Simulator) -> None:
    running, waiting = submit(simulator, sleep(5), client_id="test"), submit(simulator, save_color(12))
    wait_for_status(simulator, running, "in_progress")
    preview = {"1": save_color(13)["1"], "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    submit(simulator, preview)
    with connect(_address(simulator)) as socket:
        socket.recv(timeout=5)
        counters = simulator.control(restart=True)
        with pytest.raises(ConnectionError):
            _read_forever(socket)
    with connect(_address(simulator)) as socket:
        assert json.loads(socket.recv(timeout=5))["type"] == "status"
        with pytest.raises(TimeoutError):  # nothing comes of what ran before
            socket.recv(timeout=0.3)
    assert find_job(simulator, running) is None
    assert find_job(simulator, waiting) is None
    assert counters["restarts"] > 0
    answer = post(simulator, save_color(14, prefix="after"))
    assert answer.json()["number"] == 0
    [listed] = listed_files(wait_for_end(simulator, answer.json()["prompt_id"]))
    assert (simulator.output_dir / listed["filename"]).exists()


def _read_forever(socket: Any) -> None:
    from websockets.exceptions import ConnectionClosedError

    try:
        while True:
            socket.recv(timeout=5)
    except ConnectionClosedError as error:
        raise ConnectionError from error


def test_the_history_lag_keeps_the_entry_back_after_success_was_told(simulator: Simulator) -> None:
    simulator.control(history_lag_s=0.5)
    with connect(_address(simulator)) as socket:
        prompt_id = submit(simulator, save_color(15), client_id="test")
        while json.loads(socket.recv(timeout=5))["type"] != "execution_success":
            pass
        job = find_job(simulator, prompt_id)
        assert job is not None
        assert job["status"] == "in_progress"
        while json.loads(socket.recv(timeout=5))["type"] != "executing":
            pass
        job = find_job(simulator, prompt_id)
        assert job is not None
        assert job["status"] == "completed"


def test_executions_are_counted_by_tag(simulator: Simulator) -> None:
    tag = {"id": "poster", "attempt": 2, "token": "abc"}
    for color in (16, 17):
        run(simulator, save_color(color), extra_data={"handoff": tag})
    assert simulator.control()["executions_by_tag"]["poster/2/abc"] == 2


@pytest.mark.parametrize(
    "wrong",
    [{"slowness": 1}, {"slow_s": "x"}, {"hang": 1}, {"outputs": ["torn"]}, {"crash": "now"}, {"websocket": "shy"}],
)
def test_an_unknown_fault_is_refused_and_changes_nothing(simulator: Simulator, wrong: dict[str, Any]) -> None:
    answer = requests.post(f"{simulator.url}/simulator/faults", json={"slow_s": 9, **wrong}, timeout=5)
    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()["error"]
    assert simulator.control()["faults"] == Faults().show()


def test_every_fault_is_described() -> None:
    text = (Path(__file__).parents[2] / "comfyui_simulator" / "README.md").read_text()
    assert [name for name in Faults().show() if f"`{name}`" not in text] == []

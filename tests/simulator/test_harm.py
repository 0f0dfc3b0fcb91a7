"""Requests that damage a real ComfyUI damage the simulator in the same way, and are told of."""

import time
import uuid
from collections.abc import Iterator

import pytest
import requests

from tests.servers.simulator import Simulator, start_simulator
from tests.simulator.client import find_job, post, run, submit, wait_for_end, wait_for_status
from tests.simulator.graphs import save_color, sleep


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("harm"), "--probe-nodes") as running:
        yield running


@pytest.fixture
def simulator(shared: Simulator) -> Simulator:
    shared.control(reset=True, restart=True)
    return shared


def _harm_of(simulator: Simulator, count_before: int) -> list[str]:
    counters = simulator.control()
    assert counters["harmful_requests"] == len(counters["harm"])
    told = counters["harm"][count_before:]
    assert all(f"HARMFUL REQUEST: {line}" in simulator.stderr.read_text() for line in told)
    return list(told)


def test_a_node_without_inputs_kills_the_worker(simulator: Simulator) -> None:
    before = simulator.control()["harmful_requests"]
    graph = {**save_color(1), "9": {"class_type": "EmptyImage"}}
    prompt_id = submit(simulator, graph)
    time.sleep(0.3)
    job = find_job(simulator, prompt_id)
    assert job is not None
    assert job["status"] == "in_progress"
    assert requests.get(f"{simulator.url}/prompt", timeout=5).ok
    assert not simulator.control()["worker_alive"]
    waiting = submit(simulator, save_color(2))
    cancelled = requests.post(f"{simulator.url}/api/jobs/{prompt_id}/cancel", timeout=5).json()
    assert cancelled == {"cancelled": True}
    wait_for_status(simulator, waiting, "pending")
    [told] = _harm_of(simulator, before)
    assert "no inputs" in told


def test_the_same_number_and_id_twice_is_an_error_although_queued_or_kills_the_worker(simulator: Simulator) -> None:
    before = simulator.control()["harmful_requests"]
    submit(simulator, sleep(0.5))
    prompt_id = str(uuid.uuid4())
    first = post(simulator, save_color(3), prompt_id=prompt_id, number=7)
    second = post(simulator, save_color(4), prompt_id=prompt_id, number=7)
    assert (first.status_code, second.status_code) == (200, 500)
    assert len(requests.get(f"{simulator.url}/queue", timeout=5).json()["queue_pending"]) == 2
    [told] = _harm_of(simulator, before)
    assert "twice in the queue" in told


@pytest.mark.parametrize("extra", [None, [], {"workflow": None}, {"workflow": 5}])
def test_a_bad_extra_pnginfo_breaks_the_list_of_jobs_for_everybody(simulator: Simulator, extra: object) -> None:
    before = simulator.control()["harmful_requests"]
    good = run(simulator, save_color(5))["id"]
    prompt_id = str(uuid.uuid4())
    assert post(simulator, save_color(6), prompt_id=prompt_id, extra_data={"extra_pnginfo": extra}).status_code == 200
    deadline = time.monotonic() + 5
    while not requests.get(f"{simulator.url}/history/{prompt_id}", timeout=5).json():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert requests.get(f"{simulator.url}/api/jobs", timeout=5).status_code == 500
    assert requests.get(f"{simulator.url}/api/jobs/{prompt_id}", timeout=5).status_code == 500
    assert wait_for_end(simulator, good)["status"] == "completed"
    requests.post(f"{simulator.url}/history", json={"delete": [prompt_id]}, timeout=5)
    assert requests.get(f"{simulator.url}/api/jobs", timeout=5).status_code == 200
    assert len(_harm_of(simulator, before)) == 1


@pytest.mark.parametrize("client_id", [["a"], {"a": 1}])
def test_a_client_id_that_is_no_string_ends_the_process(
    client_id: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with start_simulator(tmp_path_factory.mktemp("exit")) as simulator:
        assert post(simulator, save_color(7), client_id=client_id).status_code == 200
        assert simulator.process.wait(5) == 70
        assert "HARMFUL REQUEST" in simulator.stderr.read_text()

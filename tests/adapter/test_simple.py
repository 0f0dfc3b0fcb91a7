"""/generate and /prompt: the lines that people write first."""

import base64
import io
import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.adapter.conftest import Counter, Studio
from tests.e2e.jobs import graph
from tests.e2e.volume import eventually
from tests.servers.adapter import KEY

GRAPHS = "hk_graphs_0123456789"


@pytest.fixture
def faults(studio: Studio) -> Iterator[Any]:
    yield studio.house.simulator.control
    studio.house.simulator.control(reset=True)


def test_generate_answers_with_the_picture_and_nothing_else(studio: Studio) -> None:
    answer = studio.adapter.post("/generate", json={"prompt": "a lighthouse", "width": 128, "height": 64})
    assert answer.status_code == 200
    assert list(answer.json()) == ["image"]
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["image"]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (128, 64))


def test_generate_takes_the_key_from_the_address_as_requests_sends_it(studio: Studio) -> None:
    url = studio.adapter.url.replace("://", f"://shop:{KEY}@")
    answer = requests.post(f"{url}/generate", json={"prompt": "a lighthouse", "width": 64, "height": 64}, timeout=60)
    assert answer.status_code == 200


def test_generate_says_504_and_where_to_ask_when_its_time_is_over(studio: Studio) -> None:
    simulator = studio.house.simulator
    simulator.pause()
    try:
        answer = studio.adapter.post("/generate?wait=0.3", json={"prompt": "a slow one", "width": 64, "height": 64})
    finally:
        simulator.resume()
    assert answer.status_code == 504
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 504
    address = problem["status_url"].removeprefix(studio.adapter.url)
    assert address == f"/v1/jobs/{problem['id']}"
    assert studio.adapter.get(f"{address}?wait=60").json()["ok"]


def test_generate_says_502_and_why_when_the_job_fails(studio: Studio, faults: Any) -> None:
    faults(node_exception=5)
    answer = studio.adapter.post("/generate", json={"prompt": "a broken one", "width": 64, "height": 64})
    assert answer.status_code == 502
    problem = answer.json()
    assert (problem["reason"], problem["type"]) == ("node_error", "urn:handoff:node_error")
    assert problem["detail"]
    assert problem["hint"]
    assert studio.adapter.get(f"/v1/jobs/{problem['id']}").json()["status"] == "failed"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"prompt": "x", "width": 100}, 422, "bad_parameter"),
        ({"prompt": "x", "wdith": 64}, 422, "unknown_parameter"),
        ({"width": 64}, 422, None),
        ({"prompt": "x", "workflow": "nothing"}, 404, "unknown_workflow"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/prompt"])
def test_a_wrong_body_is_a_problem_document(
    counter: Counter, path: str, body: dict[str, Any], status: int, reason: str | None
) -> None:
    answer = counter.adapter.post(path, json=body)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert reason in (None, answer.json()["reason"])


@pytest.mark.parametrize("path", ["/generate", "/prompt"])
def test_a_key_is_needed(counter: Counter, path: str) -> None:
    assert counter.adapter.post(path, key=None, json={"prompt": "x"}).status_code == 401


def test_the_line_of_every_tutorial_by_curl(studio: Studio) -> None:
    line = [
        "curl", "-sS", f"{studio.adapter.url}/prompt", "-H", f"Authorization: Bearer {KEY}",
        "-H", "Content-Type: application/json", "-d", '{"prompt": "A futuristic cityscape"}',
    ]  # fmt: skip
    answer = json.loads(subprocess.run(line, capture_output=True, check=True, timeout=60).stdout)
    assert answer.keys() == {"prompt_id", "id", "number", "status", "status_url", "node_errors"}
    assert answer["id"] == answer["prompt_id"]
    assert answer["node_errors"] == {}
    document = studio.adapter.get(answer["status_url"].removeprefix(studio.adapter.url) + "?wait=60").json()
    assert (document["status"], document["workflow"]) == ("succeeded", "txt2img")


def test_a_graph_in_the_place_of_the_text_is_a_graph_job(studio: Studio) -> None:
    answer = studio.adapter.post("/prompt", key=GRAPHS, json={"prompt": graph(), "client_id": "a browser"})
    assert answer.status_code == 200
    document = studio.adapter.get(f"/v1/jobs/{answer.json()['id']}?wait=60", key=GRAPHS).json()
    assert (document["status"], document["workflow"]) == ("succeeded", None)


def test_a_graph_needs_a_key_that_may(studio: Studio) -> None:
    answer = studio.adapter.post("/prompt", json={"prompt": graph()})
    assert answer.status_code == 403


def test_the_number_is_the_place_in_the_line(counter: Counter) -> None:
    numbers = [counter.adapter.post("/prompt", json={"prompt": f"picture {number}"}).json() for number in range(2)]
    assert numbers[1]["number"] == numbers[0]["number"] + 1


def test_a_caller_who_hangs_up_loses_no_job(studio: Studio) -> None:
    simulator = studio.house.simulator
    simulator.pause()
    try:
        body = {"prompt": "a caller who left", "width": 64, "height": 64, "metadata": {"who": "left"}}
        caller = threading.Thread(target=lambda: _hang_up(studio, body))
        caller.start()
        caller.join()
    finally:
        simulator.resume()
    eventually(lambda: _find(studio, {"who": "left"}), "the job is drawn all the same")


def _hang_up(studio: Studio, body: dict[str, Any]) -> None:
    with pytest.raises(requests.Timeout):
        studio.adapter.post("/generate", json=body, timeout=1)


def _find(studio: Studio, metadata: dict[str, Any]) -> bool:
    jobs = studio.adapter.get("/v1/jobs?limit=20").json()["jobs"]
    return any(job["metadata"] == metadata and job["ok"] for job in jobs)

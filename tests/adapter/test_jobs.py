"""Jobs over HTTP, from submission to end: the real adapter, a real watcher, the simulated ComfyUI."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.adapter.conftest import KEYS, Counter, Studio, open_counter
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.jobs import graph
from tests.e2e.volume import Volume, eventually
from tests.servers.adapter import Adapter, start_adapter
from tests.servers.watcher import start_watcher

GRAPHS = "hk_graphs_0123456789"
CANVAS = {"workflow": "canvas", "params": {"width": 64, "height": 48, "color": 255}}
BAD = {"graph": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}


def test_put_then_poll_gives_the_picture(studio: Studio) -> None:
    submitted = studio.adapter.put("/v1/jobs/first", json=CANVAS)
    assert submitted.status_code == 202
    assert submitted.headers["Location"] == "/v1/jobs/first"
    answer = studio.adapter.get("/v1/jobs/first?wait=60")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert "Content-Disposition" not in answer.headers
    status = answer.json()
    assert status["status"] == "succeeded"
    assert '"done":true' in answer.text
    assert '"ok":true' in answer.text
    assert status["owner"] == "shop"
    assert status["outputs"][0]["width"] == 64
    assert (status["queue_position"], status["eta_s"]) == (None, None)
    assert status["markdown"] == f"![first.png]({status['url']})"
    assert studio.adapter.get("/v1/jobs/first?format=text").text == "succeeded"
    shown = studio.adapter.get("/v1/jobs/first?format=markdown")
    assert shown.headers["Content-Type"].startswith("text/markdown")
    assert shown.text.startswith("![first.png](http://127.0.0.1:")
    assert "first.png" in studio.adapter.get("/v1/jobs?status=succeeded").text


def test_submit_and_wait_in_one_call(studio: Studio) -> None:
    answer = studio.adapter.post("/v1/jobs?wait=60", data={"workflow": "canvas", "width": "32", "height": "16"})
    assert answer.status_code == 202
    status = answer.json()
    assert status["status"] == "succeeded"
    assert status["id"].startswith("canvas-")
    typed = studio.adapter.post("/v1/workflows/canvas?wait=60&format=text", json={"width": "32", "color": 7})
    assert (typed.status_code, typed.text) == (202, "succeeded")


def test_a_wait_is_held_until_the_end_or_its_time(studio: Studio) -> None:
    adapter = studio.adapter
    adapter.put("/v1/jobs/held", json={"graph": graph(seconds=1.5)}, key=GRAPHS)
    began = time.monotonic()
    short = adapter.get("/v1/jobs/held?wait=0.3", key=GRAPHS)
    assert time.monotonic() - began > 0.25
    assert not short.json()["done"]
    assert adapter.get("/v1/jobs/held?wait=60&format=text", key=GRAPHS).text == "succeeded"
    began = time.monotonic()
    assert adapter.get("/v1/jobs/nobody-knows-it?wait=0.5").status_code == 404
    assert time.monotonic() - began > 0.45, (
        "an unknown id is held, too: a poll that answers at once burns Dify's rounds"
    )


def test_who_polls_before_the_submission_sees_the_job(studio: Studio) -> None:
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(studio.adapter.get, "/v1/jobs/early?wait=30&format=text")
        time.sleep(0.3)
        studio.adapter.put("/v1/jobs/early", json=CANVAS)
        assert poll.result().text == "succeeded"


def test_a_failure_is_a_2xx_that_says_why(studio: Studio) -> None:
    answer = studio.adapter.put("/v1/jobs/failing?wait=60", json=BAD, key=GRAPHS)
    assert answer.status_code == 202
    status = answer.json()
    assert (status["done"], status["ok"]) == (True, False)
    shown = studio.adapter.get("/v1/jobs/failing?format=markdown", key=GRAPHS)
    assert shown.text == f"{status['error']['message']} {status['error']['hint']}"


def test_cancel_and_retry(studio: Studio) -> None:
    adapter = studio.adapter
    adapter.put("/v1/jobs/stopped", json={"graph": graph(seconds=30)}, key=GRAPHS)
    early = adapter.post("/v1/jobs/stopped/retry", key=GRAPHS)
    assert (early.status_code, early.json()["reason"]) == (409, "not_retryable")
    cancelled = adapter.post("/v1/jobs/stopped/cancel?wait=60", key=GRAPHS)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert adapter.post("/v1/jobs/stopped/cancel?format=text", key=GRAPHS).text == "cancelled", (
        "asking again does no harm"
    )
    eventually(lambda: not (studio.volume.input / "stopped.cancel").exists(), "the mark is removed")
    again = adapter.post("/v1/jobs/stopped/retry", key=GRAPHS)
    assert (again.status_code, again.json()["id"], again.json()["retry_of"]) == (202, "stopped-r1", "stopped")
    assert adapter.post("/v1/jobs/stopped/retry", key=GRAPHS).status_code == 200, "twice is one job"
    assert adapter.post("/v1/jobs/stopped-r1/cancel?wait=60&format=text", key=GRAPHS).text == "cancelled"
    adapter.put("/v1/jobs/fine?wait=60", json=CANVAS)
    assert adapter.post("/v1/jobs/fine/retry").status_code == 409
    assert adapter.post("/v1/jobs/unknown/retry").status_code == 404
    assert adapter.post("/v1/jobs/unknown/cancel").status_code == 404


def test_the_list_goes_on_where_it_stopped(counter: Counter) -> None:
    adapter = counter.adapter
    for number in range(5):
        assert adapter.put(f"/v1/jobs/listed-{number}", json=CANVAS, key=GRAPHS).status_code == 202
    assert adapter.put("/v1/jobs/listed-other", json={"prompt": "a"}, key=GRAPHS).status_code == 202
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = adapter.get(f"/v1/jobs?workflow=canvas&status=queued&limit=2&cursor={cursor}", key=GRAPHS).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["cursor"]
        assert len(seen) < 50
    listed = [id for id in seen if id.startswith("listed-")]
    assert listed == [f"listed-{number}" for number in reversed(range(5))]
    assert adapter.get("/v1/jobs?status=failed", key=GRAPHS).json() == {"jobs": [], "cursor": None}


def test_waiting_jobs_say_their_place(counter: Counter) -> None:
    adapter = counter.adapter
    before = adapter.put("/v1/jobs/place-1", json=CANVAS).json()["queue_position"]
    behind = adapter.put("/v1/jobs/place-2", json=CANVAS)
    assert behind.json()["queue_position"] == before + 1
    assert behind.json()["status"] == "queued"
    first = adapter.put("/v1/jobs/place-0", json={**CANVAS, "priority": "90"})
    assert (first.status_code, first.json()["queue_position"], first.json()["priority"]) == (202, 1, 90)
    assert f"number {before + 2} in line" in adapter.get("/v1/jobs/place-2?format=markdown").text
    assert f"第 {before + 2} 位" in adapter.get("/v1/jobs/place-2?format=markdown&lang=zh").text


def test_the_same_id_and_body_is_one_job_and_another_body_a_conflict(counter: Counter) -> None:
    adapter = counter.adapter
    assert adapter.put("/v1/jobs/same", json=CANVAS).status_code == 202
    for same in (CANVAS, {"workflow": "canvas", "width": "64", "height": "48", "color": "255"}):
        assert adapter.put("/v1/jobs/same", json=same).status_code == 200
    conflict = adapter.put("/v1/jobs/same", json={"workflow": "canvas"})
    assert (conflict.status_code, conflict.json()["reason"]) == (409, "id_taken")
    assert adapter.post("/v1/jobs", json={**CANVAS, "id": "same"}).status_code == 200
    assert adapter.post("/v1/jobs", data={"workflow": "canvas", "id": "same"}).status_code == 409
    mixed = adapter.put("/v1/jobs/same", json={**CANVAS, "id": "other"})
    assert (mixed.status_code, mixed.json()["errors"][0]["field"]) == (422, "id")


def test_an_idempotency_key_is_an_id_of_its_owner(counter: Counter) -> None:
    def post(body: Any, key: str = "") -> Any:
        return counter.adapter.post("/v1/jobs", json=body, headers={"Idempotency-Key": "order 7 é"}, key=key)

    first = post(CANVAS)
    assert first.status_code == 202
    again = post(CANVAS)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert post({"workflow": "canvas"}).status_code == 409
    assert post(CANVAS, GRAPHS).status_code == 202, "another owner's key is another job"
    junk = counter.adapter.post("/v1/jobs", json=CANVAS, headers={"Idempotency-Key": "sys.workflow_run_id"})
    assert (junk.status_code, junk.json()["reason"]) == (422, "unreplaced_variable"), "else every run were one job"


def test_many_at_once_with_one_id_are_one_job(counter: Counter) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda number: counter.adapter.put("/v1/jobs/crowd", json={**CANVAS, "priority": number % 2}), range(32)
            )
        )
    codes = [answer.status_code for answer in answers]
    assert codes.count(202) == 1
    assert codes.count(200) == 15
    assert codes.count(409) == 16


class TestEveryPhase:
    """Replay and conflict, asked over and over while a job goes through its life."""

    @pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
    def test_of_a_job_s_life_gives_the_same_answers(self, studio: Studio, end: str) -> None:
        adapter, id = studio.adapter, f"phases-{end}"
        job = {"graph": graph(seconds=0.7)} if end != "failed" else {**BAD, "metadata": {"phase": 1}}
        other = {**job, "priority": 3}
        seen: dict[str, set[int]] = {}
        assert adapter.put(f"/v1/jobs/{id}", json=job, key=GRAPHS).status_code == 202
        done = threading.Event()

        def ask() -> None:
            while True:
                last = done.is_set()
                replay = adapter.put(f"/v1/jobs/{id}", json=job, key=GRAPHS)
                assert replay.status_code == 200, replay.text
                seen.setdefault(replay.json()["status"], set()).add(replay.status_code)
                assert adapter.put(f"/v1/jobs/{id}", json=other, key=GRAPHS).status_code == 409
                if last:
                    return

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            if end == "cancelled":
                time.sleep(0.2)
                adapter.post(f"/v1/jobs/{id}/cancel", key=GRAPHS)
            ended = adapter.get(f"/v1/jobs/{id}?wait=60", key=GRAPHS).json()["status"]
            done.set()
            for one in asking:
                one.result(60)
        assert end in seen
        assert ended == end
        executions = studio.house.simulator.control()["executions_by_tag"]
        assert sum(count for run, count in executions.items() if run.startswith(f"{id}/")) <= 1


@contextlib.contextmanager
def volume_with_a_finished_job() -> Iterator[Volume]:
    with make_root() as root:
        volume = Volume.make(root / "volume")
        with run_simulator(volume) as simulator, start_watcher(volume.root, simulator.url) as watcher:
            watcher.wait_for("comfyui_up")
            with start_adapter(volume.root, api_keys=KEYS) as adapter:
                assert adapter.put("/v1/jobs/kept?wait=60&format=text", json=CANVAS).text == "succeeded"
            yield volume


def test_it_holds_no_state_and_needs_no_output_folder() -> None:
    """Killed and started anew it says the same; so does another one beside it, and one that reads the bucket alone."""

    def look(adapter: Adapter) -> Any:
        status = adapter.get("/v1/jobs/kept").json()
        status["outputs"][0].pop("url")
        return {name: value for name, value in status.items() if name not in ("url", "markdown")}

    with volume_with_a_finished_job() as volume:
        with start_adapter(volume.root, api_keys=KEYS) as first, start_adapter(volume.root, api_keys=KEYS) as second:
            said = look(first)
            link = first.get("/v1/jobs/kept").json()["url"].removeprefix(first.url)
            assert look(second) == said
            assert second.get(link, key=None).status_code == 200, "a link is good at every adapter"
            first.kill()
        os.rename(volume.output, volume.root / "gone")
        with start_adapter(
            volume.root, api_keys=KEYS, status_source="bucket", output_dir=volume.root / "nothing"
        ) as without:
            assert look(without) == said
            assert without.put("/v1/jobs/kept", json=CANVAS).status_code == 200
            assert without.put("/v1/jobs/kept", json={"workflow": "canvas"}).status_code == 409
            assert without.put("/v1/jobs/new", json=CANVAS).status_code == 202
            assert without.get("/v1/jobs/new?format=text").text == "queued"
            assert not (volume.root / "nothing").exists()


def test_a_stop_answers_everybody_who_waits() -> None:
    with open_counter() as counter, ThreadPoolExecutor(4) as pool:
        counter.adapter.put("/v1/jobs/waits", json=CANVAS)
        polls = [pool.submit(counter.adapter.get, "/v1/jobs/waits?wait=100&format=text") for _ in range(4)]
        time.sleep(0.5)
        began = time.monotonic()
        assert counter.adapter.terminate() == 0
        assert time.monotonic() - began < 8
        assert {poll.result().text for poll in polls} == {"queued"}
        assert counter.adapter.find("stopped")


def test_workflows_are_listed_with_their_schema(counter: Counter) -> None:
    listed = counter.adapter.get("/v1/workflows").json()["workflows"]
    assert {"canvas", "txt2img", "img2img", "invert"} <= {entry["name"] for entry in listed}
    one = counter.adapter.get("/v1/workflows/txt2img?lang=zh").json()
    assert one["title"] == "文生图"
    assert one["schema"]["required"] == ["prompt"]
    assert counter.adapter.get("/v1/workflows/txt2imgg").status_code == 404


def test_readiness_says_what_is_missing(studio: Studio, counter: Counter) -> None:
    assert studio.adapter.get("/readyz", key=None).json() == {"ok": True, "problems": []}
    answer = counter.adapter.get("/readyz", key=None)
    assert answer.status_code == 503
    assert any("No watcher" in problem for problem in answer.json()["problems"])
    assert counter.adapter.get("/livez", key=None).status_code == 200


def test_metrics_count_by_route_and_not_by_id(studio: Studio) -> None:
    studio.adapter.get("/v1/jobs/some-id")
    assert studio.adapter.get("/metrics", key=None).status_code == 401
    text = studio.adapter.get("/metrics").text
    assert 'handoff_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"}' in text
    assert "handoff_watchers_alive 1.0" in text
    assert "some-id" not in text


def test_a_session_leaves_nothing_in_tmp(counter: Counter) -> None:
    eventually(lambda: not os.listdir(counter.volume.spool / "tmp"), "tmp/ is empty", limit_s=10)

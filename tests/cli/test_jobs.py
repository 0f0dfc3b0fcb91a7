"""The life of a job from the command line, with a real watcher and a simulated ComfyUI."""

import hashlib
import json
import os
import pty
import signal
from pathlib import Path

import pytest
from PIL import Image

from handoff import timestamps
from handoff.failures import Failure, Reason
from handoff.spool.record import Tombstone
from handoff.state import Event
from handoff.status import StatusDocument, describe_failure
from tests.cli.conftest import LIMIT_S, House, Place, eventually, failing_graph, sleeping_graph

pytestmark = pytest.mark.xdist_group("cli-jobs")  # one house for all


def write_graph(house: House, name: str, graph: dict[str, object]) -> Path:
    path = house.root / name
    path.write_text(json.dumps(graph))
    return path


class TestSubmit:
    def test_a_workflow_to_its_end(self, house: House) -> None:
        ran = house.run("submit", "txt2img", "-p", "prompt=a cat", "-p", "width=128", "--wait", "--json").expect(0)
        document = ran.json
        assert (document["status"], document["ok"], document["owner"]) == ("succeeded", True, "cli")
        assert document["id"].startswith("txt2img-")
        (output,) = document["outputs"]
        picture = Path(house.folders.job(document["id"]), output["name"])
        assert hashlib.sha256(picture.read_bytes()).hexdigest() == output["sha256"]
        assert (output["width"], output["height"]) == (128, 512)

    def test_people_see_results_and_where_they_are(self, house: House) -> None:
        ran = house.run("submit", "txt2img", "-p", "prompt=x", "-p", "width=64", "-p", "height=64", "--wait").expect(0)
        assert "succeeded" in ran.out
        assert "64×64" in ran.out
        path = next(word for word in ran.out.split() if word.startswith("/") and word.endswith(".png"))
        assert Path(path).is_file()
        assert "bucket: jobs/" in ran.out

    def test_the_id_alone_on_standard_output(self, house: House) -> None:
        ran = house.call("submit", "txt2img", "-p", "prompt=x", "--metadata", '{"order": 7}').expect(0)
        id = ran.out.strip()
        assert house.call("status", id, "--wait", "--json").expect(0).json["metadata"] == {"order": 7}
        assert f"handoff cancel {id}" in ran.err

    def test_a_local_picture_goes_along(self, house: House) -> None:
        Image.new("RGB", (20, 10), (255, 0, 0)).save(house.root / "cat.jpeg")
        digest = hashlib.sha256((house.root / "cat.jpeg").read_bytes()).hexdigest()
        document = house.call("submit", "invert", "-p", "image=./cat.jpeg", "--wait", "--json").expect(0).json
        assert Path(house.folders.uploads, f"{digest}.jpg").is_file()
        with Image.open(Path(house.folders.job(document["id"]), document["outputs"][0]["name"])) as picture:
            assert picture.size == (20, 10)
            red, green, _ = picture.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert red < 10
        assert green > 245
        assert not [name for name in os.listdir(house.folders.spool) if name.startswith("new-")]

    def test_a_graph_with_an_input_changed(self, house: House) -> None:
        path = write_graph(house, "Mein Graph.json", sleeping_graph(0, tag="set"))
        ran = house.call("submit", "--graph", path, "--set", "1.width=48", "--priority", 3, "--wait", "--json").expect(
            0
        )
        assert ran.json["outputs"][0]["width"] == 48
        assert (ran.json["priority"], ran.json["source"]) == (3, "Mein Graph.json")
        assert ran.json["id"].startswith("mein-graph-")

    def test_any_job_file(self, house: House) -> None:
        path = house.root / "job.json"
        path.write_text(json.dumps({"id": "from-a-file", "prompt": "x", "width": 64, "height": 64}))
        assert house.call("submit", "--graph", path, "--wait").expect(0)
        assert house.call("submit", "--graph", path).expect(0).err.startswith("from-a-file is known already")

    def test_an_id_of_another_job(self, house: House) -> None:
        house.call("submit", "txt2img", "-p", "prompt=one", "--id", "taken").expect(0)
        assert "taken" in house.call("submit", "txt2img", "-p", "prompt=two", "--id", "taken").expect(2).err

    def test_a_failure_with_its_node_and_a_hint(self, house: House) -> None:
        path = write_graph(house, "fails.json", failing_graph("submit"))
        ran = house.call("submit", "--graph", path, "--wait").expect(1)
        assert "node_error" in ran.out
        assert "node 2 (The culprit)" in ran.out
        assert "handoff show" in ran.out


class TestWaiting:
    def test_a_line_for_each_change_without_a_terminal(self, house: House) -> None:
        path = write_graph(house, "slow.json", sleeping_graph(0.8, tag="lines"))
        lines = house.run("submit", "--graph", path, "--wait").expect(0).err.splitlines()
        assert lines[0].startswith("Submitted slow-")
        assert any(line.startswith("running") for line in lines)
        assert len(lines) < 8
        assert "\x1b" not in "".join(lines)

    def test_the_wait_runs_out_and_the_job_goes_on(self, house: House) -> None:
        path = write_graph(house, "long.json", sleeping_graph(20, tag="out"))
        ran = house.run("submit", "--graph", path, "--id", "long", "--wait-s", 0.5, "--json").expect(5)
        assert ran.json["done"] is False
        assert house.call("status", "long", "--wait-s", 0.2).expect(5)
        assert house.run("cancel", "long", "--wait").expect(0).out.startswith("long: cancelled")
        assert house.call("status", "long").expect(1)

    def test_ctrl_c_leaves_the_job_and_says_so_beside_a_progress_bar(self, house: House) -> None:
        path = write_graph(house, "bar.json", sleeping_graph(20, tag="bar"))
        master, terminal = pty.openpty()
        shown = b""
        process = house.start("submit", "--graph", path, "--id", "bar", "--wait", stderr=terminal)
        os.close(terminal)
        try:
            while b"ProbeSleep" not in shown:
                shown += os.read(master, 4096)
            process.send_signal(signal.SIGINT)
            while b"handoff cancel bar" not in shown:
                shown += os.read(master, 4096)
            out, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            os.close(master)
        assert process.returncode == 130
        assert out == ""
        assert b"The job goes on" in shown
        assert "━".encode() in shown
        status = house.status("bar")
        assert status is not None
        assert status["status"] == "running"
        house.call("cancel", "bar", "--wait").expect(0)


class TestLook:
    @pytest.mark.parametrize("command", ["status", "show", "cancel", "retry"])
    @pytest.mark.parametrize("id", ["nobody", "../../etc", "NOT-AN-ID"])
    def test_an_unknown_id(self, house: House, command: str, id: str) -> None:
        assert id in house.call(command, id).expect(4).err
        assert not [name for name in os.listdir(house.folders.input) if name.endswith(".cancel")]

    def test_show_tells_the_story(self, house: House) -> None:
        house.simulator.control(out_of_memory=1)
        house.call("submit", "txt2img", "-p", "prompt=x", "--id", "story", "--wait").expect(0)
        ran = house.call("show", "story").expect(0)
        assert "attempt 1: the GPU ran out of memory" in ran.out
        assert "attempt 2 sent to ComfyUI" in ran.out
        assert "txt2img" in ran.out
        assert "(simulated)" in ran.out
        for place in (house.folders.status("story"), house.folders.job_document("story"), f"{house.folders.done}/"):
            assert place in ran.out

    def test_list(self, house: House) -> None:
        path = write_graph(house, "bad.json", failing_graph("list"))
        house.call("submit", "--graph", path, "--id", "list-bad", "--wait").expect(1)
        house.call("submit", "txt2img", "-p", "prompt=x", "--id", "list-good", "--wait").expect(0)
        jobs = house.call("list", "--json", "--limit", 100).expect(0).json["jobs"]
        ids = [job["id"] for job in jobs]
        assert ids.index("list-good") < ids.index("list-bad")
        failed = house.call("list", "--status", "failed", "--json").expect(0).json["jobs"]
        assert "list-bad" in [job["id"] for job in failed]
        assert {job["status"] for job in failed} == {"failed"}
        ran = house.call("list", "--workflow", "txt2img", "--limit", 1).expect(0)
        assert "list-good" in ran.out
        assert "There are more" in ran.err
        assert "choose of queued" in house.call("list", "--status", "lost").expect(2).err


class TestRetry:
    def test_a_new_job_with_the_same_plan(self, house: House) -> None:
        house.simulator.control(node_exception=1)
        house.call("submit", "txt2img", "-p", "prompt=x", "--id", "unlucky", "--wait").expect(1)
        again = house.run("retry", "unlucky", "--wait", "--json").expect(0).json
        assert (again["id"], again["retry_of"], again["status"]) == ("unlucky-r1", "unlucky", "succeeded")
        seeds = [
            json.loads(Path(house.folders.job_document(id)).read_text())["params"]["seed"]
            for id in ("unlucky", "unlucky-r1")
        ]
        assert seeds[0] == seeds[1]
        repeated = house.call("retry", "unlucky").expect(0)
        assert repeated.out == "unlucky-r1\n"
        assert "retried before" in repeated.err

    def test_only_what_is_over_and_did_not_succeed(self, house: House) -> None:
        path = write_graph(house, "busy.json", sleeping_graph(20, tag="retry"))
        house.call("submit", "--graph", path, "--id", "busy").expect(0)
        assert "is not over" in house.call("retry", "busy").expect(2).err
        house.call("cancel", "busy", "--wait").expect(0)
        assert "is over already" in house.call("cancel", "busy").expect(0).out
        house.call("submit", "txt2img", "-p", "prompt=x", "--id", "fine", "--wait").expect(0)
        assert "succeeded" in house.call("retry", "fine").expect(2).err


class TestOddEnds:
    def test_a_job_that_retention_removed(self, place: Place) -> None:
        place.make_folders()
        tombstone = Tombstone(token="0" * 16, sha256="f" * 64, status="failed", finished_at="2026-11-24T12:00:00.000Z")
        Path(place.folders.reservation("old")).write_bytes(tombstone.to_bytes())
        answer = place.call("status", "old", "--json").expect(1).json
        assert (answer["status"], answer["done"], answer["ok"], answer["outputs"]) == ("failed", True, False, [])
        assert "removed by retention" in place.call("show", "old").expect(0).out
        assert "over already" in place.call("cancel", "old").expect(0).out
        assert "no longer known" in place.call("retry", "old").expect(4).err
        assert place.call("status", "old", "--wait").expect(1)

    @pytest.mark.parametrize("command", ["status", "show", "cancel", "retry"])
    def test_a_damaged_status_is_named(self, place: Place, command: str) -> None:
        place.make_folders()
        Path(place.folders.job("torn")).mkdir()
        Path(place.folders.status("torn")).write_text("{")
        assert "torn/status.json" in place.call(command, "torn").expect(3).err
        assert place.call("list").expect(0)

    def test_no_control_character_reaches_the_terminal(self, place: Place) -> None:
        place.make_folders()
        document = StatusDocument(id="evil", created_at="2026-11-24T12:00:00.000Z", workflow="a\x1b[31mb").finish(
            Event.FAILED,
            timestamps.now(),
            error=describe_failure(Failure(Reason.NODE_ERROR, problem="\x1b]0;x\x07"), "en"),
        )
        Path(place.folders.job("evil")).mkdir()
        Path(place.folders.status("evil")).write_bytes(document.to_bytes())
        for command in ("status", "show"):
            ran = place.call(command, "evil")
            assert "A node failed" in ran.out
            assert "\x1b" not in ran.out + ran.err
            assert "\x07" not in ran.out + ran.err


class TestPause:
    def test_jobs_wait_and_everybody_is_told_why(self, house: House) -> None:
        house.call("pause", "--reason", "new models").expect(0)
        try:
            eventually(lambda: house.health().get("paused") is True, "the pause")
            assert "new models" in house.call("submit", "txt2img", "-p", "prompt=x", "--id", "second").expect(0).err
            house.call("submit", "txt2img", "-p", "prompt=y", "--id", "first", "--priority", 9).expect(0)
            positions = {
                id: house.call("status", id, "--json").expect(0).json["queue_position"] for id in ("first", "second")
            }
            assert positions == {"first": 1, "second": 2}
            assert "number 2 in the queue" in house.call("status", "second").expect(0).out
            assert "new models" in house.call("list").expect(0).err
            assert "new models" in house.call("health").expect(0).err
            assert "new models" in house.call("pause").expect(0).err
            assert house.call("cancel", "first", "--wait").expect(0).out.startswith("first: cancelled")
        finally:
            house.call("resume").expect(0)
        house.call("status", "second", "--wait").expect(0)
        assert "not paused" in house.call("resume").expect(0).err


def test_a_pipe_that_closes_is_no_bug(house: House) -> None:
    with house.start("list", "--json", "--limit", 1000) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(LIMIT_S) in (0, 1)

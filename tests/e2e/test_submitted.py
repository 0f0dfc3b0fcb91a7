"""Jobs that another program put into the inbox, as `handoff submit` does: planned only after the claim."""

from handoff import timestamps
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.record import Record
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import Job, canvas, graph
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.servers.simulator import Simulator


def submit(volume: Volume, id: str, body: Job) -> None:
    folders = Folders(str(volume.input), str(volume.output))
    job = parse_job(body, default_workflow="txt2img")
    received = timestamps.to_text(timestamps.now())
    publisher.publish(folders, Record(token="0" * 16, id=id, sha256=job.sha256, received_at=received, body=job.body))


def test_many_that_comfyui_refuses_do_not_stop_the_line(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    Folders(str(volume.input), str(volume.output)).make()
    for number in range(12):
        refused = graph()
        refused["1"]["inputs"]["width"] = 0
        submit(volume, f"refused-{number}", {"graph": refused})
    for number in range(3):
        submit(volume, f"good-{number}", canvas())
    watcher = watch(simulator)
    eventually(
        lambda: len(jobs := volume.jobs()) == 15 and all(job["done"] for job in jobs.values()), "all end", limit_s=30
    )
    jobs = volume.jobs()
    assert {job["error"]["reason"] for id, job in jobs.items() if id.startswith("refused")} == {"validation_failed"}
    assert [jobs[f"good-{number}"]["status"] for number in range(3)] == ["succeeded"] * 3
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_submitted_job_that_is_none_ends_as_rejected(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    submit(volume, "wrong", {"workflow": "canvas", "params": {"width": 0}})
    submit(volume, "right", canvas())
    status = eventually(lambda: (found := volume.status("wrong")) is not None and found["done"] and found, "it ends")
    assert (status["status"], status["error"]["reason"]) == ("rejected", "bad_parameter")
    eventually(lambda: (found := volume.status("right")) is not None and found["ok"], "the good one is drawn")
    watcher.wait_for("job", id="wrong", status="rejected")
    assert volume.bucket.get("jobs/wrong/status.json") == (volume.output / "wrong" / "status.json").read_bytes()

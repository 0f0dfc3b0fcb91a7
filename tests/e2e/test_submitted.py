"""Jobs that another program put into the inbox, as `handoff submit` does: planned only after the claim."""

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, graph
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.servers.simulator import Simulator


def test_many_that_comfyui_refuses_do_not_stop_the_line(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    for number in range(12):
        refused = graph()
        refused["1"]["inputs"]["width"] = 0
        volume.submit(f"refused-{number}", {"graph": refused})
    for number in range(3):
        volume.submit(f"good-{number}", canvas())
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
    volume.submit("wrong", {"workflow": "canvas", "params": {"width": 0}})
    volume.submit("right", canvas())
    status = eventually(lambda: (found := volume.status("wrong")) is not None and found["done"] and found, "it ends")
    assert (status["status"], status["error"]["reason"]) == ("rejected", "bad_parameter")
    eventually(lambda: (found := volume.status("right")) is not None and found["ok"], "the good one is drawn")
    watcher.wait_for("job", id="wrong", status="rejected")
    assert volume.bucket.get("jobs/wrong/status.json") == (volume.output / "wrong" / "status.json").read_bytes()

"""The bucket goes away and comes back: results wait in `saving`, ComfyUI goes on drawing, nothing is drawn twice."""

import os

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Status, Volume, eventually
from tests.servers.simulator import Simulator


def take_away(volume: Volume) -> None:
    """A file stands where the bucket's folder was."""
    bucket = volume.root / "bucket"
    if bucket.exists():
        bucket.rename(volume.root / "bucket-away")
    bucket.write_text("not a folder")


def give_back(volume: Volume) -> None:
    os.unlink(volume.root / "bucket")
    if (volume.root / "bucket-away").exists():
        (volume.root / "bucket-away").rename(volume.root / "bucket")


def executions(simulator: Simulator) -> int:
    return sum(simulator.control()["executions"].values())


def are_saving(volume: Volume, *names: str) -> list[Status]:
    return [volume.wait_until(name, "saving") for name in names]


def test_jobs_wait_in_saving_while_comfyui_goes_on(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator)
    volume.drop("before.json", canvas())
    volume.succeed("before.json")
    take_away(volume)
    names = [f"job-{number}.json" for number in range(8)]
    for name in names:
        volume.drop(name, canvas())
    for status in are_saving(volume, *names):
        assert len(status["outputs"]) == 1
        assert (volume.output / status["id"] / status["outputs"][0]["name"]).is_file()
    assert executions(simulator) == 9
    assert len(watcher.find("bucket_away")) == 1
    give_back(volume)
    volume.succeed(*names)
    watcher.wait_for("bucket_back")
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_watcher_that_is_killed_meanwhile_goes_on_mirroring(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    first = watch(simulator)
    volume.drop("patient.json", canvas())
    are_saving(volume, "patient.json")
    first.kill()
    second = watch(simulator)
    second.wait_for("resumed", status="saving")
    simulator.kill()  # ComfyUI is not needed any more
    give_back(volume)
    volume.succeed("patient.json")
    second.wait_for("job", status="succeeded")
    simulator.restart()
    assert executions(simulator) == 0
    volume.executions = {f"{status['id']}/1/": 1 for status in volume.jobs().values()}
    check_promises(volume, simulator, watchers=(second,))


def test_sigterm_while_the_bucket_is_away(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    take_away(volume)
    first = watch(simulator, grace_s=5)
    names = ["one.json", "two.json"]
    for name in names:
        volume.drop(name, canvas())
    are_saving(volume, *names)
    assert first.terminate(limit_s=15) == 0
    give_back(volume)
    second = watch(simulator)
    for status in volume.succeed(*names):
        assert status["attempt"] == 1
    check_promises(volume, simulator, watchers=(first, second))


def test_a_job_that_failed_is_told_to_the_bucket_when_it_is_back(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    simulator.control(node_exception=1)
    volume.drop("fails.json", canvas())
    (status,) = volume.finish("fails.json")  # the decision does not wait for the bucket
    assert status["error"]["reason"] == "node_error"
    volume.drop("works.json", canvas())
    are_saving(volume, "works.json")
    give_back(volume)
    volume.succeed("works.json")
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_cancel_that_comes_after_the_picture_was_drawn_is_too_late(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    watcher = watch(simulator)
    volume.drop("drawn.json", canvas(id="drawn"))
    are_saving(volume, "drawn.json")
    (volume.input / "drawn.cancel").touch()
    volume.drop("later.json", canvas())
    are_saving(volume, "later.json")  # and so the mark was seen
    give_back(volume)
    volume.succeed("drawn.json", "later.json")
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_record_that_is_damaged_while_the_bucket_is_away_is_none_the_less_finished(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    watch(simulator)
    volume.drop("damaged.json", canvas())
    volume.drop("whole.json", canvas())
    are_saving(volume, "damaged.json", "whole.json")
    (record, *_) = volume.spool.glob("w-*/r-*")
    record.write_bytes(b"{")
    give_back(volume)
    volume.succeed("damaged.json", "whole.json")
    check_promises(volume, simulator)


def test_an_output_removed_while_the_bucket_is_away_is_no_success(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    watcher = watch(simulator)
    volume.drop("robbed.json", canvas())
    (status,) = are_saving(volume, "robbed.json")
    os.unlink(volume.output / status["id"] / status["outputs"][0]["name"])
    give_back(volume)
    (status,) = volume.finish("robbed.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "output_missing")
    assert (status["outputs"], status["url"], status["markdown"]) == ([], None, None)
    check_promises(volume, simulator, watchers=(watcher,))


def test_an_output_changed_while_the_bucket_is_away_is_no_success(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    take_away(volume)
    watcher = watch(simulator)
    volume.drop("forged.json", canvas())
    (status,) = are_saving(volume, "forged.json")
    path = volume.output / status["id"] / status["outputs"][0]["name"]
    path.unlink()
    path.write_bytes(b"x" * status["outputs"][0]["bytes"])
    give_back(volume)
    (status,) = volume.finish("forged.json")
    assert status["status"] == "failed"
    assert status["error"]["reason"] in ("output_broken", "output_missing", "output_refused")
    check_promises(volume, simulator, watchers=(watcher,))


def test_pollers_of_the_bucket_find_progress_before_the_end(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    watcher = watch(simulator)
    volume.drop("watched.json", sleeping(1.5, id="watched"))
    eventually(lambda: volume.bucket.get("jobs/watched/progress.json"), "there is progress", limit_s=10)
    assert volume.bucket.get("jobs/watched/status.json") is None
    volume.succeed("watched.json")
    check_promises(volume, simulator, watchers=(watcher,))
    final = volume.bucket.get("jobs/watched/status.json")
    eventually(lambda: volume.bucket.get("jobs/watched/progress.json") == final, "progress ends as the final status")

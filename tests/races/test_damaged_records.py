"""A record that cannot be read any more: its job ends all the same, its id stays taken, and nobody else notices."""

from pathlib import Path

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.test_bucket import give_back, take_away
from tests.e2e.volume import Volume, eventually
from tests.races.test_one_id import ended
from tests.servers.simulator import Simulator

NEWER = b'{"schema": 2, "token": {}}'


def spoil(volume: Volume, id: str, data: bytes = b'{"schema": 1, "tok') -> Path:
    """In place: before the first attempt the reservation is the same file, and damaged, too."""
    records = [*volume.spool.glob("w-*/r-*"), *volume.spool.glob("inbox/*")]
    (path,) = (path for path in records if f'"id":"{id}"'.encode() in path.read_bytes())
    path.write_bytes(data)
    return path


def test_each_job_ends_by_what_is_still_known_of_it(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    first = watch(simulator)
    first.wait_for("comfyui_up")
    take_away(volume)
    volume.drop("saved.json", canvas(id="saved"))
    volume.wait_until("saved.json", "saving")
    volume.drop("drawn.json", sleeping(600, id="drawn"))
    volume.wait_until("drawn.json", "running")
    (volume.spool / "paused").touch()
    first.wait_for("paused")
    volume.drop("waiting.json", canvas(id="waiting"))
    first.wait_for("accepted", id="waiting")
    eventually(lambda: not list(volume.spool.glob("w-*/c-*")), "the drop is cleared away")
    first.kill()
    for id in ("saved", "drawn", "waiting"):
        spoil(volume, id)
    give_back(volume)
    (volume.spool / "paused").unlink()
    second = watch(simulator)
    for id, attempts in {"drawn": 1, "waiting": 0}.items():
        status = ended(volume, id)
        assert (status["status"], status["attempt"]) == ("failed", attempts)
        assert "damaged" in status["error"]["message"]
    assert ended(volume, "saved")["ok"], "all that was still to be done stands in status.json"
    volume.drop("whole.json", canvas())
    volume.succeed("whole.json")
    eventually(lambda: len(second.find("unreadable_record")) == 3, "each is named")
    del volume.drops["waiting.json"]  # nothing tells any more what it was called
    check_promises(volume, simulator)


def test_one_of_a_newer_version_is_left_to_that_version(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    first = watch(simulator)
    first.wait_for("comfyui_up")
    volume.drop("newer.json", sleeping(600, id="newer"))
    volume.wait_until("newer.json", "running")
    first.kill()
    name = spoil(volume, "newer", NEWER).name
    watch(simulator).wait_for("left_alone")
    assert [path.read_bytes() for path in volume.spool.glob(f"w-*/{name}")] == [NEWER]
    assert volume.find("newer.json") is not None
    assert volume.status("newer")["status"] == "running"  # type: ignore[index]

"""What an older version left in mid-life is finished by this one; what a newer one left is named and not touched."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.record import Record
from tests.cli.conftest import Place
from tests.e2e.conftest import StartWatcher, make_root, run_simulator
from tests.e2e.promises import check_promises
from tests.e2e.volume import FolderBucket, Volume, eventually
from tests.figures import Note
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher
from tests.upgrade.freeze import PICTURE
from tests.upgrade.frozen import VOLUMES, Frozen

VERSIONS = sorted(path.stem for path in VOLUMES.glob("*.json"))
NEWER = 999
LONG_AGO = 1_000_000_000


@pytest.fixture(params=VERSIONS)
def frozen(request: pytest.FixtureRequest) -> Frozen:
    return Frozen.load(request.param)


@pytest.fixture
def volume(frozen: Frozen) -> Iterator[Volume]:
    with make_root() as root:
        volume = Volume(root / "volume", FolderBucket(root / "volume/bucket"))
        frozen.put(volume.root)
        (volume.root / "workflows").mkdir()
        for path in (volume.spool / "tmp").iterdir():
            os.utime(path, (LONG_AGO, LONG_AGO))
        for name, text in frozen.drops.items():
            volume.note(name, text.encode())
        volume.executions = {f"{id}/1/": 1 for id in frozen.executed}
        yield volume


@pytest.fixture
def simulator(volume: Volume) -> Iterator[Simulator]:
    with run_simulator(volume) as simulator:
        yield simulator


def thaw(volume: Volume, simulator: Simulator, watch: StartWatcher) -> Watcher:
    """Today's watcher, and the picture that two of the jobs wait for."""
    watcher = watch(simulator, watcher_name="frozen", settle_s=0.3, lease_s=5)
    Image.new("RGB", (8, 8)).save(volume.root / PICTURE)
    os.rename(volume.root / PICTURE, volume.input / PICTURE)
    volume.left.add(PICTURE)
    return watcher


def test_everything_is_finished_once(
    frozen: Frozen, volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    reserved = set(os.listdir(volume.spool / "ids"))
    decided = (volume.output / "decided/status.json").read_bytes()
    final = (volume.output / "final/status.json").read_bytes()
    watcher = thaw(volume, simulator, watch)
    expected = {Path(name).stem for name in frozen.places} - {"bad"}
    eventually(
        lambda: (jobs := volume.jobs()).keys() >= expected and all(job["done"] for job in jobs.values()), "all end"
    )
    check_promises(volume, simulator, watchers=(watcher,))
    jobs = volume.jobs()
    assert jobs.keys() == expected
    assert jobs.keys() >= reserved, "a reserved id was lost"
    assert {id for id, job in jobs.items() if not job["ok"]} == {"decided", "wanted"}
    assert (volume.output / "decided/status.json").read_bytes() == decided
    assert (volume.output / "final/status.json").read_bytes() == final
    attempts = {id: job["attempt"] for id, job in jobs.items()}
    assert {id for id, attempt in attempts.items() if attempt > 1} == {"running", "waiting"}
    _check_replays(frozen, volume, simulator)
    _check_commands(volume, jobs)
    note(version=frozen.version, places=len(frozen.places), finished=len(jobs), ids_kept=len(reserved))


def _check_replays(frozen: Frozen, volume: Volume, simulator: Simulator) -> None:
    folders = Folders(str(volume.input), str(volume.output))
    bodies = [*frozen.bodies.items()]
    bodies += [(Path(name).stem, json.loads(text)) for name, text in frozen.drops.items() if name != "bad.json"]
    before = simulator.control()["prompts_received"]
    for id, body in bodies:
        job = parse_job(body, default_workflow="txt2img")
        record = Record(token="0" * 16, id=id, sha256=job.sha256, received_at="2026-11-24T00:00:00Z", body=job.body)
        assert publisher.publish(folders, record) == "replay", id
    assert os.listdir(folders.inbox) == os.listdir(folders.tmp) == []
    assert simulator.control()["prompts_received"] == before


def _check_commands(volume: Volume, jobs: dict[str, dict[str, Any]]) -> None:
    place = Place(volume.root, {"HANDOFF_INPUT_DIR": str(volume.input), "HANDOFF_OUTPUT_DIR": str(volume.output)})
    listed = place.run("list", "--json", "--limit", "100").expect(0).json
    assert {job["id"]: job["status"] for job in listed["jobs"]} == {id: job["status"] for id, job in jobs.items()}
    for id in ("final", "running", "decided"):
        assert place.run("show", id).expect(0).out.startswith(id)
        assert place.run("status", id, "--json").json["status"] == jobs[id]["status"]


def test_what_a_newer_version_wrote_is_named_and_left_alone(
    frozen: Frozen, volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    claimed = next(volume.spool.glob("w-*/r-*"))
    waiting = next(path for path in (volume.spool / "inbox").iterdir() if b'"id":"unplanned"' in path.read_bytes())
    ended = volume.output / "final/status.json"
    documents = {path: _age(path) for path in (claimed, waiting, ended)}
    watcher = thaw(volume, simulator, watch)
    named = [watcher.wait_for("unreadable_record"), watcher.wait_for("left_alone", file=waiting.name)]
    assert all("newer version" in line["error"] for line in named)
    volume.succeed("planned.json", "made.json", "dropped.json")
    assert documents[claimed] in {path.read_bytes() for path in volume.spool.glob("w-*/r-*")}
    assert waiting.read_bytes() == documents[waiting], "a newer watcher can claim it at once"
    assert ended.read_bytes() == documents[ended]
    assert watcher.terminate() == 0
    assert documents[claimed] in {path.read_bytes() for path in volume.spool.glob("w-*/r-*")}


def _age(path: Path) -> bytes:
    """As a later version would write it; under a new name for a new file, since others may name the old one, too."""
    document = json.loads(path.read_bytes()) | {"schema": NEWER, "something_new": True}
    path.unlink()
    path.write_text(json.dumps(document))
    return path.read_bytes()

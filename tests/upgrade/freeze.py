"""`python -m tests.upgrade.freeze VERSION`: catches a volume of the version that is checked out, for those that come after.

Done once for each release; what it writes is never changed again.
"""

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from handoff import timestamps
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.record import Record
from tests.e2e.conftest import run_simulator
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.volume import Volume, eventually
from tests.servers.watcher import start_watcher
from tests.upgrade.frozen import Frozen

PICTURE = "later.png"  # comes when the volume is thawed

PLACES = {
    "final.json": "final, its record in done/",
    "bad.json": "rejected",
    "saving.json": "`saving`, and not in the bucket",
    "decided.json": "decided, and neither in the bucket nor filed",
    "parked": "record with attempt 0: an adapter's job that waits for a picture",
    "claimed.json": "c-: a drop that waits for a picture",
    "running.json": "record with attempt 1: ComfyUI executes it",
    "waiting.json": "record with attempt 1: it waits at ComfyUI",
    "planned.json": "in the inbox, made of a drop",
    "unplanned": "in the inbox, from an adapter",
    "wanted.json": "in the inbox, with a cancel mark beside it",
    "made.json": "c- and b-, its id reserved",
    "killed": "in tmp/, its id reserved",
    "dropped.json": "dropped, seen by nobody",
}


def freeze(version: str, root: Path) -> Frozen:
    volume = Volume.make(root / "volume")
    bodies: dict[str, dict[str, Any]] = {}
    folders = Folders(str(volume.input), str(volume.output))

    def submit(id: str, body: dict[str, Any]) -> None:
        bodies[id] = body
        job = parse_job(body, default_workflow="txt2img")
        received = timestamps.to_text(timestamps.now())
        publisher.publish(
            folders, Record(token="0" * 16, id=id, sha256=job.sha256, received_at=received, body=job.body)
        )

    with (
        run_simulator(volume) as simulator,
        start_watcher(volume.root, simulator.url, watcher_name="frozen", settle_s=0.3, picture_wait_s=600) as watcher,
    ):
        watcher.wait_for("comfyui_up")
        volume.drop("final.json", canvas(id="final"))
        volume.drop("bad.json", b'{"hello": 1}')
        volume.succeed("final.json")
        volume.reason("bad.json")
        eventually(lambda: list(volume.spool.glob("done/*/final")), "it is filed")

        bucket = volume.root / "bucket"
        bucket.rename(volume.root / "bucket-away")
        bucket.write_text("not a folder")
        volume.drop("saving.json", canvas(id="saving"))
        volume.wait_until("saving.json", "saving")
        volume.drop("decided.json", sleeping(600, id="decided"))
        _wait_until_started(volume, "decided.json")
        (volume.input / "decided.cancel").touch()
        volume.finish("decided.json")

        submit("parked", {"workflow": "invert", "params": {"image": PICTURE}})
        eventually(lambda: not os.listdir(folders.inbox), "it is claimed")
        volume.drop("claimed.json", {"workflow": "invert", "params": {"image": PICTURE}, "id": "claimed"})
        watcher.wait_for("later", file="claimed.json")
        volume.drop("running.json", sleeping(4.0, id="running"))
        _wait_until_started(volume, "running.json")
        volume.drop("waiting.json", sleeping(0.1, id="waiting"))
        volume.wait_until("waiting.json", "running")

        (volume.spool / "paused").touch()
        watcher.wait_for("paused")
        volume.drop("planned.json", canvas(id="planned"))
        volume.drop("wanted.json", canvas(id="wanted"))
        submit("unplanned", canvas())
        eventually(lambda: len(os.listdir(folders.inbox)) == 3, "all three are in the inbox")
        os.rename(folders.inbox, f"{folders.inbox}-away")
        volume.drop("made.json", canvas(id="made"))
        eventually(lambda: list(volume.spool.glob("w-*/b-*")), "the job is made of it")
        with suppress(FileNotFoundError):
            submit("killed", canvas())
        watcher.kill()

    os.rename(f"{folders.inbox}-away", folders.inbox)
    bucket.unlink()
    (volume.root / "bucket-away").rename(bucket)
    (volume.spool / "paused").unlink()
    (volume.input / "wanted.cancel").touch()
    volume.drop("dropped.json", canvas(id="dropped"))

    frozen = Frozen(
        version=version,
        drops={name: drop.data.decode() for name, drop in volume.drops.items()},
        bodies=bodies,
        executed=["final", "saving"],
        running=["running.json", "waiting.json", "decided.json"],
        places=PLACES,
    )
    frozen.take(volume.root)
    assert frozen.drops.keys() | bodies.keys() == PLACES.keys()
    return frozen


def _wait_until_started(volume: Volume, name: str) -> None:
    eventually(lambda: (found := volume.find(name)) is not None and found["started_at"], f"{name} runs")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        frozen = freeze(sys.argv[1], Path(folder))
    frozen.save()
    print(json.dumps({"folders": len(frozen.folders), "files": len(frozen.files)}))

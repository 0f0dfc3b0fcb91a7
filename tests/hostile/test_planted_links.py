"""Another tenant of the volume plants links that lead out of it: nothing out there is read, written, moved or deleted."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from handoff import timestamps
from handoff.folders import Folders
from handoff.settings import SettingsError, WatcherSettings, make_folders
from handoff.spool import lease
from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, graph
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.hostile.canary import watched
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

NAME = "here"  # of the watcher, so that a lease can be forged which looks like its predecessor's
OLD = time.time() - 40 * 24 * 3600  # older than everything that is ever cleared away
TOKEN = "0123456789abcdef"

Plant = Callable[[Volume, Path], None]
"""Plants one attack on the volume; the path is its own part of the tree outside."""


def lay_bait(folder: Path) -> None:
    """What each file is that the watcher might take it for, and old."""
    folder.mkdir(parents=True)
    for name in ("old", f"{TOKEN}-1"):
        (folder / name).mkdir()
        (folder / name / "precious").write_text("outside")
    status = {"schema": 1, "id": folder.name, "status": "succeeded", "done": True, "ok": True, "sha256": "0" * 64}
    record = {
        "schema": 1, "token": TOKEN, "id": folder.name, "sha256": "0" * 64, "body": {"prompt": "outside"},
        "received_at": timestamps.to_text(timestamps.now()),
    }  # fmt: skip
    last_words = {"wid": TOKEN, "server": NAME, "boot_id": lease.boot_id(), "beat": 7}
    for name, document in {
        "status.json": status,
        "job.json": status,
        "lease": last_words,
        f"r-{TOKEN}": record,
    }.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "c-20261124T083015000000-0123456789abcdef~x.json").write_text(json.dumps(canvas()))
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (OLD, OLD))


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    os.utime(path, (OLD, OLD), follow_symlinks=False)


def output_folder(volume: Volume, outside: Path) -> None:
    link(volume.output / "output-folder", outside)
    volume.drop("output-folder.json", canvas(id="output-folder"))


def output_folder_after_acceptance(volume: Volume, outside: Path) -> None:
    volume.submit("output-folder-after-acceptance", canvas())
    link(volume.output / "output-folder-after-acceptance", outside)


def output_folder_of_a_cancelled_job(volume: Volume, outside: Path) -> None:
    link(volume.output / "output-folder-of-a-cancelled-job", outside)
    (volume.input / "output-folder-of-a-cancelled-job.cancel").touch()


def status_file(volume: Volume, outside: Path) -> None:
    volume.submit("status-file", canvas())
    for name in ("status.json", "job.json", "status-file.png"):
        link(volume.output / "status-file" / name, outside / name)


def reservation(volume: Volume, outside: Path) -> None:
    link(volume.spool / "ids" / "reservation", outside / f"r-{TOKEN}")
    volume.drop("reservation.json", canvas(id="reservation"))


def cancel_mark(volume: Volume, outside: Path) -> None:
    volume.submit("cancel-mark", canvas())
    link(volume.input / "cancel-mark.cancel", outside)


def waiting_job(volume: Volume, outside: Path) -> None:
    link(volume.spool / "inbox" / f"10020261124083015000-{TOKEN}.json", outside / f"r-{TOKEN}")


def waiting_folder(volume: Volume, outside: Path) -> None:
    link(volume.spool / "inbox" / f"10020261124083015001-{TOKEN[::-1]}.json", outside)


def unpublished_job(volume: Volume, outside: Path) -> None:
    link(volume.spool / "tmp" / TOKEN, outside / f"r-{TOKEN}")
    link(volume.spool / "tmp" / f"{TOKEN[::-1]}.swept", outside)


def day_of_finished_jobs(volume: Volume, outside: Path) -> None:
    for day in (timestamps.now(), timestamps.from_milliseconds((time.time() + 24 * 3600) * 1000)):
        link(volume.spool / "done" / timestamps.to_text(day)[:10], outside)


def dead_watcher(volume: Volume, outside: Path) -> None:
    link(volume.spool / "w-aaaaaaaaaaaaaaaa", outside)


def pen_of_a_dead_watcher(volume: Volume, outside: Path) -> None:
    """Its folder in the spool is real, and its lease free."""
    folder = volume.spool / "w-bbbbbbbbbbbbbbbb"
    folder.mkdir()
    words = lease.LeaseText(wid="b" * 16, server=NAME, boot_id=lease.boot_id(), beat=7)
    (folder / "lease").write_text(words.model_dump_json())
    link(volume.output / ".handoff" / "w-bbbbbbbbbbbbbbbb", outside)


def taken_over_folder(volume: Volume, outside: Path) -> None:
    """As if a watcher had died while it took another one over."""
    folder = volume.spool / "w-cccccccccccccccc"
    folder.mkdir()
    words = lease.LeaseText(wid="c" * 16, server=NAME, boot_id=lease.boot_id(), beat=7)
    (folder / "lease").write_text(words.model_dump_json())
    link(folder / "from-dddddddddddddddd", outside)
    link(folder / f"r-{TOKEN}", outside / f"r-{TOKEN}")
    link(folder / f"b-{TOKEN}", outside / f"r-{TOKEN}")
    link(folder / "c-20261124T083015000000-fedcba9876543210~x.json", outside / "status.json")
    link(folder / "junk", outside)


def starting_watcher(volume: Volume, outside: Path) -> None:
    link(volume.spool / "new-eeeeeeeeeeeeeeee", outside)
    link(volume.input / ".trial-eeeeeeeeeeeeeeee", outside)
    link(volume.output / ".trial-eeeeeeeeeeeeeeee", outside)


def pen_without_a_watcher(volume: Volume, outside: Path) -> None:
    link(volume.output / ".handoff" / "w-ffffffffffffffff", outside)


def forgotten_work(volume: Volume, outside: Path) -> None:
    link(volume.output / ".handoff" / "work" / f"{TOKEN}-1", outside)


def work_of_a_waiting_job(volume: Volume, outside: Path) -> None:
    volume.submit("work-of-a-waiting-job", {"graph": graph()})
    token = json.loads((volume.spool / "ids" / "work-of-a-waiting-job").read_bytes())["token"]
    link(volume.output / ".handoff" / "work" / f"{token}-1", outside)


def job_file(volume: Volume, outside: Path) -> None:
    link(volume.input / "job-file.json", outside / "job.json")
    link(volume.input / "job-folder.json", outside)


def rejected_file(volume: Volume, outside: Path) -> None:
    for name in ("rejected-file.json", "rejected-file.json.reason.json", "rejected-file-2.json.reason.json"):
        link(volume.input / "rejected" / name, outside / "status.json")
    volume.drop("rejected-file.json", b'{"hello": 1}')


def picture(volume: Volume, outside: Path) -> None:
    link(volume.input / "planted.png", outside / "picture.png")
    link(volume.input / "uploads" / "planted.png", outside / "picture.png")
    for number, name in enumerate(
        ("planted.png", "uploads/planted.png", "uploads/../planted.png", str(outside / "picture.png"))
    ):
        volume.drop(f"picture-{number}.json", {"workflow": "invert", "params": {"image": name}})


PLANTS: tuple[Plant, ...] = (
    output_folder, output_folder_after_acceptance, output_folder_of_a_cancelled_job, status_file, reservation, cancel_mark,
    waiting_job, waiting_folder, unpublished_job, day_of_finished_jobs, dead_watcher, pen_of_a_dead_watcher,
    taken_over_folder, starting_watcher, pen_without_a_watcher, forgotten_work, work_of_a_waiting_job, job_file,
    rejected_file, picture,
)  # fmt: skip


def run(volume: Volume, simulator: Simulator, watch: StartWatcher, plants: tuple[Plant, ...]) -> set[str]:
    """What was touched outside while a watcher finished an ordinary job on a volume with these links on it."""
    Folders(str(volume.input), str(volume.output)).make()
    outside = volume.root.parent / "outside"
    for plant in plants:
        lay_bait(outside / plant.__name__)
    with watched(outside) as canary:
        for plant in plants:
            plant(volume, outside / plant.__name__)
        watcher = watch(simulator, watcher_name=NAME, settle_s=0.2, picture_wait_s=0.3, lease_s=5)
        succeed(volume, "honest")
        eventually(lambda: not list(volume.input.glob("*.json")), "every file is taken in or rejected")
        eventually(lambda: at_rest(volume, watcher), "all jobs end")
        succeed(volume, "honest-again")
        assert watcher.terminate() == 0
    assert [line for line in watcher.log if line["event"] == "bug"] == []
    return canary.touched


def succeed(volume: Volume, id: str) -> None:
    volume.drop(f"{id}.json", canvas(id=id))
    status = eventually(lambda: (found := volume.status(id)) and found["done"] and found, f"{id} ends")
    assert status["status"] == "succeeded"


def at_rest(volume: Volume, watcher: Watcher) -> bool:
    """By the log, since looking at the outputs would follow the links."""
    reserved = {path.name for path in (volume.spool / "ids").iterdir() if not path.is_symlink()}
    return reserved <= {line["id"] for line in watcher.find("job")}


def test_links_planted_everywhere_lead_nowhere(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    touched = run(volume, simulator, watch, PLANTS)
    note(links=len(PLANTS), touched_outside=len(touched))
    assert touched == set()


@pytest.mark.skipif(not SOAK, reason="one by one in the soak; all at once always")
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_link_planted_alone_leads_nowhere(
    volume: Volume, simulator: Simulator, watch: StartWatcher, plant: Plant
) -> None:
    assert run(volume, simulator, watch, (plant,)) == set()


OWN_FOLDERS = (
    "input/.handoff", "input/.handoff/inbox", "input/.handoff/ids", "input/.handoff/tmp", "input/.handoff/done",
    "input/uploads", "input/rejected", "output/.handoff", "output/.handoff/work",
)  # fmt: skip


@pytest.mark.parametrize("name", OWN_FOLDERS)
def test_no_folder_of_ours_may_be_a_link(volume: Volume, name: str) -> None:
    outside = volume.root.parent / "outside"
    lay_bait(outside)
    outside.chmod(0o700)
    link(volume.root / name, outside)
    with watched(outside) as canary, pytest.raises(SettingsError, match=Path(name).name):
        make_folders(WatcherSettings(input_dir=volume.input, output_dir=volume.output))
    assert canary.touched == set()


def test_the_canary_tells_of_a_read(tmp_path: Path) -> None:
    """The control."""
    lay_bait(tmp_path / "outside")
    with watched(tmp_path / "outside") as canary:
        (tmp_path / "outside" / "job.json").read_bytes()
        (tmp_path / "outside" / "old").chmod(0o700)
    assert canary.touched == {"job.json opened", "job.json read", "old attributes", "old differs"}

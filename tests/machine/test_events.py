"""Where the kernel's events do not come: its limits are reached, its queue is full, the mount brings none."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from handoff.hints import read_kinds
from handoff.spool import lease
from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.machine.mounts import as_user, bindfs, share, sysctl
from tests.servers.simulator import Simulator
from watcher.reception import POLLING_S

NEVER_S = 600  # between two scans: what is found is found for another reason
FLOOD = 2000 if SOAK else 100
DROPS = 40 if SOAK else 4
EXHAUST = """
import ctypes, sys
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0: pass
print("exhausted", flush=True)
sys.stdin.read()
"""


def health(volume: Volume) -> dict[str, str]:
    (path,) = volume.spool.glob("w-*/lease")
    text = lease.read(str(path))
    assert text is not None
    return text.health


def test_inotify_limit_reached(volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note) -> None:
    uid = 61_203
    user = as_user(uid)
    share(volume.root, volume.root.parent, volume.input, volume.output)
    with subprocess.Popen(
        [*user, sys.executable, "-c", EXHAUST], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as exhauster:
        assert exhauster.stdout is not None
        assert exhauster.stdout.readline() == b"exhausted\n"
        watcher = watch(simulator, wrap=user, scan_s=NEVER_S)
        said = watcher.wait_for("polling")
        assert "fs.inotify.max_user_instances" in said["why"]
        names = [f"job-{number}.json" for number in range(DROPS)]
        for name in names:
            volume.drop(name, canvas())
        volume.succeed(*names)
        eventually(lambda: health(volume).get("events", "ok") == said["why"], "its health says so, too")
        check_promises(volume, simulator, watchers=(watcher,))
        note(jobs=len(names))
        exhauster.communicate()


def test_events_are_lost(volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note) -> None:
    with sysctl("fs.inotify.max_queued_events", 64):
        watcher = watch(simulator, scan_s=NEVER_S)
        watcher.wait_for("comfyui_up")
        volume.drop("first.json", canvas())  # events come
        volume.succeed("first.json")
    watcher.freeze()
    names = [f"job-{number}.json" for number in range(FLOOD)]
    for name in names:
        volume.drop(name, canvas())
    watcher.thaw()
    begun = time.monotonic()
    watcher.wait_for("events_lost")
    noticed = time.monotonic() - begun
    volume.succeed(*names, limit_s=300)
    check_promises(volume, simulator, watchers=(watcher,))
    note(jobs=len(names), noticed_s=noticed)


def test_a_mount_brings_no_events(volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note) -> None:
    seen = volume.root / "seen"
    with bindfs(volume.root, seen):
        watcher = watch(simulator, input_dir=seen / "input", output_dir=seen / "output", scan_s=NEVER_S)
        watcher.wait_for("comfyui_up")
        said = watcher.wait_for("polling")
        assert "fuse" in said["why"]
        waits = [measure_pickup(volume, f"job-{number}.json") for number in range(DROPS)]
        volume.succeed(*volume.drops)
        assert health(volume)["events"] == said["why"]
        check_promises(volume, simulator, watchers=(watcher,))
        watcher.kill()
    note(jobs=len(waits), poll_s=POLLING_S, pickup_p50_s=median(waits), pickup_max_s=max(waits))
    assert median(waits) <= 2 * POLLING_S  # the machine may be busy


def measure_pickup(volume: Volume, name: str) -> float:
    volume.drop(name, canvas())
    begun = time.monotonic()
    eventually(lambda: not (volume.input / name).exists(), "it is claimed")
    return time.monotonic() - begun


def test_events_on_request_are_all_there_is(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    """`HANDOFF_WATCH=events`: who knows that they come through this mount need not pay for looking."""
    seen = volume.root / "seen"
    with bindfs(volume.root, seen):
        folders = {"input_dir": seen / "input", "output_dir": seen / "output"}
        watcher = watch(simulator, watch="events", scan_s=NEVER_S, **folders)
        watcher.wait_for("comfyui_up")
        data = b'{"workflow": "canvas", "params": {"width": 32, "height": 24}}'
        Path(seen, "input", "through.json").write_bytes(data)
        volume.note("through.json", data)
        volume.succeed("through.json")
        assert watcher.find("polling") == []
        watcher.kill()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue", "ext3"),
        ("40 35 0:52 / /input rw,relatime - fuse.bindfs /srv rw,user_id=0", "fuse.bindfs"),
        ("41 35 0:60 / /a\\040b rw shared:1 master:2 - nfs4 server:/x rw", "nfs4"),
    ],
)
def test_the_kind_of_a_mount_is_read(line: str, kind: str) -> None:
    assert read_kinds([line]) == {line.split()[2]: kind}

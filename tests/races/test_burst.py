"""A flood of files: all are taken in, soon, and the watcher stays small."""

import time
from datetime import datetime

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.races.fleet import cpu_s, memory_mb
from tests.servers.simulator import Simulator

FILES = 50_000 if SOAK else 1_500
LIMIT_S = 1200 if SOAK else 90


@pytest.mark.timeout(LIMIT_S + 600)
def test_every_file_of_a_burst_is_taken_in_once(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    watcher = watch(simulator)
    watcher.wait_for("comfyui_up")
    (volume.spool / "paused").touch()
    watcher.wait_for("paused")
    cpu_before = cpu_s(watcher)
    begun = time.monotonic()
    for number in range(FILES):
        volume.drop(f"burst-{number}.json", canvas())
    dropped_s = time.monotonic() - begun
    eventually(lambda: len(watcher.find("accepted")) >= FILES, "all are accepted", limit_s=LIMIT_S)
    seconds = time.monotonic() - begun
    accepted = {
        line["file"]: datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in watcher.log
        if line["event"] == "accepted"
    }
    assert accepted.keys() == volume.drops.keys()
    assert len(watcher.find("accepted")) == FILES
    ids = len(list((volume.spool / "ids").iterdir()))
    waiting = len(list((volume.spool / "inbox").iterdir()))
    assert ids == waiting == FILES
    waits = sorted(accepted[name] - drop.at for name, drop in volume.drops.items())
    note(
        files=FILES,
        lost=FILES - ids,
        files_per_s=FILES / seconds,
        dropped_per_s=FILES / dropped_s,
        accepted_after_p50_s=waits[FILES // 2],
        accepted_after_p99_s=waits[FILES * 99 // 100],
        cpu_ms_per_file=1000 * (cpu_s(watcher) - cpu_before) / FILES,
        memory_mb=memory_mb(watcher),
    )

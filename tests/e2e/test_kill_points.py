"""Killed right at a system call, one after another: the next watcher finishes the job, and it is drawn once."""

import os
import shutil
import time

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

CALLS = {"rename": 14, "link": 5, "linkat": 3, "unlink": 8, "fsync": 16, "mkdir": 8, "rmdir": 2}
"""How many of each some thread of a watcher does from its start to the end of one job, or nearly."""

POINTS = [f"{call}:when={number}" for call, most in CALLS.items() for number in range(1, most + 1)]
SAMPLE = ("rename:when=3", "link:when=2", "fsync:when=4")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace kills at a system call; install it")
@pytest.mark.parametrize("moment", ["entry", "exit"])
@pytest.mark.parametrize("point", POINTS if SOAK else SAMPLE)
def test_killed_at(volume: Volume, simulator: Simulator, watch: StartWatcher, point: str, moment: str) -> None:
    """`entry`: the call is not done; `exit`: it is, and nothing after it."""
    volume.drop("job.json", canvas())
    volume.drop("bad.json", b'{"hello": 1}')
    call, _, when = point.partition(":")
    # signal= strikes before the call is done unless the call is a no-op for it; retval= keeps it from being done
    fault = (
        f"inject={call}:error=EINTR:signal=KILL:{when}" if moment == "entry" else f"inject={call}:signal=KILL:{when}"
    )
    traced = watch(
        simulator,
        wrap=("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", fault),
        settle_s=0.3,
    )
    wait_until_dead_or_done(volume, traced)
    traced.kill()
    after = watch(simulator, settle_s=0.3)
    after.wait_for("comfyui_up")  # it has taken over by then
    (status,) = volume.succeed("job.json")
    assert status["attempt"] <= 2
    assert volume.reason("bad.json")["reason"] == "not_a_job"
    check_promises(volume, simulator, watchers=(after,))
    assert not [name for name in os.listdir(volume.spool) if name.startswith("w-") and not _is_of(after, name)]


def _is_of(watcher: Watcher, name: str) -> bool:
    return name == f"w-{watcher.wait_for('watching')['watcher']}"


def wait_until_dead_or_done(volume: Volume, watcher: Watcher) -> None:
    end = time.monotonic() + 60
    while watcher.process.poll() is None and time.monotonic() < end:
        if list(volume.spool.glob("done/*/*")) and (volume.input / "rejected" / "bad.json").exists():
            return
        time.sleep(0.01)

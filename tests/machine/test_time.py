"""Clocks that jump, and watchers that stand still beyond their lease."""

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.jobs import sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.servers.debian import need
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

LEASE_S = 5
JUMPS = ("+2h", "-2h", "+0") * (5 if SOAK else 1)
BATCH = 8


@pytest.fixture
def other(volume: Volume) -> Iterator[Simulator]:
    with run_simulator(volume, name="comfyui-2") as simulator:
        yield simulator


def find_library() -> Path:
    need("faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime for threads here")
    return found[0]


def test_the_clock_of_one_watcher_jumps(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher, note: Note
) -> None:
    clock = volume.root / "clock"
    clock.write_text("+0")
    faked = (
        "env", f"LD_PRELOAD={find_library()}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1",
        "DONT_FAKE_MONOTONIC=1",
    )  # fmt: skip
    jumping = watch(simulator, lease_s=LEASE_S, scan_s=0.5, wrap=faked)
    steady = watch(other, lease_s=LEASE_S, scan_s=0.5)
    jumping.wait_for("comfyui_up")
    steady.wait_for("comfyui_up")
    names: list[str] = []
    stamps = set()
    for jump in JUMPS:
        batch = [f"job-{len(names) + number}.json" for number in range(BATCH)]
        names += batch
        for name in batch:
            volume.drop(name, sleeping(0.3, queue_timeout_s=600, run_timeout_s=600))
        eventually(lambda: volume.find(batch[0]), "the first of them is at work")  # noqa: B023
        clock.write_text(jump)
        volume.succeed(*batch)
        stamps |= {str(line["timestamp"])[:13] for line in jumping.log}
    assert len(stamps) >= 3, "the clock did not jump"
    assert jumping.find("took_over") + steady.find("took_over") == []
    assert jumping.find("fenced") + steady.find("fenced") == []
    check_promises(volume, simulator, other, watchers=(jumping, steady))
    shares = [sum(server.control()["executions"].values()) for server in (simulator, other)]
    assert min(shares) > 0
    note(jumps=len(JUMPS), jobs=len(names))


def stand_still(watcher: Watcher, simulator: Simulator, volume: Volume, moment: str) -> None:
    match moment:
        case "sending":  # ComfyUI takes the connection and does not answer
            simulator.pause()
            time.sleep(random.uniform(0.05, 0.3))
            watcher.freeze()
            simulator.resume()
        case "running":
            eventually(lambda: any(job["status"] == "running" for job in volume.jobs().values()), "one runs")
            watcher.freeze()
        case _:
            eventually(lambda: simulator.control()["executions"], "it works")
            time.sleep(random.uniform(0.0, 0.5))
            watcher.freeze()


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("moment", ["sending", "running", "anywhere"] if SOAK else ["sending", "anywhere"])
def test_a_watcher_stands_still_beyond_its_lease(
    volume: Volume, simulator: Simulator, other: Simulator, watch: StartWatcher, note: Note, moment: str
) -> None:
    frozen, living = watch(simulator, lease_s=LEASE_S), watch(other, lease_s=LEASE_S)
    frozen.wait_for("comfyui_up")
    living.wait_for("comfyui_up")
    names: list[str] = []
    rounds = 10 if SOAK else 1
    for number in range(rounds):
        batch = [f"job-{number}-{job}.json" for job in range(BATCH)]
        names += batch
        for name in batch:
            volume.drop(name, sleeping(0.2))
        stand_still(frozen, simulator, volume, moment)
        with contextlib.suppress(TimeoutError):  # it may have held nothing
            living.wait_for("took_over", count=number + 1, limit_s=6 * LEASE_S)
        statuses = volume.succeed(*batch)
        frozen.thaw()
        frozen.wait_for("fenced", count=number + 1)
        frozen.wait_for("comfyui_up", count=number + 2)
        assert volume.succeed(*batch) == statuses, "a final status changed"
    statuses = volume.succeed(*names)
    allowed = {status["source"]: status["attempt"] for status in statuses}
    check_promises(volume, simulator, other, allowed=allowed, watchers=(frozen, living))
    again = sum(attempt > 1 for attempt in allowed.values())
    note(frozen=rounds, fenced=rounds, jobs=len(names), drawn_by_both=again)

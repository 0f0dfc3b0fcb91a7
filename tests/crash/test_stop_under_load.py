"""SIGTERM at random moments while jobs of all kinds wait and run: it ends in time, and no job pays for it."""

import contextlib
import os
import random
import statistics
import time
from typing import Any

import pytest

from tests.conftest import SOAK
from tests.crash.crowd import Crowd
from tests.crash.life import check_nothing_is_left
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.servers.watcher import Watcher, start_watcher

SEED = int(os.environ.get("CRASH_SEED", "20261124"))
STOPS = 50 if SOAK else 3
IN_FLIGHT = 50 if SOAK else 10
GRACE_S = 20  # the setting's default

SETTINGS: dict[str, Any] = {
    "settle_s": 0.3,
    "scan_s": 0.5,
    "lease_s": 3600,
    "watcher_name": "one",
    "grace_s": GRACE_S,
}


@pytest.mark.timeout(3600 if SOAK else 300)
def test_stopped_at_random_moments(note: Note) -> None:
    chance = random.Random(SEED)
    times = []
    with contextlib.ExitStack() as stack:
        volume = Volume.make(stack.enter_context(make_root()) / "volume")
        simulator = stack.enter_context(run_simulator(volume))
        crowd = Crowd(volume, chance)

        def start() -> Watcher:
            watcher = stack.enter_context(start_watcher(volume.root, simulator.url, **SETTINGS))
            watcher.wait_for("watching")
            return watcher

        def count_in_flight() -> int:
            return crowd.jobs - len(list(volume.spool.glob("done/*/*")))

        def work(until: float) -> bool:
            while count_in_flight() < IN_FLIGHT:
                crowd.add()
            return time.monotonic() > until

        watchers = []
        for _ in range(STOPS):
            watchers.append(start())
            until = time.monotonic() + chance.uniform(0.0, 2.0)
            eventually(lambda until=until: work(until), "its time is over")  # type: ignore[misc]
            begun = time.monotonic()
            assert watchers[-1].terminate() == 0
            times.append(time.monotonic() - begun)
            assert watchers[-1].find("stopped")
        watchers.append(start())
        eventually(lambda: count_in_flight() == 0, "every job is final")
        eventually(lambda: all((volume.input / "rejected" / name).exists() for name in crowd.rejects), "bad ones, too")
        crowd.note_replays()
        check_promises(volume, simulator, watchers=tuple(watchers))
        assert watchers[-1].terminate() == 0
        check_nothing_is_left(volume, start)
        jobs = volume.jobs().values()
        burnt = sum(max(0, status["attempt"] - 1) for status in jobs)
        tags = simulator.control()["executions_by_tag"]
        twice = sum(tags.values()) - len({tag.split("/")[0] for tag in tags})
    note(
        seed=SEED, stops=STOPS, jobs=len(jobs), attempts_burnt=burnt, second_executions=twice, grace_s=GRACE_S,
        p50_s=statistics.median(times), p99_s=sorted(times)[int(len(times) * 0.99)], longest_s=max(times),
    )  # fmt: skip
    assert max(times) < GRACE_S
    assert (burnt, twice, len(jobs)) == (0, 0, crowd.jobs)

"""Many watchers and many files: each file is taken by one of them, one of which dies half way."""

import time

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.races.fleet import count_filed, memory_mb, run_simulators, start_watchers

SIZES = [(2, 1_000), (8, 1_000), (2, 10_000), (8, 10_000)] if SOAK else [(4, 100)]
LIMIT_S = 3600 if SOAK else 90
LEASE_S = 30 if SOAK else 5


@pytest.mark.timeout(LIMIT_S + 600)
@pytest.mark.parametrize(("count", "files"), SIZES)
def test_every_file_is_one_job_although_a_watcher_dies(
    volume: Volume, watch: StartWatcher, note: Note, count: int, files: int
) -> None:
    with run_simulators(volume, count) as simulators:
        watchers = start_watchers(watch, simulators, lease_s=LEASE_S)
        names = [f"job-{number}.json" for number in range(files)]
        begun = time.monotonic()
        for name in names:
            volume.drop(name, canvas())
        eventually(lambda: count_filed(volume) >= files // 2, "half of them are over", limit_s=LIMIT_S)
        jobs_per_s = count_filed(volume) / (time.monotonic() - begun)
        dying, *living = watchers
        dying.kill()
        died = time.monotonic()
        eventually(lambda: any(watcher.find("took_over") for watcher in living), "its jobs are taken over")
        taken_over_s = time.monotonic() - died
        eventually(lambda: count_filed(volume) == files, "all are over", limit_s=LIMIT_S)
        resumed = {line["id"] for watcher in living for line in watcher.find("resumed")}
        statuses = volume.jobs().values()
        assert all(status["ok"] for status in statuses)
        # what the dead one had at its ComfyUI may be drawn there and once more elsewhere: nobody could know
        twice = {status["source"]: status["attempt"] for status in statuses if status["attempt"] > 1}
        assert {status["id"] for status in statuses if status["attempt"] > 1} <= resumed
        check_promises(volume, *simulators, allowed=twice, watchers=tuple(living))
        by_attempt = [n for each in simulators for n in each.control()["executions_by_tag"].values()]
        assert files <= len(by_attempt) <= files + len(twice)
        assert taken_over_s < LEASE_S + 20  # a beat or two later, and a busy machine
        note(
            watchers=count,
            files=files,
            lost=files - len(statuses),
            double=sum(by_attempt) - len(by_attempt),
            taken_over=len(resumed),
            sent_again=len(twice),
            taken_over_after_s=taken_over_s,
            jobs_per_s=jobs_per_s,
            most_memory_mb=max(memory_mb(watcher) for watcher in living),
        )

"""Resident memory of the watcher at its start and with many files waiting, and what ComfyUI sees of them in `input/`."""

import os
import time
from collections.abc import Iterator

from bench.figures import Figure
from bench.house import House, open_house
from bench.machine import resident_mb


def measure(jobs: int) -> Iterator[Figure]:
    with open_house() as house:
        at_start = resident_mb(house.pid)
        pause(house)
        start = time.monotonic()
        house.drop(jobs)
        taken_s = house.wait_until_taken_in(jobs) - start
        time.sleep(6)  # at least one scan of all folders
        waiting = resident_mb(house.pid)
        names = len(os.listdir(house.root / "input"))
    yield Figure(
        part="memory", what=f"resident with {jobs:,} jobs waiting", value=waiting, unit="MB",
        beside=at_start, beside_what="at start", compared=waiting / at_start, target="≤ 120 MB",
    )  # fmt: skip
    yield Figure(part="memory", what=f"time to take in {jobs:,} drops, per drop", value=taken_s / jobs * 1000)
    yield Figure(
        part="memory", what=f"names that ComfyUI lists in input/ after {jobs:,} drops", value=names, unit="names",
        beside=jobs, beside_what="if they stayed there", compared=names / jobs, target="nearly none",
    )  # fmt: skip


def pause(house: House) -> None:
    (house.spool / "paused").touch()
    time.sleep(1.5)  # also where it is noticed by a scan only

"""Many short jobs dropped at once, against a client that posts them all at once to the same server."""

import time
from collections.abc import Iterator

from bench.bare import open_client
from bench.figures import Figure
from bench.house import House, open_house

SECONDS = 0.05


def measure(jobs: int) -> Iterator[Figure]:
    with open_house(seconds_per_prompt=SECONDS) as house:
        house.drop(1)[0].wait_until_done()  # warm
        bare = _run_bare(house, jobs)
        cpu = house.cpu_s()
        ours = _run_ours(house, jobs)
        cpu = house.cpu_s() - cpu
    what = f"{jobs:,} jobs of {SECONDS * 1000:.0f} ms dropped at once"
    yield Figure(
        part="throughput", what=what, value=ours, unit="jobs/s",
        beside=bare, beside_what="all posted at once by a bare client", compared=ours / bare, target="ratio ≥ 0.97",
    )  # fmt: skip
    yield Figure(part="throughput", what="the watcher's CPU time per job", value=cpu / jobs * 1000, unit="CPU ms")


def _run_bare(house: House, jobs: int) -> float:
    with open_client(house.simulator.url) as client:
        start = time.monotonic()
        last = [client.post() for _ in range(jobs)][-1]
        return jobs / (client.wait(last) - start)


def _run_ours(house: House, jobs: int) -> float:
    staged = [house.stage() for _ in range(jobs)]
    before = house.done()
    start = time.monotonic()
    for job in staged:
        job.drop()
    rate = jobs / (house.wait_until_done(before + jobs) - start)
    for job in staged:
        job.check()
    return rate

"""Many short jobs dropped at once, against a client that posts as many at once to the same server.

The client has one half of its turn before and one after, so that a machine that slows down slows down both.
"""

import time
from collections.abc import Iterator

from bench.bare import open_client
from bench.figures import Figure
from bench.house import House, open_house

SECONDS = 0.05


def measure(jobs: int) -> Iterator[Figure]:
    with open_house(seconds_per_prompt=SECONDS) as house:
        house.drop(1)[0].wait_until_done()  # warm
        bare_s = _run_bare(house, jobs // 2)
        cpu = house.cpu_s()
        ours = jobs / _run_ours(house, jobs)
        cpu = house.cpu_s() - cpu
        bare = 2 * (jobs // 2) / (bare_s + _run_bare(house, jobs // 2))
    what = f"{jobs:,} jobs of {SECONDS * 1000:.0f} ms dropped at once"
    yield Figure(
        part="throughput", what=what, value=ours, unit="jobs/s",
        beside=bare, beside_what="posted at once by a bare client", compared=ours / bare, target="ratio ≥ 0.97",
    )  # fmt: skip
    yield Figure(part="throughput", what="the watcher's CPU time per job", value=cpu / jobs * 1000, unit="CPU ms")


def _run_bare(house: House, jobs: int) -> float:
    """In seconds, as below."""
    with open_client(house.simulator.url) as client:
        start = time.monotonic()
        last = [client.post() for _ in range(jobs)][-1]
        return client.wait(last) - start


def _run_ours(house: House, jobs: int) -> float:
    staged = [house.stage() for _ in range(jobs)]
    before = house.done()
    start = time.monotonic()
    for job in staged:
        job.drop()
    took = house.wait_until_done(before + jobs) - start
    for job in staged:
        job.check()
    return took

"""What a job costs beyond the drawing: file dropped until the final `status.json` is read, one job at a time, against a
bare websocket client that posts the same prompt and hears of its end, in turns on the same server.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from bench.bare import BareClient, open_client
from bench.figures import Figure, p50, p99
from bench.house import House, make_root, open_house, run_simulator, run_watcher
from tests.servers import rgw

LONG_S = 0.5  # of a job that draws: most of what is written then is written meanwhile


def measure(jobs: int, *, s3: bool) -> Iterator[Figure]:
    with open_house() as house:
        yield from _compare(house, jobs, "jobs of 0 s")
    with open_house(seconds_per_prompt=LONG_S) as house:
        yield from _compare(house, max(5, jobs // 8), f"jobs of {LONG_S} s")
    if s3:
        with _open_s3_house() as house:
            yield from _compare(house, jobs, "jobs of 0 s, S3")


def _compare(house: House, jobs: int, kind: str) -> Iterator[Figure]:
    fsync = house.fsync_clock()
    ours, bare = [], []
    with open_client(house.simulator.url) as client:
        for number in range(jobs + 3):
            bare_ms, our_ms = _time_bare(client), _time_ours(house, done=number)
            fsync.tick()
            if number >= 3:  # the first ones open connections
                bare.append(bare_ms)
                ours.append(our_ms)
    for name, middle in (("p50", p50), ("p99", p99)):
        yield Figure(
            part="overhead", what=f"{name} dropped → final status, {kind}", value=middle(ours), beside=middle(bare),
            beside_what="POST → executing null, bare", compared=middle(ours) - middle(bare), is_difference=True,
            target="difference ≤ 8 ms" if name == "p50" else "", fsync_ms=fsync.ms,
        )  # fmt: skip


def _time_bare(client: BareClient) -> float:
    start = time.monotonic()
    return (client.wait(client.post()) - start) * 1000


def _time_ours(house: House, *, done: int) -> float:
    job = house.stage()
    start = job.drop()
    at = job.wait_until_done()
    house.wait_until_done(done + 1)  # what is still to be filed away shall not disturb the bare client
    return (at - start) * 1000


@contextlib.contextmanager
def _open_s3_house() -> Iterator[House]:
    """With Debian's radosgw, which must be installed, as the bucket's server."""
    with (
        make_root() as root,
        _run_s3(root / "rgw") as server,
        run_simulator(root) as simulator,
        run_watcher(root, simulator, bucket=server.make_bucket(), **server.environment()) as house,
    ):
        yield house


@contextlib.contextmanager
def _run_s3(folder: Path) -> Iterator[rgw.S3Server]:
    cluster = rgw.Cluster(folder)
    try:
        yield cluster.start()
    finally:
        cluster.stop()

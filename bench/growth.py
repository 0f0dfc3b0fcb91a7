"""Whether a job costs more the more jobs there were before it, or wait beside it: every ratio should be about 1."""

import time
from collections.abc import Iterator

from bench.figures import Figure, p50
from bench.house import House, open_house
from bench.memory import pause


def measure(jobs: int) -> Iterator[Figure]:
    tenth = max(10, jobs // 10)
    with open_house() as house:
        _measure_latency(house, 10)  # warm
        latency, fsync_before = _measure_latency(house, 50)
        alone = _measure_cpu(house, tenth)
        done = house.done()
        pause(house)
        house.drop(jobs)
        house.wait_until_taken_in(jobs)
        time.sleep(6)
        first = _measure_drain(house, done + tenth)
        house.wait_until_done(done + jobs - tenth)
        last = _measure_drain(house, done + jobs)
        later, fsync_after = _measure_latency(house, 50)
    yield _compare(f"CPU ms per job, {jobs:,} waiting", first, f"{tenth:,} waiting", alone)
    yield _compare(f"CPU ms per job, {jobs - tenth:,} done", last, "none done", alone)
    what = f"p50 dropped → final status, {jobs:,} done"
    yield _compare(what, later, f"none done, one fsync {fsync_before:.2f} ms", latency, fsync_after)


def _compare(what: str, value: float, beside_what: str, beside: float, fsync_ms: float | None = None) -> Figure:
    return Figure(
        part="growth", what=what, value=value, beside=beside, beside_what=beside_what, compared=value / beside,
        target="ratio ≈ 1", unit="ms" if fsync_ms else "CPU ms", fsync_ms=fsync_ms,
    )  # fmt: skip


def _measure_latency(house: House, jobs: int) -> tuple[float, float]:
    """The median of the jobs, one at a time, and of the fsyncs meanwhile, in ms."""
    taken = []
    fsync = house.fsync_clock()
    for _ in range(jobs):
        job = house.stage()
        dropped = job.drop()
        taken.append((job.wait_until_done() - dropped) * 1000)
        fsync.tick()
        time.sleep(0.05)
    return p50(taken), fsync.ms


def _measure_cpu(house: House, jobs: int) -> float:
    before, cpu = house.done(), house.cpu_s()
    house.drop(jobs)
    house.wait_until_done(before + jobs)
    return (house.cpu_s() - cpu) / jobs * 1000


def _measure_drain(house: House, until: int) -> float:
    """CPU ms per job, from now until this many are done. Ends a pause."""
    before, cpu = house.done(), house.cpu_s()
    (house.spool / "paused").unlink(missing_ok=True)
    house.wait_until_done(until)
    return (house.cpu_s() - cpu) / (house.done() - before) * 1000

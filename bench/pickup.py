"""File renamed into `input/` until the POST of its prompt arrives at ComfyUI, by one clock that all processes share."""

import random
import time
from collections.abc import Iterator

from bench.figures import Figure, p50, p99
from bench.house import House, make_root, run_simulator, run_watcher
from bench.receiver import Receiver, run_receiver


def measure(jobs: int) -> Iterator[Figure]:
    with (
        make_root() as root,
        run_simulator(root) as simulator,
        run_receiver(simulator.url) as receiver,
        run_watcher(root, simulator, url=receiver.url) as house,
    ):
        _pick_up(house, receiver)  # opens the connections
        chance = random.Random(1)
        fsync = house.fsync_clock()
        alone, close = [], []
        for _ in range(jobs):
            time.sleep(chance.uniform(1.0, 1.2))
            alone.append(_pick_up(house, receiver))
            # A claim is a rename, too, and a watcher that waits for its other half is blind for half a second.
            time.sleep(chance.uniform(0.05, 0.4))
            close.append(_pick_up(house, receiver))
            fsync.tick()
        for what, times in (("1 s after the one before", alone), ("50 to 400 ms after a claim", close)):
            for name, value, target in (("p50", p50(times), "≤ 5 ms"), ("p99", p99(times), "≤ 25 ms")):
                yield Figure(
                    part="pickup", what=f"{name} dropped → POST received, {what}", value=value,
                    beside=fsync.ms, beside_what="one fsync", compared=value / fsync.ms, target=target, fsync_ms=fsync.ms,
                )  # fmt: skip


def _pick_up(house: House, receiver: Receiver) -> float:
    job = house.stage()
    dropped = job.drop()
    return (receiver.arrivals.get(timeout=60) - dropped) * 1000

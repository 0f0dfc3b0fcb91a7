"""Several watchers on one volume, each with a ComfyUI of its own; what they have done, and what it costs them."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.volume import Volume
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher


@contextlib.contextmanager
def run_simulators(volume: Volume, count: int) -> Iterator[list[Simulator]]:
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(count) as pool:
            rooms = [run_simulator(volume, name=f"comfyui-{number}") for number in range(count)]
            simulators = list(pool.map(stack.enter_context, rooms))
        yield simulators


def start_watchers(watch: StartWatcher, simulators: list[Simulator], **settings: object) -> list[Watcher]:
    watchers = [watch(simulator, **settings) for simulator in simulators]
    for watcher in watchers:
        watcher.wait_for("comfyui_up")
    return watchers


def count_filed(volume: Volume) -> int:
    """Jobs that are over. By the names alone: a look costs little, however many there are."""
    return sum(len(os.listdir(day)) for day in (volume.spool / "done").iterdir())


def memory_mb(watcher: Watcher) -> int:
    """The most it ever had."""
    status = Path(f"/proc/{watcher.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def cpu_s(watcher: Watcher) -> float:
    fields = Path(f"/proc/{watcher.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

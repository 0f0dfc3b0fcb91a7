"""How often a job waits for the disk: counted by strace, in a run of its own since strace slows everything down."""

import shutil
import time
from collections.abc import Iterator

from bench.figures import Figure
from bench.house import House, make_root, run_simulator
from tests.servers.watcher import start_watcher


def measure(jobs: int) -> Iterator[Figure]:
    if shutil.which("strace") is None:
        return
    with make_root() as root, run_simulator(root) as simulator:
        trace = root / "strace"
        # -D: the watcher is the process that is started, strace a grandchild that ends with it.
        strace = ("strace", "-D", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync,fdatasync")
        with start_watcher(root, simulator.url, wrap=strace) as watcher:
            watcher.wait_for("comfyui_up")
            house = House(root, simulator, watcher)
            house.drop(1)[0].wait_until_done()
            time.sleep(2)
            before = _count(trace.read_text())
            for _ in range(jobs):
                house.drop(1)[0].wait_until_done()
                time.sleep(0.1)
            time.sleep(2)
            count = _count(trace.read_text()) - before
    yield Figure(part="overhead", what="fsyncs per job, one at a time", value=count / jobs, unit="fsyncs")


def _count(trace: str) -> int:
    """A call that another thread interrupts stands on two lines; the second says `resumed`."""
    return sum("sync(" in line for line in trace.splitlines())

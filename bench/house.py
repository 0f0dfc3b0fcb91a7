"""A simulated ComfyUI and a watcher beside it, each a process of its own, on a volume on the project's own disk."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from tests.servers.simulator import Simulator, start_simulator
from tests.servers.watcher import Watcher, start_watcher

LIMIT_S = 900.0
POLL_S = 0.0005  # how often a reader looks whether a job is done


@dataclass
class House:
    root: Path
    simulator: Simulator
    watcher: Watcher
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def pid(self) -> int:
        return self.watcher.process.pid

    @property
    def spool(self) -> Path:
        return self.root / "input" / ".handoff"

    def stage(self) -> "StagedJob":
        """A job file beside `input/`, whole and not yet dropped. Every job draws another picture."""
        number = next(self._numbers)
        id = f"bench-{number:06}"
        path = self.root / "staging" / f"{id}.json"
        path.write_text(json.dumps({"id": id, "graph": draw(number, prefix="picture")}))
        return StagedJob(id, path, self.root / "input" / path.name, self.root / "output" / id / "status.json")

    def drop(self, count: int) -> list["StagedJob"]:
        """Stages them all, then drops them at once."""
        jobs = [self.stage() for _ in range(count)]
        for job in jobs:
            job.drop()
        return jobs

    def done(self) -> int:
        """How many jobs are over and filed away, results in the bucket and all."""
        with contextlib.suppress(FileNotFoundError):
            return sum(len(os.listdir(day)) for day in (self.spool / "done").iterdir())
        return 0

    def wait_until_done(self, count: int) -> float:
        """Returns the monotonic time at which `count` jobs, of all so far, were over."""
        end = time.monotonic() + LIMIT_S
        while self.done() < count:
            self._check(end, f"{count} jobs done")
            time.sleep(0.05)
        return time.monotonic()

    def wait_until_taken_in(self, count: int) -> float:
        end = time.monotonic() + LIMIT_S
        while len(os.listdir(self.spool / "inbox")) < count:
            self._check(end, f"{count} jobs taken in")
            time.sleep(0.05)
        return time.monotonic()

    def cpu_s(self) -> float:
        return machine.cpu_s(self.pid)

    def fsync_clock(self) -> machine.FsyncClock:
        return machine.FsyncClock(self.root)

    def _check(self, end: float, what: str) -> None:
        if self.watcher.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(
                f"waited in vain for {what}; the watcher said\n{self.watcher.stderr.read_text()[-3000:]}"
            )


@dataclass(frozen=True)
class StagedJob:
    id: str
    staged: Path
    target: Path
    status: Path

    def drop(self) -> float:
        """Renames it into `input/`; returns the monotonic time just before."""
        at = time.monotonic()
        os.rename(self.staged, self.target)
        return at

    def wait_until_done(self) -> float:
        """Looks at `status.json` every half millisecond; returns the monotonic time at which it was final."""
        end = time.monotonic() + 60
        seen = 0
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                inode = self.status.stat().st_ino  # each new status is another file
                if inode != seen:
                    seen = inode
                    document = self.read()
                    if document["done"]:
                        at = time.monotonic()
                        self._check(document)
                        return at
            time.sleep(POLL_S)
        raise TimeoutError(f"{self.id} is not done after 60 s")

    def read(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.status.read_bytes())
        return document

    def check(self) -> None:
        """A benchmark of jobs that fail is none."""
        self._check(self.read())

    def _check(self, document: dict[str, Any]) -> None:
        if document["status"] != "succeeded":
            raise RuntimeError(f"{self.id} ended as {document['status']}: {document['error']}")


def draw(number: int, *, prefix: str) -> dict[str, Any]:
    """A graph that needs no model. Another number is another picture, so that no cache helps."""
    paper = {"width": 64, "height": 64, "batch_size": 1, "color": number % (1 << 24)}
    return {
        "1": {"class_type": "EmptyImage", "inputs": paper},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


@contextlib.contextmanager
def make_root() -> Iterator[Path]:
    """On the project's disk, since /tmp may lie in memory, where an fsync costs nothing."""
    root = Path(tempfile.mkdtemp(prefix=".run-", dir=Path(__file__).parent))
    for name in ("input", "output", "staging", "workflows"):
        (root / name).mkdir()
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def run_simulator(root: Path, *, seconds_per_prompt: float = 0.0) -> Iterator[Simulator]:
    flags = ("--seconds-per-prompt", str(seconds_per_prompt))
    with start_simulator(root / "comfyui", *flags, input_dir=root / "input", output_dir=root / "output") as simulator:
        yield simulator


@contextlib.contextmanager
def run_watcher(root: Path, simulator: Simulator, *, url: str | None = None, **settings: Any) -> Iterator[House]:
    """`url`: where the watcher finds ComfyUI, if not at the simulator itself."""
    with start_watcher(root, url or simulator.url, **settings) as watcher:
        watcher.wait_for("comfyui_up")
        yield House(root, simulator, watcher)


@contextlib.contextmanager
def open_house(*, seconds_per_prompt: float = 0.0, **settings: Any) -> Iterator[House]:
    with (
        make_root() as root,
        run_simulator(root, seconds_per_prompt=seconds_per_prompt) as simulator,
        run_watcher(root, simulator, url=None, **settings) as house,
    ):
        yield house

"""A volume for each test; and a house, with ComfyUI and a watcher in it, that tests share which leave it as it was."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.place import Place, S3Bucket
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.servers.rgw import S3Server
from tests.servers.simulator import Simulator, start_simulator
from tests.servers.watcher import Watcher, start_watcher

LOG_TAIL = 6_000  # characters of each watcher's log beside a failed test
SETTLE_S = 3.0
PICTURE_WAIT_S = 4.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and report.failed:
        arguments = getattr(item, "funcargs", {})
        volume = arguments["house"].volume if "house" in arguments else arguments.get("volume")
        if volume is not None:
            for log in sorted(volume.root.glob("watcher-*.log")):
                report.sections.append((log.name, log.read_text(errors="replace")[-LOG_TAIL:]))
    return report


@dataclass
class House:
    volume: Volume
    simulator: Simulator
    watcher: Watcher
    allowed: dict[str, int] = field(default_factory=dict)
    """How often the job dropped under a name may be executed, where that is not once."""

    def check(self) -> None:
        check_promises(self.volume, self.simulator, allowed=self.allowed, watchers=(self.watcher,))


@contextlib.contextmanager
def make_root() -> Iterator[Path]:
    """Removed afterwards, whatever lies there: pytest's own temporary folders stay, and cannot be full of pipes."""
    root = Path(tempfile.mkdtemp(prefix="handoff-e2e-"))
    try:
        yield root
    finally:
        shutil.rmtree(os.fsencode(root), ignore_errors=True)


@contextlib.contextmanager
def open_house(**settings: Any) -> Iterator[House]:
    with make_root() as root:
        volume = Volume.make(root / "volume")
        with contextlib.ExitStack() as stack:
            simulator = stack.enter_context(run_simulator(volume))
            watcher = stack.enter_context(start_watcher(volume.root, simulator.url, **settings))
            watcher.wait_for("comfyui_up")
            yield House(volume, simulator, watcher)


@contextlib.contextmanager
def run_simulator(volume: Volume, *flags: str, name: str = "comfyui") -> Iterator[Simulator]:
    base = volume.root / name
    with start_simulator(base, "--probe-nodes", *flags, input_dir=volume.input, output_dir=volume.output) as simulator:
        yield simulator


class _Houses:
    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.house: House | None = None

    def get(self) -> House:
        if self.house is None or self.house.volume.spoiled:
            self.stack.close()
            self.house = self.stack.enter_context(open_house(settle_s=SETTLE_S, picture_wait_s=PICTURE_WAIT_S))
        self.house.volume.spoiled = True  # until `check` says otherwise
        return self.house


@pytest.fixture(scope="session")
def _houses() -> Iterator[_Houses]:
    houses = _Houses()
    with houses.stack:
        yield houses


@pytest.fixture
def house(_houses: _Houses) -> House:
    """Shared by the tests that call `house.check()` at their end; made anew after one that failed."""
    return _houses.get()


@pytest.fixture
def volume() -> Iterator[Volume]:
    with make_root() as root:
        yield Volume.make(root / "volume")


@pytest.fixture
def simulator(volume: Volume) -> Iterator[Simulator]:
    with run_simulator(volume) as simulator:
        yield simulator


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(make_root())
        bucket = S3Bucket(s3_server.client(), s3_server.make_bucket())
        stack.callback(bucket.client.close)
        volume = Volume.make(root / "volume", bucket)
        simulator = stack.enter_context(run_simulator(volume))

        def start(**settings: Any) -> Watcher:
            chosen = {**s3_server.environment(), "bucket": bucket.name, **settings}
            return stack.enter_context(start_watcher(volume.root, simulator.url, **chosen))

        yield Place(s3_server, bucket, volume, simulator, start)


StartWatcher = Callable[..., Watcher]


@pytest.fixture
def watch(volume: Volume) -> Iterator[StartWatcher]:
    """Starts watchers on the test's volume; their logs are shown when the test fails."""
    with contextlib.ExitStack() as stack:

        def start(simulator: Simulator | str, **settings: Any) -> Watcher:
            url = simulator if isinstance(simulator, str) else simulator.url
            return stack.enter_context(start_watcher(volume.root, url, **settings))

        yield start

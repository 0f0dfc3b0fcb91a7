"""The command as a person runs it: a process of its own, in a folder where nobody's settings lie."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest

from handoff.folders import Folders
from handoff_cli.main import main
from tests.servers.simulator import ROOT, Simulator, start_simulator

LIMIT_S = 60.0
Found = TypeVar("Found")


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which has to be JSON alone."""
        return json.loads(self.out)

    def expect(self, status: int) -> "Ran":
        assert "Traceback" not in self.err, self.err
        assert self.status == status, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self


@dataclass
class Place:
    """An installation's folders, and the command run in it."""

    root: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> Folders:
        return Folders(input=str(self.root / "data/input"), output=str(self.root / "data/output"))

    def make_folders(self) -> Folders:
        """As a watcher would have left them."""
        for folder in (self.folders.input, self.folders.output):
            Path(folder).mkdir(parents=True)
        self.folders.make()
        return self.folders

    def environment(self, **settings: object) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HANDOFF_", "AWS_")) and "proxy" not in name.lower()
        }
        given = {f"HANDOFF_{name.upper()}": str(value) for name, value in settings.items()}
        return {**kept, "PYTHONPATH": str(ROOT), "HANDOFF_LANGUAGE": "en", "TERM": "xterm", **self.settings, **given}

    def start(self, *arguments: object, stderr: Any = subprocess.PIPE, **settings: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "handoff_cli", *map(str, arguments)],
            cwd=self.root,
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *arguments: object, **settings: object) -> Ran:
        with self.start(*arguments, **settings) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            finally:
                process.kill()
        return Ran(process.returncode, out, err)

    def call(self, *arguments: object, **settings: object) -> Ran:
        """The same without a process of its own, which is most of the time that a quick command takes."""
        out, err = io.StringIO(), io.StringIO()
        umask = os.umask(0o022)
        try:
            with (
                patch.dict(os.environ, self.environment(**settings), clear=True),
                patch.object(sys, "argv", ["handoff", *map(str, arguments)]),
                contextlib.chdir(self.root),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                status = main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            os.umask(umask)
        return Ran(status, out.getvalue(), err.getvalue())

    def status(self, id: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(Path(self.folders.status(id)).read_text())
        except FileNotFoundError:
            return None
        return document


@dataclass
class House(Place):
    """An installation in which a watcher and a ComfyUI work."""

    simulator: Simulator = field(kw_only=True)

    def health(self) -> dict[str, Any]:
        """What the watcher said of itself at its last beat."""
        (watcher,) = self.call("health", "--json").expect(0).json["watchers"]
        health: dict[str, Any] = watcher["health"]
        return health


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Nothing is there yet."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    with start_simulator(root / "data", "--probe-nodes") as simulator:
        house = House(root, {"HANDOFF_COMFYUI_URL": simulator.url}, simulator=simulator)
        with running_watcher(house):
            yield house


class running_watcher:  # noqa: N801 - used as `with running_watcher(place)`
    """`handoff watch`, beating when the block begins and stopped in order when it ends."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.log = place.root / "watch.log"

    def __enter__(self) -> subprocess.Popen[str]:
        with self.log.open("a") as errors:
            self.process = self._place.start("watch", stderr=errors)
        eventually(lambda: "comfyui_up" in self.log.read_text() or self.process.poll() is not None, "a watcher")
        assert self.process.poll() is None, self.log.read_text()
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=LIMIT_S)
        finally:
            self.process.kill()
        assert "Traceback" not in self.log.read_text()


def eventually(look: Callable[[], Found | None], what: str) -> Found:
    end = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < end, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.02)
    return found


def sleeping_graph(seconds: float, *, tag: str) -> dict[str, Any]:
    """Runs for this long on the simulator, and reports its steps."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255}},
        "2": {
            "class_type": "ProbeSleep",
            "inputs": {"images": ["1", 0], "seconds": seconds, "preview": False, "tag": tag},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "probe"}},
    }


def failing_graph(tag: str) -> dict[str, Any]:
    graph = sleeping_graph(0, tag=tag)
    graph["2"] = {
        "class_type": "ProbeRaise",
        "inputs": {"images": ["1", 0], "kind": "value", "tag": tag},
        "_meta": {"title": "The culprit"},
    }
    return graph

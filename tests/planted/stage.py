"""Where a planted mistake is made to happen: a volume, a ComfyUI, and watchers with that mistake in them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.e2e.conftest import StartWatcher
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.planted.faults import WINDOW
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

LEASE_S = 5


@dataclass
class Stage:
    """Without a `fault` the watchers are as they are delivered."""

    volume: Volume
    simulator: Simulator
    start: StartWatcher
    fault: str | None = None
    window: Path = field(init=False)

    def __post_init__(self) -> None:
        self.window = self.volume.root / "window"
        self.window.mkdir()

    def watch(self, simulator: Simulator | str | None = None, *, waits: bool = True, **settings: Any) -> Watcher:
        """A watcher that is up. Unless it `waits`, it does not stand anywhere to be killed or frozen."""
        if self.fault is not None:
            settings["module"] = f"tests.planted {self.fault}"
        if waits:
            settings[WINDOW] = self.window
        watcher = self.start(simulator or self.simulator, settle_s=0.3, lease_s=LEASE_S, **settings)
        watcher.wait_for("comfyui_up")
        return watcher

    def pause(self) -> None:
        """No job is claimed to be run."""
        (self.volume.spool / "paused").touch()

    def unpause(self) -> None:
        (self.volume.spool / "paused").unlink()

    def wait_for_the_moment(self, over: Callable[[], object], *, of: int = 1) -> None:
        """Until so many watchers stand between two steps; without the fault nobody does, and it is over at once."""
        eventually(lambda: len(os.listdir(self.window)) >= of or over(), "the moment comes")

    def let_on(self) -> None:
        """From here on nobody waits any more."""
        shutil.rmtree(self.window)

    def is_idle(self) -> bool:
        """Whether ComfyUI has taken up and finished whatever was sent to it."""
        counters = self.simulator.control()
        queue = requests.get(f"{self.simulator.url}/queue", timeout=10).json()
        busy = queue["queue_running"] or queue["queue_pending"]
        return bool(counters["prompts_received"] == counters["prompts_accepted"] and not busy)

    def half_published(self) -> list[str]:
        """Status documents that have no public name yet."""
        names = [name for _, _, files in os.walk(self.volume.output) for name in files]
        return [name for name in names if name.endswith("-status.json")]

    def is_done(self, name: str) -> bool:
        found = self.volume.find(name)
        return found is not None and bool(found["done"])

    def is_started(self, name: str) -> bool:
        found = self.volume.find(name)
        return found is not None and found["started_at"] is not None

    def check(self, *simulators: Simulator, allowed: dict[str, int] | None = None) -> None:
        check_promises(self.volume, self.simulator, *simulators, allowed=allowed)

"""What the request handlers share."""

from dataclasses import dataclass, field

from aiohttp import web

from comfyui_simulator.engine import Engine
from comfyui_simulator.faults import Counters, Faults
from comfyui_simulator.folders import Folders
from comfyui_simulator.options import Options
from comfyui_simulator.sockets import Sockets


@dataclass
class State:
    """Made inside the running event loop."""

    options: Options
    folders: Folders
    faults: Faults = field(default_factory=Faults)
    counters: Counters = field(default_factory=Counters)
    sockets: Sockets = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.sockets = Sockets(self.faults, self.counters)
        self.engine = Engine(self.options, self.folders, self.faults, self.counters, self.sockets)

    def restart(self) -> None:
        """As a kill and a start: queue, running prompt, history, numbers, cache, temp/ and connections are gone."""
        self.stop()
        self.folders.empty_temp()
        self.counters.restarts += 1
        self._start()

    def stop(self) -> None:
        self.sockets.stop()
        self.engine.stop()


STATE: web.AppKey[State] = web.AppKey("state", State)

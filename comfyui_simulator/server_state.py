"""What the request handlers share."""

from dataclasses import dataclass, field

from aiohttp import web

from comfyui_simulator.engine import Engine
from comfyui_simulator.faults import Counters, Faults
from comfyui_simulator.folders import Folders
from comfyui_simulator.options import Options
from comfyui_simulator.sockets import Sockets


@dataclass(kw_only=True)
class State:
    options: Options
    folders: Folders
    faults: Faults
    counters: Counters
    sockets: Sockets
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self._start_engine()

    def _start_engine(self) -> None:
        self.engine = Engine(self.options, self.folders, self.faults, self.counters, self.sockets)

    async def restart(self) -> None:
        """As a kill and a start: queue, running prompt, history, numbers, cache, temp/ and connections are gone."""
        await self.stop()
        self.folders.empty_temp()
        self.counters.restarts += 1
        self._start_engine()

    async def stop(self) -> None:
        self.engine.stop()
        await self.sockets.close_all()


STATE: web.AppKey[State] = web.AppKey("state", State)

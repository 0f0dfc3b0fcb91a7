"""What the request handlers share."""

from dataclasses import dataclass

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
    engine: Engine

    def start_engine(self) -> None:
        self.engine = self.make_engine(self.options, self.folders, self.faults, self.counters, self.sockets)

    @staticmethod
    def make_engine(options: Options, folders: Folders, faults: Faults, counters: Counters, sockets: Sockets) -> Engine:
        return Engine(options, folders, faults, counters, sockets)

    async def restart(self) -> None:
        """As a kill and a start: queue, running prompt, history, numbers, cache, temp/ and connections are gone."""
        self.engine.stop()
        await self.sockets.close_all()
        self.folders.empty_temp()
        self.counters.restarts += 1
        self.start_engine()


STATE: web.AppKey[State] = web.AppKey("state", State)

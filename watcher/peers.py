"""What the ComfyUIs of the other watchers can run. A watcher claims only what its own can."""

import json
from typing import Any

from handoff import durable
from handoff.failures import EdgeError
from handoff.folders import Folders
from handoff.graph import Graph
from handoff.spool.seat import Seat, other_watchers
from watcher.capabilities import Capabilities, lacks

_LIMIT = 64 << 20


class Peers:
    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._folders: Folders = seat.folders

    def publish(self, mine: Capabilities, workflows: list[str]) -> None:
        """Writes `server.json` for the others. Raises Fenced, Unavailable."""
        document = {"schema": 1, "server": self._seat.server, "workflows": workflows, **mine.to_json()}
        with self._seat.power():
            scratch = f"{self._seat.path}/t-server"
            durable.publish(json.dumps(document).encode(), scratch, f"{self._seat.path}/server.json", durable=False)

    def find_able(self, graph: Graph) -> tuple[list[str], list[str]]:
        """The servers of other watchers that can run this graph; and for the rest, what each lacks.

        One that died counts until its jobs are taken over; whatever was left to it is then looked at again.
        """
        able, lacking = [], []
        for wid in other_watchers(self._folders, self._seat.wid):
            folder = self._folders.watcher(wid)
            try:
                document: Any = json.loads(durable.read_file(f"{folder}/server.json", _LIMIT))
                theirs = Capabilities.from_json(document)
                server = str(document["server"])
            except (OSError, EdgeError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # it has not seen its ComfyUI yet, or what it wrote is damaged
            missing = lacks(graph, theirs)
            if missing:
                lacking.append(f"{server} lacks {', '.join(missing)}")
            else:
                able.append(server)
        return able, lacking

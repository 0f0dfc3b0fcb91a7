"""Whether the shared volume can be written. While it is full or read-only nothing is claimed; a probe finds out when it is over."""

import os
from collections.abc import Callable

from handoff import durable, log
from handoff.failures import EdgeError
from handoff.spool.seat import Seat
from watcher.loop import Loop

PROBE_S = 2.0


class Disk:
    def __init__(self, loop: Loop, seat: Seat, on_recovery: Callable[[], None]) -> None:
        self._loop = loop
        self._seat = seat
        self._on_recovery = on_recovery
        self._log = log.get()
        self.trouble: str | None = None

    def report(self, error: EdgeError) -> None:
        if self.trouble is None:
            self._log.error("disk", error=str(error), hint="nothing is claimed until a write succeeds; nothing is lost")
            self._loop.after(PROBE_S, self._probe)
        self.trouble = str(error)

    def _probe(self) -> None:
        self._loop.spawn("files", self._write, self._recovered, self._still)

    def _write(self) -> None:
        with self._seat.power():
            for folder in (self._seat.path, self._seat.pen):
                path = f"{folder}/t-probe"
                durable.write_file(path, b"\0" * 65536)
                os.unlink(path)

    def _recovered(self, _: None) -> None:
        self.trouble = None
        self._log.info("disk_recovered")
        self._on_recovery()

    def _still(self, error: BaseException) -> None:
        if not isinstance(error, EdgeError):
            raise error
        self.trouble = str(error)
        self._loop.after(PROBE_S, self._probe)

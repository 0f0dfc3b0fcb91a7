"""Whether ComfyUI is there, what it can run, and whether it still executes. Owned by the decision thread."""

import shlex
import subprocess
import time
from collections.abc import Callable
from typing import Literal

from handoff import log
from handoff.failures import EdgeError, Unavailable
from watcher.capabilities import Capabilities, read_capabilities
from watcher.comfyui import ComfyUI
from watcher.decisions import backoff
from watcher.loop import Loop
from watcher.prompts import Queue

DEAD_WORKER_S = 5.0  # something waits and nothing runs for this long: ComfyUI's worker thread has died
LOOK_S = 1.0
STEADY_S = 10.0  # up for so long: it was not up only to fail again
RESTART_S = 120.0  # between two restarts

State = Literal["unknown", "up", "down", "dead worker"]


class ComfyUIWatch:
    """`on_up` is called whenever it was found up after not being so; `queued` are the prompt ids that wait there."""

    def __init__(
        self, loop: Loop, comfyui: ComfyUI, *, restart_command: str | None, on_up: Callable[[Capabilities], None]
    ) -> None:
        self._loop = loop
        self._comfyui = comfyui
        self._restart_command = restart_command
        self._on_up = on_up
        self._log = log.get()
        self._checking = False
        self._failures = 0
        self._up_at = -STEADY_S
        self._idle_since: float | None = None
        self._looking = False
        self._restarted_at = -RESTART_S
        self.state: State = "unknown"
        self.capabilities: Capabilities | None = None

    @property
    def usable(self) -> bool:
        return self.state == "up"

    def check(self) -> None:
        """Reads version, node classes and models anew, now; while ComfyUI is away again and again, at growing distances."""
        if self._checking:
            return
        self._checking = True
        self._loop.spawn("comfyui", self.read, self._found, self._missed)

    def report_down(self, error: EdgeError) -> None:
        """A call just failed as if it were away. One that is up again and again only to fail is checked less and less."""
        self._idle_since = None
        if self.state == "down":
            return
        self.state = "down"
        self._log.warning("comfyui_down", url=self._comfyui.url, error=str(error))
        if time.monotonic() - self._up_at >= STEADY_S:
            self._failures = 0
            self.check()
        else:
            self._failures += 1
            self._loop.after(min(5.0, backoff(self._failures)), self.check)

    def renew(self, found: Capabilities) -> None:
        """What was just read: models and nodes come and go while ComfyUI runs."""
        known, self.capabilities = self.capabilities, found
        if known is None or (known.classes, known.models) != (found.classes, found.models):
            self._on_up(found)

    def read(self) -> Capabilities:
        """Raises Unavailable, Transient."""
        return read_capabilities(self._comfyui.stats(), self._comfyui.object_info())

    def _found(self, found: Capabilities) -> None:
        self._checking = False
        self._idle_since = None
        was, self.state, self.capabilities = self.state, "up", found
        if was != "up":
            self._up_at = time.monotonic()
            self._log.info(
                "comfyui_up",
                url=self._comfyui.url,
                version=found.version,
                node_classes=len(found.classes),
                simulated=found.simulated,
            )
        self._on_up(found)

    def _missed(self, error: BaseException) -> None:
        self._checking = False
        self._idle_since = None
        if not isinstance(error, EdgeError):
            self._log.error("comfyui_check_failed", error=repr(error))
        if self.state != "down":
            self.state = "down"
            self._log.warning("comfyui_down", url=self._comfyui.url, error=str(error))
        self._failures += 1
        self._loop.after(min(5.0, backoff(self._failures)), self.check)

    def suspect_dead_worker(self) -> None:
        """Called while jobs wait at ComfyUI and none of them is known to run: looks, and looks again."""
        if self._looking or self.state != "up":
            return
        self._looking = True
        self._loop.spawn("comfyui", self._comfyui.queue, self._looked, self._not_looked)

    def _not_looked(self, error: BaseException) -> None:
        self._looking = False
        self.report_down(error if isinstance(error, EdgeError) else Unavailable(repr(error)))

    def _looked(self, queue: Queue) -> None:
        self._looking = False
        now = time.monotonic()
        if queue.running or not queue.waiting:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < DEAD_WORKER_S:
            self._loop.after(LOOK_S, self.suspect_dead_worker)
            return
        self._idle_since = None
        self.state = "dead worker"
        self._log.error(
            "comfyui_dead_worker",
            url=self._comfyui.url,
            waiting=len(queue.waiting),
            hint="it answers but no longer executes; only a restart helps"
            + ("" if self._restart_command else ": restart it, or set HANDOFF_COMFYUI_RESTART"),
        )
        self._revive()

    def _revive(self) -> None:
        """By the command where there is one, though not too often; else somebody else may do it."""
        now = time.monotonic()
        if self._restart_command and now - self._restarted_at >= RESTART_S:
            self._restarted_at = now
            self._loop.spawn("comfyui", self._restart, lambda _: self.check(), self._missed)
        else:
            self._loop.after(DEAD_WORKER_S, self._look_again)

    def _look_again(self) -> None:
        """Somebody may have restarted it."""
        self._loop.spawn("comfyui", self._comfyui.queue, self._revived, self._not_looked)

    def _revived(self, queue: Queue) -> None:
        if queue.running or not queue.waiting:
            self.check()
        else:
            self._revive()

    def _restart(self) -> None:
        assert self._restart_command is not None
        words = shlex.split(self._restart_command)
        self._log.warning("comfyui_restart", command=words[0])  # the rest may hold a secret
        try:
            subprocess.run(words, check=True, timeout=60, stdin=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"HANDOFF_COMFYUI_RESTART ({words[0]}) ended with status {error.returncode}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"HANDOFF_COMFYUI_RESTART ({words[0]}) did not work: {type(error).__name__}") from None

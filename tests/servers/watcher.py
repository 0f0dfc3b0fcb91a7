"""Starts `handoff watch` as a process of its own and reads its log."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
LOGS = {"watch": "watcher", "serve": "adapter"}
LIMIT_S = 60.0
"""How long anything may take that should take a moment: two busy cores are slow, and a red test is dear."""

Line = dict[str, Any]


class Stopped(Exception):  # noqa: N818
    """The watcher ended while something was waited for."""


@dataclass
class Watcher:
    """A running watcher. Used as a context it is gone when the block ends."""

    process: subprocess.Popen[bytes]
    stderr: Path
    _offset: int = 0
    _lines: list[Line] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def log(self) -> list[Line]:
        """Every line so far."""
        with self.stderr.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + newline)
        for text in whole.decode(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                self._texts.append(text)
            else:
                self._lines.append(line)
        return self._lines

    @property
    def text(self) -> str:
        """What it wrote that is no line of its log: an error at the start, a traceback."""
        assert self.log is not None
        return "\n".join(self._texts)

    def find(self, event: str, **fields: Any) -> list[Line]:
        wanted = {"event": event, **fields}
        return [line for line in self.log if wanted.items() <= line.items()]

    def wait_for(self, event: str, *, count: int = 1, limit_s: float = LIMIT_S, **fields: Any) -> Line:
        """The `count`-th line with this event and these fields. Raises Stopped, TimeoutError."""
        for _ in _polls(limit_s):
            is_alive = self.process.poll() is None
            if len(found := self.find(event, **fields)) >= count:
                return found[count - 1]
            if not is_alive:
                raise Stopped(f"before {event} {fields}")
        raise TimeoutError(f"no {event} {fields} within {limit_s} s")

    def kill(self) -> None:
        """As a power cut."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)

    def terminate(self, *, limit_s: float = LIMIT_S) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(limit_s)

    def wait(self, *, limit_s: float = LIMIT_S) -> int:
        return self.process.wait(limit_s)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def start_watcher(
    folder: Path, comfyui_url: str, *, wrap: Sequence[str] = (), module: str = "handoff_cli", **settings: Any
) -> Watcher:
    """`folder` holds input/, output/ and bucket/. `settings` are HANDOFF_* names in lower case, or whole upper-case names.

    `wrap` stands before the command, as `setpriv` does; `module` may be another one that runs it, with its arguments.
    """
    return Watcher(*start(folder, "watch", wrap, module, {"comfyui_url": comfyui_url, **settings}))


def start(
    folder: Path, command: str, wrap: Sequence[str], module: str, settings: Mapping[str, Any]
) -> tuple[subprocess.Popen[bytes], Path]:
    """A command of `handoff` as a process, with these settings alone, and the file of its log. None: left out."""
    chosen = {
        "input_dir": folder / "input",
        "output_dir": folder / "output",
        "bucket_dir": folder / "bucket",
        "workflows_dir": folder / "workflows",
        "language": "en",
        **settings,
    }
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HANDOFF_", "AWS_")) and "proxy" not in name.lower()
    }
    for name, value in chosen.items():
        if value is not None:
            environment[name if name.isupper() else f"HANDOFF_{name.upper()}"] = str(value)
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    kind = LOGS[command]
    log = folder / f"{kind}-{len(list(folder.glob(f'{kind}-*.log'))) + 1}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*wrap, sys.executable, "-m", *module.split(), command],
            stdin=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            cwd=folder,  # where no .env of a developer lies
        )
    return process, log


def _polls(limit_s: float) -> Iterator[None]:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        yield
        time.sleep(0.01)

"""Starts the ComfyUI simulator as a process of its own, on a free port, and ends it by its pid."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
_START_S = 30.0


@dataclass
class Simulator:
    """A running simulator. Paths are the folders it works in."""

    url: str
    base: Path
    input_dir: Path
    output_dir: Path
    flags: tuple[str, ...]
    process: subprocess.Popen[str]
    stderr: Path
    wrap: tuple[str, ...] = ()

    def control(self, **faults: Any) -> dict[str, Any]:
        """Without arguments the counters of `GET /simulator`; else sets faults or does actions, and the counters then."""
        if faults:
            answer = requests.post(f"{self.url}/simulator/faults", json=faults, timeout=10)
        else:
            answer = requests.get(f"{self.url}/simulator", timeout=10)
        assert answer.ok, answer.text
        counters: dict[str, Any] = answer.json()
        return counters

    def kill(self) -> None:
        """As a power cut."""
        self.process.kill()
        self.process.wait(10)
        self._close_pipe()

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)
        self._close_pipe()

    def pause(self) -> None:
        """The process stands still: connections are taken by the kernel, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """A new process on the same port and folders, as after an upgrade."""
        if self.process.poll() is None:
            self.kill()
        self._close_pipe()
        port = self.url.rsplit(":", 1)[1]
        self.process, self.url = _launch(
            port, self.base, self.input_dir, self.output_dir, self.flags, self.stderr, self.wrap
        )

    def _close_pipe(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def start_simulator(
    base: Path,
    *flags: str,
    input_dir: Path | None = None,
    output_dir: Path | None = None,
    wrap: tuple[str, ...] = (),
) -> Iterator[Simulator]:
    """A simulator with its folders below `base`, on a free port of 127.0.0.1; gone when the block ends.

    `wrap` stands before the command, as `setpriv` does.
    """
    base.mkdir(parents=True, exist_ok=True)
    input_dir, output_dir = input_dir or base / "input", output_dir or base / "output"
    stderr = base / "simulator.stderr"
    process, url = _launch("0", base, input_dir, output_dir, flags, stderr, wrap)
    simulator = Simulator(url, base, input_dir, output_dir, flags, process, stderr, wrap)
    try:
        yield simulator
    finally:
        if simulator.process.poll() is None:
            simulator.kill()
        else:
            simulator.terminate()


def _launch(
    port: str,
    base: Path,
    input_dir: Path,
    output_dir: Path,
    flags: tuple[str, ...],
    stderr: Path,
    wrap: tuple[str, ...],
) -> tuple[subprocess.Popen[str], str]:
    command = [
        *wrap, sys.executable, "-m", "comfyui_simulator", "--port", port, "--base-directory", str(base),
        "--input-directory", str(input_dir), "--output-directory", str(output_dir), *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    deadline = time.monotonic() + _START_S
    while True:
        with stderr.open("a") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=ROOT
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("ComfyUI simulator: "):
            return process, line.split()[2]
        process.wait(10)
        process.stdout.close()
        # After a kill the port may be busy for a moment.
        if time.monotonic() > deadline or port == "0":
            raise RuntimeError(f"the simulator did not start: {stderr.read_text()}")
        time.sleep(0.1)

"""The command line: ComfyUI's own flag names where ComfyUI has the flag, and a few of the simulator's."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    port: int
    listen: str
    base_directory: Path
    input_directory: Path
    output_directory: Path
    temp_directory: Path
    seconds_per_prompt: float = 0.0
    """Each prompt that executes anything takes at least this long, asleep."""
    probe_nodes: bool = False
    argv: tuple[str, ...] = ()
    """What `/system_stats` shows as `system.argv`."""


def parse(argv: Sequence[str]) -> Options:
    """Exits with status 2 and a usage line on a bad flag, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="comfyui_simulator",
        description="Speaks ComfyUI's HTTP and websocket protocol without a GPU. Pictures of samplers are placeholders.",
    )
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free port and prints it (default: 8188)")
    parser.add_argument("--listen", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--base-directory", type=Path, default=Path("data"), help="holds input, output, temp and models (default: data)"
    )
    parser.add_argument("--input-directory", type=Path, help="in place of BASE/input")
    parser.add_argument("--output-directory", type=Path, help="in place of BASE/output")
    parser.add_argument("--temp-directory", type=Path, help="its subfolder temp is used, in place of BASE/temp")
    parser.add_argument(
        "--seconds-per-prompt", type=float, default=0.0, help="each prompt takes at least this long (default: 0)"
    )
    parser.add_argument(
        "--probe-nodes", action="store_true", help="adds ProbeSleep, ProbeBlockingSleep and ProbeRaise, for tests"
    )
    given = parser.parse_args(argv)
    base: Path = given.base_directory.absolute()
    return Options(
        port=given.port,
        listen=given.listen,
        base_directory=base,
        input_directory=(given.input_directory or base / "input").absolute(),
        output_directory=(given.output_directory or base / "output").absolute(),
        temp_directory=(given.temp_directory or base).absolute() / "temp",
        seconds_per_prompt=given.seconds_per_prompt,
        probe_nodes=given.probe_nodes,
        argv=("main.py", *argv),
    )

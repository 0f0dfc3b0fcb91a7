"""The entry points: `main` for a command line, `run` for options already made."""

import asyncio
import os
import sys
from collections.abc import Sequence

from comfyui_simulator.options import Options, parse
from comfyui_simulator.server import serve


def main(argv: Sequence[str]) -> int:
    """Serves until it is told to stop; 0 then, 1 if it cannot listen."""
    return run(parse(argv))


def run(options: Options) -> int:
    try:
        asyncio.run(serve(options))
    except OSError as error:
        print(f"The simulator cannot listen on {options.listen}, port {options.port}: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    # A node may be asleep in the worker thread; nothing waits for it.
    os._exit(0)

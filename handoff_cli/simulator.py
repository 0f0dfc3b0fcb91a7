"""Starts the ComfyUI simulator, which is installed with an extra of its own."""

from collections.abc import Sequence

from handoff_cli.exits import Exit, Stopped


def run(arguments: Sequence[str]) -> int:
    """Its own exit status. Raises Stopped where it is not installed."""
    try:
        from comfyui_simulator.main import main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "aiohttp":
            raise
        raise Stopped(
            Exit.USAGE, "The simulator needs aiohttp: pip install '.[simulator]', in the project's folder, installs it."
        ) from None
    if "--help" in arguments or "-h" in arguments:
        print("Example: handoff simulator --port 8188 --base-directory data\n", flush=True)
    return main(arguments)

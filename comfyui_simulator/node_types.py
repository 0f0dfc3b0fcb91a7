"""What passes between nodes, what a node may ask its surroundings for, and the table in which node functions register."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfyui_simulator.folders import Folders
from comfyui_simulator.pictures import Picture


class PromptInterruptedError(Exception):
    """Somebody interrupted the running prompt."""


class OutOfMemoryError(Exception):
    """The GPU's memory ran out; ComfyUI reports torch.OutOfMemoryError."""


@dataclass(frozen=True, kw_only=True)
class NodeContext:
    """What a node sees of the server while it runs."""

    folders: Folders
    graph: dict[str, Any]
    extra_pnginfo: Any
    suffixes: Callable[[str], str]
    """Five letters for the names of temporary files, the same for a node class until the server restarts."""
    seconds: float
    """How long this node should take at least."""
    wait: Callable[[float], None]
    """Sleeps; raises when the prompt is interrupted meanwhile."""
    sleep_deaf: Callable[[float], None]
    """Sleeps through interrupts."""
    report: Callable[[int, int, Picture | None], None]
    """Tells the clients (step, steps, preview or None); raises when the prompt was interrupted."""
    send_png: Callable[[int, int, bytes], None]
    """Tells (step, steps) and sends a whole picture over the websocket."""


@dataclass(frozen=True, kw_only=True)
class Output:
    values: tuple[Any, ...] = ()
    ui: dict[str, Any] = field(default_factory=dict)
    """What is listed in the history, by key."""


Compute = Callable[..., Output]
"""Takes a NodeContext and the node's inputs by name; inputs of other names are not passed."""

NODES: dict[str, Compute] = {}


def node(name: str) -> Callable[[Compute], Compute]:
    """Registers a function under the class name that graphs use."""

    def register(compute: Compute) -> Compute:
        NODES[name] = compute
        return compute

    return register

"""How an exception in a node is told to the clients."""

import traceback
from typing import Any

from PIL import UnidentifiedImageError

from comfyui_simulator.model_nodes import SafetensorError
from comfyui_simulator.node_types import OutOfMemoryError
from comfyui_simulator.pictures import Picture, print_tensor

_OUT_OF_MEMORY_HINT = "This error means you ran out of memory on your GPU."


def describe_error(error: Exception, inputs: dict[str, Any]) -> dict[str, Any]:
    """Message, type and traceback, and the inputs as text: whatever stands in them is told, secrets too."""
    message = f"{error}\n"
    if isinstance(error, OutOfMemoryError):
        message += f"{_OUT_OF_MEMORY_HINT}\n"
    return {
        "exception_message": message,
        "exception_type": _name_exception(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {name: [_show_value(value)] for name, value in inputs.items()},
    }


def _show_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list) and value and isinstance(value[0], Picture):
        return print_tensor(value)
    return str(value)


_NAMES = {
    OutOfMemoryError: "torch.OutOfMemoryError",
    SafetensorError: "safetensors._safetensors_rust.SafetensorError",
    UnidentifiedImageError: "PIL.UnidentifiedImageError",
}


def _name_exception(error: Exception) -> str:
    kind = type(error)
    if kind in _NAMES:
        return _NAMES[kind]
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

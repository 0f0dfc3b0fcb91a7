"""Makes recorded and simulated answers comparable, and compares them.

What may differ is normalised on both sides: times, the server's counter, minted ids, random letters, the order of nodes,
tracebacks, and how often progress is told.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TIMES = frozenset({"timestamp", "create_time", "execution_start_time", "execution_end_time"})
_UNORDERED = frozenset({"executed", "nodes", "current_outputs", "dependent_outputs"})
_OMITTED = frozenset({"traceback"})
MINTED_ID = re.compile(r"\b(?!0000)[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b")


class Normaliser:
    """Makes recorded and simulated values comparable."""

    def __init__(self, base: Path) -> None:
        self._base = str(base)

    def value(self, value: Any, key: str = "") -> Any:
        if key in _TIMES:
            return "<time>"
        if key in ("number", "priority"):
            return self._number(value)
        if key == "is_changed" and isinstance(value, list):
            return "<hash>"
        if isinstance(value, dict):
            return {self._text(k): self.value(v, k) for k, v in value.items() if k not in _OMITTED}
        if isinstance(value, list):
            return self._list(value, key)
        if isinstance(value, float) and math.isnan(value):
            return "NaN"
        return self._text(value) if isinstance(value, str) else value

    def _list(self, values: list[Any], key: str) -> list[Any]:
        if len(values) == 5 and isinstance(values[0], (int, float)) and isinstance(values[2], dict):
            number, prompt_id, graph, extra_data, outputs = values
            return [
                self._number(number),
                self._text(prompt_id),
                self.value(graph),
                self.value(extra_data),
                sorted(outputs),
            ]
        result = [self.value(value) for value in values]
        return sorted(result) if key in _UNORDERED else result

    def _number(self, value: float) -> str:
        """A counter counts on from case to case; what a request gave comes back as a float."""
        return f"float {value}" if isinstance(value, float) else f"{'negative ' if value < 0 else ''}int"

    def _text(self, text: str) -> str:
        text = MINTED_ID.sub("<minted>", text.replace(self._base, "<base>"))
        text = re.sub(r"_temp_[a-z]{5}_", "_temp_xxxxx_", text)
        text = re.sub(r"^[0-9a-f]{32}$", "<sid>", text)
        text = re.sub(r"\d{4}-\d\d-\d\d", "<date>", text)
        text = re.sub(r"case08_\d{6}_", "case08_<time>_", text)
        return "tensor(" if text.startswith("tensor(") else text


def compare(recorded: Any, came: Any, path: str = "") -> Iterator[str]:
    """One line for each place where the two differ."""
    if isinstance(recorded, dict) and isinstance(came, dict):
        for key in recorded.keys() | came.keys():
            if key not in came:
                yield f"{path}.{key}: recorded {recorded[key]!r}, missing"
            elif key not in recorded:
                yield f"{path}.{key}: not recorded, came {came[key]!r}"
            else:
                yield from compare(recorded[key], came[key], f"{path}.{key}")
    elif isinstance(recorded, list) and isinstance(came, list) and len(recorded) == len(came):
        for index, (left, right) in enumerate(zip(recorded, came, strict=True)):
            yield from compare(left, right, f"{path}[{index}]")
    elif recorded != came or isinstance(recorded, bool) != isinstance(came, bool):
        yield f"{path}: recorded {recorded!r}, came {came!r}"


def without_sizes(event: dict[str, Any]) -> dict[str, Any]:
    if "json" in event:
        return {"json": event["json"]}
    head = event["binary_head"]
    return {"binary_head": {k: v for k, v in head.items() if k not in ("bytes", "image_bytes", "metadata_bytes")}}


def without_middle_progress(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the progress between the first and the last step, which is let through every 100 ms."""
    return [message for message in messages if not _is_middle_progress(message.get("json", {}))]


def _is_middle_progress(message: dict[str, Any]) -> bool:
    data = message.get("data", {})
    if message.get("type") == "progress":
        return bool(1 < data["value"] < data["max"])
    if message.get("type") == "progress_state":
        return any(node["state"] == "running" and 1 < node["value"] < node["max"] for node in data["nodes"].values())
    return False


def sort_unordered(messages: list[dict[str, Any]]) -> list[str]:
    """Without progress_state, which tells the state of all nodes so far."""
    kept = [message for message in messages if message.get("json", {}).get("type") != "progress_state"]
    return sorted(json.dumps(message, sort_keys=True) for message in kept)


def statuses(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("json", {}).get("type") == "status"]


def all_but_statuses(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("json", {}).get("type") != "status"]

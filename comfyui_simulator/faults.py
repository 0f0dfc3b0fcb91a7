"""Misbehaviour on demand. README.md beside this file lists every key of `POST /simulator/faults`."""

import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Literal

OUTPUT_FAULTS = ("missing", "empty", "truncated", "symlink", "directory", "changing", "traversal")


@dataclass
class Faults:
    """Counters count down by one for each time the fault strikes; the rest stays until it is set back."""

    slow_s: float = 0.0
    hang: bool = False
    no_jobs_api: bool = False
    websocket: Literal["normal", "silent", "refuse"] = "normal"
    lost_replies: int = 0
    silent_replies: int = 0
    errors_after_queue: int = 0
    delayed_posts: int = 0
    post_delay_s: float = 0.0
    crash: Literal["", "post", "execution", "saved"] = ""
    dead_worker: bool = False
    out_of_memory: int = 0
    node_exception: int = 0
    interrupted: int = 0
    cached_gone: int = 0
    outputs: list[str] = field(default_factory=list)
    history_lag_s: float = 0.001
    """Between execution_success and the history entry: ComfyUI's own order, and its gap on a quick machine."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def change(self, wanted: dict[str, Any]) -> None:
        """Raises ValueError, and changes nothing, for an unknown key or a value that does not fit."""
        known = Faults().show()
        for key, value in wanted.items():
            if key not in known:
                raise ValueError(f"unknown fault {key!r}; known: {', '.join(known)}")
            if not _fits(value, known[key]) or value not in _CHOICES.get(key, (value,)):
                raise ValueError(f"{key} cannot be {value!r}")
            if key == "outputs" and any(name not in OUTPUT_FAULTS for name in value):
                raise ValueError(f"outputs is a list of: {', '.join(OUTPUT_FAULTS)}")
        with self._lock:
            for key, value in wanted.items():
                setattr(self, key, value)

    def reset(self) -> None:
        self.change(Faults().show())

    def show(self) -> dict[str, Any]:
        with self._lock:
            return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}

    def strikes(self, counter: str) -> bool:
        """Whether this counted fault happens now; counts it down."""
        with self._lock:
            left: int = getattr(self, counter)
            if left > 0:
                setattr(self, counter, left - 1)
            return left > 0

    def next_output_fault(self) -> str | None:
        with self._lock:
            return self.outputs.pop(0) if self.outputs else None


_CHOICES: dict[str, tuple[str, ...]] = {
    "websocket": ("normal", "silent", "refuse"),
    "crash": ("", "post", "execution", "saved"),
}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


@dataclass
class Counters:
    """What `GET /simulator` shows."""

    requests: Counter[str] = field(default_factory=Counter)
    prompts_received: int = 0
    prompts_accepted: int = 0
    executions: Counter[str] = field(default_factory=Counter)
    executions_by_tag: Counter[str] = field(default_factory=Counter)
    websockets_opened: int = 0
    restarts: int = 0
    harmful_requests: list[str] = field(default_factory=list)

    def count_execution(self, prompt_id: str, extra_data: dict[str, Any]) -> None:
        self.executions[prompt_id] += 1
        tag = extra_data.get("handoff")
        if isinstance(tag, dict):
            self.executions_by_tag["/".join(str(tag.get(key, "")) for key in ("id", "attempt", "token"))] += 1

    def note_harm(self, what: str) -> None:
        """A request that no client may send."""
        self.harmful_requests.append(what)
        print(f"HARMFUL REQUEST: {what}", file=sys.stderr, flush=True)


def crash() -> None:
    """Ends the process as a kill would, without any cleaning up."""
    sys.stderr.flush()
    os._exit(70)

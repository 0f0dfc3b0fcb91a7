"""A ComfyUI in memory: a queue, one prompt that runs, a history, events; and everything that can go wrong with one."""

import random
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from handoff.failures import Failure, Reason
from handoff.graph import Graph
from tests.histories.clock import Clock
from tests.histories.process import NEVER, Process
from tests.spool.actors import current, step
from watcher.comfyui import ComfyUI as HttpClient
from watcher.comfyui import FolderType, NotArrived, Unclear
from watcher.comfyui_events import Event
from watcher.prompts import Prompt, PromptState, Queue, RunError, Tag

CLASSES = ("EmptyImage", "ProbeSleep", "SaveImage")
Accident = Literal[
    "reply lost",
    "lost on the way",
    "taken up a moment later",
    "taken up late",
    "500 after queueing",
    "500 before queueing",
]
"""What happens to a POST."""
Outcome = Literal["node error", "out of memory", "interrupted", "file missing", "file empty", "file torn"]
"""How a run ends, where that is not success."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A prompt as it was posted."""

    id: str
    graph: Graph
    client_id: str
    tag: Tag


@dataclass(eq=False)
class ComfyUI:
    url: str
    output: Path
    clock: Clock
    on_post: Callable[[Tag], None]
    up: bool = True
    waiting: list[Sent] = field(default_factory=list)
    running: Sent | None = None
    history: dict[str, Prompt] = field(default_factory=dict)
    late: list[tuple[float, Sent]] = field(default_factory=list)
    sockets: list["Socket"] = field(default_factory=list)
    accidents: list[Accident] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    """Executions that began, by prompt id."""
    runs_of: Counter[str] = field(default_factory=Counter)
    """… and by token."""
    ended: dict[str, list[Outcome]] = field(default_factory=dict)
    """How runs went wrong, by token."""
    refused: Counter[str] = field(default_factory=Counter)
    """How often a token's POST was answered 500."""
    forgotten: Counter[str] = field(default_factory=Counter)
    """How often a token's prompt was forgotten, or came when nobody waited for it any more."""
    _tokens: dict[str, str] = field(default_factory=dict)
    """By prompt id."""
    _ends_at: float = 0.0
    _started_at: float = 0.0
    _stop: bool = False

    # what happens by itself

    def next_at(self) -> float:
        if not self.up:
            return NEVER
        due_at = min((due for due, _ in self.late), default=NEVER)
        if self.running is not None:
            return min(due_at, 0.0 if self._stop else self._ends_at)
        return 0.0 if self.waiting else due_at

    def go(self) -> None:
        for due, sent in list(self.late):
            if due <= self.clock.now:
                self.late.remove((due, sent))
                self.waiting.append(sent)
        if self.running is not None:
            if self._stop or self._ends_at <= self.clock.now:
                self._end(self.running)
        elif self.waiting:
            self._begin(self.waiting.pop(0))

    def _begin(self, sent: Sent) -> None:
        self.running, self._stop, self._started_at = sent, False, self.clock.now
        seconds = sum(float(node["inputs"].get("seconds", 0)) for node in sent.graph.values())
        self._ends_at = self.clock.now + seconds
        self.runs[sent.id] += 1
        self.runs_of[sent.tag.token] += 1
        self._tell(sent, Event(kind="started", prompt_id=sent.id))
        self._tell(sent, Event(kind="step", prompt_id=sent.id, node="9"))

    def _end(self, sent: Sent) -> None:
        self.running = None
        outcome: Outcome | None = "interrupted" if self._stop else None
        if outcome is None and self.outcomes:
            outcome = self.outcomes.pop(0)
            self.ended.setdefault(sent.tag.token, []).append(outcome)
        times: dict[str, Any] = {
            "started_ms": self._milliseconds(self._started_at),
            "ended_ms": self._milliseconds(self.clock.now),
        }
        match outcome:
            case "node error" | "out of memory":
                kind = "torch.OutOfMemoryError" if outcome == "out of memory" else "RuntimeError"
                error = RunError(node_id="9", node_type="SaveImage", exception_type=kind, exception_message=outcome)
                prompt = Prompt(id=sent.id, state=PromptState.FAILED, outputs={}, error=error, **times)
            case "interrupted":
                prompt = Prompt(id=sent.id, state=PromptState.INTERRUPTED, outputs={}, **times)
            case _:
                prompt = Prompt(id=sent.id, state=PromptState.SUCCEEDED, outputs=self._save(sent, outcome), **times)
        self.history[sent.id] = prompt
        self._tell(sent, Event(kind="finished", prompt_id=sent.id))

    def _milliseconds(self, now: float) -> int:
        return int((self.clock.time() - self.clock.now + now) * 1000)

    def _save(self, sent: Sent, outcome: Outcome | None) -> dict[str, Any]:
        subfolder, _, label = str(sent.graph["9"]["inputs"]["filename_prefix"]).rpartition("/")
        name = f"{label}_00001_.png"
        data = picture(sent.id)
        if outcome != "file missing":
            (self.output / subfolder).mkdir(parents=True, exist_ok=True)
            cut = {"file empty": 0, "file torn": len(data) // 2}.get(outcome or "", len(data))
            (self.output / subfolder / name).write_bytes(data[:cut])
        return {"9": {"images": [{"filename": name, "subfolder": subfolder, "type": "output"}]}}

    def _tell(self, sent: Sent, event: Event) -> None:
        for socket in self.sockets:
            if socket.client_id == sent.client_id:
                socket.on_event(event)

    # what is done to it

    def restart(self) -> None:
        """Queue and history are in its memory only."""
        self.go_away()
        known = [sent.tag.token for sent in self.waiting]
        known += [self._tokens[prompt] for prompt in self.history]
        known += [] if self.running is None else [self.running.tag.token]
        self.forgotten.update(set(known))
        self.waiting, self.running, self.history, self.late = [], None, {}, []
        self.come_back()

    def go_away(self) -> None:
        if self.up:
            self.up = False
            for socket in self.sockets:
                socket.on_event(Event(kind="lost"))

    def come_back(self) -> None:
        if not self.up:
            self.up = True
            for socket in self.sockets:
                socket.connect()

    def post(self, sent: Sent) -> None:
        accident = self.accidents.pop(0) if self.accidents else None
        self._tokens[sent.id] = sent.tag.token
        self.refused[sent.tag.token] += accident in ("500 after queueing", "500 before queueing")
        match accident:
            case "lost on the way" | "500 before queueing":
                pass
            case "taken up a moment later":
                self.late.append((self.clock.now + 1.5, sent))
            case "taken up late":
                self.forgotten[sent.tag.token] += 1
                self.late.append((self.clock.now + 30.0, sent))
            case _:
                self.waiting.append(sent)
        if accident is not None:
            raise Unclear(accident, 500 if accident.startswith("500") else None)

    def find(self, prompt_id: str) -> Prompt | None:
        if self.running is not None and self.running.id == prompt_id:
            return Prompt(id=prompt_id, state=PromptState.RUNNING, outputs={})
        if any(sent.id == prompt_id for sent in self.waiting):
            return Prompt(id=prompt_id, state=PromptState.WAITING, outputs={})
        return self.history.get(prompt_id)

    def cancel(self, prompt_id: str) -> bool:
        left = [sent for sent in self.waiting if sent.id != prompt_id]
        found = len(left) < len(self.waiting)
        self.waiting = left
        if self.running is not None and self.running.id == prompt_id:
            self._stop = found = True
        return found


def picture(text: str) -> bytes:
    """A whole PNG of one pixel that carries a text."""
    parts = [(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0"), (b"tEXt", b"prompt\0" + text.encode())]
    parts += [(b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    )


class Client(HttpClient):
    """The watcher's end: what it may be killed between, and what a ComfyUI that is away answers."""

    def __init__(self, server: ComfyUI) -> None:
        self._server = server
        self.url = server.url

    def _exchange(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("this ComfyUI has no HTTP: a method is missing here")

    def close(self) -> None: ...

    def submit(self, prompt_id: str, graph: Graph, *, client_id: str, extra_data: Mapping[str, Any]) -> None:
        self._call("POST", prompt_id)
        tag = Tag.model_validate(extra_data["handoff"])
        self._server.on_post(tag)
        self._server.post(Sent(id=prompt_id, graph=graph, client_id=client_id, tag=tag))
        step("answered", prompt_id)

    def look_up(self, prompt_id: str) -> Prompt | None:
        self._call("look up", prompt_id)
        return self._server.find(prompt_id)

    def find_dropped(self, prompt_id: str, graph: Graph) -> list[str]:
        self._call("find dropped", prompt_id)
        return []

    def cancel(self, prompt_id: str) -> bool:
        self._call("cancel", prompt_id)
        return self._server.cancel(prompt_id)

    def queue(self) -> Queue:
        self._call("queue")
        running = () if self._server.running is None else (self._server.running.id,)
        return Queue(running=running, waiting=tuple(sent.id for sent in self._server.waiting), tags={})

    def free(self) -> None:
        self._call("free")

    def stats(self) -> dict[str, Any]:
        self._call("stats")
        return {"system": {"comfyui_version": "0.33.0", "simulated": True}, "devices": []}

    def object_info(self) -> dict[str, Any]:
        self._call("object_info")
        return {name: {"input": {}} for name in CLASSES}

    def view(self, filename: str, subfolder: str, folder: FolderType, to: BinaryIO, limit: int) -> int:
        raise Failure(Reason.OUTPUT_MISSING, file=filename)  # it makes no previews

    def _call(self, what: str, *arguments: str) -> None:
        step(what, *arguments)
        if not self._server.up:
            raise NotArrived(f"{self.url} is away")


class Socket:
    """The websocket of one watcher: open whenever ComfyUI is up."""

    def __init__(self, server: ComfyUI, on_event: Callable[[Event], None], dice: random.Random) -> None:
        self._server = server
        self._on_event = on_event
        self._dice = dice
        self._owner = current()
        self.client_id = ""

    def start(self) -> None:
        self._server.sockets.append(self)
        if self._server.up:
            self.connect()

    def stop(self, *, by: float) -> None:
        del by
        if self in self._server.sockets:
            self._server.sockets.remove(self)

    def connect(self) -> None:
        self.client_id = f"{self._dice.getrandbits(64):016x}"
        self.on_event(Event(kind="connected"))

    def on_event(self, event: Event) -> None:
        if isinstance(self._owner, Process) and not self._owner.over:
            self._on_event(event)

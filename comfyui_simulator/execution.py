"""Runs one prompt: the order of the nodes, the node cache, the events, and how errors are told."""

import copy
import random
import string
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from comfyui_simulator.catalogue import Catalogue
from comfyui_simulator.execution_errors import describe_error
from comfyui_simulator.faults import Counters, Faults, crash
from comfyui_simulator.folders import Folders
from comfyui_simulator.model_nodes import SAMPLERS
from comfyui_simulator.node_types import NodeContext, OutOfMemoryError, Output, PromptInterruptedError
from comfyui_simulator.nodes import NODES
from comfyui_simulator.outputs import spoil
from comfyui_simulator.pictures import Picture
from comfyui_simulator.planning import is_link, make_cache_keys, plan_nodes
from comfyui_simulator.prompt_queue import Item

_PROGRESS_INTERVAL_S = 0.1


class Events(Protocol):
    """Where messages for the clients go. `client_id` None means everybody."""

    def begin(self, client_id: str | None) -> None: ...

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None: ...

    def send_preview(self, picture: Picture, node_id: str, prompt_id: str, client_id: str | None) -> bool: ...

    def send_plain_preview(self, picture: Picture, client_id: str | None) -> None: ...

    def send_png(self, content: bytes, client_id: str | None) -> None: ...

    def set_node(self, node_id: str | None) -> None: ...


@dataclass
class Executor:
    """Keeps the node cache from prompt to prompt; lives in the worker thread. `interrupt` may be set from anywhere."""

    folders: Folders
    catalogue: Catalogue
    faults: Faults
    counters: Counters
    events: Events
    seconds_per_prompt: float
    interrupt: threading.Event = field(default_factory=threading.Event)
    cache: dict[str, Output] = field(default_factory=dict)
    suffixes: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def run(self, item: Item, *, empty_cache: bool) -> dict[str, Any]:
        """The rest of the history entry: outputs, status and meta. Raises KeyError for a node without `inputs`."""
        if empty_cache:
            self.cache.clear()
        client_id = item.extra_data.get("client_id")
        if self.faults.strikes("cached_gone"):
            self._fill_cache_and_remove_files(item)
        self.interrupt.clear()
        if self.faults.strikes("interrupted"):
            self.interrupt.set()
        self.counters.count_execution(item.prompt_id, item.extra_data)
        return _Run(self, item, self.events, client_id).run()

    def _fill_cache_and_remove_files(self, item: Item) -> None:
        outcome = _Run(self, item, _Silence(), None).run()
        for listed in (entry for ui in outcome["outputs"].values() for entries in ui.values() for entry in entries):
            if isinstance(listed, dict) and (folder := self.folders.of_type(listed.get("type", ""))):
                (folder / listed["subfolder"] / listed["filename"]).unlink(missing_ok=True)

    def stop(self) -> None:
        """Whatever runs ends before its next node."""
        self.stopped = True
        self.interrupt.set()

    def suffix(self, class_name: str) -> str:
        return self.suffixes.setdefault(class_name, "".join(random.choices(string.ascii_lowercase, k=5)))

    def wait(self, seconds: float) -> None:
        interrupted = self.interrupt.wait(seconds) if seconds > 0 else self.interrupt.is_set()
        if interrupted or self.stopped:
            self.interrupt.clear()
            raise PromptInterruptedError


class _Silence:
    """Events that nobody hears."""

    def begin(self, client_id: str | None) -> None: ...

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None: ...

    def send_preview(self, picture: Picture, node_id: str, prompt_id: str, client_id: str | None) -> bool:  # noqa: ARG002
        return False

    def send_plain_preview(self, picture: Picture, client_id: str | None) -> None: ...

    def send_png(self, content: bytes, client_id: str | None) -> None: ...

    def set_node(self, node_id: str | None) -> None: ...


class _Run:
    def __init__(self, executor: Executor, item: Item, events: Events, client_id: str | None) -> None:
        self.executor = executor
        self.events = events
        self.client_id = client_id
        self.prompt_id = item.prompt_id
        self.item = item
        self.graph: dict[str, Any] = copy.deepcopy(item.graph)
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.progress: dict[str, dict[str, Any]] = {}
        self.executed: list[str] = []
        self.outputs: dict[str, Any] = {}
        self.keys: dict[str, str] = {}
        self.last_report = 0.0

    def run(self) -> dict[str, Any]:
        self.events.begin(self.client_id)
        self._tell("execution_start", {})
        self.keys = make_cache_keys(self.graph, self.executor.folders)
        kept = set(self.keys.values())
        # Under memory pressure, which is ComfyUI's usual state, only what this prompt can use again survives.
        self.executor.cache = {key: output for key, output in self.executor.cache.items() if key in kept}
        self._tell("execution_cached", {"nodes": [node for node in self.graph if self._cached(node) is not None]})
        plan = plan_nodes(self.graph, self.item.outputs, lambda node: self._cached(node) is not None)
        slow = next((node for node in plan if self.graph[node]["class_type"] in SAMPLERS), plan[0])
        for node_id in plan:
            if not self._run_node(node_id, self.executor.seconds_per_prompt if node_id == slow else 0.0):
                break
        else:
            self._tell("execution_success", {})
        self.events.set_node(None)
        succeeded = self.messages[-1][0] == "execution_success"
        return {
            "outputs": self.outputs,
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": self.messages,
            },
            "meta": {node: _describe_node(node) for node in self.outputs},
        }

    def _cached(self, node_id: str) -> Output | None:
        return self.executor.cache.get(self.keys[node_id])

    def _run_node(self, node_id: str, seconds: float) -> bool:
        """Whether the prompt goes on."""
        if (cached := self._cached(node_id)) is not None:
            self._tell_cached(node_id, cached)
            return True
        class_type = self.graph[node_id]["class_type"]
        inputs: dict[str, Any] = {}
        self.events.set_node(node_id)
        try:
            inputs = self._gather_inputs(node_id)
            self._show_progress(node_id, 0.0, 1.0, "running")
            self._send("executing", {"node": node_id, "display_node": node_id, "prompt_id": self.prompt_id})
            output = self._compute(node_id, class_type, inputs, seconds)
        except PromptInterruptedError:
            details = {"node_id": node_id, "node_type": class_type, "executed": list(self.executed)}
            self._tell("execution_interrupted", details, to_everybody=True)
            return False
        except Exception as error:  # noqa: BLE001  # a node may raise anything; it becomes the prompt's error
            self._tell_error(node_id, class_type, inputs, error)
            return False
        self.executor.cache[self.keys[node_id]] = output
        self.executed.append(node_id)
        if output.ui:
            self.outputs[node_id] = output.ui
            self._tell_executed(node_id, output.ui)
        done = self.progress[node_id]
        self._show_progress(node_id, done["max"], done["max"], "finished")
        return True

    def _compute(self, node_id: str, class_type: str, inputs: dict[str, Any], seconds: float) -> Output:
        faults = self.executor.faults
        self.executor.wait(0)
        if faults.crash == "execution":
            crash()
        if class_type not in SAMPLERS:
            self.executor.wait(seconds)
        if not self.executed and faults.strikes("out_of_memory"):
            raise OutOfMemoryError("CUDA out of memory. SIMULATED")
        if not self.executed and faults.strikes("node_exception"):
            raise RuntimeError("SIMULATED failure of a node")
        output = NODES[class_type](self._make_context(node_id, seconds), **inputs)
        return Output(values=output.values, ui=spoil(output.ui, self.executor.folders, faults))

    def _tell_error(self, node_id: str, class_type: str, inputs: dict[str, Any], error: Exception) -> None:
        hidden = {"prompt": str(self.graph), "extra_pnginfo": self.item.extra_data.get("extra_pnginfo")}
        names = self.executor.catalogue.hidden_inputs(class_type)
        details = {
            "node_id": node_id,
            "node_type": class_type,
            "executed": list(self.executed),
            "current_outputs": list(self.graph),
        }
        shown = inputs | {name: hidden.get(name) for name in names}
        self._tell("execution_error", details | describe_error(error, shown))

    def _make_context(self, node_id: str, seconds: float) -> NodeContext:
        return NodeContext(
            folders=self.executor.folders,
            graph=self.graph,
            extra_pnginfo=self.item.extra_data.get("extra_pnginfo"),
            suffixes=self.executor.suffix,
            seconds=seconds,
            wait=self.executor.wait,
            sleep_deaf=time.sleep,
            report=lambda value, maximum, preview: self._report(node_id, value, maximum, preview),
            send_png=lambda value, maximum, content: self._send_png(node_id, value, maximum, content),
        )

    def _gather_inputs(self, node_id: str) -> dict[str, Any]:
        node = self.graph[node_id]
        described = self.executor.catalogue.inputs(node["class_type"])
        inputs = {}
        for name in described:
            value = node["inputs"].get(name, _ABSENT)
            if value is _ABSENT:
                continue
            if is_link(value):
                source = self._cached(value[0])
                assert source is not None
                value = source.values[value[1]]
            inputs[name] = value
        return inputs

    def _report(self, node_id: str, value: int, maximum: int, preview: Picture | None) -> None:
        self.executor.wait(0)
        now = time.monotonic()
        is_first = self.progress[node_id]["max"] != maximum
        is_due = now - self.last_report >= _PROGRESS_INTERVAL_S
        if preview is None and not (is_first or is_due or value >= maximum):
            return
        self.last_report = now
        self._show_progress(node_id, value, maximum, "running")
        # A preview with metadata comes before `progress`, a plain one after it.
        has_gone = preview is not None and self.events.send_preview(preview, node_id, self.prompt_id, self.client_id)
        self._tell_step(node_id, value, maximum)
        if preview is not None and not has_gone:
            self.events.send_plain_preview(preview, self.client_id)

    def _send_png(self, node_id: str, value: int, maximum: int, content: bytes) -> None:
        self.executor.wait(0)
        self._show_progress(node_id, value, maximum, "running")
        self._tell_step(node_id, value, maximum)
        self.events.send_png(content, self.client_id)

    def _tell_step(self, node_id: str, value: int, maximum: int) -> None:
        data = {"value": value, "max": maximum, "prompt_id": self.prompt_id, "node": node_id}
        self.events.send("progress", data, self.client_id)

    def _tell_cached(self, node_id: str, cached: Output) -> None:
        if cached.ui:
            self.outputs[node_id] = cached.ui
        self._tell_executed(node_id, cached.ui or None)
        self._show_progress(node_id, 1, 1, "finished")

    def _tell_executed(self, node_id: str, ui: dict[str, Any] | None) -> None:
        data = {"node": node_id, "display_node": node_id, "output": ui, "prompt_id": self.prompt_id}
        self._send("executed", data)

    def _show_progress(self, node_id: str, value: float, maximum: float, state: str) -> None:
        self.progress[node_id] = {
            "value": value, "max": maximum, "state": state, "node_id": node_id, "prompt_id": self.prompt_id,
            "display_node_id": node_id, "parent_node_id": None, "real_node_id": node_id,
        }  # fmt: skip
        data = {"prompt_id": self.prompt_id, "nodes": dict(self.progress)}
        self.events.send("progress_state", data, self.client_id)

    def _tell(self, kind: str, details: dict[str, Any], *, to_everybody: bool = False) -> None:
        """Into the history, and to the client; without a client only if everybody may hear it."""
        data = {**details, "prompt_id": self.prompt_id, "timestamp": int(time.time() * 1000)}
        self.messages.append((kind, data))
        if to_everybody or self.client_id is not None:
            self.events.send(kind, data, self.client_id)

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        if self.client_id is not None:
            self.events.send(kind, data, self.client_id)


_ABSENT = object()


def _describe_node(node_id: str) -> dict[str, Any]:
    return {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}

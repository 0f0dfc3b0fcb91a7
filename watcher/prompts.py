"""What ComfyUI has of a prompt, read from its answers about jobs, history and queue. Pure: answers in, values out.

Every version's way of telling a prompt's end comes to one `Prompt`, so that nothing else knows ComfyUI's JSON.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from handoff.failures import Failure, Reason
from handoff.graph import Graph, describe_node
from handoff.masking import mask_urls
from watcher.graph import hide_secrets

_OUT_OF_MEMORY = re.compile(
    r"\b(CUDA|HIP|MPS|XPU|GPU)\b[^\n]{0,60}\bout of memory\b|Allocation on device", re.IGNORECASE
)


class PromptState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def done(self) -> bool:
        return self not in (PromptState.WAITING, PromptState.RUNNING)


class RunError(BaseModel):
    """What ComfyUI tells of a node that raised. Its traceback and input values (which may hold secrets) are not kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    node_id: str | None = None
    node_type: str | None = None
    exception_type: str = ""
    exception_message: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What ComfyUI has of a prompt. `outputs` is as ComfyUI lists them, unchecked; times are its clock's milliseconds."""

    id: str
    state: PromptState
    outputs: Mapping[str, Any]
    error: RunError | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    cached: frozenset[str] = frozenset()


class Tag(BaseModel):
    """`extra_data.handoff`: whose prompt it is. Anybody can write one, so it is believed for tidying up only."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    id: str
    token: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Prompt ids; `waiting` in the order in which they will run. Prompts of others are among them."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    tags: Mapping[str, Tag]


def failure_of(prompt: Prompt, graph: Graph) -> Failure:
    """Why a prompt in state FAILED failed: OUT_OF_MEMORY or NODE_ERROR, with the node and the first line of its message."""
    error = prompt.error or RunError()
    lines = [line.strip(" *") for line in error.exception_message.splitlines()]
    first = (
        next((line.removeprefix("ERROR: ") for line in lines if line), "")
        or error.exception_type
        or "no reason was given"
    )
    reason = (
        Reason.OUT_OF_MEMORY if _is_out_of_memory(error.exception_type, error.exception_message) else Reason.NODE_ERROR
    )
    node = None if error.node_id is None else describe_node(graph, error.node_id, error.node_type)
    return Failure(reason, node=node, problem=mask_urls(hide_secrets(first, graph))[:300])


def _is_out_of_memory(exception_type: str, message: str) -> bool:
    return exception_type.endswith("OutOfMemoryError") or bool(_OUT_OF_MEMORY.search(message))


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _keep_named(messages: Any) -> Any:
    """Each message that has a name, with what it tells if that is an object: one odd message must not hide the outcome."""
    if not isinstance(messages, list):
        return messages
    named = (message for message in messages if isinstance(message, list) and message and isinstance(message[0], str))
    return [(name, rest[0] if rest and isinstance(rest[0], dict) else {}) for name, *rest in named]


class _Status(_Loose):
    status_str: str | None = None
    messages: Annotated[list[tuple[str, dict[str, Any]]], BeforeValidator(_keep_named)] = []

    def to_prompt(
        self, prompt_id: str, outputs: Mapping[str, Any], state: PromptState = PromptState.SUCCEEDED
    ) -> Prompt:
        """`state` is what counts where no message tells of an error or an interruption."""
        said = dict(self.messages)
        if "execution_interrupted" in said:
            state = PromptState.INTERRUPTED
        elif "execution_error" in said or (state is PromptState.SUCCEEDED and self.status_str == "error"):
            state = PromptState.FAILED
        cached = said.get("execution_cached", {}).get("nodes")
        return Prompt(
            id=prompt_id,
            state=state,
            outputs=outputs,
            error=_read_error(said.get("execution_error")) if state is PromptState.FAILED else None,
            started_ms=_timestamp(said.get("execution_start")),
            ended_ms=_timestamp(self.messages[-1][1]) if self.messages else None,
            cached=frozenset(node for node in cached if isinstance(node, str))
            if isinstance(cached, list)
            else frozenset(),
        )


class HistoryEntry(_Loose):
    """One prompt of GET /history/{id}."""

    outputs: dict[str, Any] | None = None
    status: _Status | None = None

    def to_prompt(self, prompt_id: str) -> Prompt:
        return (self.status or _Status()).to_prompt(prompt_id, self.outputs or {})


class JobAnswer(_Loose):
    """GET /api/jobs/{id}."""

    status: Literal["pending", "in_progress", "completed", "failed", "cancelled"]
    outputs: dict[str, Any] | None = None
    execution_status: _Status | None = None
    execution_error: dict[str, Any] | None = None
    execution_start_time: int | None = None
    execution_end_time: int | None = None

    def to_prompt(self, prompt_id: str) -> Prompt:
        outputs = self.outputs or {}
        if self.status in ("pending", "in_progress"):
            waiting = self.status == "pending"
            return Prompt(id=prompt_id, state=PromptState.WAITING if waiting else PromptState.RUNNING, outputs=outputs)
        states = {
            "completed": PromptState.SUCCEEDED,
            "failed": PromptState.FAILED,
            "cancelled": PromptState.INTERRUPTED,
        }
        # The messages come first: before 0.9 an interrupted job was called failed here.
        told = (self.execution_status or _Status()).to_prompt(prompt_id, outputs, states[self.status])
        own_error = _read_error(self.execution_error) if told.state is PromptState.FAILED else None
        return replace(
            told,
            error=told.error or own_error,
            started_ms=self.execution_start_time if told.started_ms is None else told.started_ms,
            ended_ms=self.execution_end_time if told.ended_ms is None else told.ended_ms,
        )


class CancelAnswer(_Loose):
    """POST /api/jobs/{id}/cancel. `cancelled`: ComfyUI had the prompt."""

    cancelled: bool


class QueueAnswer(_Loose):
    """GET /queue. An entry is [number, prompt id, graph, extra_data, …]; what is none is left out."""

    queue_running: list[list[Any]]
    queue_pending: list[list[Any]]

    def to_queue(self) -> Queue:
        # ComfyUI lists what waits in the order of its heap; it runs by number, then by id.
        waiting = sorted(filter(_is_entry, self.queue_pending), key=lambda entry: (entry[0], entry[1]))
        running = list(filter(_is_entry, self.queue_running))
        return Queue(
            running=tuple(entry[1] for entry in running),
            waiting=tuple(entry[1] for entry in waiting),
            tags={entry[1]: tag for entry in (*running, *waiting) if (tag := _read_tag(entry))},
        )


def _is_entry(entry: list[Any]) -> bool:
    return len(entry) >= 4 and isinstance(entry[0], int | float) and isinstance(entry[1], str)


def _read_tag(entry: list[Any]) -> Tag | None:
    try:
        return Tag.model_validate(entry[3]["handoff"])
    except (ValidationError, KeyError, TypeError):
        return None


def _read_error(said: Mapping[str, Any] | None) -> RunError | None:
    if said is None:
        return None
    try:
        return RunError.model_validate(said)
    except ValidationError:
        return RunError()


_LATEST_MS = 10**14  # the year 5138; beyond what dates can hold, a number is no time


def _timestamp(said: Mapping[str, Any] | None) -> int | None:
    value = None if said is None else said.get("timestamp")
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LATEST_MS
    return value if plausible else None

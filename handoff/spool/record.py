"""The record: the journal of one submission, from its reservation to its last step (docs/protocol.md, "Files").

It has three lives: reserved (attempt 0), sent (attempt n), and decided (`status.json` is final). It is rewritten before
each side effect with all that is needed to recognise that effect later.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from handoff import timestamps
from handoff.documents import Document
from handoff.job import PRIORITY, prompt_id, rank


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class OpenModel(_Part):
    """A model parameter without a value: settled when the job is claimed, from what that ComfyUI has."""

    parameter: str
    node: str
    input: str
    class_type: str
    folder: str


class Plan(_Part):
    """The job as it will be sent: parameters resolved, seed drawn, pictures copied. Never changes once an attempt was sent."""

    workflow: str | None = None
    workflow_sha256: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    graph: dict[str, Any]
    open_models: list[OpenModel] = Field(default_factory=list)
    extra_data: dict[str, Any] = Field(default_factory=dict)
    queue_timeout_s: float | None = None
    run_timeout_s: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class Try(_Part):
    """How an earlier attempt ended. A strike: it was running and then lost, as a job that kills ComfyUI would be."""

    attempt: int
    ended: Literal["lost", "comfyui_error", "interrupted", "out_of_memory"]
    strike: bool = False


MOST_ATTEMPTS = 1000  # far more than any job gets; in a stranger's record the number could be any


class Record(Document):
    """`job` is None where an adapter published it; the watcher then plans it after the claim. `attempt` 0: nothing was sent."""

    token: str
    id: str
    sha256: str
    source: str | None = None
    owner: str = "folder"
    retry_of: str | None = None
    received_at: str
    received_uptime: str | None = None
    """The same moment as `timestamps.uptime` gives it, for its deadline: the wall clock may be set."""
    priority: int = Field(default=0, ge=-PRIORITY, le=PRIORITY)
    body: dict[str, Any]
    job: Plan | None = None
    attempt: int = Field(default=0, ge=0, le=MOST_ATTEMPTS)
    prompt_id: str | None = None
    server: str | None = None
    journalled_at: str | None = None
    tries: list[Try] = Field(default_factory=list)

    @field_validator("received_at")
    @classmethod
    def _check_time(cls, value: str) -> str:
        """Its place in the queue and its deadline follow from it."""
        try:
            rank(0, timestamps.from_text(value))
        except OverflowError as error:  # of the year 1 or 9999, and east or west of Greenwich
            raise ValueError(str(error)) from None
        return value

    @property
    def rank(self) -> str:
        return rank(self.priority, timestamps.from_text(self.received_at))

    @property
    def strikes(self) -> int:
        return sum(earlier.strike for earlier in self.tries)

    def ended(self, how: str) -> int:
        """How many attempts ended like this."""
        return sum(earlier.ended == how for earlier in self.tries)

    def next_attempt(self, *, server: str, at: str, plan: Plan) -> "Record":
        attempt = self.attempt + 1
        return self.evolve(
            job=plan, attempt=attempt, prompt_id=prompt_id(self.token, attempt), server=server, journalled_at=at
        )


class Tombstone(Document):
    """What stays of an id after retention removed its job: the final word, no outputs."""

    token: str
    sha256: str
    status: str
    finished_at: str

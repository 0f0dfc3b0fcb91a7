"""The status document: what people, Dify and operators read of a job, in `output/<id>/status.json` and in the bucket.

Every key is always there; unknown is null; lists are never null; times are RFC 3339, `*_s` are seconds.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from handoff import messages, state, timestamps
from handoff.documents import Document
from handoff.failures import RETRYABLE, Failure, Node
from handoff.state import Status

Kind = Literal["image", "video", "audio", "text", "latent", "model", "file"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class OutputEntry(_Part):
    """`key` is the object's whole key in the bucket; `url` opens it, or is null where the store has no URLs."""

    name: str
    kind: Kind
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    key: str
    url: str | None = None


class TextEntry(_Part):
    node: str
    text: str


class NodeEntry(_Part):
    id: str
    class_type: str | None = Field(default=None, alias="class")
    title: str | None = None


class ErrorEntry(_Part):
    reason: str
    message: str
    hint: str
    node: NodeEntry | None = None
    retryable: bool


class ComfyUIEntry(_Part):
    version: str | None = None
    prompt_id: str | None = None
    simulated: bool | None = None


class StatusDocument(Document):
    id: str
    status: Status = Status.QUEUED
    done: bool = False
    ok: bool = False
    workflow: str | None = None
    attempt: int = 0
    priority: int = 0
    source: str | None = None
    owner: str = "folder"
    retry_of: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    progress: float = 0.0
    step: str | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    queue_s: float | None = None
    run_s: float | None = None
    save_s: float | None = None
    gpu_s: float | None = None
    outputs: list[OutputEntry] = Field(default_factory=list)
    texts: list[TextEntry] = Field(default_factory=list)
    url: str | None = None
    markdown: str | None = None
    error: ErrorEntry | None = None
    comfyui: ComfyUIEntry = ComfyUIEntry()
    warnings: list[str] = Field(default_factory=list)

    @field_validator("created_at", "started_at", "finished_at")
    @classmethod
    def _check_time(cls, value: str | None) -> str | None:
        """Others may write into `output/`, too, and the day under which the record is filed follows from it."""
        try:
            if value is not None:
                timestamps.from_text(value).astimezone(UTC)
        except OverflowError as error:  # of the year 1 or 9999, and east or west of Greenwich
            raise ValueError(str(error)) from None
        return value

    @property
    def day(self) -> str:
        """Of its end, in UTC."""
        return timestamps.from_text(self.finished_at or self.created_at).astimezone(UTC).date().isoformat()

    def follow(self, event: state.Event, **changes: Any) -> "StatusDocument":
        """The document after the event. Raises IllegalTransition."""
        status = state.follow(self.status, event)
        return self.evolve(status=status, done=status.done, ok=status is Status.SUCCEEDED, **changes)

    def finish(self, event: state.Event, at: datetime, **changes: Any) -> "StatusDocument":
        """The final document: succeeded for `Event.MIRRORED`, else what `error` tells."""
        # the clock may have been set back: texts of one form, in which the later one is the greater
        finished_at = max(timestamps.to_text(at), self.created_at, self.started_at or "")
        finished = self.follow(event, finished_at=finished_at, step=None, **changes)
        if not finished.ok:
            return finished
        elapsed = seconds_between(self.started_at, finished_at)
        save_s = None if elapsed is None else round(max(0.0, elapsed - (self.run_s or 0.0)), 3)
        return finished.evolve(progress=1.0, save_s=save_s)

    def with_links(self) -> "StatusDocument":
        """`url` and `markdown` made from the outputs: the first output's URL, and all pictures as markdown lines."""
        pictures = [
            f"![{output.name}]({output.url})" for output in self.outputs if output.kind == "image" and output.url
        ]
        first = self.outputs[0].url if self.outputs else None
        return self.evolve(url=first, markdown="\n".join(pictures) or None)


def describe_failure(failure: Failure, language: messages.Language, *, id: str | None = None) -> ErrorEntry:
    """`id` is the job's, where it has one: many hints name it."""
    details = dict(failure.details) if id is None else {"id": id, **failure.details}
    text = messages.render(Failure(failure.reason, node=failure.node, **details), language)
    return ErrorEntry(
        reason=failure.reason,
        message=text.message,
        hint=text.hint,
        node=None if failure.node is None else _describe_node(failure.node),
        retryable=failure.reason in RETRYABLE,
    )


def _describe_node(node: Node) -> NodeEntry:
    return NodeEntry(id=node.id, class_type=node.class_type, title=node.title)


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """None where one is unknown; never negative, since the wall clock may be set back in between."""
    if earlier is None or later is None:
        return None
    return max(0.0, round((timestamps.from_text(later) - timestamps.from_text(earlier)).total_seconds(), 3))

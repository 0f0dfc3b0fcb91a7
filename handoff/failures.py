"""Why a job ends otherwise than `succeeded`: the closed list of reasons, and the errors that carry them.

`Failure` is about a job and ends it. The three edge errors are about the world: each edge (files, ComfyUI, object store,
HTTP) maps its own exceptions to them where they arise, so that nothing above an edge knows a library's exceptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Public names: they stand in `error.reason` and in `rejected/*.reason.json`, and are never translated."""

    # the job file
    NOT_JSON = "not_json"
    TRUNCATED = "truncated"
    BAD_ENCODING = "bad_encoding"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    BAD_NUMBER = "bad_number"
    NOT_A_JOB = "not_a_job"
    UI_FORMAT = "ui_format"
    UNKNOWN_FIELD = "unknown_field"
    BAD_FIELD = "bad_field"
    BAD_NAME = "bad_name"
    NOT_A_FILE = "not_a_file"
    UNREADABLE = "unreadable"
    ID_TAKEN = "id_taken"
    UNKNOWN_ID = "unknown_id"
    # what the job asks for
    UNKNOWN_WORKFLOW = "unknown_workflow"
    BROKEN_WORKFLOW = "broken_workflow"
    UNKNOWN_PARAMETER = "unknown_parameter"
    BAD_PARAMETER = "bad_parameter"
    MISSING_PARAMETER = "missing_parameter"
    BAD_OVERRIDE = "bad_override"
    BAD_GRAPH = "bad_graph"
    GRAPHS_NOT_ALLOWED = "graphs_not_allowed"
    NODE_DENIED = "node_denied"
    MODEL_NOT_CHOSEN = "model_not_chosen"
    MISSING_PICTURE = "missing_picture"
    BAD_PICTURE = "bad_picture"
    FORBIDDEN_URL = "forbidden_url"
    PICTURE_NOT_FETCHED = "picture_not_fetched"
    # what ComfyUI made of it
    WORKFLOW_UNAVAILABLE = "workflow_unavailable"
    VALIDATION_FAILED = "validation_failed"
    COMFYUI_ERROR = "comfyui_error"
    NODE_ERROR = "node_error"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    CANCELLED = "cancelled"
    LOST = "lost"
    INTERNAL_ERROR = "internal_error"
    # what came out
    NO_OUTPUTS = "no_outputs"
    OUTPUT_MISSING = "output_missing"
    OUTPUT_BROKEN = "output_broken"
    OUTPUT_REFUSED = "output_refused"
    # what an adapter answers
    BAD_BODY = "bad_body"
    UNREPLACED_VARIABLE = "unreplaced_variable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNKNOWN_OUTPUT = "unknown_output"
    LINK_EXPIRED = "link_expired"
    NOT_RETRYABLE = "not_retryable"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_MANY_JOBS = "too_many_jobs"
    UNAVAILABLE = "unavailable"


RETRYABLE = frozenset(
    {
        Reason.PICTURE_NOT_FETCHED,
        Reason.WORKFLOW_UNAVAILABLE,
        Reason.COMFYUI_ERROR,
        Reason.NODE_ERROR,
        Reason.OUT_OF_MEMORY,
        Reason.INTERRUPTED,
        Reason.TIMEOUT,
        Reason.QUEUE_TIMEOUT,
        Reason.CANCELLED,
        Reason.LOST,
        Reason.INTERNAL_ERROR,
        Reason.OUTPUT_MISSING,
        Reason.OUTPUT_BROKEN,
        Reason.TOO_MANY_REQUESTS,
        Reason.TOO_MANY_JOBS,
        Reason.UNAVAILABLE,
    }
)
"""Reasons after which the same job may succeed another time. Every other reason needs the job or the installation changed."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """The ComfyUI node a failure comes from; `title` is the one its author gave it, else its class."""

    id: str
    class_type: str | None = None
    title: str | None = None


class Failure(Exception):  # noqa: N818 - it is the job that failed, not the program
    """A job cannot go on. `details` fill the placeholders of the reason's texts in `handoff.messages`.

    Raised with the same details whatever the reader's language; rendered by `messages.render`.
    """

    def __init__(self, reason: Reason, *, node: Node | None = None, **details: str | float) -> None:
        super().__init__(reason, node, details)
        self.reason = reason
        self.node = node
        self.details: Mapping[str, str | float] = details

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.details.items())
        return f"{self.reason}({said})"


class EdgeError(Exception):
    """Something outside this program did not do its part. The text is for the log: what happened, to what, where."""


class Transient(EdgeError):  # noqa: N818
    """May work when tried again at once: a reset connection, a 503, a time-out."""


class Unavailable(EdgeError):  # noqa: N818
    """The other side is away, full or wrongly configured. Wait and try later; no attempt of a job is used up."""


class DiskUnavailable(Unavailable):
    """The shared volume is full, read-only, failing or forbidden. Nothing is claimed or sent until a write succeeds."""


class NotPermitted(Unavailable):
    """One path belongs to somebody else. It harms what needs that path, and nothing else."""


class Permanent(EdgeError):  # noqa: N818
    """Trying again cannot help: the other side understood and refused."""

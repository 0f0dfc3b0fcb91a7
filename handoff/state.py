"""The states of a job, and what may follow what. Pure: the diagram in docs/states.md is made from `TRANSITIONS`."""

from enum import StrEnum


class Status(StrEnum):
    """Public names: they stand in `status.json`, in the bucket and in every answer."""

    QUEUED = "queued"
    RUNNING = "running"
    SAVING = "saving"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"

    @property
    def done(self) -> bool:
        """Final: it never changes again."""
        return self in FINAL


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.REJECTED})


class Event(StrEnum):
    """What happened to a job."""

    SUBMITTED = "submitted"  # ComfyUI accepted the prompt
    LOST = "lost"  # ComfyUI no longer has it, or it is to be tried again: it waits for another attempt
    GENERATED = "generated"  # every output is verified and lies in output/<id>/
    MIRRORED = "mirrored"  # the bucket confirmed every object
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # waited longer than queue_timeout_s
    REJECTED = "rejected"  # accepted by an adapter, and then found to be no valid job


MEANING: dict[Status, str] = {
    Status.QUEUED: "accepted, not yet at ComfyUI",
    Status.RUNNING: "ComfyUI accepted the prompt",
    Status.SAVING: "generated; being verified and mirrored. Outputs are listed already; an outage of the bucket waits here, without a second GPU run",
    Status.SUCCEEDED: "every output is a whole file made by this job, and the bucket confirmed every object",
    Status.FAILED: "did not work: `error` says why, where, and what to do",
    Status.CANCELLED: "stopped on request",
    Status.EXPIRED: "waited longer than its `queue_timeout_s`",
    Status.REJECTED: "was accepted and then found to be no valid job",
}

TRANSITIONS: dict[tuple[Status, Event], Status] = {
    (Status.QUEUED, Event.SUBMITTED): Status.RUNNING,
    (Status.QUEUED, Event.LOST): Status.QUEUED,
    (Status.QUEUED, Event.FAILED): Status.FAILED,
    (Status.QUEUED, Event.CANCELLED): Status.CANCELLED,
    (Status.QUEUED, Event.EXPIRED): Status.EXPIRED,
    (Status.QUEUED, Event.REJECTED): Status.REJECTED,
    (Status.RUNNING, Event.LOST): Status.QUEUED,
    (Status.RUNNING, Event.GENERATED): Status.SAVING,
    (Status.RUNNING, Event.FAILED): Status.FAILED,
    (Status.RUNNING, Event.CANCELLED): Status.CANCELLED,
    (Status.SAVING, Event.MIRRORED): Status.SUCCEEDED,
    (Status.SAVING, Event.FAILED): Status.FAILED,
}


class IllegalTransition(Exception):  # noqa: N818 - a mistake of the program, not of a job
    """The event cannot happen in this state."""


def follow(status: Status, event: Event) -> Status:
    """The state after the event. Raises IllegalTransition; nothing ever follows a final state."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot follow {status}") from None


def diagram() -> str:
    """The transitions as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Status.QUEUED}"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    lines += [f"    {status} --> [*]" for status in Status if status.done]
    return "\n".join(lines)

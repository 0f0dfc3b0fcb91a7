"""What to do next with a job, given what is known of it. Pure: no I/O, no clock, no chance; tested as a table."""

from collections.abc import Collection
from dataclasses import dataclass

from handoff import state
from handoff.failures import Failure, Reason
from handoff.spool.record import Record, Try
from watcher.prompts import Prompt, PromptState

STRIKES = 3
ATTEMPTS = 10
REFUSALS = 2  # how often a 500 to the POST is tried again: usually it is the graph's fault
SHORT_S = 0.2  # jobs inside ComfyUI may be more than the window while they add up to less work than this
MOST_INSIDE = 32


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Look again later."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ask ComfyUI to cancel it, then look again: only a look-up tells what came of it."""


@dataclass(frozen=True, kw_only=True)
class Collect:
    """It succeeded at ComfyUI: verify what came out."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Another attempt, under a new number: `tried` tells how this one ended."""

    tried: Try
    warning: str
    free_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class End:
    event: state.Event
    failure: Failure


Decision = Wait | Stop | Collect | Again | End


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """`executed`: ComfyUI was seen to execute this attempt. `quiet`: a 404 counts, since no POST of it is under way."""

    cancelled: bool = False
    timed_out: bool = False
    executed: bool = False
    quiet: bool = True
    refused: bool = False


def decide(record: Record, prompt: Prompt | None, now: Circumstances, failure: Failure | None = None) -> Decision:
    """What follows from a look-up of the record's attempt. `failure`: why it failed, when it did."""
    if prompt is None:
        return _decide_absent(record, now)
    match prompt.state:
        case PromptState.WAITING | PromptState.RUNNING:
            return Stop() if now.cancelled or now.timed_out else Wait()
        case PromptState.SUCCEEDED:
            return Collect()  # success that was reached wins over a wish to cancel
        case PromptState.INTERRUPTED:
            return _decide_interrupted(record, now)
        case PromptState.FAILED:
            assert failure is not None
            return _decide_failed(record, now, failure)


def _decide_absent(record: Record, now: Circumstances) -> Decision:
    if not now.quiet:
        return Wait()
    if now.cancelled:
        return End(event=state.Event.CANCELLED, failure=Failure(Reason.CANCELLED, id=record.id))
    if now.timed_out:
        return End(event=state.Event.FAILED, failure=_timeout(record))
    if now.refused:
        if record.ended("comfyui_error") >= REFUSALS:
            return End(
                event=state.Event.FAILED, failure=Failure(Reason.COMFYUI_ERROR, problem="500 Internal Server Error")
            )
        return Again(tried=Try(attempt=record.attempt, ended="comfyui_error"), warning="resubmitted")
    # a job that only stood in the queue when ComfyUI went down is not to blame for it
    tried = Try(attempt=record.attempt, ended="lost", strike=now.executed)
    if record.strikes + tried.strike >= STRIKES or record.attempt >= ATTEMPTS:
        return End(
            event=state.Event.FAILED, failure=Failure(Reason.LOST, attempts=record.ended("lost") + 1, id=record.id)
        )
    return Again(tried=tried, warning="resubmitted")


def _decide_interrupted(record: Record, now: Circumstances) -> Decision:
    if now.cancelled:
        return End(event=state.Event.CANCELLED, failure=Failure(Reason.CANCELLED, id=record.id))
    if now.timed_out:
        return End(event=state.Event.FAILED, failure=_timeout(record))
    if record.ended("interrupted"):
        return End(event=state.Event.FAILED, failure=Failure(Reason.INTERRUPTED, id=record.id))
    return Again(tried=Try(attempt=record.attempt, ended="interrupted"), warning="interrupted")


def _decide_failed(record: Record, now: Circumstances, failure: Failure) -> Decision:
    if now.cancelled:
        return End(event=state.Event.CANCELLED, failure=Failure(Reason.CANCELLED, id=record.id))
    if failure.reason is Reason.OUT_OF_MEMORY and not record.ended("out_of_memory"):
        return Again(tried=Try(attempt=record.attempt, ended="out_of_memory"), warning="memory_freed", free_memory=True)
    return End(event=state.Event.FAILED, failure=failure)


def _timeout(record: Record) -> Failure:
    seconds = record.job.run_timeout_s if record.job else None
    return Failure(Reason.TIMEOUT, seconds=seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A job that ComfyUI has. `expected_s`: how long such jobs took lately; None where that is not known."""

    expected_s: float | None
    alone: bool


def may_send(inside: Collection[Inside], *, alone: bool, window: int) -> bool:
    """Whether one more job may go to ComfyUI.

    Few at a time, so that priorities, cancels and a restart cost little; more while they are so short that ComfyUI
    would run dry. A job under suspicion of killing ComfyUI (`alone`) has no neighbour that it could harm.
    """
    if not inside:
        return True
    if alone or any(job.alone for job in inside):
        return False
    if len(inside) < window:
        return True
    work = 0.0
    for job in inside:
        if job.expected_s is None:
            return False
        work += job.expected_s
    return work < SHORT_S and len(inside) < MOST_INSIDE


def poll_delay(elapsed_s: float) -> float:
    """Seconds until the next look-up: a tenth of the time it has taken, so that polling costs little and delays little."""
    return min(2.0, max(0.2, elapsed_s / 10))


def backoff(failures: int) -> float:
    """Seconds to wait for something that was unavailable this many times in a row."""
    return float(min(30.0, 0.5 * 2 ** min(failures, 10)))

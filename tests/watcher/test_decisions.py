"""What to do next, as a table: every state of a prompt in every circumstance that matters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.failures import Failure, Reason
from handoff.spool.record import Plan, Record, Try
from handoff.state import Event
from watcher.decisions import (
    ATTEMPTS,
    MOST_INSIDE,
    REFUSALS,
    SHORT_S,
    Again,
    Circumstances,
    End,
    Inside,
    backoff,
    decide,
    may_send,
    poll_delay,
)
from watcher.prompts import Prompt, PromptState

W, R, S, F, I = (  # noqa: E741 - the table stays narrow
    PromptState.WAITING, PromptState.RUNNING, PromptState.SUCCEEDED, PromptState.FAILED, PromptState.INTERRUPTED,
)  # fmt: skip
GONE = None
FAILED = Failure(Reason.NODE_ERROR, problem="x")
MEMORY = Failure(Reason.OUT_OF_MEMORY, problem="x")


def record(attempt: int = 1, *ends: str, strikes: int = 0) -> Record:
    tries = [Try(attempt=n + 1, ended=end, strike=n < strikes) for n, end in enumerate(ends)]
    return Record(
        token="0" * 16, id="cat", sha256="", received_at="2026-11-24T08:30:15.000Z", body={}, attempt=attempt, tries=tries,
        job=Plan(graph={}, run_timeout_s=9.0),
    )  # fmt: skip


def expect(decision: object) -> str:
    """A decision in one word, for the table."""
    match decision:
        case End(event=event, failure=failure):
            return f"{event} {failure.reason}"
        case Again(tried=tried, free_memory=free_memory):
            return f"again {tried.ended}" + (" strike" if tried.strike else "") + (" free" if free_memory else "")
    return type(decision).__name__.lower()


@pytest.mark.parametrize(
    ("before", "state", "now", "failure", "expected"),
    [
        # it is there
        (record(), W, {}, None, "wait"),
        (record(), R, {}, None, "wait"),
        (record(), W, {"cancelled": True}, None, "stop"),
        (record(), R, {"cancelled": True}, None, "stop"),
        (record(), R, {"timed_out": True}, None, "stop"),
        (record(), W, {"timed_out": True}, None, "stop"),
        # success that was reached wins
        (record(), S, {}, None, "collect"),
        (record(), S, {"cancelled": True}, None, "collect"),
        (record(), S, {"timed_out": True, "refused": True}, None, "collect"),
        # it failed
        (record(), F, {}, FAILED, "failed node_error"),
        (record(), F, {"timed_out": True}, FAILED, "failed node_error"),
        (record(), F, {"cancelled": True}, FAILED, "cancelled cancelled"),
        (record(), F, {}, MEMORY, "again out_of_memory free"),
        (record(2, "out_of_memory"), F, {}, MEMORY, "failed out_of_memory"),
        (record(), F, {"cancelled": True}, MEMORY, "cancelled cancelled"),
        # it was interrupted
        (record(), I, {}, None, "again interrupted"),
        (record(2, "interrupted"), I, {}, None, "failed interrupted"),
        (record(2, "lost"), I, {}, None, "again interrupted"),
        (record(), I, {"cancelled": True}, None, "cancelled cancelled"),
        (record(), I, {"timed_out": True}, None, "failed timeout"),
        (record(), I, {"timed_out": True, "cancelled": True}, None, "cancelled cancelled"),
        # it is not there
        (record(), GONE, {"quiet": False}, None, "wait"),
        (record(), GONE, {"quiet": False, "cancelled": True}, None, "wait"),
        (record(), GONE, {}, None, "again lost"),
        (record(), GONE, {"executed": True}, None, "again lost strike"),
        (record(), GONE, {"cancelled": True}, None, "cancelled cancelled"),
        (record(), GONE, {"timed_out": True}, None, "failed timeout"),
        (record(3, "lost", "lost", strikes=2), GONE, {}, None, "again lost"),
        (record(3, "lost", "lost", strikes=2), GONE, {"executed": True}, None, "failed lost"),
        (record(4, "lost", "lost", "lost", strikes=3), GONE, {}, None, "failed lost"),
        (record(ATTEMPTS - 1), GONE, {}, None, "again lost"),
        (record(ATTEMPTS), GONE, {}, None, "failed lost"),
        # it answered 500 to the POST
        (record(), GONE, {"refused": True}, None, "again comfyui_error"),
        (record(REFUSALS, *["comfyui_error"] * (REFUSALS - 1)), GONE, {"refused": True}, None, "again comfyui_error"),
        (record(3, *["comfyui_error"] * REFUSALS), GONE, {"refused": True}, None, "failed comfyui_error"),
        (record(), GONE, {"refused": True, "quiet": False}, None, "wait"),
        (record(), R, {"refused": True}, None, "wait"),
    ],
)  # fmt: skip
def test_what_follows(
    before: Record, state: PromptState | None, now: dict[str, bool], failure: Failure | None, expected: str
) -> None:
    prompt = None if state is None else Prompt(id="p", state=state, outputs={})
    assert expect(decide(before, prompt, Circumstances(**now), failure)) == expected


def test_an_end_tells_what_it_knows() -> None:
    lost = decide(record(3, "lost", "lost", strikes=2), None, Circumstances(executed=True))
    timed_out = decide(record(), None, Circumstances(timed_out=True))
    assert isinstance(lost, End)
    assert isinstance(timed_out, End)
    assert lost.failure.details["attempts"] == 3
    assert timed_out.failure.details == {"seconds": 9.0}


CIRCUMSTANCES: st.SearchStrategy[Circumstances] = st.builds(
    Circumstances, cancelled=..., timed_out=..., executed=..., quiet=st.just(True), refused=...
)


@given(
    st.lists(st.tuples(st.sampled_from([I, F, GONE]), CIRCUMSTANCES, st.sampled_from([FAILED, MEMORY])), max_size=30)
)
def test_no_job_is_tried_for_ever(story: list[tuple[PromptState | None, Circumstances, Failure]]) -> None:
    job = record()
    for state, now, failure in story:
        prompt = None if state is None else Prompt(id="p", state=state, outputs={})
        decision = decide(job, prompt, now, failure)
        if isinstance(decision, End):
            assert decision.event in (Event.FAILED, Event.CANCELLED)
            return
        assert isinstance(decision, Again)
        assert not now.cancelled, "no attempt is started while the mark lies there"
        assert decision.tried.attempt == job.attempt
        job = job.evolve(attempt=job.attempt + 1, tries=[*job.tries, decision.tried])
        assert job.attempt <= ATTEMPTS + REFUSALS + 2


def inside(*expected: float | None, alone: bool = False) -> list[Inside]:
    return [Inside(expected_s=seconds, alone=alone) for seconds in expected]


@pytest.mark.parametrize(
    ("present", "alone", "window", "expected"),
    [
        ([], False, 2, True),
        ([], True, 2, True),
        (inside(10.0), False, 2, True),
        (inside(10.0, 10.0), False, 2, False),
        (inside(None), False, 2, True),
        (inside(None, 0.01), False, 2, False),
        (inside(0.01, 0.01), False, 2, True),
        (inside(SHORT_S / 2, SHORT_S / 2), False, 2, False),
        (inside(SHORT_S), False, 1, False),
        (inside(SHORT_S * 0.9), False, 1, True),
        (inside(*[0.0] * (MOST_INSIDE - 1)), False, 2, True),
        (inside(*[0.0] * MOST_INSIDE), False, 2, False),
        (inside(10.0), True, 2, False),
        (inside(0.01), True, 2, False),
        (inside(0.01, alone=True), False, 9, False),
        (inside(10.0, 10.0), False, 3, True),
    ],
)
def test_may_one_more_go_to_comfyui(present: list[Inside], window: int, *, alone: bool, expected: bool) -> None:
    assert may_send(present, alone=alone, window=window) is expected


def test_asking_costs_a_tenth_of_the_time_at_most() -> None:
    assert [poll_delay(elapsed) for elapsed in (0.0, 1.0, 5.0, 20.0, 3600.0)] == [0.2, 0.2, 0.5, 2.0, 2.0]


def test_waiting_grows_and_ends_at_half_a_minute() -> None:
    delays = [backoff(failures) for failures in range(60)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays == sorted(delays)
    assert delays[-1] == backoff(10_000) == 30.0

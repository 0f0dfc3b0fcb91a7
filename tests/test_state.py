"""The state machine: what may follow what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.state import FINAL, MEANING, TRANSITIONS, Event, IllegalTransition, Status, diagram, follow

EVENTS = st.lists(st.sampled_from(Event), max_size=30)


def test_every_status_is_reachable() -> None:
    reached, new = set(), {Status.QUEUED}
    while new:
        reached |= new
        new = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
    assert reached == set(Status)


def test_from_every_status_a_final_one_is_reachable() -> None:
    for status in Status:
        seen = {status}
        for _ in Status:
            seen |= {after for (before, _), after in TRANSITIONS.items() if before in seen}
        assert seen & FINAL


def test_nothing_follows_a_final_status() -> None:
    assert Status.SUCCEEDED.done
    assert not Status.SAVING.done
    for status in FINAL:
        for event in Event:
            with pytest.raises(IllegalTransition, match=f"{event} cannot follow {status}"):
                follow(status, event)


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_success_that_was_reached_is_not_cancelled() -> None:
    assert (Status.SAVING, Event.CANCELLED) not in TRANSITIONS


@given(EVENTS)
def test_any_walk_ends_at_its_first_final_status(events: list[Event]) -> None:
    status = Status.QUEUED
    for event in events:
        before = status
        try:
            status = follow(before, event)
        except IllegalTransition:
            assert (before, event) not in TRANSITIONS
            assert status is before
            continue
        assert not before.done
        if status is Status.SUCCEEDED:
            assert before is Status.SAVING, "nothing succeeds that was not saved"


def test_the_diagram_shows_every_transition_and_end() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    assert lines[:2] == ["stateDiagram-v2", "[*] --> queued"]
    expected = {f"{before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()}
    expected |= {f"{status} --> [*]" for status in FINAL}
    assert set(lines[2:]) == expected


def test_every_status_is_explained() -> None:
    assert set(MEANING) == set(Status)
    assert all(MEANING.values())

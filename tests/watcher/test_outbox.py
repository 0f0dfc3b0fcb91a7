"""While the bucket is away one job at a time finds out whether it is back."""

from handoff.failures import Unavailable
from watcher.outbox import MOST, Outbox

AWAY = Unavailable("connection refused")


def test_while_all_is_well_everybody_may() -> None:
    outbox = Outbox()
    assert all(outbox.may_try(token, 0.0) for token in "abc")
    assert not outbox.report_success("a"), "it was not away"


def test_not_too_many_at_once_however_well_it_is() -> None:
    outbox = Outbox()
    tokens = [str(number) for number in range(MOST + 1)]
    assert [outbox.may_try(token, 0.0) for token in tokens] == [True] * MOST + [False]
    outbox.report_success(tokens[0])
    outbox.give_way(tokens[1])
    assert [outbox.may_try(token, 0.0) for token in ("x", "y", "z")] == [True, True, False]


def test_after_a_failure_one_tries_when_it_is_time() -> None:
    outbox = Outbox()
    delay = outbox.report_failure("a", AWAY, 100.0)
    assert outbox.trouble == "connection refused"
    assert delay == 1.0
    assert not outbox.may_try("a", 100.9)
    assert outbox.may_try("b", 101.0)
    assert outbox.may_try("b", 101.0), "whoever tries may go on"
    assert not outbox.may_try("a", 200.0)


def test_when_it_is_back_everybody_may_again() -> None:
    outbox = Outbox()
    outbox.report_failure("a", AWAY, 0.0)
    assert outbox.report_success("a")
    assert outbox.trouble is None
    assert all(outbox.may_try(token, 0.0) for token in "abc")
    assert not outbox.report_success("b")


def test_the_waits_grow_and_a_success_ends_that() -> None:
    outbox = Outbox()
    now, delays = 0.0, []
    for _ in range(10):
        delays.append(outbox.report_failure("a", AWAY, now))
        now += delays[-1]
        assert outbox.may_try("a", now)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
    outbox.report_success("a")
    assert outbox.report_failure("a", AWAY, now) == 1.0


def test_a_failure_of_one_that_was_not_asked_to_try_changes_no_wait() -> None:
    """Uploads that were under way when the bucket went away."""
    outbox = Outbox()
    outbox.report_failure("a", AWAY, 0.0)
    assert outbox.may_try("b", 1.0)
    assert outbox.report_failure("c", AWAY, 1.0) == 0.1
    assert outbox.may_try("b", 1.0), "b still tries"
    assert outbox.report_failure("b", AWAY, 1.0) == 2.0
    assert not outbox.may_try("c", 2.9)
    assert outbox.may_try("c", 3.0)

"""While the bucket is away one job at a time finds out whether it is back."""

from handoff.failures import Unavailable
from watcher.outbox import MOST, Outbox

AWAY = Unavailable("connection refused")


def test_while_all_is_well_everybody_may() -> None:
    outbox = Outbox()
    assert all(outbox.may_go(token, 0.0) for token in "abc")
    assert not outbox.report_success("a"), "it was not away"


def test_not_too_many_at_once_however_well_it_is() -> None:
    outbox = Outbox()
    tokens = [str(number) for number in range(MOST + 1)]
    assert [outbox.may_go(token, 0.0) for token in tokens] == [True] * MOST + [False]
    outbox.report_success(tokens[0])
    outbox.leave(tokens[1])
    assert [outbox.may_go(token, 0.0) for token in ("x", "y", "z")] == [True, True, False]


def test_after_a_failure_one_tries_when_it_is_time() -> None:
    outbox = Outbox()
    delay = outbox.report_failure("a", AWAY, 100.0)
    assert outbox.trouble == "connection refused"
    assert delay == 1.0
    assert not outbox.may_go("a", 100.9)
    assert outbox.may_go("b", 101.0)
    assert outbox.may_go("b", 101.0), "whoever tries may go on"
    assert not outbox.may_go("a", 200.0)


def test_when_it_is_back_everybody_may_again() -> None:
    outbox = Outbox()
    outbox.report_failure("a", AWAY, 0.0)
    assert outbox.report_success("a")
    assert outbox.trouble is None
    assert all(outbox.may_go(token, 0.0) for token in "abc")
    assert not outbox.report_success("b")


def test_the_waits_grow_and_a_success_ends_that() -> None:
    outbox = Outbox()
    now, delays = 0.0, []
    for _ in range(10):
        delays.append(outbox.report_failure("a", AWAY, now))
        now += delays[-1]
        assert outbox.may_go("a", now)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
    outbox.report_success("a")
    assert outbox.report_failure("a", AWAY, now) == 1.0


def test_a_failure_of_one_that_was_not_asked_to_try_changes_no_wait() -> None:
    """Uploads that were under way when the bucket went away."""
    outbox = Outbox()
    outbox.report_failure("a", AWAY, 0.0)
    assert outbox.may_go("b", 1.0)
    assert outbox.report_failure("c", AWAY, 1.0) == 0.1
    assert outbox.may_go("b", 1.0), "b still tries"
    assert outbox.report_failure("b", AWAY, 1.0) == 2.0
    assert not outbox.may_go("c", 2.9)
    assert outbox.may_go("c", 3.0)


def test_what_may_not_go_is_away_and_called_back_in_its_order() -> None:
    outbox = Outbox()
    outbox.report_failure("a", AWAY, 0.0)
    assert not outbox.may_go("b", 0.5)
    assert len(outbox) == 2
    assert outbox.call_back(0.5) is None
    assert outbox.call_back(1.0) == "a"
    assert outbox.call_back(1.0) is None, "one at a time"
    assert outbox.may_go("a", 1.0)
    outbox.report_success("a")
    assert outbox.call_back(1.0) == "b"
    assert outbox.call_back(1.0) is None
    assert len(outbox) == 1


def test_one_that_is_read_again_is_nobody_elses() -> None:
    """Not until it asks as a live job, also when the bucket goes away meanwhile."""
    outbox = Outbox()
    outbox.put_away("a")
    outbox.put_away("b")
    assert outbox.call_back(0.0) == "a"
    assert "a" in outbox
    assert outbox.may_go("c", 0.0)
    outbox.report_failure("c", AWAY, 0.0)
    assert "a" in outbox
    assert not outbox.may_go("a", 0.5)
    assert list("abc") == [token for token in "abc" if token in outbox]
    assert [outbox.call_back(2.0), outbox.may_go("b", 2.0), "b" in outbox] == ["b", True, False]

"""Histories that once broke a promise, as short as they could be made."""

import os
from typing import Any

import pytest

from handoff.failures import NotPermitted
from handoff.spool.journal import Journal
from tests.conftest import SOAK
from tests.histories.installation import Installation, graph
from tests.histories.world import URLS


def test_a_takeover_on_a_full_disk_leaves_no_drop_behind() -> None:
    """The one that freezes has claimed a drop. All that the other one inherits it can move, and nothing of it flush."""
    here = Installation()
    try:
        here.begin(1)
        here.world.start(URLS[1])
        here.work_on(4.0)
        heir, frozen = here.world.watchers
        heir.frozen = True
        here.drop({"graph": graph(1, 0.0)})
        frozen.arm(1, "link", freeze=True)
        here.work_on(4.0)
        assert frozen.frozen
        heir.frozen = False
        here.the_disk_fills_or_empties()
        here.work_on(45.0)
        here.the_disk_fills_or_empties()
        here.work_on(45.0)
    finally:
        here.teardown()


@pytest.mark.parametrize("call", range(1, 141, 1 if SOAK else 4))
def test_killed_at_a_call_that_ends_a_job_its_heir_flushes_before_it_tells(call: int) -> None:
    """Also a decision that was renamed and not flushed, and what was begun and is over before the heir comes to it."""
    here = Installation()
    try:
        here.begin(1)
        here.work_on(4.0)
        here.drop({"graph": graph(1, 0.0)})
        here.publish("cow", {"graph": graph(2, 0.0)})
        here.cancel("cow")
        here.world.watchers[0].arm(call)
        here.work_on(4.0)
        here.world.start(URLS[0])
        here.work_on(4.0)
    finally:
        here.teardown()


def test_a_job_that_may_not_be_claimed_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name in the inbox belongs to another user, until somebody mends that."""
    here = Installation()
    claim = Journal.claim
    mended = False

    def claim_or_fail(self: Journal, name: str, token: str, **known: Any) -> Any:
        if token == here.holder("foreign").token and not mended:
            raise NotPermitted("may not be moved")
        return claim(self, name, token, **known)

    try:
        here.begin(1)
        here.work_on(4.0)
        monkeypatch.setattr(Journal, "claim", claim_or_fail)
        here.publish("foreign", {"graph": graph(1, 0.0)})
        here.publish("ours", {"graph": graph(2, 0.0)})
        here.work_on(4.0)
        assert here.world.ends.keys() == {"ours"}
        mended = True
    finally:
        here.teardown()
        assert here.world.ends.keys() == {"ours", "foreign"}


@pytest.mark.parametrize("claimed", [False, True])
def test_of_jobs_that_waited_too_long_none_is_drawn(claimed: bool) -> None:
    """Whether nobody was there, or one that was killed before it journalled the first."""
    here = Installation()
    try:
        here.begin(1)
        here.work_on(4.0)
        if not claimed:
            here.terminate(0)
            here.work_on(4.0)
        for number in range(12):
            here.publish(f"late-{number}", {"graph": graph(number, 0.0), "queue_timeout_s": 20})
        if claimed:
            here.kill((1, "fsync"), 0)
        assert (len(os.listdir(here.world.folders.inbox)) < 12) == claimed
        here.world.clock.now += 3600.0
        here.start()
        here.work_on(4.0)
        assert {end["status"] for end in here.world.ends.values()} == {"expired"}
        assert len(here.world.ends) == 12
    finally:
        here.teardown()

"""kill -9 of the watcher at every call with which it changes a file, from its start to its end.

The points are counted, not guessed: a life of the house runs under `tracer.py`, which writes down each call. Then every
one of them is met twice, before it is done and after. Two kinds of life: the watcher comes to a house that is in order,
and it comes after one that was killed while it took a job in, so that the calls of a takeover are among the points.
"""

import contextlib
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import SOAK
from tests.crash.life import House, check_nothing_is_left
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.servers.watcher import Watcher, start_watcher

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows the calls of x86-64 only")

TRACER = Path(__file__).with_name("tracer.py")
SETTINGS: dict[str, Any] = {"settle_s": 0.3, "scan_s": 0.5, "watcher_name": "one"}
SHARES = 16
"""Tests into which the points are dealt, so that several processors can work on them."""
TRIES = 3  # how often a life is lived in which the call does not come


@dataclass(frozen=True)
class Case:
    moment: Literal["entry", "exit"]
    point: str
    after: "Case | None" = None
    """Where the watcher before this one was killed."""
    in_new_house: bool = False
    """Some calls are done but once: the very first ones in the folders and in the bucket."""

    def keywords(self, root: Path, log: str = "/dev/null") -> dict[str, Any]:
        return {"wrap": (sys.executable, "-S", str(TRACER), str(root), log, self.moment, self.point)}


NOWHERE = Case("entry", "")
SPOOL = "input/.handoff"
TAKING_IN = Case("entry", f"linkat {SPOOL}/w-*/b-* {SPOOL}/ids/gone-# #1")
"""Leaves claims, a job that has no reservation yet, and a journalled one."""

SAMPLE = [
    Case("exit", f"rename {SPOOL}/w-*/t-* {SPOOL}/w-*/r-* #1"),  # journalled, not yet sent
    Case("exit", f"link {SPOOL}/w-*/t-* input/rejected/bad-#.json.reason.json #1"),
    Case("entry", "rename output/.handoff/w-*/*-status.json output/sent-#/status.json #3"),  # the decision
    Case("exit", "renameat bucket/.unfinished/* bucket/jobs/gone-#/status.json #1"),  # not yet filed
    Case("exit", f"rename {SPOOL}/w-* {SPOOL}/w-*/from-* #1", after=TAKING_IN),
]


@contextlib.contextmanager
def open_house(module: str = "handoff_cli") -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(make_root())
        volume = Volume.make(root / "volume")
        simulator = stack.enter_context(run_simulator(volume))

        def start(**settings: Any) -> Watcher:
            chosen = {**SETTINGS, "module": module, **settings}
            return stack.enter_context(start_watcher(volume.root, simulator.url, **chosen))

        yield House(volume, simulator, start)


def count_points(house: House, after: Case | None = None) -> list[str]:
    """Every call of a whole life that changes a file."""
    root = house.volume.root
    log = root / "trace.log"
    log.unlink(missing_ok=True)
    before = [after.keywords(root)] if after else []
    killed = house.live(*before, NOWHERE.keywords(root, str(log)))
    assert killed == [True] * len(before) + [False]
    return [line for line in log.read_text().splitlines() if "watcher-#.log" not in line]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if not SOAK:
        return SAMPLE
    with open_house() as house:
        first, later = count_points(house), count_points(house)
        takeover = count_points(house, after=TAKING_IN)
    points = dict.fromkeys(first + later)
    alone = [(point, None, point not in later) for point in points]
    heirs = [(point, TAKING_IN, False) for point in takeover if point not in points]
    return [
        Case(moment, point, after, in_new_house)
        for point, after, in_new_house in alone + heirs
        for moment in ("entry", "exit")
    ]


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("share", range(SHARES if SOAK else 1))
def test_killed_at_every_call_that_changes_a_file(cases: list[Case], share: int, note: Note) -> None:
    mine = cases[share::SHARES] if SOAK else cases
    with open_house() as house:
        missed = {case for case in mine if not any(meet(house, case) for _ in range(TRIES))}
        check_nothing_is_left(house.volume, house.start)
        note(points=len(mine), kills=len(mine) - len(missed), not_met=len(missed), **house.count())
    assert len(missed) <= len(mine) // 20, missed


def meet(house: House, case: Case) -> bool:
    """Whether the call came in this run: how often the bucket's progress is written depends on the moment."""
    if case.in_new_house:
        with open_house() as new:
            return meet(new, replace(case, in_new_house=False))
    root = house.volume.root
    before = [case.after.keywords(root)] if case.after else []
    try:
        *came_so_far, was_killed = house.live(*before, case.keywords(root))
    except Exception as error:
        error.add_note(f"killed at {case}")
        raise
    assert all(came_so_far)
    return was_killed


@pytest.mark.skipif(not SOAK, reason="a control")
@pytest.mark.parametrize(
    ("fault", "case", "noticed"),
    [
        (
            "journal_after_the_post",
            Case("entry", f"rename {SPOOL}/w-*/t-* {SPOOL}/w-*/r-* #1"),
            "one attempt was executed more than once",
        ),
        (
            "claim_removed_before_it_is_out",
            Case("entry", f"rename {SPOOL}/w-*/t-* {SPOOL}/w-*/b-* #1"),
            "not within 60.0 s: its heir is done",
        ),
    ],
)
def test_a_mistake_is_noticed(fault: str, case: Case, noticed: str) -> None:
    with open_house(f"tests.planted {fault}") as house, pytest.raises(AssertionError, match=noticed):
        meet(house, case)

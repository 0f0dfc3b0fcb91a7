"""The disk refuses calls: each with which a watcher changes a file, from its start to its end, once and for a while.

The points are counted, not guessed: a life of the house runs under `refuser.py`, which writes down every call. Then each
of them is refused, with each error that a disk in such trouble gives. The jobs must end as if nothing had been, by
the same watcher, which says what is wrong.
"""

import contextlib
import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SOAK
from tests.crash.life import House
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.promises import BUGS
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.machine.refuser import FLUSHING, meets
from tests.servers.watcher import Watcher, start_watcher

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows the calls of x86-64 only")

SETTINGS: dict[str, Any] = {"settle_s": 0.3, "scan_s": 0.5, "watcher_name": "one"}
SPOOL = "input/.handoff"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)
A_WHILE = 12  # refused calls, each of which is tried again or followed by others
SHARES = 8


@dataclass(frozen=True)
class Case:
    error: int
    point: str
    count: int = 1

    def __str__(self) -> str:
        return f"{errno.errorcode[self.error]} x {self.count} at {self.point}"


NOWHERE = Case(errno.ENOSPC, "", 0)
SAMPLE = [
    Case(errno.ENOSPC, f"openat {SPOOL}/w-*/t-* #1", A_WHILE),
    Case(errno.EIO, "fsync output/.handoff/w-*/*-status.json #1"),
    Case(errno.EROFS, "rename output/.handoff/w-*/*-status.json output/sent-#/status.json #2", A_WHILE),
    Case(errno.EACCES, "linkat output/.handoff/work/*-#/canvas_#_.png output/.handoff/w-*/*-good-#-@.png #1"),
]


@dataclass
class Refused:
    house: House
    watchers: list[Watcher] = field(default_factory=list)

    def keywords(self, case: Case) -> dict[str, Any]:
        root = self.house.volume.root
        command = (sys.executable, "-S", "-m", "tests.machine.refuser")
        self.log.unlink(missing_ok=True)
        return {"wrap": (*command, str(root), str(self.log), str(case.error), case.point, str(case.count))}

    @property
    def log(self) -> Path:
        return self.house.volume.root / "calls.log"

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def open_house() -> Iterator[Refused]:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(make_root())
        volume = Volume.make(root / "volume")
        simulator = stack.enter_context(run_simulator(volume))

        def start(**settings: Any) -> Watcher:
            watcher = stack.enter_context(start_watcher(volume.root, simulator.url, **SETTINGS, **settings))
            refused.watchers.append(watcher)
            return watcher

        refused = Refused(House(volume, simulator, start))
        yield refused


def count_points(refused: Refused) -> list[str]:
    """Every call of a whole life that changes a file, the first of them in a new house."""
    assert refused.house.live(refused.keywords(NOWHERE)) == [False]
    return [call["point"] for call in refused.calls()]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if not SOAK:
        return SAMPLE
    with open_house() as refused:
        points = dict.fromkeys(count_points(refused) + count_points(refused))
    return [
        Case(error, point, count)
        for point in points
        for error in ERRORS
        if meets(point.partition(" ")[0], error)
        for count in ((1, A_WHILE) if error == errno.ENOSPC else (1,))
    ]


@pytest.mark.timeout(4 * 3600 if SOAK else 240)
@pytest.mark.parametrize("share", range(SHARES if SOAK else 1))
def test_any_call_may_be_refused(cases: list[Case], share: int, note: Note) -> None:
    mine = cases[share::SHARES] if SOAK else cases
    with open_house() as refused:
        counts = [meet(refused, case) or meet(refused, case) for case in mine]
        missed = {case for case, count in zip(mine, counts, strict=True) if not count}
        note(points=len(mine), refused=sum(counts), not_met=len(missed), **refused.house.count())
    assert len(missed) <= len(mine) // 20, sorted(map(str, missed))


def meet(refused: Refused, case: Case) -> int:
    """How many calls were refused. None where the point did not come: progress is written as the moment wants it."""
    try:
        (died,) = refused.house.live(refused.keywords(case))
        victim = refused.watchers[-2]
        assert not died or not victim.find("watching"), "it did not go on by itself"
        assert [line for line in victim.log if line["event"] in BUGS] == []
        assert "Traceback" not in victim.text
        calls = refused.calls()
        count = sum(bool(call["refused"]) for call in calls)
        courtesy = any(part in case.point for part in ("bucket/", "/x-", "/feed"))  # nothing comes of it
        if count and case.error != errno.EACCES and not courtesy:
            said = json.dumps(victim.log) + victim.text
            assert os.strerror(case.error) in said, "it did not say what is wrong"
        check_nothing_is_flushed_again(calls)
    except Exception as error:
        error.add_note(str(case))
        raise
    return count


def check_nothing_is_flushed_again(calls: list[dict[str, Any]]) -> None:
    """A second fsync of what failed to reach the disk succeeds, and means nothing: the file has to be written again."""
    failed = set[str]()
    for call in calls:
        kind, path = call["point"].partition(" ")[0], call["path"]
        is_own = os.path.basename(path).startswith("t-") or path.endswith((".json", "/unfinished"))
        if kind == "openat":
            failed.discard(path)
        elif kind in FLUSHING and is_own:
            assert path not in failed, path
            if call["refused"]:
                failed.add(path)

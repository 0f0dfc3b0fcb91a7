"""From hints and scans to jobs: with a real spool, a real loop, and a planner that does as it is told."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from handoff.failures import DiskUnavailable, Failure, Reason, Unavailable
from handoff.folders import Folders
from handoff.settings import WatcherSettings
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Seat
from handoff.spool.takeover import take_over
from watcher import decisions
from watcher import reception as module
from watcher.disk import Disk
from watcher.intake import Later
from watcher.loop import Loop
from watcher.planning import MustFetch
from watcher.reception import Listener, Reception
from watcher.waiting import Waiting


class Planner:
    """`errors`: what a job of this name meets, each time anew."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.tries: list[tuple[str, float]] = []

    def plan(self, job: Any, *, may_fetch: bool) -> Plan:
        name = job.metadata.get("name", "")
        self.tries.append((name, time.monotonic()))
        error = self.errors.get(name)
        if isinstance(error, MustFetch | Unavailable) and not may_fetch:
            raise MustFetch
        if error is not None:
            raise error
        return Plan(graph={})


@dataclass
class Desk:
    folders: Folders
    seat: Seat
    loop: Loop
    planner: Planner = field(default_factory=Planner)
    waiting: Waiting = field(default_factory=Waiting)
    taken: list[Record] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    reception: Reception = field(init=False)
    disk: Disk = field(init=False)

    def drop(self, name: str) -> None:
        Path(self.folders.input, f"{name}.json").write_text(f'{{"prompt": "x", "metadata": {{"name": "{name}"}}}}')

    def turn_until(self, done: Callable[[], bool], seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            self.loop.after(0.02, lambda: None)
            self.loop.turn()

    @property
    def rejected(self) -> set[str]:
        return set(os.listdir(self.folders.rejected))

    @property
    def names(self) -> list[str | None]:
        return [record.source for record in self.taken]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    folders = Folders(str(tmp_path / "input"), str(tmp_path / "output"))
    folders.make()
    monkeypatch.setattr(decisions, "backoff", lambda _: 0.02)
    monkeypatch.setattr(module, "LATER_S", 0.05)
    loop = Loop(intake=1, fetch=2, files=1)
    desk = Desk(folders, Seat(folders, "test"), loop)
    desk.disk = Disk(loop, desk.seat, lambda: desk.reception.scan())  # noqa: PLW0108 - made below
    listener = Listener(on_taken=desk.taken.append, on_names=lambda _: None, on_cancel_mark=desk.marks.append)
    settings = WatcherSettings(input_dir=Path(folders.input), output_dir=Path(folders.output), watch="polling")
    desk.reception = Reception(
        loop,
        desk.seat,
        settings,
        desk.planner,  # type: ignore[arg-type]
        desk.disk,
        desk.waiting,
        listener,
    )
    yield desk
    desk.reception.close()
    loop.close(by=time.monotonic() + 5)
    desk.seat.leave()


def test_a_job_that_nobody_foresaw_is_rejected_and_holds_up_no_other(desk: Desk) -> None:
    desk.planner.errors["odd"] = ValueError("see http://user:secret@host/x?sig=1")
    for age, name in enumerate(["good", "odd"]):
        desk.drop(name)
        os.utime(f"{desk.folders.input}/{name}.json", (1000 - age, 1000 - age))
    with capture_logs() as logs:
        desk.reception.start()
        desk.turn_until(lambda: "odd.json" in desk.rejected and not desk.reception._bugs and bool(desk.taken))
    assert desk.names == ["good.json"]
    assert [name for name, _ in desk.planner.tries].count("odd") == module.BUGS
    said = Path(desk.folders.rejected, "odd.json.reason.json").read_text()
    assert "internal_error" in said
    assert "secret" not in said
    assert [line["file"] for line in logs if line["event"] == "bug"] == ["odd.json"]


def test_what_cannot_be_fetched_now_is_not_asked_for_all_the_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILED_S", 0.4)
    desk.planner.errors["far"] = Unavailable("the bucket is away")
    desk.drop("far")
    with capture_logs() as logs:
        desk.reception.start()
        desk.turn_until(lambda: len(desk.planner.tries) >= 4)  # by turns where fetching is not done, and where it is
    assert desk.planner.tries[2][1] - desk.planner.tries[1][1] >= 0.4
    assert [line["why"] for line in logs if line["event"] == "later"] == ["the bucket is away"], "named once"
    desk.planner.errors.clear()
    desk.turn_until(lambda: bool(desk.taken))


def test_claims_wait_while_the_disk_is_full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.disk.PROBE_S", 0.5)
    monkeypatch.setattr(desk.planner, "plan", _once_full(desk))
    desk.drop("a")
    desk.reception.start()
    desk.turn_until(lambda: desk.disk.trouble is not None)
    desk.turn_until(lambda: bool(desk.taken))
    assert len(desk.planner.tries) == 2
    assert desk.planner.tries[1][1] - desk.planner.tries[0][1] >= 0.5


def _once_full(desk: Desk) -> Callable[..., Plan]:
    def plan(*_: object, **__: object) -> Plan:
        desk.planner.tries.append(("a", time.monotonic()))
        if len(desk.planner.tries) == 1:
            raise DiskUnavailable("no space")
        return Plan(graph={})

    return plan


def test_a_claim_of_a_dead_watcher_is_gone_on_with(desk: Desk) -> None:
    other = Seat(desk.folders, "other")
    Path(other.path, "c-20261124T083015123456-00112233445566ff~a.json").write_text('{"prompt": "x"}')
    left = Record(token="a" * 16, id="left", sha256="", received_at="2026-11-24T08:00:00Z", body={}, job=Plan(graph={}))
    Path(other.path, f"b-{left.token}").write_bytes(left.to_bytes())
    take_over(desk.seat, other.wid)
    other.leave()
    desk.reception.start()
    desk.turn_until(lambda: len(desk.taken) == 2)
    assert {record.id for record in desk.taken} > {"left"}
    assert len(desk.waiting) == 2
    assert len(os.listdir(desk.folders.inbox)) == 2


def test_one_scan_tells_of_so_many_cancel_marks_and_of_all_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARKS", 5)
    for number in range(12):
        Path(desk.folders.cancel_mark(f"cat-{number}")).touch()
    desk.reception.scan()
    assert len(desk.marks) == len(set(desk.marks)) == 5
    for _ in range(100):
        desk.reception.scan()
    assert len(set(desk.marks)) == 12


def test_a_claim_that_came_back_twice_is_taken_up_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover may find it claimed while the look that claimed it is still under way."""
    monkeypatch.setattr(module, "FAILED_S", 60.0)
    desk.planner.errors["far"] = Unavailable("the bucket is away")
    desk.drop("far")
    claim = desk.reception._drops.claim("far.json")
    assert claim is not None
    outcome = Later(claim=claim, why="a picture is missing")
    for delay in (0.0, 0.02, 0.04):
        desk.loop.after(delay, lambda: desk.reception._take_outcome(outcome))
    end = time.monotonic() + 0.3
    desk.turn_until(lambda: time.monotonic() > end and len(desk.planner.tries) > 1)
    assert len(desk.planner.tries) == 2, "once where nothing is fetched, and once where it is"


def test_a_file_that_cannot_be_moved_is_no_sign_that_events_are_missing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if source.endswith("theirs.json"):
            raise PermissionError(1, "Operation not permitted", source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    desk.reception._settings = desk.reception._settings.model_copy(update={"watch": "auto"})
    desk.drop("theirs")
    for _ in range(2 * module.UNANNOUNCED_SCANS):
        desk.reception.scan()
        desk.turn_until(lambda: not desk.reception.busy)
    assert desk.reception.mode == "events"
    assert desk.taken == []


def test_strangers_are_named_once_and_forgotten_when_they_go(desk: Desk) -> None:
    stranger = Path(desk.folders.input, "notes.md")
    stranger.touch()
    with capture_logs() as logs:
        for _ in range(3):
            desk.reception.scan()
    assert [line["file"] for line in logs if line["event"] == "stranger"] == ["notes.md"]
    stranger.unlink()
    desk.reception.scan()
    assert desk.reception._strangers == set()


def test_a_mark_can_be_rejected(desk: Desk) -> None:
    Path(desk.folders.cancel_mark("cat")).touch()
    desk.reception.reject("cat.cancel", Failure(Reason.UNKNOWN_ID, id="cat"))
    desk.turn_until(lambda: "cat.cancel" in desk.rejected)
    assert not os.path.lexists(desk.folders.cancel_mark("cat"))


def test_nothing_of_a_takeover_that_is_not_finished_is_gone_on_with(desk: Desk) -> None:
    """Its `b-` may still lie in the other folder while the claim is here: the job would be made twice."""
    desk.drop("far")
    assert desk.reception._drops.claim("far.json") is not None
    unfinished = Path(desk.seat.path, f"from-{'0' * 16}")
    unfinished.mkdir()
    desk.reception.start()
    desk.drop("near")
    desk.reception.scan()
    desk.turn_until(lambda: bool(desk.taken))
    assert desk.names == ["near.json"]
    unfinished.rmdir()
    desk.reception.resume_claims()
    desk.turn_until(lambda: len(desk.taken) == 2)
    assert desk.names == ["near.json", "far.json"]

"""The jobs that wait: with a real spool, a loop that the test turns, and as much of a worker as a line needs."""

import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from handoff import timestamps
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.job import inbox_name
from handoff.spool.journal import Journal
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.state import Event
from tests.watcher.stepping import SteppingLoop
from watcher import line as module
from watcher.disk import Disk
from watcher.line import AGAIN_S, LOOK_AGAIN, Line
from watcher.live import Jobs, Live, Phase
from watcher.tasks import Tasks
from watcher.waiting import Waiting


class Scene:
    """`move` is what a worker does at each turn while ComfyUI has room for everybody."""

    def __init__(self, root: Path) -> None:
        self.folders = Folders(input=f"{root}/input", output=f"{root}/output")
        for folder in (self.folders.input, self.folders.output):
            os.makedirs(folder)
        self.folders.make()
        self.seat = Seat(self.folders, "here")
        self.journal = Journal(self.seat)
        self.loop = SteppingLoop()
        self.jobs = Jobs()
        self.waiting = Waiting()
        self.run: list[str] = []
        self.ended: dict[str, Failure] = {}
        self.salvaged: list[str] = []
        self.disk = Disk(self.loop, self.seat, lambda: None)
        courier: Any = SimpleNamespace(tell=lambda _: None)
        self.line = Line(
            self.loop,
            Tasks(self.loop, self.advance, self.failed),
            self.jobs,
            self.waiting,
            self.folders,
            self.journal,
            self.disk,
            courier,
            end=self.end,
            forget=self.forget,
            salvage=self.salvaged.append,
        )

    def advance(self, live: Live) -> None:
        if live.phase in (Phase.PLAN, Phase.READY) and not self.line.ends(live):
            live.phase = Phase.SENT
            self.run.append(live.id)

    def failed(self, _: Live, error: BaseException) -> None:
        raise error

    def end(self, live: Live, event: Event, failure: Failure) -> None:
        assert event is Event.EXPIRED
        live.phase = Phase.CONCLUDE
        self.ended[live.id] = failure

    def forget(self, live: Live) -> None:
        self.jobs.remove(live)
        self.line.leave(live)

    def put(self, *ids: str, age_s: float = 0.0, **body: Any) -> None:
        """Into the inbox, in this order, and the watcher hears of it."""
        received = timestamps.now() - timedelta(seconds=age_s)
        names = []
        for id in ids:
            received += timedelta(milliseconds=1)
            token = os.urandom(8).hex()
            record = Record(token=token, id=id, sha256="", received_at=timestamps.to_text(received), body=body)
            names.append(inbox_name(record.rank, token))
            Path(self.folders.inbox, names[-1]).write_bytes(record.to_bytes())
            self.waiting.add(names[-1])
        self.line.meet_names(names)

    def move(self) -> None:
        self.line.end_late()
        while (live := self.line.claim_next()) is not None:
            self.advance(live)

    def turn(self, seconds: float = 0.0) -> None:
        self.loop.pass_time(seconds)
        self.move()
        while not self.loop._messages.empty():
            self.loop._messages.get_nowait()()
            self.move()

    def sweep(self) -> None:
        self.line.sweep()
        self.turn()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.seat.leave()


class Trouble:
    """Names in the inbox that may not be moved out of it, or into it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[str, int] = {}
        self.tries = 0
        rename = os.rename

        def rename_or_fail(source: Any, target: Any, **folders: Any) -> None:
            for name, number in self.of.items():
                if name in (os.path.basename(str(source)), os.path.basename(str(target))) or name == "*":
                    self.tries += 1
                    raise OSError(number, os.strerror(number), str(source))
            rename(source, target, **folders)

        monkeypatch.setattr(os, "rename", rename_or_fail)


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOTDIR])
def test_one_that_may_not_be_moved_holds_up_no_other_and_is_tried_again_at_each_sweep(
    scene: Scene, trouble: Trouble, number: int
) -> None:
    scene.put("foreign", "mine", "mine-too")
    (name, *_) = sorted(os.listdir(scene.folders.inbox))
    trouble.of[name] = number
    with capture_logs() as logs:
        scene.turn()
        assert scene.run == ["mine", "mine-too"]
        for _ in range(3):
            scene.turn(1)
        assert trouble.tries == 1
        scene.sweep()
        assert trouble.tries == 2
    assert [line["file"] for line in logs if line["event"] == "left_alone"] == [name]
    trouble.of.clear()
    scene.sweep()
    assert scene.run == ["mine", "mine-too", "foreign"]


def test_an_inbox_that_may_not_be_written_costs_one_try_of_each_and_one_line_of_the_log(
    scene: Scene, trouble: Trouble
) -> None:
    ids = [f"job-{number}" for number in range(20)]
    scene.put(*ids)
    trouble.of["*"] = errno.EACCES
    with capture_logs() as logs:
        for _ in range(3):
            scene.turn(1)
        assert trouble.tries == len(ids)
        scene.sweep()
    assert [line["event"] for line in logs] == ["left_alone"]
    trouble.of.clear()
    scene.sweep()
    assert scene.run == ids


def test_a_claim_on_a_full_disk_is_told_of_and_the_job_keeps_its_place(scene: Scene, trouble: Trouble) -> None:
    scene.put("first", "second")
    trouble.of["*"] = errno.ENOSPC
    assert scene.line.claim_next() is None
    assert scene.disk.trouble is not None
    trouble.of.clear()
    scene.turn()
    assert scene.run == ["first", "second"]


def test_what_another_watcher_took_is_passed_over_at_once(scene: Scene) -> None:
    scene.put("theirs", "theirs-too", "mine")
    for name in sorted(os.listdir(scene.folders.inbox))[:2]:
        os.unlink(f"{scene.folders.inbox}/{name}")
    scene.turn()
    assert scene.run == ["mine"]
    assert len(scene.line) == 0


def test_a_damaged_record_is_salvaged_and_holds_up_nobody(scene: Scene) -> None:
    scene.put("damaged", "whole")
    (name, *_) = sorted(os.listdir(scene.folders.inbox))
    Path(scene.folders.inbox, name).write_bytes(b"{")
    scene.turn()
    assert scene.run == ["whole"]
    assert scene.salvaged == [name.removesuffix(".json").rsplit("-", 1)[1]]


def test_one_of_a_newer_version_waits_for_a_newer_watcher_and_holds_up_nobody(scene: Scene) -> None:
    scene.put("newer", "ours")
    (name, *_) = sorted(os.listdir(scene.folders.inbox))
    path = Path(scene.folders.inbox, name)
    path.write_bytes(path.read_bytes().replace(b'"schema":1', b'"schema":99'))
    with capture_logs() as logs:
        scene.turn()
        scene.sweep()
    assert scene.run == ["ours"]
    assert scene.salvaged == []
    assert os.listdir(scene.folders.inbox) == [name]
    assert [line["file"] for line in logs if line["event"] == "left_alone"] == [name]


def test_a_second_file_of_a_live_job_does_not_replace_its_record(scene: Scene) -> None:
    scene.put("twice")
    (name,) = os.listdir(scene.folders.inbox)
    data = Path(scene.folders.inbox, name).read_bytes()
    scene.turn()
    (live,) = scene.jobs
    Path(scene.seat.record_path(live.token)).write_bytes(b"journalled")
    Path(scene.folders.inbox, name).write_bytes(data)
    scene.waiting.add(name)
    scene.turn()
    assert Path(scene.seat.record_path(live.token)).read_bytes() == b"journalled"


@pytest.mark.parametrize("deadlines_are_known", [True, False])
def test_none_of_many_that_waited_too_long_is_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, deadlines_are_known: bool
) -> None:
    monkeypatch.setattr(module, "ENDING", 4)
    monkeypatch.setattr(module, "BATCH", 3)
    late = [f"late-{number}" for number in range(20)]
    scene.put(*late, age_s=5, queue_timeout_s=1)
    scene.put("patient", age_s=5, queue_timeout_s=60)
    if deadlines_are_known:
        scene.loop.work()
    for _ in range(10):
        scene.move()
        assert len(scene.jobs) <= 4 + 1, "a flood may not be in memory whole"
        for live in scene.jobs:
            if live.id in scene.ended:
                scene.forget(live)
    assert scene.ended.keys() == set(late)
    assert {failure.reason for failure in scene.ended.values()} == {Reason.QUEUE_TIMEOUT}
    assert scene.run == ["patient"]


def test_the_late_are_ended_while_nothing_is_claimed_to_be_run(scene: Scene) -> None:
    scene.put("late", age_s=5, queue_timeout_s=1)
    scene.put("soon", queue_timeout_s=0.05)
    scene.put("patient")
    scene.loop.work()
    scene.line.end_late()
    assert list(scene.ended) == ["late"]
    while len(scene.ended) < 2:  # the time limit goes by the machine's uptime, the timer by the loop's clock
        scene.loop.pass_time(0.1)
        scene.line.end_late()
    assert list(scene.ended) == ["late", "soon"]
    assert scene.run == []


def test_a_claimed_job_that_waits_too_long_is_ended_by_its_timer(scene: Scene) -> None:
    scene.put("soon", queue_timeout_s=0.2)
    live = scene.line.claim_next()
    assert live is not None
    assert not scene.line.ends(live)
    while not scene.ended:
        scene.loop.pass_time(0.3)
    assert list(scene.ended) == ["soon"]
    assert scene.run == []


@pytest.mark.parametrize(("attempt", "resend", "ends"), [(0, False, True), (1, True, True), (1, False, False)])
def test_what_comfyui_once_had_no_longer_expires(scene: Scene, attempt: int, resend: bool, ends: bool) -> None:
    scene.put("old", age_s=5, queue_timeout_s=1)
    live = scene.line.claim_next()
    assert live is not None
    live.record = live.record.evolve(attempt=attempt)
    live.resend = resend
    assert scene.line.ends(live) == ends


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_late_job_that_cannot_be_claimed_is_ended_later(scene: Scene, trouble: Trouble, number: int) -> None:
    scene.put("late", age_s=5, queue_timeout_s=1)
    scene.loop.work()
    trouble.of["*"] = number
    scene.line.end_late()
    assert (scene.disk.trouble is not None) == (number == errno.ENOSPC)
    assert scene.ended == {}
    trouble.of.clear()
    scene.loop.pass_time(AGAIN_S + 1)
    scene.line.end_late()
    assert list(scene.ended) == ["late"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_one_that_cannot_go_back_stays_in_hand_and_is_tried_again(scene: Scene, trouble: Trouble, number: int) -> None:
    scene.put("special")
    live = scene.line.claim_next()
    assert live is not None
    trouble.of["*"] = number
    scene.line.pass_on(live)
    assert (scene.disk.trouble is not None) == (number == errno.ENOSPC)
    assert scene.jobs.get(live.token) is live
    trouble.of.clear()
    scene.loop.pass_time(AGAIN_S + 1)
    assert scene.run == ["special"]
    scene.line.pass_on(live)
    assert len(scene.jobs) == 0
    assert len(os.listdir(scene.folders.inbox)) == len(scene.line) == 1
    assert scene.line.claim_next() is None


def test_few_of_those_that_were_passed_on_are_looked_at_again_at_a_sweep_and_all_when_comfyui_has_changed(
    scene: Scene,
) -> None:
    ids = [f"job-{number}" for number in range(LOOK_AGAIN + 3)]
    scene.put(*ids)
    while (live := scene.line.claim_next()) is not None:
        scene.line.pass_on(live)
    scene.turn()
    assert scene.run == []
    scene.sweep()
    assert scene.run == ids[:LOOK_AGAIN]
    scene.line.look_again()
    scene.turn()
    assert scene.run == ids


def test_no_timer_stays_of_a_job_that_another_watcher_took(scene: Scene) -> None:
    scene.put("theirs", queue_timeout_s=86400)
    scene.loop.work()
    assert len(scene.line._timers) == 1
    (name,) = os.listdir(scene.folders.inbox)
    os.unlink(f"{scene.folders.inbox}/{name}")
    list(scene.waiting.scan(scene.folders.inbox))
    scene.sweep()
    assert scene.line._timers == {}

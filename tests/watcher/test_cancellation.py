"""Cancel marks: for jobs that wait, that run, that are over, and for ids that nobody knows."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handoff import timestamps
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.spool import publisher
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.state import Event
from handoff.status import describe_failure
from tests.watcher.stepping import SteppingLoop, use_clock
from watcher import cancellation
from watcher.cancellation import UNKNOWN_S, Cancellation
from watcher.live import Jobs, Live, Phase
from watcher.tasks import Tasks


class Scene:
    """A volume with a real spool, and as much of a worker as a cancellation needs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = SteppingLoop()
        use_clock(monkeypatch, self.loop, cancellation)
        self.folders = Folders(input=f"{root}/input", output=f"{root}/output")
        for folder in (self.folders.input, self.folders.output):
            os.makedirs(folder)
        self.folders.make()
        self.jobs = Jobs()
        self.advanced: list[str] = []
        self.rejected: dict[str, Failure] = {}
        self.seat = Seat(self.folders, "here")
        self.journal = Journal(self.seat)
        tasks = Tasks(self.loop, lambda live: self.advanced.append(live.id), self._failed)
        self.cancellation = Cancellation(
            tasks, self.jobs, self.folders, self.journal, claim=self._claim, reject=self._reject
        )

    def _failed(self, _: Live, error: BaseException) -> None:
        raise error

    def _reject(self, name: str, failure: Failure) -> None:
        self.rejected[name] = failure

    def _claim(self, token: str) -> Live | None:
        for name in os.listdir(self.folders.inbox):
            if token in name and (record := self.journal.claim(name, token)) is not None:
                return self.add(record)
        return None

    def add(self, record: Record) -> Live:
        live = Live(record=record, document=describe_waiting(record), phase=Phase.PLAN)
        self.jobs.add(live)
        return live

    def submit(self, id: str) -> Record:
        received = timestamps.to_text(timestamps.now())
        publisher.publish(self.folders, Record(token="0" * 16, id=id, sha256="a" * 64, received_at=received, body={}))
        record = Record.find(self.folders.reservation(id))
        assert record is not None
        return record

    def finish(self, record: Record) -> None:
        error = describe_failure(Failure(Reason.TIMEOUT, seconds=1.0), "en", id=record.id)
        document = describe_waiting(record).finish(Event.FAILED, timestamps.now(), error=error)
        os.makedirs(self.folders.job(record.id))
        Path(self.folders.status(record.id)).write_bytes(document.to_bytes())

    def mark(self, id: str) -> Path:
        path = Path(self.folders.cancel_mark(id))
        path.touch()
        return path

    def look(self, id: str, seconds: float = 0.0) -> None:
        """The mark is seen now, and again at each scan."""
        end = self.loop.now + seconds
        while True:
            self.cancellation.take(id)
            self.loop.work()
            if self.loop.now >= end:
                return
            self.loop.pass_time(5)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(tmp_path, monkeypatch)
    yield scene
    scene.seat.leave()


def test_a_waiting_job_is_claimed_to_be_cancelled(scene: Scene) -> None:
    record = scene.submit("waits")
    mark = scene.mark("waits")
    scene.look("waits")
    live = scene.jobs.get(record.token)
    assert live is not None
    assert live.cancelled
    assert scene.advanced == ["waits"]
    assert mark.exists(), "until the final status is out, so that no crash forgets it"


def test_a_live_job_is_told_once(scene: Scene) -> None:
    live = scene.add(scene.submit("runs"))
    scene.mark("runs")
    scene.look("runs", 30)
    assert live.cancelled
    assert scene.advanced == ["runs"]


def test_another_watchers_job_is_left_to_it(scene: Scene) -> None:
    record = scene.submit("theirs")
    (name,) = os.listdir(scene.folders.inbox)
    os.unlink(f"{scene.folders.inbox}/{name}")  # claimed elsewhere
    mark = scene.mark("theirs")
    scene.look("theirs", 2 * UNKNOWN_S)
    assert mark.exists()
    assert scene.rejected == {}
    assert record.token not in scene.jobs


def test_a_mark_for_a_finished_job_goes(scene: Scene) -> None:
    scene.finish(scene.submit("over"))
    mark = scene.mark("over")
    scene.look("over")
    assert not mark.exists()


def test_a_mark_for_a_finished_job_without_its_reservation_goes(scene: Scene) -> None:
    """input/ was replaced by a new volume; output/ still tells of the job."""
    scene.finish(scene.submit("kept"))
    os.unlink(scene.folders.reservation("kept"))
    Path(scene.folders.job_document("kept")).write_text(json.dumps({"id": "kept", "sha256": "a" * 64}))
    mark = scene.mark("kept")
    scene.look("kept")
    assert not mark.exists()


def test_a_mark_for_a_folder_that_is_no_job_is_rejected(scene: Scene) -> None:
    os.makedirs(scene.folders.job("holiday"))
    scene.mark("holiday")
    scene.look("holiday", UNKNOWN_S - 10)
    assert scene.rejected == {}
    scene.look("holiday", 20)
    assert scene.rejected["holiday.cancel"].reason is Reason.UNKNOWN_ID


def test_a_mark_for_nobody_is_rejected_after_a_while_and_not_before(scene: Scene) -> None:
    scene.mark("nobody")
    scene.look("nobody", UNKNOWN_S - 10)
    assert scene.rejected == {}
    scene.look("nobody", 20)
    assert scene.rejected["nobody.cancel"].reason is Reason.UNKNOWN_ID


def test_a_mark_that_came_before_its_job_waits_for_it(scene: Scene) -> None:
    scene.mark("early")
    scene.look("early", 30)
    record = scene.submit("early")
    scene.look("early", 100)
    assert record.token in scene.jobs
    assert scene.rejected == {}


@pytest.mark.parametrize("id", ["..", "a b", "x" * 300, "-"])
def test_what_is_no_id_is_nobody(scene: Scene, id: str) -> None:
    scene.look(id, UNKNOWN_S + 10)
    assert [failure.reason for failure in scene.rejected.values()] == [Reason.UNKNOWN_ID]

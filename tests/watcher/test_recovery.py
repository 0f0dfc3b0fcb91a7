"""Where a job goes on: records that are damaged, jobs that were put away, takeovers that are not finished."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from handoff import state, timestamps
from handoff.failures import DiskUnavailable, Unavailable
from handoff.spool import publisher
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Seat
from handoff.status import StatusDocument
from tests.spool.world import Watcher, World, listed, record_of
from tests.watcher.stepping import SteppingLoop, use_clock
from watcher import publication
from watcher.courier import Courier
from watcher.delivery import Delivery
from watcher.live import Jobs, Live, Phase
from watcher.publication import Publication
from watcher.recovery import Recovery
from watcher.tasks import Tasks

BODY = {"prompt": "a cat"}
TORN = b'{"schema": 1, "tok'


class Execution:
    """Stands in for the one at ComfyUI: notes whom it is to follow."""

    def __init__(self) -> None:
        self.followed: list[str] = []

    def resume(self, live: Live, _published: StatusDocument | None) -> None:
        self.followed.append(live.id)
        live.phase = Phase.SENT


class ComfyUI:
    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def cancel(self, prompt: str) -> None:
        self.cancelled.append(prompt)


class Scene:
    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.watcher = Watcher(world)
        self.seat: Seat = self.watcher.seat
        self.journal = self.watcher.journal
        self.loop = SteppingLoop()
        use_clock(monkeypatch, self.loop, publication)
        self.jobs = Jobs()
        self.courier = Courier(lambda _: None)
        nobody = cast(Any, None)
        self.delivery = Delivery(
            seat=self.seat,
            folders=world.folders,
            journal=self.journal,
            comfyui=nobody,
            store=nobody,
            site=nobody,
            prefix="",
            url_lifetime_s=0,
            language="en",
        )
        self.tasks = Tasks(self.loop, lambda _: None, nobody)
        self.publication = Publication(
            self.loop,
            self.tasks,
            self.delivery,
            self.courier,
            language="en",
            forget=self.jobs.remove,
            recall=lambda token: self.recovery.recall(token),  # noqa: PLW0108 - made below
        )
        self.execution = Execution()
        self.comfyui = ComfyUI()
        self.recovery = Recovery(
            self.tasks,
            self.jobs,
            self.seat,
            self.journal,
            cast(Any, self.comfyui),
            cast(Any, self.execution),
            self.publication,
            adopt=self.adopt,
        )

    def adopt(self, record: Record) -> Live:
        assert record.token not in self.jobs, "two live jobs of one record"
        live = Live(record=record, document=describe_waiting(record), phase=Phase.READY)
        self.jobs.add(live)
        return live

    def claim(self, id: str) -> Record:
        publisher.publish(self.world.folders, record_of(id, BODY))
        (name,) = listed(self.world.folders.inbox)
        record = self.journal.claim(name, name[21:37])
        assert record is not None
        return record

    def send(self, id: str) -> Record:
        """Journalled for ComfyUI."""
        record = self.claim(id).next_attempt(server="one", at="2026-11-24T08:00:01.000Z", plan=Plan(graph={}))
        self.journal.write(record)
        self.journal.make_work_folder(record)
        return record

    def save(self, record: Record) -> StatusDocument:
        running = describe_waiting(record).follow(state.Event.SUBMITTED)
        saving = running.follow(state.Event.GENERATED)
        self.journal.publish_status(saving, record.token, durable_write=True)
        return saving

    def spoil(self, record: Record, data: bytes = TORN) -> Path:
        path = Path(self.seat.record_path(record.token))
        path.unlink()
        path.write_bytes(data)
        return path


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(World(tmp_path / "world"), monkeypatch)
    yield scene
    scene.courier.close(by=0.0)
    scene.seat.leave()


def test_a_damaged_record_is_written_anew_only_when_its_end_is_decided(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the next start finds what this one found."""
    record = scene.send("cat")
    path = scene.spoil(record)

    def refuse(*_: object, **__: object) -> None:
        raise DiskUnavailable("full")

    with monkeypatch.context() as patched:
        patched.setattr(scene.journal, "publish_status", refuse)
        scene.recovery.resume_all()
        scene.loop.work()
    assert path.read_bytes() == TORN
    assert len(scene.jobs) == 0
    scene.recovery.resume_all()
    scene.recovery.resume_all()  # at once: another takeover, or the disk that is back
    scene.loop.work()
    status = scene.world.status("cat")
    assert (status.status, status.attempt) == ("failed", 1)
    assert Record.read(str(path)).attempt == 1
    assert [(live.phase, live.decided) for live in scene.jobs] == [(Phase.CONCLUDE, True)]
    assert scene.comfyui.cancelled == [record.prompt_id]


def test_one_that_was_sent_and_lacks_its_plan_is_ended_and_not_followed(scene: Scene) -> None:
    record = scene.send("cat").evolve(job=None)
    scene.journal.write(record)
    scene.recovery.resume_all()
    scene.loop.work()
    assert scene.execution.followed == []
    assert scene.world.status("cat").status == "failed"
    assert [live.phase for live in scene.jobs] == [Phase.CONCLUDE]


@pytest.mark.parametrize("torn", [True, False])
def test_one_whose_outputs_are_saved_needs_no_plan(scene: Scene, *, torn: bool) -> None:
    record = scene.send("cat")
    scene.save(record)
    scene.spoil(record, TORN if torn else record.evolve(job=None).to_bytes())
    scene.recovery.resume_all()
    scene.loop.work()
    assert [(live.phase, live.decided) for live in scene.jobs] == [(Phase.MIRROR, False)]
    assert scene.comfyui.cancelled == []


def test_a_decision_stands_although_nothing_else_tells_of_the_attempt(scene: Scene) -> None:
    """Killed while the job was filed: its work folder is gone, and now its record is damaged."""
    record = scene.send("cat")
    decided = scene.save(record).finish(state.Event.MIRRORED, timestamps.now())
    scene.journal.publish_status(decided, record.token, durable_write=True)
    os.rmdir(f"{scene.world.folders.work}/{record.token}-1")
    scene.spoil(record)
    scene.recovery.resume_all()
    scene.loop.work()
    assert scene.world.status("cat") == decided
    assert [(live.document, live.decided) for live in scene.jobs] == [(decided, True)]


def test_a_job_that_is_just_read_again_is_not_resumed_beside_it(scene: Scene) -> None:
    record = scene.send("cat")
    live = scene.adopt(record)
    live.document, live.phase = scene.save(record), Phase.MIRROR
    scene.publication.report_failure(live, Unavailable("the bucket is away"))
    scene.loop.now += 2.0
    scene.publication.give_way("somebody else")
    assert [pool for pool, _ in scene.loop.tasks] == ["files"]
    scene.recovery.resume_all()  # a takeover, or the disk is back
    assert len(scene.jobs) == 0
    scene.loop.work()
    assert [live.phase for live in scene.jobs] == [Phase.MIRROR]


def test_nothing_is_resumed_while_a_takeover_is_unfinished(scene: Scene) -> None:
    scene.send("cat")
    unfinished = Path(scene.seat.path, f"from-{'0' * 16}")
    unfinished.mkdir()
    scene.recovery.resume_all()
    assert scene.execution.followed == []
    unfinished.rmdir()
    scene.recovery.resume_all()
    assert scene.execution.followed == ["cat"]

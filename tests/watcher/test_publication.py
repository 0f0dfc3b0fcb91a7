"""Results on their way out, while the bucket hangs, is away, or is fine and something else is wrong."""

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import cast

import pytest

from handoff import state
from handoff.failures import EdgeError, Failure, NotPermitted, Reason, Unavailable
from handoff.graph import Graph
from handoff.job import prompt_id
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Plan, Record
from handoff.state import Event
from handoff.status import StatusDocument
from tests.figures import Note
from tests.watcher.stepping import SteppingLoop, use_clock
from watcher import publication
from watcher.courier import Courier
from watcher.delivery import Delivery
from watcher.live import Jobs, Live, Phase
from watcher.outbox import MOST
from watcher.publication import EARLY, Publication
from watcher.tasks import Tasks

AWAY = Unavailable("the bucket is away")


class Bucket:
    """Stands in for a Delivery: notes what is asked of it; raises what the test has put into `errors`, by step and id."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.decided: dict[str, StatusDocument] = {}
        self.concluded: list[str] = []
        self.errors: dict[tuple[str, str], list[Exception]] = {}
        self.away = False

    def _step(self, name: str, id: str) -> None:
        self.steps.append((name, id))
        if self.errors.get((name, id)):
            raise self.errors[name, id].pop(0)
        if self.away and name != "decide":
            raise AWAY

    def put_job_document(self, record: Record) -> None:
        self._step("job.json", record.id)

    def mirror(self, record: Record, document: StatusDocument, *, job_document_put: bool) -> None:
        self._step("mirror", record.id)
        if not job_document_put:
            self.put_job_document(record)

    def renew_links(self, record: Record, document: StatusDocument) -> StatusDocument:
        return document

    def decide(self, record: Record, document: StatusDocument) -> None:
        self._step("decide", record.id)
        self.decided[record.id] = document

    def conclude(self, record: Record, document: StatusDocument, *, job_document_put: bool) -> None:
        self._step("conclude", record.id)
        assert document == self.decided[record.id]
        self.concluded.append(record.id)


class Scene:
    """A publication and as much of a worker as it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = SteppingLoop()
        use_clock(monkeypatch, self.loop, publication)
        self.bucket = Bucket()
        self.jobs = Jobs()
        self.numbers = itertools.count()
        self.disk: dict[str, Live] = {}
        """What a job that is recalled is made from, by token."""
        self.unreadable: set[str] = set()
        self.courier = Courier(lambda _: None)
        self.tasks = Tasks(self.loop, self.advance, self.failed)
        self.publication = Publication(
            self.loop,
            self.tasks,
            cast("Delivery", self.bucket),
            self.courier,
            language="en",
            forget=self.jobs.remove,
            recall=self.recall,
        )

    def advance(self, live: Live) -> None:
        if self.jobs.get(live.token) is not live:
            return
        if live.busy:
            live.wanted = True
        elif live.phase is Phase.MIRROR:
            self.publication.mirror(live)
        elif live.phase is Phase.CONCLUDE:
            self.publication.conclude(live)

    def recall(self, token: str) -> None:
        """As the worker does: reads in a pool what the bucket's double was told to decide."""

        def resume(old: Live) -> None:
            if old.id in self.unreadable:
                self.publication.put_back(token)
                return
            decided = self.bucket.decided.get(old.id)
            phase = Phase.MIRROR if decided is None else Phase.CONCLUDE
            live = Live(record=old.record, document=decided or old.document, phase=phase, decided=decided is not None)
            self.jobs.add(live)
            self.advance(live)

        self.tasks.aside("files", lambda: self.disk[token], resume)

    def failed(self, live: Live, error: BaseException) -> None:
        if isinstance(error, Failure):
            self.publication.end(live, Event.FAILED, error)
        elif isinstance(error, NotPermitted):  # no trouble of the bucket's
            self.tasks.later(live, 30.0)
            self.publication.give_way(live.token)
        else:
            assert isinstance(error, EdgeError)
            self.publication.report_failure(live, error)

    @property
    def filed(self) -> list[str]:
        return self.bucket.concluded

    def make(self, id: str, phase: Phase, graph: Graph | None = None) -> Live:
        token = f"{next(self.numbers):016x}"
        plan = Plan(graph=graph or {"1": {"class_type": "SaveImage", "inputs": {}}})
        record = Record(
            token=token,
            id=id,
            sha256="0" * 64,
            received_at="2026-01-01T00:00:00.000Z",
            body={},
            job=plan,
            attempt=1,
            prompt_id=prompt_id(token, 1),
        )
        document = describe_waiting(record).follow(state.Event.SUBMITTED)
        live = Live(record=record, document=document, phase=phase)
        self.jobs.add(live)
        return live

    def make_saving(self, id: str, graph: Graph | None = None) -> Live:
        live = self.make(id, Phase.MIRROR, graph)
        live.document = live.document.follow(state.Event.GENERATED)
        if graph is None:
            self.disk[live.token] = Live(record=live.record, document=live.document, phase=live.phase)
        return live

    def trouble(self) -> str | None:
        return self.publication.trouble

    def count(self, step: str) -> int:
        return sum(name == step for name, _ in self.bucket.steps)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(monkeypatch)
    yield scene
    scene.courier.close(by=0.0)


def test_an_early_job_document_does_not_make_the_job_busy(scene: Scene) -> None:
    """However slow the upload is: what ComfyUI says next can be acted on."""
    live = scene.make("slow", Phase.SENT)
    scene.publication.put_job_document(live)
    assert not live.busy
    assert live.job_document == "under way"


def test_an_early_job_document_and_the_mirror_are_never_under_way_together(scene: Scene) -> None:
    live = scene.make("quick", Phase.SENT)
    scene.publication.put_job_document(live)
    live.document, live.phase = live.document.follow(state.Event.GENERATED), Phase.MIRROR
    scene.publication.mirror(live)
    assert not live.busy, "two writers would share one pen"
    scene.loop.work()
    assert scene.filed == ["quick"]
    assert scene.bucket.steps == [(step, "quick") for step in ("job.json", "mirror", "decide", "conclude")]


def test_an_early_job_document_that_fails_is_put_with_the_outputs(scene: Scene) -> None:
    live = scene.make("one", Phase.SENT)
    scene.bucket.errors["job.json", "one"] = [AWAY]
    scene.publication.put_job_document(live)
    scene.loop.work()
    assert live.job_document == "no"
    live.document, live.phase = live.document.follow(state.Event.GENERATED), Phase.MIRROR
    scene.publication.mirror(live)
    scene.loop.work()
    assert scene.filed == ["one"]
    assert scene.count("job.json") == 2


def test_the_decision_of_a_failed_job_does_not_wait_for_a_bucket_that_hangs(scene: Scene) -> None:
    live = scene.make("failed", Phase.SENT)
    scene.publication.put_job_document(live)  # hangs from here on
    scene.publication.end(live, Event.FAILED, Failure(Reason.TIMEOUT, seconds=1.0))
    scene.loop.work("files")
    assert live.decided
    assert scene.bucket.steps == [("decide", "failed")]
    assert scene.filed == []
    scene.loop.work()
    assert scene.filed == ["failed"]
    assert scene.count("decide") == 1


def test_while_it_is_away_one_asks_and_then_all_go_out(scene: Scene) -> None:
    scene.bucket.away = True
    for number in range(20):
        scene.publication.mirror(scene.make_saving(f"job-{number}"))
    scene.loop.pass_time(60)
    assert scene.filed == []
    assert scene.trouble() == str(AWAY)
    assert scene.count("mirror") <= 20 + 8, "the first ones at once, then one at a time, at growing distances"
    scene.bucket.away = False
    scene.loop.pass_time(31)
    assert len(scene.filed) == 20
    assert scene.trouble() is None
    assert scene.count("decide") == 20


def test_uploads_that_fail_together_are_one_failure(scene: Scene) -> None:
    """A blip of the network with four uploads under way: it is tried again after a second, not after eight."""
    lives = [scene.make_saving(f"job-{number}") for number in range(4)]
    scene.bucket.away = True
    for live in lives:
        scene.publication.mirror(live)
    scene.loop.work()
    scene.bucket.away = False
    scene.loop.pass_time(1.5)
    assert len(scene.filed) == 4


def test_one_with_trouble_of_its_own_gives_way(scene: Scene) -> None:
    scene.bucket.away = True
    names = ["stuck", "two", "three"]
    for name in names:
        scene.publication.mirror(scene.make_saving(name))
    scene.loop.work()
    scene.bucket.away = False
    scene.bucket.errors["mirror", "stuck"] = [NotPermitted("its folder cannot be written")] * 100
    scene.loop.pass_time(5)
    assert sorted(scene.filed) == ["three", "two"]
    scene.bucket.errors.clear()
    scene.loop.pass_time(40)
    assert len(scene.filed) == 3


def test_an_output_that_is_missing_says_nothing_about_the_bucket(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.bucket.away = True
    for name in ("robbed", "other"):
        scene.publication.mirror(scene.make_saving(name))
    scene.loop.work()
    scene.bucket.errors["mirror", "robbed"] = [Failure(Reason.OUTPUT_MISSING, file="a.png")]
    scene.loop.pass_time(120)
    assert scene.publication.trouble is not None
    assert scene.filed == []
    assert ("decide", "robbed") in scene.bucket.steps, "its end is known"
    assert "bucket_back" not in capsys.readouterr().out
    scene.bucket.away = False
    scene.loop.pass_time(60)
    assert sorted(scene.filed) == ["other", "robbed"]


def test_an_output_that_the_bucket_refuses_shows_that_it_is_there(scene: Scene) -> None:
    scene.bucket.away = True
    for name in ("refused", "other"):
        scene.publication.mirror(scene.make_saving(name))
    scene.loop.work()
    scene.bucket.away = False
    refusal = Failure(Reason.OUTPUT_REFUSED, file="a.png", problem="too large", id="refused")
    scene.bucket.errors["mirror", "refused"] = [refusal]
    scene.loop.pass_time(5)
    assert sorted(scene.filed) == ["other", "refused"]


def test_a_decision_is_made_once_however_often_the_rest_fails(scene: Scene) -> None:
    live = scene.make_saving("one")
    scene.bucket.errors["conclude", "one"] = [AWAY] * 5
    scene.publication.mirror(live)
    scene.loop.pass_time(300)
    assert scene.filed == ["one"]
    assert scene.count("decide") == scene.count("mirror") == 1
    assert scene.count("conclude") == 6


def test_the_end_that_was_fixed_does_not_change(scene: Scene) -> None:
    live = scene.make_saving("one")
    scene.bucket.errors["conclude", "one"] = [AWAY]
    scene.publication.mirror(live)
    scene.loop.work()
    before = scene.bucket.decided["one"]
    scene.loop.pass_time(60)
    assert scene.filed == ["one"]
    assert scene.bucket.decided["one"] is before


def test_a_job_that_waits_for_the_bucket_costs_a_few_bytes(scene: Scene, note: Note) -> None:
    scene.bucket.away = True
    scene.publication.mirror(scene.make_saving("first"))
    scene.loop.work()
    graph = {str(n): {"class_type": "SaveImage", "inputs": {"text": "x" * 200}} for n in range(100)}
    count, whole = 2000, 0
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for number in range(count):
            live = scene.make_saving(f"job-{number}", graph=dict(graph))
            whole = max(whole, len(live.record.to_bytes()))
            scene.publication.mirror(live)
            del live
        grown = sum(entry.size_diff for entry in tracemalloc.take_snapshot().compare_to(before, "filename"))
    finally:
        tracemalloc.stop()
    assert len(scene.publication) == count + 1
    assert len(scene.jobs) == 0
    note(jobs_held_back=count, record_bytes=whole, bytes_in_memory_per_job=grown / count)
    assert grown / count < 1000


def test_while_it_hangs_a_few_ask_and_the_others_are_put_away(scene: Scene) -> None:
    for number in range(100):
        scene.publication.mirror(scene.make_saving(f"job-{number}"))
    assert len(scene.loop.tasks) == len(scene.jobs) == MOST
    assert len(scene.publication) == 100 - MOST
    scene.loop.work()
    assert len(set(scene.filed)) == len(scene.filed) == 100


def test_while_it_hangs_few_early_job_documents_are_under_way(scene: Scene) -> None:
    for number in range(100):
        scene.publication.put_job_document(scene.make(f"job-{number}", Phase.SENT))
    assert len(scene.loop.tasks) == EARLY
    scene.loop.work()
    scene.publication.put_job_document(scene.make("next", Phase.SENT))
    assert len(scene.loop.tasks) == 1


def test_what_a_put_away_job_left_behind_does_nothing(scene: Scene) -> None:
    """A timer or a late answer may still know the job as it was."""
    scene.bucket.away = True
    live = scene.make_saving("one")
    scene.publication.mirror(live)
    scene.loop.work()
    assert live.token in scene.publication
    scene.bucket.away = False
    scene.advance(live)
    assert scene.count("mirror") == 1
    scene.loop.pass_time(2)
    scene.advance(live)
    assert scene.bucket.steps.count(("decide", "one")) == 1
    assert scene.filed == ["one"]


def test_one_that_cannot_be_read_again_stops_nobody(scene: Scene) -> None:
    scene.bucket.away = True
    for name in ("torn", "two", "three"):
        scene.publication.mirror(scene.make_saving(name))
    scene.loop.work()
    scene.bucket.away = False
    scene.unreadable.add("torn")
    scene.loop.pass_time(20)
    assert sorted(scene.filed) == ["three", "two"]
    scene.unreadable.clear()
    scene.loop.pass_time(20)
    assert sorted(scene.filed) == ["three", "torn", "two"]

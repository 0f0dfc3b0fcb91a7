"""A job's way through ComfyUI, against one whose every answer the test decides; hours pass in no time."""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from handoff import timestamps
from handoff.failures import EdgeError, Failure, Reason, Unavailable
from handoff.job import prompt_id
from handoff.settings import WatcherSettings
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Plan, Record, Try
from handoff.state import Event as StateEvent
from handoff.status import StatusDocument
from tests.watcher.stepping import SteppingLoop, use_clock
from watcher import execution
from watcher.capabilities import Capabilities
from watcher.comfyui import NotArrived
from watcher.comfyui_events import Event
from watcher.execution import Execution, Handover
from watcher.live import Live, Phase
from watcher.prompts import Prompt, PromptState
from watcher.submission import Lacking, NotPosted, Sent
from watcher.tasks import Tasks

NOTHING = Capabilities(version="0.33.0", devices=(), simulated=True, classes=frozenset(), models={})
NODES = Capabilities(version="0.33.0", devices=(), simulated=True, classes=frozenset({"SaveImage"}), models={})


class Server:
    """ComfyUI, the watch over it and the one who sends to it, as far as an execution sees them."""

    def __init__(self) -> None:
        self.state = "up"
        self.capabilities = NODES
        self.fresh = NODES
        """What it has by now; `capabilities` is what was read of it."""
        self.prompts: dict[str, Prompt | None] = {}
        self.posted: list[str] = []
        self.cancelled: list[str] = []
        self.looks = 0
        self.suspected = 0
        self.reported: list[EdgeError] = []
        self.answer: Callable[[Record], str] = lambda _: "accepted"

    # the watch

    @property
    def usable(self) -> bool:
        return self.state == "up"

    def read(self) -> Capabilities:
        return self.fresh

    def renew(self, found: Capabilities) -> None:
        self.capabilities = found

    def report_down(self, error: EdgeError) -> None:
        self.state = "down"
        self.reported.append(error)

    def suspect_dead_worker(self) -> None:
        self.suspected += 1

    # the server

    def look_up(self, prompt: str) -> Prompt | None:
        self.looks += 1
        return self.prompts.get(prompt)

    def cancel(self, prompt: str) -> bool:
        self.cancelled.append(prompt)
        return True

    def free(self) -> None:
        pass

    # the submission

    def send(self, record: Record, document: Any, capabilities: Capabilities, *, resend: bool) -> Sent:
        plan = self.settle(record, capabilities)
        if not resend:
            record = record.next_attempt(server="here", at="2026-01-01T00:00:00.000Z", plan=plan)
        assert record.prompt_id is not None
        self.posted.append(record.id)
        match self.answer(record):
            case "accepted":
                self.tell(record.prompt_id, PromptState.WAITING)
                return Sent(record=record, document=document.follow(StateEvent.SUBMITTED), outcome="accepted")
            case "cancelled":
                return Sent(record=record, document=document, outcome="cancelled")
            case "not_posted":
                raise NotPosted(record) from RuntimeError("planted")
            case "not_arrived":
                return Sent(record=record, document=document, outcome="not_arrived", trouble=NotArrived("refused"))
            case "unclear":
                return Sent(record=record, document=document, outcome="unclear", trouble=Unavailable("timed out"))
            case _:
                refusal = Failure(Reason.BAD_GRAPH, problem="refused")
                return Sent(record=record, document=document, outcome="refused", failure=refusal)

    def settle(self, record: Record, capabilities: Capabilities) -> Plan:
        assert record.job is not None
        if "SaveImage" not in capabilities.classes:
            raise Lacking(record.job, Failure(Reason.WORKFLOW_UNAVAILABLE, lacks="the node class SaveImage"))
        return record.job

    # what the test says of it

    def tell(
        self, prompt: str, state: PromptState, *, started_ms: int | None = None, ended_ms: int | None = None
    ) -> None:
        self.prompts[prompt] = Prompt(id=prompt, state=state, outputs={}, started_ms=started_ms, ended_ms=ended_ms)


class Scene:
    """An execution and as much of a worker as it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, window: int = 2) -> None:
        self.loop = SteppingLoop()
        use_clock(monkeypatch, self.loop, execution)
        self.server = Server()
        self.able: list[str] = []
        self.generated: list[str] = []
        self.ended: dict[str, Failure] = {}
        self.passed: list[str] = []
        self.lives: list[Live] = []
        self.published: list[StatusDocument] = []
        self.trouble: list[int] = []
        self.tasks = Tasks(self.loop, self.advance, self.failed)
        outside: Any = SimpleNamespace(
            trouble=None,
            server="here",
            tell=lambda _: None,
            publish_status=lambda document, *_, **__: self.published.append(document),
            find_able=lambda _: (self.able, []),
        )
        self.execution = Execution(
            self.loop,
            self.tasks,
            settings=WatcherSettings(window=window, language="en"),
            seat=outside,
            comfyui=cast("Any", self.server),
            watch=cast("Any", self.server),
            disk=outside,
            journal=outside,
            submission=cast("Any", self.server),
            peers=outside,
            courier=outside,
            handover=Handover(
                on_end=self.end,
                on_sent=lambda _: None,
                on_pass=lambda live: self.passed.append(live.id),
            ),
        )
        self.execution.hear(Event(kind="connected"))

    def advance(self, live: Live) -> None:
        if live.id in self.ended or live.id in self.generated:
            return
        if live.busy:
            live.wanted = True
        elif live.phase is Phase.READY:
            self.execution.queue(live)
        elif live.phase is Phase.SENT:
            self.execution.look(live)
        else:
            assert live.phase is Phase.COLLECT
            self.generated.append(live.id)

    def failed(self, live: Live, error: BaseException) -> None:
        if str(error) != "planted":
            raise error
        live.trouble += 1
        self.trouble.append(live.trouble)
        self.tasks.later(live, 1.0)

    def end(self, live: Live, _: StateEvent, failure: Failure) -> None:
        self.execution.leave(live)
        self.ended[live.id] = failure

    def make(
        self, id: str, *, priority: int = 0, tries: list[Try] | None = None, run_timeout_s: float | None = None
    ) -> Live:
        token = f"{len(self.lives):016x}"
        record = Record(
            token=token,
            id=id,
            sha256="0" * 64,
            received_at="2026-01-01T00:00:00.000Z",
            priority=priority,
            body={},
            job=Plan(graph={"1": {"class_type": "SaveImage", "inputs": {}}}, run_timeout_s=run_timeout_s),
            tries=tries or [],
        )
        live = Live(record=record, document=describe_waiting(record), phase=Phase.READY)
        self.lives.append(live)
        return live

    def queue(self, *lives: Live) -> None:
        for live in lives:
            self.execution.queue(live)
        self.go_on()

    def go_on(self, seconds: float = 0.0) -> None:
        """In steps: the worker's loop asks for the line to move at every turn."""
        end = self.loop.now + seconds
        self._turn()
        while self.loop.now < end:
            self.loop.pass_time(0.05)
            self._turn()

    def _turn(self) -> None:
        self.execution.send_ready()
        while self.loop.tasks:
            self.loop.work()
            self.execution.send_ready()

    def finish(self, live: Live, *, started_ms: int = 0, ended_ms: int = 0) -> None:
        self.server.tell(live.prompt_id, PromptState.SUCCEEDED, started_ms=started_ms, ended_ms=ended_ms)
        self.execution.hear(Event(kind="finished", prompt_id=live.prompt_id))
        self.go_on()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_they_are_sent_by_rank_whoever_was_ready_first(scene: Scene) -> None:
    first, *others = [scene.make(f"p{priority}", priority=priority) for priority in (0, 5, 100, -3, 7)]
    scene.server.state = "down"
    scene.queue(first, *others)
    assert scene.server.posted == []
    scene.server.state = "up"
    scene.go_on()
    for live in sorted(scene.lives, key=lambda live: -live.record.priority):
        scene.finish(live, ended_ms=10_000)
    assert scene.server.posted == ["p100", "p7", "p5", "p0", "p-3"]


def test_no_more_than_the_window_while_nobody_knows_how_long_they_take(scene: Scene) -> None:
    scene.queue(*(scene.make(f"job-{number}") for number in range(6)))
    assert len(scene.server.posted) == len(scene.execution) == 2
    assert not scene.execution.has_room


def test_one_that_is_refused_makes_room_for_the_next(scene: Scene) -> None:
    scene.server.answer = lambda record: "refused" if "bad" in record.id else "accepted"
    scene.queue(*(scene.make(f"bad-{number}") for number in range(8)), scene.make("good"))
    assert len(scene.ended) == 8
    assert scene.server.posted[-1] == "good"
    assert scene.execution.has_room


def test_more_of_them_while_they_are_short(scene: Scene) -> None:
    first = scene.make("first")
    scene.queue(first)
    scene.finish(first, ended_ms=10)
    scene.queue(*(scene.make(f"job-{number}") for number in range(40)))
    assert 10 <= len(scene.execution) <= 32


def test_a_clock_that_was_set_back_does_not_let_all_of_them_in(scene: Scene) -> None:
    long = scene.make("long")
    scene.queue(long)
    scene.finish(long, ended_ms=10_000)
    odd = scene.make("odd")
    scene.queue(odd)
    scene.finish(odd, started_ms=3_600_000, ended_ms=10_000)  # it ran ten seconds, says the wall clock: minus an hour
    scene.queue(*(scene.make(f"job-{number}") for number in range(40)))
    assert len(scene.execution) == 2


def test_a_suspect_has_no_neighbours(scene: Scene) -> None:
    suspect = scene.make("suspect", priority=1, tries=[Try(attempt=1, ended="lost", strike=True)])
    scene.queue(suspect, scene.make("other"))
    assert scene.server.posted == ["suspect"]
    scene.finish(suspect, ended_ms=1000)
    assert scene.server.posted == ["suspect", "other"]


def test_one_that_does_not_stop_is_asked_less_and_less(scene: Scene) -> None:
    live = scene.make("deaf")
    scene.queue(live)
    scene.server.tell(live.prompt_id, PromptState.RUNNING)
    live.cancelled = True
    scene.advance(live)
    scene.go_on(5)
    assert 3 <= len(scene.server.cancelled) <= 10
    scene.go_on(60)
    assert len(scene.server.cancelled) <= 45
    scene.server.tell(live.prompt_id, PromptState.INTERRUPTED)
    scene.go_on(3)
    assert scene.ended["deaf"].reason is Reason.CANCELLED


def test_a_websocket_that_comes_and_goes_does_not_multiply_the_looks(scene: Scene) -> None:
    live = scene.make("long")
    scene.queue(live)
    scene.server.tell(live.prompt_id, PromptState.RUNNING)
    for _ in range(50):
        scene.execution.hear(Event(kind="lost"))
        scene.execution.hear(Event(kind="connected"))
        scene.go_on()
    scene.server.looks = 0
    scene.go_on(20)
    assert 5 <= scene.server.looks <= 100


def test_nothing_is_asked_while_it_is_down(scene: Scene) -> None:
    live = scene.make("long")
    scene.queue(live)
    scene.server.state = "down"
    scene.server.looks = 0
    scene.go_on(60)
    assert scene.server.looks == 0
    scene.server.state = "up"
    scene.execution.start()
    scene.go_on()
    assert scene.server.looks == 1


def test_one_that_did_not_arrive_is_sent_again_under_the_same_attempt(scene: Scene) -> None:
    scene.server.answer = lambda _: "not_arrived"
    live = scene.make("unlucky")
    scene.queue(live)
    assert isinstance(scene.server.reported[0], NotArrived)
    assert live.phase is Phase.READY
    scene.go_on(60)
    assert scene.server.posted == ["unlucky"]
    scene.server.state, scene.server.answer = "up", lambda _: "accepted"
    scene.go_on()
    assert scene.server.posted == ["unlucky", "unlucky"]
    assert live.record.attempt == 1


def test_trouble_before_the_post_uses_up_no_attempt_and_is_counted(scene: Scene) -> None:
    scene.server.answer = lambda _: "not_posted"
    live = scene.make("unlucky")
    scene.queue(live)
    scene.go_on(3)
    assert scene.trouble[:3] == [1, 2, 3]
    assert live.record.attempt == 1
    scene.server.answer = lambda _: "accepted"
    scene.go_on(2)
    assert (live.phase, live.record.attempt) == (Phase.SENT, 1)


def test_a_mark_that_is_found_before_the_post_ends_the_job(scene: Scene) -> None:
    scene.server.answer = lambda _: "cancelled"
    scene.queue(scene.make("unwanted"))
    assert scene.ended["unwanted"].reason is Reason.CANCELLED
    assert len(scene.execution) == 0


def test_a_start_that_was_noted_while_the_job_was_busy_is_published_later(scene: Scene) -> None:
    live = scene.make("busy")
    scene.queue(live)
    scene.server.tell(live.prompt_id, PromptState.RUNNING)
    scene.execution.hear(Event(kind="started", prompt_id=live.prompt_id))
    scene.tasks.run(live, "slow", lambda: None, lambda *_: None)
    scene.loop.pass_time(1, "files", "comfyui")
    assert scene.published == []
    scene.go_on(3)
    assert [document.started_at for document in scene.published] == [live.document.started_at]
    assert live.document.started_at is not None


def test_an_unclear_post_that_is_taken_up_late_is_stopped(scene: Scene) -> None:
    scene.server.answer = lambda record: "unclear" if record.attempt == 1 else "accepted"
    live = scene.make("unclear")
    scene.queue(live)
    first = live.prompt_id
    scene.go_on(5)
    assert live.record.attempt == 2, "nothing came of it within the quiet time"
    scene.server.cancelled.clear()
    scene.go_on(70)
    assert scene.server.cancelled.count(first) == 2
    assert live.prompt_id not in scene.server.cancelled


def test_an_unclear_post_that_arrived_is_followed(scene: Scene) -> None:
    scene.server.answer = lambda _: "unclear"
    live = scene.make("unclear")
    scene.queue(live)
    scene.server.tell(live.prompt_id, PromptState.RUNNING)
    scene.go_on(100)
    assert scene.server.posted == ["unclear"]
    assert scene.server.cancelled == []
    scene.finish(live)
    assert scene.generated == ["unclear"]


def test_what_another_can_run_is_passed_on(scene: Scene) -> None:
    scene.server.capabilities = scene.server.fresh = NOTHING
    scene.able = ["there"]
    scene.queue(scene.make("special"))
    assert scene.passed == ["special"]
    assert scene.server.posted == []
    assert len(scene.execution) == 0


def test_what_nobody_can_run_fails_after_a_fresh_look(scene: Scene) -> None:
    scene.server.capabilities = scene.server.fresh = NOTHING
    scene.queue(scene.make("special"))
    assert scene.ended["special"].reason is Reason.WORKFLOW_UNAVAILABLE
    assert "here lacks the node class SaveImage" in str(scene.ended["special"].details)


def test_what_was_installed_meanwhile_is_found(scene: Scene) -> None:
    scene.server.capabilities = NOTHING
    scene.queue(scene.make("special"))
    scene.go_on()
    assert scene.server.posted == ["special"]
    assert scene.ended == {}


def resume(scene: Scene, *, ran_s: float, run_timeout_s: float, set_by_s: float | None = 0.0) -> Live:
    """A job that another run of the watcher sent, and saw start some time ago. Then the wall clock was set; None: the machine
    was restarted, too.
    """
    live = scene.make("resumed", run_timeout_s=run_timeout_s)
    plan = live.record.job
    assert plan is not None
    now = timestamps.now()
    started = timestamps.to_text(now - timedelta(seconds=ran_s + (set_by_s or 0.0)))
    boot_id, uptime_s = timestamps.uptime().split()
    uptime = f"{boot_id} {float(uptime_s) - ran_s}" if set_by_s is not None else f"another {uptime_s}"
    live.record = live.record.evolve(received_at=started, received_uptime=uptime)
    live.record = live.record.next_attempt(server="here", at="2026-01-01T00:00:00.000Z", plan=plan)
    prompt = prompt_id(live.token, 1)
    published = live.document.follow(StateEvent.SUBMITTED, attempt=1, started_at=started)
    scene.server.tell(prompt, PromptState.RUNNING)
    scene.execution.resume(live, published)
    assert live.prompt_id == prompt
    scene.advance(live)
    return live


@pytest.mark.parametrize(("set_by_s", "left_s"), [(0.0, 300), (7200.0, 600), (-7200.0, 600), (None, 600)])
def test_a_restart_gives_a_job_more_time_only_where_nobody_can_tell_how_long_it_ran(
    scene: Scene, set_by_s: float | None, left_s: float
) -> None:
    live = resume(scene, ran_s=300, run_timeout_s=600, set_by_s=set_by_s)
    scene.go_on(left_s - 10)
    assert scene.server.cancelled == []
    scene.go_on(20)
    assert live.prompt_id in scene.server.cancelled
    scene.server.tell(live.prompt_id, PromptState.INTERRUPTED)
    scene.go_on(3)
    assert scene.ended["resumed"].reason is Reason.TIMEOUT


def test_a_restart_keeps_when_the_job_started(scene: Scene) -> None:
    live = resume(scene, ran_s=100, run_timeout_s=600)
    before = live.document.started_at
    scene.go_on(10)
    assert live.document.started_at == before


def test_one_that_waits_in_silence_raises_a_suspicion(scene: Scene) -> None:
    scene.queue(scene.make("one"), scene.make("two"))
    scene.go_on(1)
    assert scene.server.suspected == 0
    scene.go_on(5)
    assert scene.server.suspected > 0


def test_one_that_waits_behind_a_running_one_raises_none(scene: Scene) -> None:
    running, waiting = scene.make("running", priority=1), scene.make("waiting")
    scene.queue(running, waiting)
    scene.server.tell(running.prompt_id, PromptState.RUNNING)
    scene.go_on(30)
    assert scene.server.suspected == 0


def test_what_left_while_it_was_ready_is_not_sent(scene: Scene) -> None:
    scene.server.state = "down"
    kept, gone = scene.make("kept"), scene.make("gone", priority=9)
    scene.queue(kept, gone)
    scene.execution.leave(gone)
    scene.server.state = "up"
    scene.go_on()
    assert scene.server.posted == ["kept"]


def test_a_closed_one_sends_nothing(scene: Scene) -> None:
    scene.execution.close()
    scene.queue(scene.make("late"))
    assert scene.server.posted == []

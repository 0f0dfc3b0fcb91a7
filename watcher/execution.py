"""A job at ComfyUI: whose turn it is, the POST, look-ups and websocket hints, and what to do when it gets lost.

Look-ups decide; the websocket only wakes and carries progress. Owned by the decision thread.
"""

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from handoff import log, messages, state, timestamps
from handoff.failures import DiskUnavailable, EdgeError, Failure, Reason
from handoff.job import prompt_id
from handoff.settings import WatcherSettings
from handoff.spool.journal import Journal
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Seat
from handoff.state import Status
from handoff.status import ComfyUIEntry, StatusDocument, seconds_between
from watcher import decisions
from watcher.capabilities import Capabilities
from watcher.comfyui import ComfyUI, NotArrived
from watcher.comfyui_events import Event
from watcher.comfyui_watch import ComfyUIWatch
from watcher.courier import Courier
from watcher.disk import Disk
from watcher.live import Attempt, Live, Phase
from watcher.loop import Loop
from watcher.peers import Peers
from watcher.prompts import Prompt, PromptState, failure_of
from watcher.submission import Lacking, NotPosted, Sent, Submission
from watcher.tasks import Tasks

QUIET_S = 3.0  # after an unclear POST: how long ComfyUI may still be taking it up
PROGRESS_S = 0.5  # how often a running job's status is written, at most
LONG_S = 0.3  # a run shorter than this is not worth a status of its own
SILENT_S = 2.0  # a prompt waits at ComfyUI and none of ours runs: time to look whether it still executes
UNSTARTED_S = 1.0  # between two look-ups of a prompt that waits at ComfyUI, while the websocket would tell of its start
LISTEN_S = 1.0  # how long a first prompt waits for the websocket, which is but a hint
CLOCK_S = 5.0  # the wall clock and the machine's own may differ by so much, over the life of a job
STOP_S, MOST_STOP_S = 0.05, 2.0  # after asking ComfyUI to stop a prompt, before looking and asking again
STUBBORN = 20  # requests to stop after which the log says so
STRAY_S = (10.0, 60.0)  # after an unclear POST: when to look whether it was taken up after all


@dataclass(frozen=True, kw_only=True)
class Handover:
    """How a job leaves without success at ComfyUI: `on_end` with a failure, `on_pass` to another watcher whose ComfyUI can
    run it. `on_sent`: it is there, and something may be done beside it.
    """

    on_end: Callable[[Live, state.Event, Failure], None]
    on_sent: Callable[[Live], None]
    on_pass: Callable[[Live], None]


class Execution:
    def __init__(
        self,
        loop: Loop,
        tasks: Tasks,
        *,
        settings: WatcherSettings,
        seat: Seat,
        comfyui: ComfyUI,
        watch: ComfyUIWatch,
        disk: Disk,
        journal: Journal,
        submission: Submission,
        peers: Peers,
        courier: Courier,
        handover: Handover,
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._settings = settings
        self._seat = seat
        self._comfyui = comfyui
        self._watch = watch
        self._disk = disk
        self._journal = journal
        self._submission = submission
        self._peers = peers
        self._courier = courier
        self._handover = handover
        self._log = log.get()
        self._ready: list[Live] = []
        self._inside: dict[str, Live] = {}
        self._load: dict[str, decisions.Inside] = {}
        """What each of them means for the next one's turn; asked for at every turn of the loop."""
        self._by_prompt: dict[str, Live] = {}
        self._durations: dict[str, float] = {}
        self._closed = False
        self._listening = False
        self._listen_by = 0.0

    def __len__(self) -> int:
        """How many jobs ComfyUI has of ours."""
        return len(self._inside)

    @property
    def has_room(self) -> bool:
        """Whether a job that is claimed now could be sent at once."""
        return not self._ready and self._may_send(alone=False)

    def close(self) -> None:
        """Sends nothing more; what ComfyUI has stays there for the next watcher."""
        self._closed = True

    def prompt_ids(self) -> list[str]:
        return list(self._by_prompt)

    def leave(self, live: Live) -> None:
        """Forgets the job here, whatever becomes of it."""
        self._inside.pop(live.token, None)
        self._load.pop(live.token, None)
        self._by_prompt.pop(live.prompt_id, None)
        if live in self._ready:
            self._ready.remove(live)

    # sending

    def queue(self, live: Live) -> None:
        """The job is claimed and planned: it is sent when there is room for it and it is the first by rank."""
        if live not in self._ready:
            insort(self._ready, live, key=lambda ready: ready.record.rank)

    def send_ready(self) -> None:
        """Sends what there is room for. Asked for at every turn of the loop, so that no way out of here can forget it."""
        while self._ready and not self._closed and self._may_send(alone=self._ready[0].alone):
            self._send(self._ready.pop(0))

    def _may_send(self, *, alone: bool) -> bool:
        return (
            self._watch.usable
            and (self._listening or time.monotonic() >= self._listen_by)
            and self._disk.trouble is None
            and decisions.may_send(self._load.values(), alone=alone, window=self._settings.window)
        )

    def _send(self, live: Live) -> None:
        capabilities = self._watch.capabilities
        assert capabilities is not None
        now = time.monotonic()
        number = live.record.attempt + (0 if live.resend else 1)
        # known to `hear` before the POST: a short job may be over before its answer is read
        self._enter(live, Attempt(prompt_id=prompt_id(live.token, number), sent_at=now, published_at=now))
        record, document, resend = live.record, live.document, live.resend
        self._tasks.run(
            live,
            "send",
            lambda: self._submission.send(record, document, capabilities, resend=resend),
            self._sent,
            self._not_sent,
        )

    def _enter(self, live: Live, attempt: Attempt) -> None:
        live.attempt = attempt
        self._inside[live.token] = self._by_prompt[attempt.prompt_id] = live
        expected_s = self._durations.get(_kind_of(live.record))
        self._load[live.token] = decisions.Inside(expected_s=expected_s, alone=live.alone)

    def _sent(self, live: Live, sent: Sent) -> None:
        heard = {"started_at": live.document.started_at, "queue_s": live.document.queue_s}
        live.record, live.document, live.phase = sent.record, sent.document.evolve(**heard), Phase.SENT
        live.resend = False
        now = time.monotonic()
        match sent.outcome:
            case "accepted":
                live.attempt.answered, live.attempt.quiet_at = True, now
                if isinstance(sent.trouble, DiskUnavailable):
                    self._disk.report(sent.trouble)
                elif sent.trouble is not None:
                    self._log.error("not_published", id=live.id, error=str(sent.trouble))
                self._courier.tell(live.document)
                self._look_later(live)
                self._handover.on_sent(live)
            case "unclear" | "server_error":
                bug = None if isinstance(sent.trouble, EdgeError) else sent.trouble
                answer = str(sent.trouble)
                self._log.warning("unclear", id=live.id, attempt=live.record.attempt, answer=answer, exc_info=bug)
                live.attempt.refused = sent.outcome == "server_error"
                live.attempt.quiet_at = now + QUIET_S
                self._look_later(live)
                for seconds in STRAY_S:
                    self._loop.after(seconds, partial(self._clear_stray, live.prompt_id))
            case "not_arrived":
                self.leave(live)
                live.phase, live.resend = Phase.READY, True
                assert isinstance(sent.trouble, NotArrived)
                self._watch.report_down(sent.trouble)
                self._tasks.advance(live)
            case "refused":
                assert sent.failure is not None
                self._handover.on_end(live, state.Event.FAILED, sent.failure)
            case "cancelled":
                self._handover.on_end(live, state.Event.CANCELLED, Failure(Reason.CANCELLED, id=live.id))

    def _not_sent(self, live: Live, error: BaseException) -> None:
        self.leave(live)
        match error:
            case Lacking():
                self._pass_on(live, error)
            case NotPosted(record=record, __cause__=cause):
                live.record, live.resend = record, True
                self._tasks.fail(live, cause or error)
            case _:
                self._tasks.fail(live, error)

    def _pass_on(self, live: Live, lacking: Lacking) -> None:
        """Another watcher's ComfyUI may have what ours lacks; or somebody may have just installed it here."""

        def found(live: Live, peers: tuple[list[str], list[str]]) -> None:
            able, others = peers
            if able and live.record.attempt == 0:
                self._log.info("passed_on", id=live.id, lacks=str(lacking.failure), able=able)
                self._handover.on_pass(live)
            else:
                self._tasks.run(live, "comfyui", self._watch.read, partial(self._settle_again, others=others))

        self._tasks.run(live, "files", lambda: self._peers.find_able(lacking.plan.graph), found)

    def _settle_again(self, live: Live, capabilities: Capabilities, *, others: list[str]) -> None:
        self._watch.renew(capabilities)
        try:
            self._submission.settle(live.record, capabilities)
        except Lacking as lacking:
            failure = lacking.failure
            if failure.reason is Reason.WORKFLOW_UNAVAILABLE:
                mine = f"{self._seat.server} lacks {failure.details['lacks']}"
                failure = Failure(Reason.WORKFLOW_UNAVAILABLE, lacks="; ".join([mine, *others]))
            self._handover.on_end(live, state.Event.FAILED, failure)
        else:
            self._tasks.advance(live)

    def _clear_stray(self, prompt: str) -> None:
        """The POST of an attempt that was given up may have been taken up late: one of the two may not run."""
        if prompt not in self._by_prompt and self._watch.usable:
            self._tasks.aside("comfyui", lambda: self._comfyui.cancel(prompt))

    def resume(self, live: Live, published: StatusDocument | None) -> None:
        """After a restart or a takeover: ComfyUI may have it, may be taking it up just now, or may have lost it."""
        record = live.record
        assert record.prompt_id is not None
        now = time.monotonic()
        attempt = Attempt(prompt_id=record.prompt_id, sent_at=now, quiet_at=now + QUIET_S)
        live.phase = Phase.SENT
        if published is not None and published.status is Status.RUNNING and published.attempt == record.attempt:
            live.document = published
            attempt.executed = live.alone  # ComfyUI had taken it and nothing else, so it began at once
            if published.started_at is not None:
                attempt.executed = attempt.start_told = True
                attempt.started_at = now - _ran_s(record, published.started_at)  # run_timeout_s goes on
        else:
            sent = ComfyUIEntry(prompt_id=record.prompt_id)
            live.document = live.document.evolve(attempt=record.attempt, comfyui=sent)
        self._enter(live, attempt)

    # following

    def hear(self, event: Event) -> None:
        """A message of the websocket: something happened, or may have happened while nobody listened."""
        if event.kind in ("connected", "lost"):
            self._listening = event.kind == "connected"
            if self._listening:
                self.look_at_all()
            return
        live = self._by_prompt.get(event.prompt_id or "")
        if live is None:
            return
        if event.kind == "finished":
            live.attempt.quiet_at = 0.0
            self._tasks.advance(live)
        else:
            self._note_start(live)
            self._note_progress(live, event)

    def start(self) -> None:
        """ComfyUI was found up. Prompts that are sent before the websocket is open bring no progress: wait for it a moment."""
        if not self._listening:
            self._listen_by = time.monotonic() + LISTEN_S
            self._loop.after(LISTEN_S, lambda: None)  # a turn of the loop
        self.look_at_all()

    def look_at_all(self) -> None:
        """ComfyUI is there, perhaps again."""
        for live in list(self._inside.values()):
            self._tasks.advance(live)

    def _note_start(self, live: Live) -> None:
        live.attempt.executed = True
        if live.attempt.started_at is None:
            live.attempt.started_at = time.monotonic()
            started = timestamps.to_text(timestamps.now())
            queue_s = seconds_between(live.document.created_at, started)
            live.document = live.document.evolve(started_at=started, queue_s=queue_s)
            self._loop.after(LONG_S, lambda: self._tell_start(live))

    def _tell_start(self, live: Live) -> None:
        """Once, and not of a short run."""
        started_at = live.attempt.started_at
        if started_at is not None and not live.attempt.start_told and time.monotonic() - started_at >= LONG_S:
            self._publish_progress(live)

    def _note_progress(self, live: Live, event: Event) -> None:
        if event.node is None or live.record.job is None:
            return
        graph = live.record.job.graph
        step = str(graph.get(event.node, {}).get("class_type", event.node))
        part = 0.0
        if event.kind == "step":
            live.attempt.done_nodes.add(event.node)
        elif event.value is not None and event.max:
            step = f"{step} {event.value:.0f}/{event.max:.0f}"
            part = min(1.0, event.value / event.max)
        progress = min(0.99, (max(0, len(live.attempt.done_nodes) - 1) + part) / max(1, len(graph)))
        live.document = live.document.evolve(step=step, progress=round(max(live.document.progress, progress), 3))
        if time.monotonic() - live.attempt.published_at >= PROGRESS_S:
            self._publish_progress(live)

    def _publish_progress(self, live: Live) -> None:
        """Where the job is busy just now, the next event or look comes back to it."""
        if live.busy or live.phase is not Phase.SENT or live.document.status is not Status.RUNNING:
            return
        live.attempt.published_at = time.monotonic()
        document = live.document
        self._courier.tell(document)

        def published(live: Live, _: None) -> None:
            live.attempt.start_told = document.started_at is not None

        self._tasks.run(
            live,
            "files",
            lambda: self._journal.publish_status(document, live.token, durable_write=False),
            published,
        )

    def _look_later(self, live: Live) -> None:
        """The one timer of an attempt; a later call replaces an earlier one."""
        now, attempt = time.monotonic(), live.attempt
        delay = decisions.poll_delay(now - (attempt.started_at or attempt.sent_at))
        if attempt.stops:
            delay = min(MOST_STOP_S, STOP_S * 2**attempt.stops)
        elif self._listening and attempt.started_at is None:
            delay = max(delay, UNSTARTED_S)
        look_at = attempt.look_at = now + delay
        self._loop.after(delay, lambda: self._tasks.advance(live) if live.attempt.look_at == look_at else None)

    def look(self, live: Live) -> None:
        """Asks ComfyUI what became of the prompt; while it is away, `look_at_all` comes back to it."""
        if self._watch.state != "down":
            self._tasks.run(live, "comfyui", lambda: self._comfyui.look_up(live.prompt_id), self._looked)

    def _looked(self, live: Live, prompt: Prompt | None) -> None:
        plan = live.record.job
        assert plan is not None
        if prompt is not None and live.document.status is Status.QUEUED:
            live.document = live.document.follow(state.Event.SUBMITTED)
        if prompt is not None and prompt.state is PromptState.RUNNING:
            self._note_start(live)
        why = failure_of(prompt, plan.graph) if prompt is not None and prompt.state is PromptState.FAILED else None
        match decisions.decide(live.record, prompt, _circumstances(live, plan, prompt), why):
            case decisions.Wait():
                if prompt is not None and prompt.state is PromptState.WAITING:
                    self._suspect(live)
                self._look_later(live)
                self._tell_start(live)
            case decisions.Stop():
                self._tasks.run(live, "comfyui", lambda: self._comfyui.cancel(live.prompt_id), self._stop_asked)
            case decisions.Collect():
                assert prompt is not None
                live.prompt, live.phase = prompt, Phase.COLLECT
                self.leave(live)
                self._learn_duration(live, prompt)
                self._tasks.advance(live)
            case decisions.Again() as again:
                self._try_again(live, again)
            case decisions.End(event=event, failure=failure):
                self._handover.on_end(live, event, failure)

    def _stop_asked(self, live: Live, _: bool) -> None:
        live.attempt.stops += 1
        if live.attempt.stops == STUBBORN:
            self._log.warning("comfyui_does_not_stop", id=live.id, hint="a node that never checks runs to its end")
        self._look_later(live)

    def _suspect(self, live: Live) -> None:
        if time.monotonic() - live.attempt.sent_at > SILENT_S and all(
            other.attempt.started_at is None for other in self._inside.values()
        ):
            self._watch.suspect_dead_worker()

    def _try_again(self, live: Live, again: decisions.Again) -> None:
        self._log.warning("again", id=live.id, attempt=again.tried.attempt, ended=again.tried.ended)
        self.leave(live)
        warning = messages.warn(again.warning, self._settings.language, attempt=again.tried.attempt)
        live.phase = Phase.READY
        live.record = live.record.evolve(tries=[*live.record.tries, again.tried])
        live.document = live.document.follow(
            state.Event.LOST,
            started_at=None,
            queue_s=None,
            step=None,
            progress=0.0,
            warnings=[*live.document.warnings, warning],
        )
        document, old_prompt = live.document, live.prompt_id

        def prepare() -> None:
            try:
                self._comfyui.cancel(old_prompt)  # should its POST still be taken up: one of the two may not run
                if again.free_memory:
                    self._comfyui.free()
            except EdgeError as error:  # it is away, and with it what it had
                self._log.info("not_prepared", id=live.id, error=str(error))
            self._journal.publish_status(document, live.token, durable_write=False)

        self._tasks.run(live, "comfyui", prepare, lambda live, _: self._tasks.advance(live))

    def _learn_duration(self, live: Live, prompt: Prompt) -> None:
        """A sliding average, so that a few short jobs may be inside together and ComfyUI does not run dry."""
        if prompt.started_ms is None or prompt.ended_ms is None:
            return
        kind, seconds = _kind_of(live.record), max(0, prompt.ended_ms - prompt.started_ms) / 1000
        if len(self._durations) >= 1000:
            self._durations.clear()
        known = self._durations.get(kind, seconds)
        self._durations[kind] = known + (seconds - known) / 4


def _circumstances(live: Live, plan: Plan, prompt: Prompt | None) -> decisions.Circumstances:
    """As of now, when a look-up found `prompt`."""
    now, attempt = time.monotonic(), live.attempt
    if plan.run_timeout_s is not None and attempt.started_at is not None:
        attempt.timed_out = now - attempt.started_at > plan.run_timeout_s
    return decisions.Circumstances(
        cancelled=live.cancelled,
        timed_out=attempt.timed_out and (prompt is not None or attempt.stops > 0),  # else it was lost, not stopped
        executed=attempt.executed,
        quiet=now >= attempt.quiet_at,
        refused=attempt.refused,
    )


def _ran_s(record: Record, started_at: str) -> float:
    """How long it has been running, by the wall clock; 0 where that was set since the job was accepted, or nobody can tell:
    better to count anew than to stop a healthy run.
    """
    now, waited = timestamps.now(), timestamps.seconds_since(record.received_uptime)
    if waited is None or abs((now - timestamps.from_text(record.received_at)).total_seconds() - waited) > CLOCK_S:
        return 0.0
    return max(0.0, (now - timestamps.from_text(started_at)).total_seconds())


def _kind_of(record: Record) -> str:
    """Jobs that are likely to take about as long as one another."""
    plan = record.job
    if plan is None:
        return ""
    return plan.workflow or ",".join(sorted(str(node.get("class_type")) for node in plan.graph.values()))[:500]

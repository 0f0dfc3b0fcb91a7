"""The life of a job, from a name in `input/` to its final status. One decision thread owns all state.

    a hint or a scan names a file          Reception, Intake    whole? claim it, take it in, or reject it
    it waits in the inbox                  _claim_more          the next by rank, when ComfyUI has room
    an adapter's job is planned            _plan                Planner: template filled, pictures fetched, seed drawn
    journalled, then POSTed                _send                Submission
    ComfyUI works                          _look, _hear         look-ups decide, the websocket only wakes
    what came out is verified              _collect             Delivery: published as `saving`
    every object is mirrored               _mirror              Delivery: an outage waits here
    the decision, and the bucket's copy    _conclude            Delivery: the final status

Everything that takes time runs in a small pool and comes back as a message; at most one such task is under way for a
job, so what is published of it never goes backwards. After a crash `_resume` finds each job's place from its record
and its status.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from handoff import documents, log, messages, state, timestamps
from handoff.failures import DiskUnavailable, EdgeError, Failure, Reason, Transient, Unavailable
from handoff.job import is_id, parse_job, prompt_id
from handoff.settings import WatcherSettings
from handoff.spool import lease, publisher, reservations, takeover
from handoff.spool.journal import Journal
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Fenced, Seat
from handoff.state import Status
from handoff.status import ComfyUIEntry, StatusDocument, describe_failure, seconds_between
from handoff.stores.contract import Store
from watcher import decisions
from watcher.capabilities import Capabilities, lacks
from watcher.comfyui import ComfyUI, Prompt, PromptState, failure_of
from watcher.comfyui_events import ComfyUIEvents, Event
from watcher.comfyui_watch import ComfyUIWatch
from watcher.courier import Courier
from watcher.deadlines import Deadline, read_deadlines
from watcher.delivery import Delivery
from watcher.disk import Disk
from watcher.intake import CANCEL
from watcher.live import Live, Phase, first_document
from watcher.loop import Loop
from watcher.outbox import Outbox
from watcher.peers import Peers
from watcher.pictures import NotYet, Pictures
from watcher.planning import Planner
from watcher.reception import Listener, Reception
from watcher.submission import Lacking, Sent, Submission
from watcher.waiting import Waiting
from workflows.catalogue import Catalogue
from workflows.template import Template

QUIET_S = 3.0  # after an unclear POST: how long ComfyUI may still be taking it up
PROGRESS_S = 0.5  # how often a running job's status is written, at most
LONG_S = 0.3  # a run shorter than this is not worth a status or an upload of its own
SWEEP_S = 30.0
UNKNOWN_CANCEL_S = 60.0  # a cancel mark for an id that nobody knows
SILENT_S = 2.0  # a prompt waits at ComfyUI and none of ours runs: time to look whether it still executes
BUGS = 5  # unexpected errors of this program on one job before it is given up
_Result = TypeVar("_Result")


class Worker:
    """One run of the watcher under one seat. `run` ends when it was asked to stop, or with Fenced."""

    def __init__(self, settings: WatcherSettings, store: Store, seat: Seat) -> None:
        self._settings = settings
        self._folders = seat.folders
        self._seat = seat
        self._log = log.get()
        self._loop = Loop(intake=1, fetch=4, files=2, comfyui=4, bucket=4)
        self._comfyui = ComfyUI(settings.comfyui_url)
        self._events = ComfyUIEvents(settings.comfyui_url, lambda event: self._loop.post(partial(self._hear, event)))
        self._comfyui_watch = ComfyUIWatch(
            self._loop, self._comfyui, restart_command=settings.comfyui_restart, on_up=self._comfyui_is_up
        )
        self._journal = Journal(seat)
        self._peers = Peers(seat)
        self._death_watch = takeover.DeathWatch(seat, settings.lease_s)
        self._catalogue = Catalogue(settings.workflows_dir)
        self._planner = Planner(
            catalogue=self._catalogue,
            pictures=Pictures(
                Path(seat.folders.input),
                Path(seat.path),
                url_allow=settings.url_allow,
                s3_prefixes=settings.s3_input_prefixes,
                download=store.download,
            ),
            language=settings.language,
            allow_graphs=settings.allow_graphs,
            node_deny=settings.node_deny,
        )
        self._disk = Disk(self._loop, seat, self._disk_recovered)
        self._waiting = Waiting()
        self._reception = Reception(
            self._loop,
            seat,
            settings,
            self._planner,
            self._disk,
            self._waiting,
            Listener(on_taken=self._meet, on_names=self._meet_names, on_cancel_mark=self._take_cancel_mark),
        )
        self._submission = Submission(
            seat=seat,
            journal=self._journal,
            comfyui=self._comfyui,
            language=settings.language,
            client_id=lambda: self._events.client_id,
        )
        self._delivery = Delivery(
            seat=seat,
            folders=seat.folders,
            journal=self._journal,
            comfyui=self._comfyui,
            store=store,
            prefix=settings.s3_prefix.strip("/"),
            url_lifetime_s=settings.url_lifetime_s,
            language=settings.language,
        )
        self._courier = Courier(self._delivery.put_progress)
        self._outbox = Outbox()
        self._fresh: Record | None = None
        """The job that this watcher took in last: when its turn comes at once, it is not read again."""
        self._live: dict[str, Live] = {}
        self._by_id: dict[str, Live] = {}
        self._by_prompt: dict[str, Live] = {}
        self._ready: deque[Live] = deque()
        self._inside: dict[str, Live] = {}
        self._mirroring: deque[Live] = deque()
        self._skipped: set[str] = set()
        """Tokens of waiting jobs that another watcher's ComfyUI can run and ours cannot."""
        self._durations: dict[str, float] = {}
        self._unknown_cancels: dict[str, float] = {}
        self._swept_at = 0.0
        self._stop_by: float | None = None

    # ── the run ──

    def run(self) -> None:
        """Raises Fenced when another watcher took this one's jobs over."""
        try:
            self._start()
            while not self._is_over():
                self._loop.turn()
                self._claim_more()
        finally:
            self._reception.close()
            self._events.stop()
            self._loop.close(wait=self._stop_by is not None and time.monotonic() < self._stop_by)
            self._courier.close()
            self._comfyui.close()
        self._release_unsent()

    def stop(self) -> None:
        """From any thread or a signal handler: finish what is being published, leave the rest to the next watcher."""
        self._loop.post(self._begin_stop)

    def abandon(self) -> None:
        """After Fenced: what this watcher still has at its ComfyUI is another's to run now."""
        comfyui = ComfyUI(self._settings.comfyui_url)
        for live in self._inside.values():
            if live.record.prompt_id is not None:
                try:
                    comfyui.cancel(live.record.prompt_id)
                except EdgeError as error:
                    self._log.warning("not_cancelled", id=live.id, error=str(error))
        comfyui.close()

    def _start(self) -> None:
        self._take_over_the_dead()
        self._resume_all()
        self._events.start()
        self._comfyui_watch.check()
        self._reception.start()
        self._beat()

    def _begin_stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", live=len(self._live), waiting=len(self._waiting))
        self._reception.close()
        self._release_unsent()
        self._loop.after(self._settings.grace_s, lambda: None)  # wakes the loop, should nothing else

    def _release_unsent(self) -> None:
        for live in list(self._live.values()):
            if not live.busy and live.record.attempt == 0 and live.phase in (Phase.PLAN, Phase.READY):
                self._release(live)

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        busy = self._reception.busy or any(live.busy for live in self._live.values())
        return not busy or time.monotonic() >= self._stop_by

    def _beat(self) -> None:
        """The sign of life, by the thread that does the work: a watcher that hangs falls silent."""
        if not self._seat.held():
            raise Fenced
        try:
            self._seat.beat(self._health())
        except OSError as error:
            self._log.warning("beat_failed", error=str(error))
        if self._stop_by is None and self._take_over_the_dead():
            self._resume_all()
            self._reception.resume_claims()
        if time.monotonic() - self._swept_at > SWEEP_S:
            self._swept_at = time.monotonic()
            self._background("files", self._sweep)
        self._loop.after(lease.BEAT_S, self._beat)

    def _health(self) -> dict[str, Any]:
        return {
            "comfyui": self._comfyui_watch.state,
            "bucket": self._outbox.trouble or "ok",
            "disk": self._disk.trouble or "ok",
            "events": self._reception.why_polling or "ok",
            "paused": self._reception.paused,
            "waiting": len(self._waiting),
            "inside": len(self._inside),
            "live": len(self._live),
        }

    def _take_over_the_dead(self) -> bool:
        taken = False
        for wid in self._death_watch.find_dead(time.monotonic()):
            if takeover.take_over(self._seat, wid):
                taken = True
                self._log.warning("took_over", watcher=wid)
        return taken

    def _sweep(self) -> None:
        publisher.sweep(self._folders)
        takeover.clear_leftovers(self._seat)
        self._journal.clear_work()

    # ── tasks ──

    def _run(
        self,
        live: Live,
        pool: str,
        work: Callable[[], _Result],
        done: Callable[[Live, _Result], None],
        failed: Callable[[Live, BaseException], None] | None = None,
    ) -> None:
        """One task of a job; the job is touched by nobody else until it is back."""
        assert not live.busy
        live.busy = True

        def back(message: Callable[[], None]) -> None:
            live.busy = False
            message()
            if live.wanted:
                live.wanted = False
                self._advance(live)

        def finished(result: _Result) -> None:
            live.trouble = 0
            back(lambda: done(live, result))

        self._loop.spawn(pool, work, finished, lambda error: back(lambda: (failed or self._failed)(live, error)))

    def _background(self, pool: str, work: Callable[[], None]) -> None:
        """A courtesy: whatever goes wrong is named in the log, and nothing else comes of it."""

        def failed(error: BaseException) -> None:
            if isinstance(error, Fenced):
                raise error
            self._log.warning("background_failed", error=str(error) or repr(error))

        self._loop.spawn(pool, work, lambda _: None, failed)

    def _failed(self, live: Live, error: BaseException) -> None:
        match error:
            case Failure():
                if live.phase is Phase.MIRROR:
                    self._bucket_works()
                self._end(live, state.Event.FAILED, error)
            case Unavailable() | Transient() | documents.UnreadableDocument():
                live.trouble += 1
                self._report_trouble(live, error)
            case Exception() if not isinstance(error, Fenced):
                live.trouble += 1
                self._log.error("bug", id=live.id, phase=live.phase.name, exc_info=error)
                if live.trouble >= BUGS and live.phase is not Phase.CONCLUDE:
                    self._end(live, state.Event.FAILED, Failure(Reason.INTERNAL_ERROR, problem=repr(error)[:200]))
                else:
                    self._advance_later(live, decisions.backoff(live.trouble))
            case _:
                raise error

    def _report_trouble(self, live: Live, error: EdgeError) -> None:
        delay = decisions.backoff(live.trouble)
        if isinstance(error, DiskUnavailable):
            self._disk.report(error)
        elif live.phase in (Phase.MIRROR, Phase.CONCLUDE):
            if self._outbox.trouble is None:
                self._log.warning("bucket_away", error=str(error), hint="ComfyUI goes on drawing; results wait")
            delay = self._outbox.report_failure(live.token, error, time.monotonic())
        elif isinstance(error, Unavailable) and live.phase is not Phase.PLAN:
            self._comfyui_watch.report_down(error)  # when it is back, `_comfyui_is_up` goes on with the job, too
        self._advance_later(live, delay)

    def _advance_later(self, live: Live, seconds: float) -> None:
        self._loop.after(seconds, lambda: self._advance(live))

    def _advance(self, live: Live) -> None:
        """Starts the task that the job's phase asks for, unless one is under way."""
        if live.token not in self._live:
            return
        if live.busy:
            live.wanted = True
            return
        if self._stop_by is not None and live.phase in (Phase.PLAN, Phase.READY, Phase.SENT):
            return
        match live.phase:
            case Phase.PLAN:
                self._plan(live)
            case Phase.READY:
                if live not in self._ready:
                    self._ready.append(live)
                self._send_ready()
            case Phase.SENT:
                self._look(live)
            case Phase.COLLECT:
                self._collect(live)
            case Phase.MIRROR:
                self._mirror(live)
            case Phase.CONCLUDE:
                self._conclude(live)

    # ── waiting jobs ──

    def _meet(self, record: Record) -> None:
        """A job that this watcher just took in."""
        self._fresh = record
        self._courier.tell(first_document(record))
        if (deadline := Deadline.of(record)) is not None:
            self._watch_deadline(deadline)

    def _meet_names(self, names: list[str]) -> None:
        """Jobs that others put into the inbox, or that lay there at the start: their deadlines are not in their names."""

        def found(deadlines: list[Deadline]) -> None:
            for deadline in deadlines:
                self._watch_deadline(deadline)

        def failed(error: BaseException) -> None:
            self._log.warning("background_failed", error=str(error))

        self._loop.spawn("files", lambda: read_deadlines(self._folders.inbox, names, self._courier.tell), found, failed)

    def _watch_deadline(self, deadline: Deadline) -> None:
        self._loop.after(max(0.0, deadline.left(timestamps.now())), lambda: self._expire(deadline))

    def _expire(self, deadline: Deadline) -> None:
        live = self._live.get(deadline.token) or self._claim(deadline.token)
        if live is None or live.busy or live.phase not in (Phase.PLAN, Phase.READY) or live.record.attempt:
            return
        self._end(live, state.Event.EXPIRED, Failure(Reason.QUEUE_TIMEOUT, seconds=deadline.timeout_s))

    def _claim_more(self) -> None:
        """Claims while ComfyUI has room for more than what is ready already."""
        while self._may_claim():
            found = self._waiting.next(self._skipped)
            if found is None:
                return
            live = self._claim(found[1])
            if live is not None:
                self._advance(live)

    def _may_claim(self) -> bool:
        return (
            self._stop_by is None
            and not self._reception.paused
            and self._disk.trouble is None
            and self._comfyui_watch.usable
            and not self._ready
            and sum(live.phase is Phase.PLAN for live in self._live.values()) < self._settings.window
            and decisions.may_send(self._present(), alone=False, window=self._settings.window)
        )

    def _claim(self, token: str) -> Live | None:
        """Takes a waiting job out of the inbox, for whatever reason. None: another watcher did."""
        name = self._waiting.name(token)
        if name is None:
            return None
        self._waiting.discard(token)
        try:
            record = self._journal.claim(name, token, known=self._fresh)
        except documents.UnreadableDocument as error:
            self._log.error("unreadable_record", file=name, error=str(error), hint="left in the watcher's folder")
            return None
        except Unavailable as error:
            self._disk.report(error)
            self._waiting.add(name)
            return None
        return None if record is None else self._adopt(record)

    def _adopt(self, record: Record) -> Live:
        phase = Phase.PLAN if record.job is None else Phase.READY
        live = Live(record=record, document=first_document(record), phase=phase, arrived_at=time.monotonic())
        live.cancelled = self._journal.is_cancelled(record.id)
        self._live[record.token] = self._by_id[record.id] = live
        return live

    def _release(self, live: Live) -> None:
        """Back into the inbox, for another watcher or another time."""
        self._forget(live)
        self._journal.release(live.record)

    def _forget(self, live: Live) -> None:
        self._live.pop(live.token, None)
        self._by_id.pop(live.id, None)
        self._leave_comfyui(live)
        if live in self._ready:
            self._ready.remove(live)

    # ── after a crash, a restart or a takeover ──

    def _resume_all(self) -> None:
        for record in self._journal.records():
            if record.token not in self._live:
                self._resume(record)

    def _resume(self, record: Record) -> None:
        live = self._adopt(record)
        try:
            published = self._journal.status(record)
        except documents.UnreadableDocument as error:
            self._log.error("unreadable_status", id=record.id, error=str(error))
            published = None
        if published is not None and not _is_of(record, published):
            published = None
        self._log.info("resumed", id=record.id, attempt=record.attempt, status=published.status if published else None)
        if published is not None and published.done:
            live.document, live.phase = published, Phase.CONCLUDE
        elif published is not None and published.status is Status.SAVING and published.attempt == record.attempt:
            live.document, live.phase = published, Phase.MIRROR
        elif record.attempt > 0:
            self._resume_sent(live, published)
        self._advance(live)

    def _resume_sent(self, live: Live, published: StatusDocument | None) -> None:
        """ComfyUI may have it, may be taking it up just now, or may have lost it: a look-up tells."""
        record = live.record
        now = time.monotonic()
        live.phase, live.sent_at, live.quiet_at = Phase.SENT, now, now + QUIET_S
        live.prompt_id = record.prompt_id or ""
        if published is not None and published.status is Status.RUNNING and published.attempt == record.attempt:
            live.document = published
            live.executed = published.started_at is not None
        else:
            live.document = live.document.evolve(
                attempt=record.attempt, comfyui=ComfyUIEntry(prompt_id=record.prompt_id)
            )
        self._enter_comfyui(live)

    # ── planning: only what an adapter published ──

    def _plan(self, live: Live) -> None:
        if live.cancelled:
            self._end_cancelled(live)
            return

        def plan() -> Plan:
            job = parse_job(live.record.body, default_workflow=self._settings.default_workflow)
            return self._planner.plan(job, may_fetch=True)

        self._run(live, "fetch", plan, self._planned, self._not_planned)

    def _planned(self, live: Live, plan: Plan) -> None:
        live.record = live.record.evolve(job=plan)
        live.document = first_document(live.record)
        live.phase = Phase.READY
        self._advance(live)

    def _not_planned(self, live: Live, error: BaseException) -> None:
        match error:
            case NotYet():
                waited = time.monotonic() - live.arrived_at
                if waited < self._settings.picture_wait_s:
                    self._advance_later(live, 0.5)
                else:
                    self._end(live, state.Event.REJECTED, error.failure(round(waited, 1)))
            case Failure():
                self._end(live, state.Event.REJECTED, error)
            case _:
                self._failed(live, error)

    # ── ComfyUI ──

    def _present(self) -> list[decisions.Inside]:
        return [live.to_inside(self._durations.get(_kind_of(live.record))) for live in self._inside.values()]

    def _send_ready(self) -> None:
        while self._ready and self._stop_by is None:
            live = self._ready[0]
            if live.cancelled and not live.resend:
                self._ready.popleft()
                self._end_cancelled(live)
            elif (
                self._comfyui_watch.usable
                and self._disk.trouble is None
                and decisions.may_send(self._present(), alone=live.alone, window=self._settings.window)
            ):
                self._ready.popleft()
                self._send(live)
            else:
                return

    def _send(self, live: Live) -> None:
        capabilities = self._comfyui_watch.capabilities
        assert capabilities is not None
        live.prompt_id = prompt_id(live.token, live.record.attempt + (0 if live.resend else 1))
        self._enter_comfyui(live)  # before the POST: a short job may be over before its answer is read
        live.sent_at = time.monotonic()
        live.executed = live.refused = live.timed_out = False
        live.started_at, live.prompt, live.done_nodes = None, None, set()
        record, document, resend = live.record, live.document, live.resend
        self._run(
            live,
            "comfyui",
            lambda: self._submission.send(record, document, capabilities, resend=resend),
            self._sent,
            self._not_sent,
        )

    def _sent(self, live: Live, sent: Sent) -> None:
        started = {"started_at": live.document.started_at, "queue_s": live.document.queue_s}
        live.record, live.document, live.phase = sent.record, sent.document.evolve(**started), Phase.SENT
        live.resend = False
        now = time.monotonic()
        match sent.outcome:
            case "accepted":
                live.quiet_at = now
                self._look_later(live)
                self._courier.tell(live.document)
                self._loop.after(LONG_S, lambda: self._put_job_document(live))
            case "unclear" | "server_error":
                self._log.warning("unclear", id=live.id, attempt=live.record.attempt, answer=sent.text)
                live.refused = sent.outcome == "server_error"
                live.quiet_at = now + QUIET_S
                self._look_later(live)
            case "not_arrived":
                self._leave_comfyui(live)
                live.phase, live.resend = Phase.READY, True
                self._ready.appendleft(live)
                self._comfyui_watch.report_down(Unavailable(sent.text))
            case "refused":
                self._leave_comfyui(live)
                assert sent.failure is not None
                self._end(live, state.Event.FAILED, sent.failure)

    def _not_sent(self, live: Live, error: BaseException) -> None:
        self._leave_comfyui(live)
        if isinstance(error, Lacking):
            self._pass_on(live, error)
        else:
            self._failed(live, error)

    def _pass_on(self, live: Live, lacking: Lacking) -> None:
        """Another watcher's ComfyUI may have what ours lacks; or somebody may have just installed it here."""
        able, others = self._peers.find_able(lacking.plan.graph)
        if able and live.record.attempt == 0:
            self._log.info("passed_on", id=live.id, lacks=lacking.what, able=able)
            self._skipped.add(live.token)
            self._release(live)
            return

        def check(live: Live, found: Capabilities) -> None:
            self._comfyui_watch.capabilities = found
            if lacks(lacking.plan.graph, found):
                mine = f"{self._seat.server} lacks {', '.join(lacking.what)}"
                self._end(
                    live, state.Event.FAILED, Failure(Reason.WORKFLOW_UNAVAILABLE, lacks="; ".join([mine, *others]))
                )
            else:
                self._advance(live)

        live.phase = Phase.READY
        self._run(live, "comfyui", self._comfyui_watch.read, check)

    def _enter_comfyui(self, live: Live) -> None:
        self._inside[live.token] = self._by_prompt[live.prompt_id] = live

    def _leave_comfyui(self, live: Live) -> None:
        self._inside.pop(live.token, None)
        self._by_prompt.pop(live.prompt_id, None)

    def _put_job_document(self, live: Live) -> None:
        """While ComfyUI draws, if it draws long; else, or if it does not work now, `_mirror` does it."""
        if live.busy or live.phase is not Phase.SENT or self._outbox.trouble is not None:
            return

        def done(live: Live, _: None) -> None:
            live.job_document_put = True

        def failed(live: Live, error: BaseException) -> None:
            if not isinstance(error, EdgeError):
                self._failed(live, error)

        record = live.record
        self._run(live, "bucket", lambda: self._delivery.put_job_document(record), done, failed)

    def _hear(self, event: Event) -> None:
        """A message of ComfyUI's websocket."""
        if event.kind == "connected":
            if not self._comfyui_watch.usable:
                self._comfyui_watch.check()
            for live in list(self._inside.values()):
                self._advance(live)
            return
        told = self._by_prompt.get(event.prompt_id or "")
        if told is None or told.phase not in (Phase.READY, Phase.SENT):
            return
        if event.kind == "finished":
            told.quiet_at = 0.0
            self._advance(told)
        else:
            self._started(told)
            self._note_progress(told, event)

    def _started(self, live: Live) -> None:
        if live.started_at is None:
            live.executed = True
            live.started_at = time.monotonic()
            started = timestamps.to_text(timestamps.now())
            live.document = live.document.evolve(
                started_at=started, queue_s=seconds_between(live.document.created_at, started)
            )
            self._loop.after(LONG_S, lambda: self._publish_progress(live))

    def _note_progress(self, live: Live, event: Event) -> None:
        assert live.record.job is not None
        graph = live.record.job.graph
        node = event.node
        if node is None:
            return
        title = graph.get(node, {}).get("class_type", node)
        part = 0.0
        if event.kind == "step":
            step = title
            live.done_nodes.add(node)
        else:
            step = f"{title} {event.value:.0f}/{event.max:.0f}"
            part = min(1.0, (event.value or 0.0) / (event.max or 1.0))
        progress = min(0.99, (max(0, len(live.done_nodes) - 1) + part) / max(1, len(graph)))
        live.document = live.document.evolve(step=step, progress=round(max(live.document.progress, progress), 3))
        if time.monotonic() - live.published_at >= PROGRESS_S:
            self._publish_progress(live)

    def _publish_progress(self, live: Live) -> None:
        if live.busy or live.phase is not Phase.SENT or live.document.status is not Status.RUNNING:
            return
        live.published_at = time.monotonic()
        document = live.document
        self._courier.tell(document)
        self._run(
            live,
            "files",
            lambda: self._journal.publish_status(document, live.token, durable_write=False),
            lambda _live, _: None,
        )

    def _look_later(self, live: Live) -> None:
        elapsed = time.monotonic() - (live.started_at or live.sent_at)
        live.due = time.monotonic() + decisions.poll_delay(elapsed)
        due = live.due
        self._loop.after(due - time.monotonic(), lambda: self._advance(live) if live.due == due else None)

    def _look(self, live: Live) -> None:
        if self._comfyui_watch.state == "down":
            return  # `_comfyui_is_up` comes back to it
        self._run(live, "comfyui", lambda: self._comfyui.look_up(live.prompt_id), self._looked)

    def _looked(self, live: Live, prompt: Prompt | None) -> None:
        if prompt is not None and live.document.status is Status.QUEUED:
            live.document = live.document.follow(state.Event.SUBMITTED)
        if prompt is not None and prompt.state is PromptState.RUNNING:
            self._started(live)
        plan = live.record.job
        assert plan is not None
        limit = plan.run_timeout_s
        if limit is not None and live.started_at is not None and time.monotonic() - live.started_at > limit:
            live.timed_out = True
        failure = failure_of(prompt, plan.graph) if prompt is not None and prompt.state is PromptState.FAILED else None
        circumstances = decisions.Circumstances(
            cancelled=live.cancelled,
            timed_out=live.timed_out,
            executed=live.executed,
            quiet=time.monotonic() >= live.quiet_at,
            refused=live.refused,
        )
        match decisions.decide(live.record, prompt, circumstances, failure):
            case decisions.Wait():
                if prompt is not None and prompt.state is PromptState.WAITING:
                    self._suspect(live)
                self._look_later(live)
            case decisions.Stop():
                self._run(live, "comfyui", lambda: self._comfyui.cancel(live.prompt_id), self._stop_asked)
            case decisions.Collect():
                live.prompt, live.phase = prompt, Phase.COLLECT
                self._leave_comfyui(live)
                self._learn_duration(live)
                self._advance(live)
                self._send_ready()
            case decisions.Again() as again:
                self._try_again(live, again)
            case decisions.End(event=event, failure=failure):
                self._leave_comfyui(live)
                self._end(live, event, failure)
                self._send_ready()

    def _stop_asked(self, live: Live, _: object) -> None:
        self._loop.after(0.05, lambda: self._advance(live))
        self._look_later(live)

    def _suspect(self, live: Live) -> None:
        others_run = any(other.started_at is not None for other in self._inside.values())
        if not others_run and time.monotonic() - live.sent_at > SILENT_S:
            self._comfyui_watch.suspect_dead_worker()

    def _try_again(self, live: Live, again: decisions.Again) -> None:
        self._log.warning("again", id=live.id, attempt=again.tried.attempt, ended=again.tried.ended)
        self._leave_comfyui(live)
        live.record = live.record.evolve(tries=[*live.record.tries, again.tried])
        warning = messages.warn(again.warning, self._settings.language, attempt=again.tried.attempt)
        live.document = live.document.follow(
            state.Event.LOST,
            started_at=None,
            queue_s=None,
            step=None,
            progress=0.0,
            warnings=[*live.document.warnings, warning],
        )
        live.phase = Phase.READY
        document, old_prompt = live.document, live.prompt_id

        def prepare() -> None:
            self._journal.publish_status(document, live.token, durable_write=False)
            try:
                self._comfyui.cancel(old_prompt)  # should its POST still be taken up: one of the two may not run
                if again.free_memory:
                    self._comfyui.free()
            except EdgeError as error:  # it is away, and with it what it had
                self._log.info("not_prepared", id=live.id, error=str(error))

        self._run(live, "comfyui", prepare, lambda live, _: self._advance(live))

    def _comfyui_is_up(self, capabilities: Capabilities) -> None:
        workflows = [
            entry.name
            for entry in self._catalogue.list()
            if isinstance(entry, Template) and not lacks(entry.graph, capabilities)
        ]
        self._background("files", lambda: self._peers.publish(capabilities, workflows))
        for live in list(self._inside.values()):
            self._advance(live)
        self._send_ready()

    def _learn_duration(self, live: Live) -> None:
        if live.prompt is None or live.prompt.started_ms is None or live.prompt.ended_ms is None:
            return
        kind, seconds = _kind_of(live.record), (live.prompt.ended_ms - live.prompt.started_ms) / 1000
        if len(self._durations) > 1000:
            self._durations.clear()
        known = self._durations.get(kind, seconds)
        self._durations[kind] = known + (seconds - known) / 4

    # ── results ──

    def _collect(self, live: Live) -> None:
        prompt = live.prompt
        assert prompt is not None
        record, document = live.record, live.document
        self._run(live, "comfyui", lambda: self._delivery.collect(record, prompt, document), self._collected)

    def _collected(self, live: Live, document: StatusDocument) -> None:
        live.document, live.phase = document, Phase.MIRROR
        self._courier.tell(document)
        self._advance(live)

    def _mirror(self, live: Live) -> None:
        if not self._outbox.may_try(live.token, time.monotonic()):
            self._mirroring.append(live)
            return
        record, document, put = live.record, live.document, live.job_document_put
        self._run(
            live,
            "bucket",
            lambda: self._delivery.mirror(record, document, job_document_put=put),
            self._mirrored,
        )

    def _mirrored(self, live: Live, _: None) -> None:
        live.job_document_put = True
        self._bucket_works()
        self._end(live, state.Event.MIRRORED, None)

    def _bucket_works(self) -> None:
        if self._outbox.report_success():
            self._log.info("bucket_back", waiting=len(self._mirroring))
        waiting, self._mirroring = self._mirroring, deque()
        for live in waiting:
            self._advance(live)

    def _end_cancelled(self, live: Live) -> None:
        self._end(live, state.Event.CANCELLED, Failure(Reason.CANCELLED))

    def _end(self, live: Live, event: state.Event, failure: Failure | None) -> None:
        """The job's end is known. It is fixed here, once; from here on the same bytes are published, however often."""
        if live in self._ready:
            self._ready.remove(live)
        self._leave_comfyui(live)
        error = None if failure is None else describe_failure(failure, self._settings.language, id=live.id)
        live.document = live.document.finish(event, timestamps.now(), error=error)
        live.phase = Phase.CONCLUDE
        self._advance(live)

    def _conclude(self, live: Live) -> None:
        record, document, put = live.record, live.document, live.job_document_put

        def decide() -> None:
            self._delivery.decide(record, document)

        def decide_and_conclude() -> None:
            if not live.decided:
                decide()
            self._delivery.conclude(record, document, job_document_put=put)

        if self._outbox.may_try(live.token, time.monotonic()):
            self._run(live, "bucket", decide_and_conclude, self._concluded)
        elif not live.decided:
            self._run(live, "files", decide, self._decided)
        else:
            self._mirroring.append(live)

    def _decided(self, live: Live, _: None) -> None:
        live.decided = True
        self._advance(live)

    def _concluded(self, live: Live, _: None) -> None:
        self._forget(live)
        self._courier.tell(live.document)
        self._log_job(live)
        self._bucket_works()
        self._send_ready()

    def _log_job(self, live: Live) -> None:
        """The canonical line: all that is worth knowing of a job, once, at its end."""
        document = live.document
        fields: dict[str, Any] = {
            "id": document.id,
            "status": document.status,
            "workflow": document.workflow,
            "attempts": document.attempt,
            "queue_s": document.queue_s,
            "run_s": document.run_s,
            "save_s": document.save_s,
            "outputs": len(document.outputs),
            "bytes": sum(output.bytes for output in document.outputs),
        }
        if document.error is not None:
            node = document.error.node
            fields |= {"reason": document.error.reason, "message": document.error.message}
            fields |= {"node": f"{node.id} {node.title or node.class_type}"} if node is not None else {}
        self._log.info("job", **fields)

    # ── cancel marks ──

    def _take_cancel_mark(self, id: str) -> None:
        """`input/<id>.cancel`: it stays until the final status is out, so that no crash forgets it."""
        live = self._by_id.get(id)
        if live is not None:
            if not live.cancelled and not live.document.done:
                self._log.info("cancel", id=id, phase=live.phase.name)
            live.cancelled = True
            self._advance(live)
            return

        def failed(error: BaseException) -> None:
            self._log.warning("background_failed", error=str(error))

        self._loop.spawn("files", lambda: self._find_cancelled(id), partial(self._cancel, id), failed)

    def _find_cancelled(self, id: str) -> reservations.Reservation | None:
        found = reservations.find(self._folders, id) if is_id(id) else None
        if found is not None and found.token is not None and not found.finished:
            document = StatusDocument.find(self._folders.status(id))
            return replace(found, finished=document is not None and document.done)
        return found

    def _cancel(self, id: str, found: reservations.Reservation | None) -> None:
        mark = f"{id}{CANCEL}"
        if found is None:
            first = self._unknown_cancels.setdefault(id, time.monotonic())
            if time.monotonic() - first >= UNKNOWN_CANCEL_S:
                del self._unknown_cancels[id]
                self._reception.reject(mark, Failure(Reason.UNKNOWN_ID, id=id))
            return
        self._unknown_cancels.pop(id, None)
        if found.finished and id not in self._by_id:
            with suppress(FileNotFoundError):
                os.unlink(self._folders.cancel_mark(id))
            return
        waiting = self._claim(found.token) if found.token is not None else None
        if waiting is not None:
            self._log.info("cancel", id=id, phase="waiting")
            waiting.cancelled = True
            self._advance(waiting)

    def _disk_recovered(self) -> None:
        self._reception.scan()
        self._send_ready()


def _is_of(record: Record, published: StatusDocument) -> bool:
    """Whether a status was published of this submission, not of one that had the same id before it."""
    ids = {prompt_id(record.token, attempt) for attempt in range(1, record.attempt + 1)}
    return published.comfyui.prompt_id is None or published.comfyui.prompt_id in ids


def _kind_of(record: Record) -> str:
    """Jobs that are likely to take about as long as one another."""
    plan = record.job
    if plan is None:
        return ""
    return plan.workflow or ",".join(sorted(str(node.get("class_type")) for node in plan.graph.values()))[:500]

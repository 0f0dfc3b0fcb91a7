"""The life of a job, from a name in `input/` to its final status. One decision thread owns all state.

    a hint or a scan names a file           reception, intake       whole? claim it, take it in, or reject it
    it waits in the inbox                   move_line               the next by rank, when ComfyUI has room
    an adapter's job is planned             preparation, planning   template filled, pictures fetched, seed drawn
    journalled, then POSTed                 execution, submission
    ComfyUI works                           execution, decisions    look-ups decide, the websocket only wakes
    what came out is verified               publication, collector  published as `saving`
    every object is mirrored                publication, delivery   an outage waits here
    the decision, and the bucket's copy     publication, delivery   the final status; the record is filed

Everything that takes time runs in a small pool and comes back as a message; at most one such task is under way for a
job, so what is published of it never goes backwards. After a crash `recovery` finds each job's place from its
record and its status.
"""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from handoff import documents, log, state, timestamps
from handoff.failures import DiskUnavailable, EdgeError, Failure, NotPermitted, Permanent, Reason
from handoff.masking import mask_urls
from handoff.settings import WatcherSettings
from handoff.site import Site
from handoff.spool import lease, publisher, takeover
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Record
from handoff.spool.seat import Fenced, Seat
from handoff.stores.contract import Store
from watcher import decisions
from watcher.cancellation import Cancellation
from watcher.capabilities import Capabilities, lacks
from watcher.comfyui import ComfyUI, NotArrived
from watcher.comfyui_events import ComfyUIEvents
from watcher.comfyui_watch import ComfyUIWatch
from watcher.courier import Courier
from watcher.deadlines import Deadline, read_deadlines
from watcher.delivery import Delivery
from watcher.disk import Disk
from watcher.execution import Execution, Handover
from watcher.live import Jobs, Live, Phase
from watcher.loop import Loop, Timer
from watcher.peers import Peers
from watcher.pictures import Pictures
from watcher.planning import Planner
from watcher.preparation import Preparation
from watcher.publication import Publication
from watcher.reception import Listener, Reception
from watcher.recovery import Recovery
from watcher.submission import Submission
from watcher.tasks import FATAL, Tasks
from watcher.waiting import Waiting
from workflows.catalogue import Catalogue
from workflows.template import Template

SWEEP_S = 30.0
LOOK_AGAIN = 5  # passed-on jobs that are looked at again at each sweep
AGAIN_S = 1.0
BUGS = 5  # unexpected errors of this program on one job before it is given up


class Worker:
    """One run of the watcher under one seat. `run` ends when it was asked to stop, or with Fenced."""

    def __init__(self, settings: WatcherSettings, store: Store, seat: Seat) -> None:
        self._settings = settings
        self._folders = seat.folders
        self._seat = seat
        self._log = log.get()
        # one sender: ComfyUI works in the order in which the prompts arrive
        self._loop = Loop(intake=1, plan=1, fetch=4, files=2, send=1, comfyui=4, verify=2, bucket=4)
        self._tasks = Tasks(self._loop, self._advance, self._failed)
        self._jobs = Jobs()
        self._deadlines: dict[str, Timer] = {}
        self._waiting = Waiting()
        self._skipped: dict[str, None] = {}
        """Tokens of waiting jobs that another watcher's ComfyUI can run and ours cannot, the oldest first."""
        self._fresh: Record | None = None
        """The job that this watcher took in last: when its turn comes at once, it is not read again."""
        self._swept_at: float | None = None
        self._stop_by: float | None = None

        self._journal = Journal(seat)
        self._peers = Peers(seat)
        self._death_watch = takeover.DeathWatch(seat, settings.lease_s)
        self._catalogue = Catalogue(settings.workflows_dir)
        planner = Planner(
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
        self._preparation = Preparation(self._tasks, planner, seat, settings, on_end=self._end)
        self._disk = Disk(self._loop, seat, self._disk_recovered)
        self._comfyui = ComfyUI(settings.comfyui_url)
        self._comfyui_watch = ComfyUIWatch(
            self._loop, self._comfyui, restart_command=settings.comfyui_restart, on_up=self._comfyui_is_up
        )
        site = Site(seat.folders, store)
        delivery = Delivery(
            seat=seat,
            folders=seat.folders,
            journal=self._journal,
            comfyui=self._comfyui,
            store=store,
            site=site,
            prefix=settings.s3_prefix.strip("/"),
            url_lifetime_s=settings.url_lifetime_s,
            language=settings.language,
        )
        self._courier = Courier(delivery.put_progress, has_status=lambda id: os.path.lexists(seat.folders.status(id)))
        self._check_site = site.ensure
        self._publication = Publication(
            self._loop,
            self._tasks,
            delivery,
            self._courier,
            language=settings.language,
            forget=self._forget,
            recall=self._recall,
        )
        self._execution = Execution(
            self._loop,
            self._tasks,
            settings=settings,
            seat=seat,
            comfyui=self._comfyui,
            watch=self._comfyui_watch,
            disk=self._disk,
            journal=self._journal,
            submission=Submission(
                seat=seat,
                journal=self._journal,
                comfyui=self._comfyui,
                language=settings.language,
                client_id=lambda: self._events.client_id,
            ),
            peers=self._peers,
            courier=self._courier,
            handover=Handover(
                on_end=self._end,
                on_sent=self._publication.put_job_document,
                on_pass=self._pass,
            ),
        )
        self._recovery = Recovery(
            self._tasks,
            self._jobs,
            seat,
            self._journal,
            self._comfyui,
            self._execution,
            self._publication,
            adopt=self._adopt,
            end=self._end,
        )
        self._events = ComfyUIEvents(
            settings.comfyui_url, lambda event: self._loop.post(partial(self._execution.hear, event))
        )
        self._reception = Reception(
            self._loop,
            seat,
            settings,
            planner,
            self._disk,
            self._waiting,
            Listener(
                on_taken=self._meet,
                on_names=self._meet_names,
                on_cancel_mark=lambda id: self._cancellation.take(id),  # noqa: PLW0108 - made below
            ),
        )
        self._cancellation = Cancellation(
            self._tasks, self._jobs, seat.folders, self._journal, claim=self._claim, reject=self._reception.reject
        )

    # the run

    def run(self) -> None:
        """Raises Fenced when another watcher took this one's jobs over."""
        try:
            self._start()
            while not self._is_over():
                self._loop.turn()
                self._move_line()
        finally:
            by = self._stop_by or time.monotonic()
            self._reception.close()
            self._loop.close(by=by)
            self._events.stop(by=by)
            self._courier.close(by=by)
            self._comfyui.close()
        self._release_unsent()

    def stop(self) -> None:
        """From any thread or a signal handler: finish what is being published, leave the rest to the next watcher."""
        self._loop.post(self._begin_stop)

    @property
    def ids(self) -> list[str]:
        """Of the jobs that are under way here."""
        return [live.id for live in self._jobs]

    @property
    def waiting(self) -> int:
        """How many jobs wait, for whichever watcher."""
        return len(self._waiting)

    def abandon(self) -> None:
        """After Fenced: what this watcher still has at its ComfyUI is another's to run now."""
        comfyui = ComfyUI(self._settings.comfyui_url)
        for prompt in self._execution.prompt_ids():
            try:
                comfyui.cancel(prompt)
            except EdgeError as error:
                self._log.warning("not_cancelled", prompt_id=prompt, error=str(error))
        comfyui.close()

    def _start(self) -> None:
        self._take_over_the_dead()
        self._recovery.resume_all()
        self._events.start()
        self._comfyui_watch.check()
        self._tasks.aside("bucket", self._check_site)
        self._reception.start()
        self._beat()

    def _begin_stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", live=len(self._jobs), waiting=len(self._waiting))
        self._reception.close()
        self._execution.close()
        self._release_unsent()
        self._loop.after(self._settings.grace_s, lambda: None)  # wakes the loop, should nothing else

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        busy = self._reception.busy or any(live.busy for live in self._jobs)
        return not busy or time.monotonic() >= self._stop_by

    def _release_unsent(self) -> None:
        for live in self._jobs:
            if not live.busy and live.record.attempt == 0 and live.phase in (Phase.PLAN, Phase.READY):
                self._release(live)

    def _beat(self) -> None:
        """The sign of life, by the thread that does the work: a watcher that hangs falls silent."""
        if not self._seat.held():
            raise Fenced
        try:
            self._seat.beat(self._health())
        except OSError as error:
            self._log.warning("beat_failed", error=str(error))
        if self._stop_by is None:
            self._look_after_the_dead()
        if self._swept_at is None or time.monotonic() - self._swept_at > SWEEP_S:
            for token in list(self._skipped)[:LOOK_AGAIN]:  # who could run them may be gone, or ours may have learnt to
                del self._skipped[token]
            self._tasks.aside("files", partial(self._sweep, thoroughly=self._swept_at is None))
            self._swept_at = time.monotonic()
        self._loop.after(lease.BEAT_S, self._beat)

    def _health(self) -> dict[str, Any]:
        return {
            "comfyui": self._comfyui_watch.state,
            "bucket": self._publication.trouble or "ok",
            "disk": self._disk.trouble or "ok",
            "events": self._reception.why_polling or "ok",
            "paused": self._reception.paused,
            "waiting": len(self._waiting),
            "inside": len(self._execution),
            "live": len(self._jobs) + len(self._publication),
        }

    def _sweep(self, *, thoroughly: bool) -> None:
        publisher.sweep(self._folders)
        takeover.clear_leftovers(self._seat, thoroughly=thoroughly)
        self._journal.clear_work()

    def _comfyui_is_up(self, capabilities: Capabilities) -> None:
        def tell() -> None:
            workflows = [
                entry.name
                for entry in self._catalogue.list()
                if isinstance(entry, Template) and not lacks(entry.graph, capabilities)
            ]
            self._peers.publish(capabilities, workflows)

        self._skipped.clear()
        self._tasks.aside("files", tell)
        self._execution.start()

    def _disk_recovered(self) -> None:
        self._recovery.resume_all()  # what could not be put back into the inbox meanwhile
        self._reception.scan()

    # one job

    def _advance(self, live: Live) -> None:
        """Starts the task that the job's phase asks for, unless one is under way."""
        if self._jobs.get(live.token) is not live:  # it was filed or put away; what was recalled is another
            return
        if live.busy:
            live.wanted = True
            return
        if live.cancelled and live.phase in (Phase.PLAN, Phase.READY):
            self._end(live, state.Event.CANCELLED, Failure(Reason.CANCELLED))
            return
        if self._stop_by is not None and live.phase in (Phase.PLAN, Phase.READY, Phase.SENT):
            return
        match live.phase:
            case Phase.PLAN:
                self._preparation.plan(live)
            case Phase.READY:
                self._execution.queue(live)
            case Phase.SENT:
                self._execution.look(live)
            case Phase.COLLECT:
                self._publication.collect(live)
            case Phase.MIRROR:
                self._publication.mirror(live)
            case Phase.CONCLUDE:
                self._publication.conclude(live)

    def _failed(self, live: Live, error: BaseException) -> None:
        """What a job's task raised: the job's own failure ends it, trouble outside is waited for."""
        if isinstance(error, Failure):
            self._end(live, state.Event.FAILED, error)
            return
        if isinstance(error, FATAL) or not isinstance(error, Exception):
            raise error
        live.trouble += 1
        leaving = live.phase in (Phase.MIRROR, Phase.CONCLUDE)
        match error:
            case DiskUnavailable():
                self._disk.report(error)
            case NotPermitted() | Permanent():
                self._log.error("stuck", id=live.id, phase=live.phase.name, error=str(error))
            case EdgeError() if leaving:
                self._publication.report_failure(live, error)
                return
            case NotArrived():
                self._comfyui_watch.report_down(error)  # when it is back, the execution goes on with the job, too
            case EdgeError():
                self._log.warning("again_later", id=live.id, phase=live.phase.name, error=str(error))
            case _:
                self._log.error("bug", id=live.id, phase=live.phase.name, exc_info=error)
                if live.trouble >= BUGS and live.phase is not Phase.CONCLUDE:
                    problem = mask_urls(repr(error))[:200]
                    self._end(live, state.Event.FAILED, Failure(Reason.INTERNAL_ERROR, problem=problem))
                    return
        self._tasks.later(live, decisions.backoff(live.trouble))
        if leaving:
            self._publication.give_way(live.token)

    def _end(self, live: Live, event: state.Event, failure: Failure) -> None:
        self._preparation.leave(live)
        self._execution.leave(live)
        self._publication.end(live, event, failure)

    def _forget(self, live: Live) -> None:
        self._jobs.remove(live)
        self._preparation.leave(live)
        self._execution.leave(live)
        if (timer := self._deadlines.pop(live.token, None)) is not None:
            timer.cancel()

    # waiting jobs

    def _meet(self, record: Record) -> None:
        """A job that this watcher just took in."""
        self._fresh = record
        self._courier.tell(describe_waiting(record))
        if (deadline := Deadline.of(record)) is not None:
            self._watch_deadline(deadline)

    def _meet_names(self, names: list[str]) -> None:
        """Jobs that others put into the inbox, or that lay there at the start: their deadlines are not in their names."""

        def found(deadlines: list[Deadline]) -> None:
            for deadline in deadlines:
                self._watch_deadline(deadline)

        self._tasks.aside("files", lambda: read_deadlines(self._folders.inbox, names, self._courier.tell), found)

    def _watch_deadline(self, deadline: Deadline) -> None:
        if deadline.token not in self._deadlines:
            seconds = max(0.0, deadline.left(timestamps.now()))
            self._deadlines[deadline.token] = self._loop.after(seconds, partial(self._expire, deadline))

    def _expire(self, deadline: Deadline) -> None:
        """Ready or not: what ComfyUI does not have by now has waited too long. What it has goes on."""
        self._deadlines.pop(deadline.token, None)
        live = self._jobs.get(deadline.token) or self._claim(deadline.token)
        if live is None or live.phase not in (Phase.PLAN, Phase.READY):
            return
        if live.busy:  # being planned, or just being sent
            self._deadlines[deadline.token] = self._loop.after(AGAIN_S, partial(self._expire, deadline))
            return
        self._end(live, state.Event.EXPIRED, Failure(Reason.QUEUE_TIMEOUT, seconds=deadline.timeout_s))

    def _move_line(self) -> None:
        """Sends what is ready and claims more while ComfyUI has room. At every turn, so that no path can forget it."""
        self._execution.send_ready()
        while (
            len(self._waiting)
            and self._stop_by is None
            and not self._reception.paused
            and self._execution.has_room
            and self._preparation.has_room
            and (found := self._waiting.next(self._skipped)) is not None
        ):
            live = self._claim(found[1])
            if live is not None:
                self._advance(live)
                self._execution.send_ready()

    def _claim(self, token: str) -> Live | None:
        """Takes a waiting job out of the inbox, for whatever reason. None: another watcher did."""
        name = self._waiting.name(token)
        if name is None:
            return None
        self._waiting.discard(token)
        try:
            record = self._journal.claim(name, token, known=self._fresh)
        except documents.UnreadableDocument as error:
            self._log.error("unreadable_record", file=name, error=str(error))
            self._recovery.salvage(token)
            return None
        except EdgeError as error:
            if isinstance(error, DiskUnavailable):
                self._disk.report(error)
            self._waiting.add(name)
            return None
        if record is None or record.token in self._jobs:
            return None
        return self._adopt(record)

    def _adopt(self, record: Record) -> Live:
        phase = Phase.PLAN if record.job is None else Phase.READY
        live = Live(record=record, document=describe_waiting(record), phase=phase, arrived_at=time.monotonic())
        live.cancelled = self._journal.is_cancelled(record.id)
        self._jobs.add(live)
        if (deadline := Deadline.of(record)) is not None:
            self._watch_deadline(deadline)
        return live

    def _release(self, live: Live) -> None:
        """Back into the inbox, for another watcher or another time."""
        self._forget(live)
        try:
            self._journal.release(live.record)
        except EdgeError as error:  # it stays in this watcher's folder, for whoever comes next
            self._log.warning("not_released", id=live.id, error=str(error))

    def _pass(self, live: Live) -> None:
        self._skipped[live.token] = None
        self._release(live)

    # after a restart or a takeover

    def _take_over_the_dead(self) -> bool:
        """Whether jobs came in. One that trouble interrupted is finished first: nothing may be begun before it is."""
        taken = takeover.finish_takeovers(self._seat)
        for wid in self._death_watch.find_dead(time.monotonic()):
            if takeover.take_over(self._seat, wid):
                taken = True
                self._log.warning("took_over", watcher=wid)
        return taken

    def _look_after_the_dead(self) -> None:
        """At every beat; while a takeover cannot be finished, what came with it is not touched."""
        try:
            taken = self._take_over_the_dead()
        except DiskUnavailable as error:
            self._disk.report(error)
        except NotPermitted as error:
            self._log.error("not_taken_over", error=str(error))
        else:
            if taken:
                self._recovery.resume_all()
                self._reception.resume_claims()

    def _recall(self, token: str) -> None:
        if self._stop_by is None:
            self._recovery.recall(token)

"""The life of a job, from a name in `input/` to its final status. One decision thread owns all state.

    a hint or a scan names a file           reception, intake       whole? claim it, take it in, or reject it
    it waits in the inbox                   line, waiting           the next by rank, when ComfyUI has room
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

from handoff import log, state
from handoff.failures import DiskUnavailable, EdgeError, Failure, NotPermitted, Permanent, Reason
from handoff.masking import mask_urls
from handoff.pictures import Pictures
from handoff.settings import WatcherSettings
from handoff.site import Site
from handoff.spool import lease, publisher, takeover
from handoff.spool.journal import Journal
from handoff.spool.seat import Fenced, Seat
from handoff.stores.contract import Store
from watcher import decisions
from watcher.cancellation import Cancellation
from watcher.capabilities import Capabilities, lacks
from watcher.comfyui import ComfyUI, NotArrived
from watcher.comfyui_events import ComfyUIEvents
from watcher.comfyui_watch import ComfyUIWatch
from watcher.courier import Courier
from watcher.delivery import Delivery
from watcher.disk import Disk
from watcher.execution import Execution, Handover
from watcher.line import Line
from watcher.live import Jobs, Live, Phase
from watcher.loop import Loop
from watcher.peers import Peers
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
        self._swept_at: float | None = None
        self._not_taken_over: str | None = None
        """Why a dead watcher's jobs could not be taken over at the last beat."""
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
        waiting = Waiting()
        self._line = Line(
            self._loop,
            self._tasks,
            self._jobs,
            waiting,
            seat.folders,
            self._journal,
            self._disk,
            self._courier,
            end=self._end,
            forget=self._forget,
            salvage=lambda token: self._recovery.salvage(token),  # noqa: PLW0108 - made below
        )
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
                on_pass=self._line.pass_on,
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
            adopt=self._line.adopt,
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
            waiting,
            Listener(
                on_taken=self._line.meet,
                on_names=self._line.meet_names,
                on_cancel_mark=lambda id: self._cancellation.take(id),  # noqa: PLW0108 - made below
            ),
        )
        self._cancellation = Cancellation(
            self._tasks, self._jobs, seat.folders, self._journal, claim=self._line.claim, reject=self._reception.reject
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
        return len(self._line)

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
        self._log.info("stopping", live=len(self._jobs), waiting=len(self._line))
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
                self._line.release(live)

    def _beat(self) -> None:
        """The sign of life, by the thread that does the work: a watcher that hangs falls silent."""
        if not self._seat.held():
            raise Fenced
        try:
            self._seat.beat(self._health())
        except OSError as error:
            self._log.warning("beat_failed", error=str(error))
        if self._stop_by is None and self._take_over_the_dead():
            self._recovery.resume_all()
            self._reception.resume_claims()
        if self._swept_at is None or time.monotonic() - self._swept_at > SWEEP_S:
            self._line.sweep()
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
            "waiting": len(self._line),
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

        self._line.look_again()
        self._tasks.aside("files", tell)
        self._execution.start()

    def _disk_recovered(self) -> None:
        self._recovery.resume_all()  # what could not be put back into the inbox meanwhile
        self._reception.scan()

    def _move_line(self) -> None:
        """Sends what is ready and claims more while ComfyUI has room. At every turn, so that no path can forget it."""
        if self._stop_by is None:
            self._line.end_late()
        self._execution.send_ready()
        while self._may_claim() and (live := self._line.claim_next()) is not None:
            self._advance(live)
            self._execution.send_ready()

    def _may_claim(self) -> bool:
        return (
            len(self._line) > 0
            and self._stop_by is None
            and not self._reception.paused
            and self._execution.has_room
            and self._preparation.has_room
        )

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
        if live.phase in (Phase.PLAN, Phase.READY) and self._line.ends(live):
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
        self._line.leave(live)

    # after a restart or a takeover

    def _take_over_the_dead(self) -> bool:
        """Whether jobs came in. One that trouble interrupted is finished first, now or at a later beat: until then
        nothing that came is touched.
        """
        taken = False
        trouble = None
        try:
            taken = takeover.finish_takeovers(self._seat)
            for wid in self._death_watch.find_dead(time.monotonic()):
                if takeover.take_over(self._seat, wid):
                    taken = True
                    self._log.warning("took_over", watcher=wid)
        except DiskUnavailable as error:
            self._disk.report(error)
        except NotPermitted as error:
            trouble = str(error)
            if trouble != self._not_taken_over:
                self._log.error("not_taken_over", error=trouble)
        self._not_taken_over = trouble
        return taken

    def _recall(self, token: str) -> None:
        if self._stop_by is None:
            self._recovery.recall(token)

"""The watcher's eyes on `input/` and the inbox: hints and scans on one side, jobs that wait on the other.

Events are hints, scans are the truth: armed first, then scanned; scanned again on a timer, and at once when events were
lost. Where none arrive it polls, says so, and loses nothing. Owned by the decision thread.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from handoff import log, messages
from handoff.failures import DiskUnavailable, Failure, Reason, Unavailable
from handoff.folders import Folders
from handoff.hints import Hints, find_deaf_mount
from handoff.masking import mask_urls
from handoff.settings import WatcherSettings
from handoff.spool import takeover
from handoff.spool.drops import Claim, Drops, TakenIn
from handoff.spool.record import Record
from handoff.spool.seat import Fenced, Seat
from watcher import decisions
from watcher.disk import Disk
from watcher.intake import CANCEL, Intake, Later, Outcome, Rejected, Taken, is_job_name
from watcher.loop import Loop, Timer
from watcher.planning import Planner
from watcher.waiting import Waiting

POLLING_S = 1.0  # between two looks where no events tell
LATER_S = 0.5  # until a claim that waits for something is tried again
FAILED_S = 5.0  # until something that failed for no fault of its own is
BUGS = 5  # unexpected errors of this program on one claim before it is given up
SETTLE_S = 0.05  # claims are cleared away together, this long after the first
MARKS = 200  # wishes to cancel that one scan tells of
BATCH = 200  # names in one go, so that a flood of files does not hold up a stop
UNANNOUNCED_SCANS = 2  # scans in a row that find files of which no event told


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What the worker wants to hear. `on_names`: waiting jobs that this watcher did not take in itself."""

    on_taken: Callable[[Record], None]
    on_names: Callable[[list[str]], None]
    on_cancel_mark: Callable[[str], None]


class Reception:
    def __init__(
        self,
        loop: Loop,
        seat: Seat,
        settings: WatcherSettings,
        planner: Planner,
        disk: Disk,
        waiting: Waiting,
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._seat = seat
        self._settings = settings
        self._folders: Folders = seat.folders
        self._disk = disk
        self._waiting = waiting
        self._listener = listener
        self._log = log.get()
        self._own: set[str] = set()
        """What this watcher puts into the inbox itself, until the event that tells of it."""
        self._drops = Drops(seat, on_publish=self._own.add)
        self._intake = Intake(
            self._drops,
            planner,
            input_folder=self._folders.input,
            default_workflow=settings.default_workflow,
            settle_s=settings.settle_s,
            picture_wait_s=settings.picture_wait_s,
            language=settings.language,
            on_outcome=lambda outcome: self._loop.post(partial(self._take_outcome, outcome)),
        )
        self._hints = Hints(
            [self._folders.input, self._folders.inbox, self._folders.spool],
            lambda folder, name: self._loop.post(partial(self._take_hint, folder, name)),
        )
        self._names: dict[str, None] = {}
        """Names to look at, in the order in which they were heard of."""
        self._looking = False
        self._timer: Timer | None = None
        self._in_hand: set[str] = set()
        """Stamps of claims that a pool works on: never twice at once."""
        self._later: dict[str, str] = {}
        """Stamps of claims that are to be taken up again, and why."""
        self._due: set[str] = set()
        """Those of them for which a timer runs: one each, also where two tries of one claim came back."""
        self._bugs: dict[str, int] = {}
        self._unsettled: list[Claim] = []
        self._strangers: set[str] = set()
        self._unannounced = 0
        self._closed = False
        self.mode: Literal["events", "polling"] = "events"
        self.why_polling: str | None = None
        self.paused = False
        self._pause_timer = False

    def start(self) -> None:
        """Goes on with claims, arms, then scans; from here on by itself."""
        self.resume_claims()
        self._scan_again()

    def resume_claims(self) -> None:
        """Goes on with drops that were claimed and not finished: by a killed watcher, or by one that was taken over."""
        if takeover.is_unfinished(self._seat):  # it is called again afterwards
            return
        self._publish_left()
        for claim in self._drops.claims():
            if claim.stamp not in self._later and claim.stamp not in self._in_hand:
                self._later[claim.stamp] = ""
                self._take(claim, may_fetch=False)

    def _publish_left(self) -> None:
        self._loop.spawn("intake", self._drops.publish_left, self._left_published, self._left_not_published)

    def _left_published(self, jobs: list[TakenIn]) -> None:
        for job in jobs:
            self._accept(job)

    def _left_not_published(self, error: BaseException) -> None:
        self._failed(error)
        self._loop.after(FAILED_S, self._publish_left)

    def close(self) -> None:
        """Takes in nothing more."""
        self._closed = True
        self._hints.close()

    @property
    def busy(self) -> bool:
        return self._looking

    def scan(self) -> None:
        """Looks at the folders themselves, whatever events said. Raises Fenced."""
        self._arm()
        self._look_at_pause()
        try:
            jobs, marks, strangers = self._intake.scan()
            new = list(self._waiting.scan(self._folders.inbox))
        except (Unavailable, FileNotFoundError) as error:
            if not self._seat.held():
                raise Fenced from error
            self._log.error("scan_failed", error=str(error), hint="was a folder of the shared volume removed?")
            return
        if new:
            self._listener.on_names(new)
        self._judge_events(jobs)
        # by lot, so that marks which nobody can remove do not keep the others waiting for ever
        for mark in random.sample(sorted(marks), min(len(marks), MARKS)):
            self._listener.on_cancel_mark(mark.removesuffix(CANCEL))
        for name in sorted(strangers - self._strangers)[:20]:
            self._log.info("stranger", file=name, hint="this is no job: it is left alone")
        self._strangers = strangers
        self._own.clear()
        self._look(sorted(jobs))

    def _scan_again(self) -> None:
        if self._closed:
            return
        self.scan()
        polls = self.mode == "polling"
        self._loop.after(min(POLLING_S, self._settings.scan_s) if polls else self._settings.scan_s, self._scan_again)

    def _look_at_pause(self) -> None:
        """Its beginning raises an event, its end does not."""
        was, self.paused = self.paused, os.path.lexists(self._folders.paused)
        if self.paused != was:
            self._log.info("paused" if self.paused else "unpaused")
        if self.paused and not self._pause_timer:
            self._pause_timer = True
            self._loop.after(POLLING_S, self._pause_goes_on)

    def _pause_goes_on(self) -> None:
        self._pause_timer = False
        self._look_at_pause()

    # events

    def _arm(self) -> None:
        if self._settings.watch == "polling":
            self._poll("HANDOFF_WATCH=polling")
            return
        trouble = self._hints.arm()
        if trouble is None and self._settings.watch == "auto":
            trouble = find_deaf_mount([self._folders.input])
        if trouble is not None:
            self._poll(trouble)

    def _poll(self, why: str) -> None:
        if self.mode != "polling":
            self.mode, self.why_polling = "polling", why
            self._log.warning("polling", why=why, every_s=min(POLLING_S, self._settings.scan_s))

    def _judge_events(self, jobs: set[str]) -> None:
        """Files that a scan finds again and again and no event told of: a mount without events."""
        if self.mode == "polling" or self._looking:
            return
        unheard = jobs - self._names.keys() - self._intake.growing - self._intake.left_alone
        self._unannounced = self._unannounced + 1 if unheard else 0
        if self._unannounced >= UNANNOUNCED_SCANS:
            self._poll("no events arrive from this mount")

    def _take_hint(self, folder: str, name: str) -> None:
        self._unannounced = 0
        if self._closed:
            return
        if not name:
            self.scan()
        elif folder == self._folders.inbox:
            if name in self._own:
                self._own.discard(name)
            elif self._waiting.add(name):
                self._listener.on_names([name])
        elif folder == self._folders.spool:
            self._look_at_pause()
        elif name.endswith(CANCEL):
            self._listener.on_cancel_mark(name.removesuffix(CANCEL))
        elif is_job_name(name):
            self._look([name])

    # drops

    def _look(self, names: Iterable[str]) -> None:
        self._names |= dict.fromkeys(names)
        if self._looking or self._closed or self._disk.trouble:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._names or self._intake.growing:
            batch = list(itertools.islice(self._names, BATCH))
            for name in batch:
                del self._names[name]
            self._looking = True
            self._loop.spawn("intake", lambda: self._intake.look(batch), self._looked, self._not_looked)

    def _looked(self, again_s: float | None) -> None:
        self._looking = False
        if self._names:
            self._look(())
        elif again_s is not None:
            self._timer = self._loop.after(again_s, lambda: self._look(()))

    def _not_looked(self, error: BaseException) -> None:
        self._looking = False
        self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DiskUnavailable):
            self._disk.report(error)
        elif isinstance(error, Exception) and not isinstance(error, Fenced):
            self._log.error("intake_failed", exc_info=error)
        else:
            raise error

    def reject(self, name: str, failure: Failure) -> None:
        """Moves something out of `input/` that is no job and can never be acted upon."""
        self._loop.spawn("intake", lambda: self._intake.reject(name, failure), lambda _: None, self._failed)

    def _take(self, claim: Claim, *, may_fetch: bool) -> None:
        if claim.stamp in self._in_hand:
            return
        self._in_hand.add(claim.stamp)
        pool = "fetch" if may_fetch else "intake"
        work = partial(self._intake.take, claim, may_fetch=may_fetch)
        self._loop.spawn(pool, work, partial(self._take_outcome, fetched=may_fetch), partial(self._not_taken, claim))

    def _give_up(self, claim: Claim, bug: Exception) -> None:
        failure = Failure(Reason.INTERNAL_ERROR, problem=mask_urls(repr(bug))[:200])
        self._in_hand.add(claim.stamp)
        self._loop.spawn(
            "intake",
            lambda: self._intake.give_up(claim, failure),
            self._take_outcome,
            partial(self._not_taken, claim),
        )

    def _not_taken(self, claim: Claim, error: BaseException) -> None:
        """Whatever it was, the claim lies where it lay, and is taken up again."""
        self._in_hand.discard(claim.stamp)
        self._failed(error)
        self._take_after(claim, FAILED_S)

    def _take_outcome(self, outcome: Outcome, *, fetched: bool = False) -> None:
        claim = outcome.claim
        self._in_hand.discard(claim.stamp)
        match outcome:
            case Taken(job=job):
                self._leave(claim)
                self._settle(claim)
                if job.replay:
                    self._log.info("replay", id=job.id, file=claim.name)
                else:
                    self._accept(job)
            case Rejected(name=name, failure=failure):
                self._leave(claim)
                text = messages.render(failure, self._settings.language)
                self._log.warning("rejected", file=name, reason=failure.reason, message=text.message, hint=text.hint)
            case Later(fetch=True):
                self._later.setdefault(claim.stamp, "")
                self._take(claim, may_fetch=True)
            case Later():
                self._put_off(outcome, fetched=fetched)

    def _accept(self, job: TakenIn) -> None:
        if job.inbox_name is not None and job.record is not None:  # else it was out before
            self._log.info("accepted", id=job.id, file=job.record.source)
            self._waiting.add(job.inbox_name)
            self._listener.on_taken(job.record)

    def _leave(self, claim: Claim) -> None:
        self._later.pop(claim.stamp, None)
        self._bugs.pop(claim.stamp, None)

    def _put_off(self, later: Later, *, fetched: bool) -> None:
        claim, delay = later.claim, LATER_S
        before, self._later[claim.stamp] = self._later.get(claim.stamp), later.why
        if later.bug is not None:
            bugs = self._bugs[claim.stamp] = self._bugs.get(claim.stamp, 0) + 1
            if bugs == 1:
                self._log.error("bug", file=claim.name, exc_info=later.bug)
            if bugs % BUGS == 0:
                self._give_up(claim, later.bug)
                return
            delay = decisions.backoff(bugs)
        elif before != later.why:
            self._log.info("later", file=claim.name, why=later.why)
        if isinstance(later.error, DiskUnavailable):
            self._disk.report(later.error)
        if later.error is not None and (fetched or not isinstance(later.error, DiskUnavailable)):
            delay = FAILED_S
        self._take_after(claim, delay)

    def _take_after(self, claim: Claim, seconds: float) -> None:
        if claim.stamp not in self._due:
            self._due.add(claim.stamp)
            self._loop.after(seconds, partial(self._take_later, claim))

    def _take_later(self, claim: Claim) -> None:
        self._due.discard(claim.stamp)
        if self._closed or claim.stamp not in self._later:
            return
        if self._disk.trouble:
            self._take_after(claim, LATER_S)
        else:
            self._take(claim, may_fetch=False)

    def _settle(self, claim: Claim) -> None:
        if not self._unsettled:
            self._loop.after(SETTLE_S, self._settle_all)
        self._unsettled.append(claim)

    def _settle_all(self) -> None:
        claims, self._unsettled = self._unsettled, []
        self._loop.spawn(
            "files", lambda: self._drops.settle(claims), lambda _: None, partial(self._not_settled, claims)
        )

    def _not_settled(self, claims: list[Claim], error: BaseException) -> None:
        self._failed(error)
        self._loop.after(FAILED_S, lambda: self._settle_again(claims))

    def _settle_again(self, claims: list[Claim]) -> None:
        for claim in claims:
            self._settle(claim)

"""The jobs that wait, and how they leave the line: by rank, to be run; because they waited too long; or by somebody's wish.

Owned by the decision thread. A name that may not be moved costs one try for each sweep, and holds up no other.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import islice

from handoff import log, state, timestamps
from handoff.documents import DamagedDocument
from handoff.failures import DiskUnavailable, EdgeError, Failure, Reason
from handoff.folders import Folders
from handoff.job import inbox_name
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Record
from watcher.courier import Courier
from watcher.deadlines import Deadline, read_deadlines
from watcher.disk import Disk
from watcher.live import Jobs, Live, Phase
from watcher.loop import Loop, Timer
from watcher.tasks import Tasks
from watcher.waiting import Waiting

LOOK_AGAIN = 5  # passed-on jobs that are looked at again at each sweep
AGAIN_S = 10.0  # until a job that could not be moved into or out of the inbox is tried again
ENDING = 200  # expired jobs that are ended at once: a flood of them may not fill the memory
BATCH = 500  # waiting jobs that are read in one go for their deadlines


class Line:
    """`end` ends a job, `forget` takes one out of memory, `salvage` looks after one whose record is damaged."""

    def __init__(
        self,
        loop: Loop,
        tasks: Tasks,
        jobs: Jobs,
        waiting: Waiting,
        folders: Folders,
        journal: Journal,
        disk: Disk,
        courier: Courier,
        *,
        end: Callable[[Live, state.Event, Failure], None],
        forget: Callable[[Live], None],
        salvage: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._jobs = jobs
        self._waiting = waiting
        self._folders = folders
        self._journal = journal
        self._disk = disk
        self._courier = courier
        self._end = end
        self._forget = forget
        self._salvage = salvage
        self._log = log.get()
        self._fresh: Record | None = None
        """The job that this watcher took in last: when its turn comes at once, it is not read again."""
        self._passed: dict[str, None] = {}
        """Tokens of jobs that another watcher's ComfyUI can run and ours cannot, the oldest first."""
        self._left_alone: set[str] = set()
        """Tokens of jobs that could not be claimed, until the next sweep."""
        self._named: str | None = None
        """The last of them that the log names."""
        self._timers: dict[str, Timer] = {}
        self._late: dict[str, Deadline] = {}
        """Waiting jobs whose time is over."""
        self._ending: set[str] = set()

    def __len__(self) -> int:
        """How many jobs wait, for whichever watcher."""
        return len(self._waiting)

    # whom it hears of

    def meet(self, record: Record) -> None:
        """A job that this watcher just took in."""
        self._fresh = record
        self._courier.tell(describe_waiting(record))
        if (deadline := Deadline.of(record)) is not None:
            self._watch(deadline)

    def meet_names(self, names: list[str]) -> None:
        """Jobs that others put into the inbox, or that lay there at the start: their deadlines are not in their names."""
        batch, rest = names[:BATCH], names[BATCH:]

        def found(deadlines: list[Deadline]) -> None:
            for deadline in deadlines:
                self._watch(deadline)
            if rest:
                self.meet_names(rest)

        self._tasks.aside("files", lambda: read_deadlines(self._folders.inbox, batch, self._courier.tell), found)

    # who waits too long

    def _watch(self, deadline: Deadline) -> None:
        token = deadline.token
        if token in self._timers:
            return
        left = deadline.left(timestamps.now())
        if left > 0:
            self._timers[token] = self._loop.after(left, partial(self._come_due, deadline))
        elif token in self._waiting:
            self._waiting.set_aside(token)
            self._late[token] = deadline
        elif (live := self._jobs.get(token)) is not None and live.phase in (Phase.PLAN, Phase.READY):
            self._tasks.advance(live)  # it `ends` there

    def _come_due(self, deadline: Deadline) -> None:
        del self._timers[deadline.token]
        self._watch(deadline)

    def end_late(self) -> None:
        """Claims those whose time is over, also while nothing is claimed to be run."""
        while self._late and len(self._ending) < ENDING and self._disk.trouble is None:
            token, deadline = next(iter(self._late.items()))
            del self._late[token]
            if (live := self.claim(token)) is not None:
                self._tasks.advance(live)
            elif token in self._waiting and token not in self._timers:
                self._timers[token] = self._loop.after(AGAIN_S, partial(self._come_due, deadline))

    def ends(self, live: Live) -> bool:
        """Ends a job that waited too long; asked before each step that brings it nearer to ComfyUI. What ComfyUI once had goes on."""
        if live.record.attempt > 0 and not live.resend:
            return False
        deadline = Deadline.of(live.record)
        if deadline is None or deadline.left(timestamps.now()) > 0:
            return False
        self._ending.add(live.token)
        self._end(live, state.Event.EXPIRED, Failure(Reason.QUEUE_TIMEOUT, seconds=deadline.timeout_s))
        return True

    def leave(self, live: Live) -> None:
        """Forgets the job here, whatever becomes of it."""
        self._ending.discard(live.token)
        if (timer := self._timers.pop(live.token, None)) is not None:
            timer.cancel()

    # who is called

    def claim_next(self) -> Live | None:
        """The next by rank. None: nobody waits, or something is in the way."""
        while len(self._ending) < ENDING and (token := self._waiting.next()) is not None:
            if (live := self.claim(token)) is not None:
                return live
            if token in self._waiting:
                return None
        return None

    def claim(self, token: str) -> Live | None:
        """Takes a waiting job out of the inbox, for whatever reason. None: another watcher did, or it cannot be moved now."""
        name = self._waiting.name(token)
        if name is None:
            return None
        if token in self._jobs:  # a second file of this name would replace the record of the first
            self._waiting.discard(token)
            return None
        try:
            record = self._journal.claim(name, token, known=self._fresh)
        except DamagedDocument as error:
            self._log.error("unreadable_record", file=name, error=str(error))
            self._waiting.discard(token)
            self._salvage(token)
            return None
        except DiskUnavailable as error:
            self._disk.report(error)
            return None
        except (EdgeError, OSError) as error:
            self._leave_alone(name, token, error)
            return None
        self._waiting.discard(token)
        return None if record is None else self.adopt(record)

    def _leave_alone(self, name: str, token: str, error: Exception) -> None:
        if not self._left_alone and name != self._named:
            self._log.error("left_alone", file=name, error=str(error), hint="is it ours to move? see `handoff doctor`")
            self._named = name
        self._left_alone.add(token)
        self._waiting.set_aside(token)
        self._loop.post(lambda: None)  # the next turn, and with it the next job

    def adopt(self, record: Record) -> Live:
        phase = Phase.PLAN if record.job is None else Phase.READY
        live = Live(record=record, document=describe_waiting(record), phase=phase, arrived_at=time.monotonic())
        live.cancelled = self._journal.is_cancelled(record.id)
        self._jobs.add(live)
        deadline = Deadline.of(record)
        if deadline is not None and deadline.left(timestamps.now()) > 0:  # else `ends` finds out at once
            self._watch(deadline)
        return live

    # who goes back

    def release(self, live: Live) -> bool:
        """Back into the inbox, for another watcher or another time. False: it could not be moved, and is tried again."""
        try:
            self._journal.release(live.record)
        except (EdgeError, OSError) as error:
            self._log.warning("not_released", id=live.id, error=str(error))
            if isinstance(error, DiskUnavailable):
                self._disk.report(error)
            self._tasks.later(live, AGAIN_S)
            return False
        self._forget(live)
        self._waiting.add(inbox_name(live.record.rank, live.token))
        if (deadline := Deadline.of(live.record)) is not None:
            self._watch(deadline)
        return True

    def pass_on(self, live: Live) -> None:
        """To another watcher, whose ComfyUI can run it."""
        if self.release(live):
            self._passed[live.token] = None
            self._waiting.set_aside(live.token)

    def look_again(self) -> None:
        """ComfyUI may have learnt something: all that were passed on get a turn."""
        for token in self._passed:
            self._waiting.bring_back(token)
        self._passed.clear()

    def sweep(self) -> None:
        """Who could run them may be gone, and what could not be moved may be mended; of what others took no timer stays."""
        self._passed = {token: None for token in self._passed if token in self._waiting}
        for token in [*self._left_alone, *islice(self._passed, LOOK_AGAIN)]:
            self._waiting.bring_back(token)
            self._passed.pop(token, None)
        self._left_alone.clear()
        for token in [token for token in self._timers if token not in self._waiting and token not in self._jobs]:
            self._timers.pop(token).cancel()

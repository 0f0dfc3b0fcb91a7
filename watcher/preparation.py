"""Jobs that an adapter published, between the claim and their turn: template filled, pictures fetched or waited for, seed drawn.

A drop brings its plan along.
"""

import time
from collections.abc import Callable

from handoff import state
from handoff.failures import Failure, Reason
from handoff.job import parse_job
from handoff.pictures import NotYet
from handoff.settings import WatcherSettings
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Plan
from handoff.spool.seat import Seat
from handoff.spool.suspicion import working_at
from watcher.live import Live, Phase
from watcher.planning import MustFetch, Planner
from watcher.tasks import Tasks

AT_ONCE = 4  # jobs whose templates are filled while the next are claimed
PARKED = 50  # jobs that may be claimed and wait for a picture, or for the server that has it
PICTURE_S = 0.5  # until a job that waits for a picture is planned again


class Preparation:
    def __init__(
        self,
        tasks: Tasks,
        planner: Planner,
        seat: Seat,
        settings: WatcherSettings,
        *,
        on_end: Callable[[Live, state.Event, Failure], None],
    ) -> None:
        self._tasks = tasks
        self._planner = planner
        self._seat = seat
        self._settings = settings
        self._on_end = on_end
        self._planning: set[str] = set()
        """Tokens of jobs whose template is being filled."""
        self._parked: set[str] = set()
        """Tokens of jobs that wait for a picture. A flood of them may not be claimed whole."""

    @property
    def has_room(self) -> bool:
        return len(self._planning) < AT_ONCE and len(self._parked) < PARKED

    def leave(self, live: Live) -> None:
        """Forgets the job here, whatever becomes of it."""
        self._planning.discard(live.token)
        self._parked.discard(live.token)

    def plan(self, live: Live, *, may_fetch: bool = False) -> None:
        """In one thread, so that the order stays; only what has to fetch pictures goes where it may take long."""

        def plan() -> Plan:
            with working_at(self._seat, live.token):
                job = parse_job(live.record.body, default_workflow=self._settings.default_workflow)
                return self._planner.plan(job, may_fetch=may_fetch)

        (self._parked if may_fetch else self._planning).add(live.token)
        self._tasks.run(live, "fetch" if may_fetch else "plan", plan, self._planned, self._not_planned)

    def _planned(self, live: Live, plan: Plan) -> None:
        self.leave(live)
        live.record = live.record.evolve(job=plan)
        live.document = describe_waiting(live.record)
        live.phase = Phase.READY
        self._tasks.advance(live)

    def _not_planned(self, live: Live, error: BaseException) -> None:
        self._planning.discard(live.token)
        waited = time.monotonic() - live.arrived_at
        match error:
            case MustFetch():
                self.plan(live, may_fetch=True)
            case NotYet() if waited < self._settings.picture_wait_s:
                self._parked.add(live.token)
                self._tasks.later(live, PICTURE_S)
            case NotYet():
                self._on_end(live, state.Event.REJECTED, error.failure(round(waited, 1)))
            case Failure() if error.reason is not Reason.INTERNAL_ERROR:
                self._on_end(live, state.Event.REJECTED, error)
            case _:
                self._tasks.fail(live, error)

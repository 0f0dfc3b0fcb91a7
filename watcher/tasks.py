"""What takes time, done for one job: at most one task of a job is under way, and nobody else touches the job meanwhile."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from handoff import log
from handoff.site import ForeignSite
from handoff.spool.seat import Fenced
from watcher.live import Live
from watcher.loop import Loop

Result = TypeVar("Result")
FATAL = (Fenced, ForeignSite)  # this run of the watcher is over


class Tasks:
    """`advance` goes on with a job, by its phase; `failed` takes what a task raised."""

    def __init__(
        self, loop: Loop, advance: Callable[[Live], None], failed: Callable[[Live, BaseException], None]
    ) -> None:
        self._loop = loop
        self.advance = advance
        self.fail = failed
        self._log = log.get()

    def run(
        self,
        live: Live,
        pool: str,
        work: Callable[[], Result],
        done: Callable[[Live, Result], None],
        failed: Callable[[Live, BaseException], None] | None = None,
    ) -> None:
        assert not live.busy
        live.busy = True

        def back(message: Callable[[], None]) -> None:
            live.busy = False
            message()
            if live.wanted and not live.busy:
                live.wanted = False
                self.advance(live)

        def finished(result: Result) -> None:
            live.trouble = 0
            back(lambda: done(live, result))

        self._loop.spawn(pool, work, finished, lambda error: back(lambda: (failed or self.fail)(live, error)))

    def later(self, live: Live, seconds: float) -> None:
        """Goes on with the job after a while."""
        self._loop.after(seconds, partial(self.advance, live))

    def aside(
        self,
        pool: str,
        work: Callable[[], Result],
        done: Callable[[Result], None] = lambda _: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Something of no job, or a courtesy: what goes wrong is named in the log, and nothing else comes of it."""

        def fail(error: BaseException) -> None:
            if isinstance(error, FATAL):
                raise error
            self._log.warning("aside_failed", error=str(error) or repr(error))
            failed()

        self._loop.spawn(pool, work, done, fail)

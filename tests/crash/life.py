"""One life of a house: a good job, a rejected file, a job that is cancelled while it runs, and one of the inbox."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.jobs import Job, canvas, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

LOG_TAIL = 6_000  # characters of a watcher's log beside a failed life
AGE_S = 120.0  # more than after which a watcher clears away what one left that died while it started

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second one: as the tracer tells it

Keywords = dict[str, Any]
Start = Callable[..., Watcher]


@dataclass
class House:
    """`start` starts a watcher of this volume and simulator; keywords as of `start_watcher`."""

    volume: Volume
    simulator: Simulator
    start: Start
    good: Callable[[], Job] = canvas
    lives: int = 0

    def live(self, *victims: Keywords) -> list[bool]:
        """Four jobs; a watcher after the other that may be killed on the way; one that finishes. Which were killed."""
        try:
            return self._live(*victims)
        except Exception as error:
            for log in sorted(self.volume.root.glob("watcher-*.log"), key=os.path.getmtime)[-len(victims) - 1 :]:
                error.add_note(f"{log.name}:\n{log.read_text(errors='replace')[-LOG_TAIL:]}")
            raise

    def _live(self, *victims: Keywords) -> list[bool]:
        number = self.lives = self.lives + 1
        self.volume.drop(f"good-{number}.json", self.good())
        self.volume.drop(f"bad-{number}.json", b'{"hello": %d}' % number)
        self.volume.drop(f"gone-{number}.json", sleeping(60, id=f"gone-{number}"))
        self.volume.submit(f"sent-{number}", canvas())
        watchers = []
        for victim in victims:
            watchers.append(self.start(**victim))
            self._run(watchers[-1], number)
        statuses = [watcher.wait() for watcher in watchers]
        assert set(statuses) <= {0, *KILLED}, "it ended by itself"
        heir = self.start()
        heir.wait_for("comfyui_up")  # it has taken over by then
        self._cancel_once_it_runs(heir, number)
        eventually(lambda: heir.process.poll() is not None or self._is_at_rest(number), "its heir is done")
        self._check(number, *watchers, heir)
        assert heir.terminate() == 0
        assert [name for name in os.listdir(self.volume.spool) if name.startswith("w-")] == []
        return [status in KILLED for status in statuses]

    def _run(self, watcher: Watcher, number: int) -> None:
        """To its death, or to the end of all jobs and then of the watcher."""
        self._cancel_once_it_runs(watcher, number)
        eventually(lambda: watcher.process.poll() is not None or self._is_at_rest(number), "it is dead or done")
        if watcher.process.poll() is None:
            watcher.process.terminate()
        watcher.wait()

    def _cancel_once_it_runs(self, watcher: Watcher, number: int) -> None:
        def runs_or_dead() -> bool:
            status = self.volume.status(f"gone-{number}")
            return watcher.process.poll() is not None or (status is not None and status["started_at"] is not None)

        eventually(runs_or_dead, "the job that is to be cancelled runs")
        status = self.volume.status(f"gone-{number}")
        if status is not None and status["started_at"] is not None and not status["done"]:
            (self.volume.input / f"gone-{number}.cancel").touch()

    def _is_at_rest(self, number: int) -> bool:
        ends = (f"good-{number}-*", f"gone-{number}", f"sent-{number}")
        return (
            all(any(self.volume.spool.glob(f"done/*/{end}")) for end in ends)
            and (self.volume.input / "rejected" / f"bad-{number}.json").exists()
            and not (self.volume.input / f"gone-{number}.cancel").exists()
        )

    def _check(self, number: int, *watchers: Watcher) -> None:
        self.volume.succeed(f"good-{number}.json")
        (gone, sent) = (self.volume.status(f"{name}-{number}") for name in ("gone", "sent"))
        assert gone is not None
        assert gone["status"] == "cancelled"
        assert sent is not None
        assert sent["ok"]
        assert self.volume.reason(f"bad-{number}.json")["reason"] == "not_a_job"
        check_promises(self.volume, self.simulator, watchers=watchers)

    def count(self) -> dict[str, int]:
        """Figures of all lives so far."""
        by_job = Counter[str]()
        for tag, executions in self.simulator.control()["executions_by_tag"].items():
            by_job[tag.split("/")[0]] += executions
        jobs = self.volume.jobs()
        return {
            "jobs": len(jobs),
            "not_final": sum(not job["done"] for job in jobs.values()),
            "lost": 3 * self.lives - len(jobs),
            "executions": by_job.total(),
            "second_executions": by_job.total() - len(by_job),
        }


def check_nothing_is_left(volume: Volume, start: Callable[[], Watcher]) -> None:
    """What those left that died while they started is cleared away a minute later. The minute is made to pass."""
    past = time.time() - AGE_S
    for path in (
        *volume.root.rglob(".trial-*"),
        *volume.spool.glob("new-*"),
        *volume.spool.glob("tmp/*"),
        *_pens(volume),
    ):
        os.utime(path, (past, past))
    with start() as last:
        last.wait_for("comfyui_up")
        eventually(lambda: not find_remains(volume), "what the dead left is cleared away")
        assert last.terminate() == 0
    assert find_remains(volume) == []
    assert list(volume.spool.glob("w-*")) == []


def find_remains(volume: Volume) -> list[str]:
    """Of watchers that are gone."""
    homeless = [pen for pen in _pens(volume) if not (volume.spool / pen.name).exists()]
    found = [*volume.root.rglob(".trial-*"), *volume.spool.glob("new-*"), *volume.spool.glob("tmp/*"), *homeless]
    return sorted(str(path.relative_to(volume.root)) for path in found)


def _pens(volume: Volume) -> list[Path]:
    return list((volume.output / ".handoff").glob("w-*"))

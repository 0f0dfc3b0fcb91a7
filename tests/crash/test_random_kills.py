"""kill -9 of watchers at random moments, many of them before they are up, while jobs of all kinds wait and run.

CRASH_SEED=… chooses other moments and jobs; the seed of a run is among its figures.
"""

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from tests.conftest import SOAK
from tests.crash.crowd import Crowd
from tests.crash.life import check_nothing_is_left
from tests.crash.reader import Reader
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.place import S3Bucket
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Status, Volume, eventually
from tests.figures import Note
from tests.servers.rgw import S3Server
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher, start_watcher

SEED = int(os.environ.get("CRASH_SEED", "20261124"))
SHARES = 5 if SOAK else 1
KILLS = 200 if SOAK else 5
"""In each share."""
IN_FLIGHT = 100 if SOAK else 10
PLACES = 3 if SOAK else 1
"""Watchers at work at the same time, each with a ComfyUI of its own."""
WATCHER_KILLS_PER_COMFYUI_KILL = 4 if SOAK else 2
DRAIN_S = 600.0 if SOAK else 60.0

SETTINGS = {"settle_s": 0.3, "scan_s": 0.5, "lease_s": 3600}
"""With a lease that does not run out only the next watcher of the same ComfyUI takes a job over, and once means once."""


@dataclass
class Place:
    """A ComfyUI and the watcher beside it, which is killed and started over and over."""

    site: "Site"
    name: str
    simulator: Simulator
    watchers: list[Watcher] = field(default_factory=list)
    kill_at: float | None = None
    """None: it is not up yet, and is killed only then."""
    killed_early: int = 0

    def start(self) -> None:
        chance = self.site.chance
        self.watchers.append(self.site.start(self.name, self.simulator))
        self.kill_at = time.monotonic() + chance.uniform(0.0, 1.5) if chance.random() < 0.4 else None

    def is_due(self) -> bool:
        watcher = self.watchers[-1]
        if self.kill_at is None and watcher.find("watching"):
            self.kill_at = time.monotonic() + self.site.chance.uniform(0.0, 2.0)
        assert watcher.process.poll() is None, f"it ended by itself: {watcher.text}"
        return self.kill_at is not None and time.monotonic() >= self.kill_at

    def kill(self) -> None:
        watcher = self.watchers[-1]
        watcher.kill()
        self.killed_early += not watcher.find("watching")


class Site:
    """Places on one volume and bucket, a crowd of jobs, and a reader who looks at it all."""

    def __init__(self, s3: S3Server, stack: contextlib.ExitStack, seed: int, module: str) -> None:
        self.s3 = s3
        self.module = module
        self.stack = stack
        self.chance = random.Random(seed)
        self.bucket = S3Bucket(s3.client(), s3.make_bucket())
        stack.callback(self.bucket.client.close)
        self.volume = Volume.make(stack.enter_context(make_root()) / "volume", self.bucket)
        self.crowd = Crowd(self.volume, self.chance)
        self.places = [
            Place(self, name, stack.enter_context(run_simulator(self.volume, name=name)))
            for name in (f"comfyui-{number}" for number in range(PLACES))
        ]
        self.comfyui_kills: list[float] = []
        self.least_in_flight = IN_FLIGHT
        self.reader = stack.enter_context(Reader(self.volume.root, self.bucket))

    def start(self, name: str, simulator: Simulator) -> Watcher:
        settings = {**SETTINGS, **self.s3.environment(), "bucket": self.bucket.name, "watcher_name": name}
        return self.stack.enter_context(start_watcher(self.volume.root, simulator.url, module=self.module, **settings))

    @property
    def in_flight(self) -> int:
        return self.crowd.jobs - len(self.reader.final)

    def kill_a_watcher(self) -> None:
        """The next one that is due; another one follows at once."""
        place = eventually(self._find_due, "one is due")
        self.least_in_flight = min(self.least_in_flight, self.in_flight)
        place.kill()
        place.start()

    def _find_due(self) -> Place | None:
        while self.in_flight < IN_FLIGHT * 1.1:  # the reader learns of an end a moment later
            self.crowd.add()
        return next((place for place in self.places if place.is_due()), None)

    def kill_a_comfyui(self) -> None:
        """Its worker stops first, so that no execution is missing in the count."""
        simulator = self.chance.choice(self.places).simulator
        simulator.control(dead_worker=True)
        remember_executions(self.volume, simulator)
        self.comfyui_kills.append(time.time())
        simulator.restart()

    def drain(self) -> None:
        eventually(lambda: self.in_flight == 0, "every job is final", limit_s=DRAIN_S)
        eventually(lambda: all(map(self._is_rejected, self.crowd.rejects)), "every bad file is rejected")

    def _is_rejected(self, name: str) -> bool:
        return (self.volume.input / "rejected" / name).exists()

    def check(self) -> dict[str, object]:
        """Every promise; returns the figures."""
        self.crowd.note_replays()
        jobs = self.volume.jobs()
        watchers = [watcher for place in self.places for watcher in place.watchers]
        simulators = [place.simulator for place in self.places]
        allowed: dict[str, int] = {}
        for status in jobs.values():
            allowed[status["source"]] = max(allowed.get(status["source"], 1), 1 + self._count_comfyui_kills(status))
        check_promises(self.volume, *simulators, allowed=allowed, watchers=tuple(watchers))
        self.bucket.check_objects(self.volume)
        assert len(jobs) == self.crowd.jobs
        assert self.crowd.submitted <= jobs.keys()
        assert all(self._is_rejected(name) for name in self.crowd.rejects)
        reader = self.reader
        assert (reader.torn, reader.backwards, reader.changed, reader.incomplete) == ([], [], [], [])
        for place in self.places:
            assert place.watchers[-1].terminate() == 0
        first = self.places[0]
        check_nothing_is_left(self.volume, lambda: self.start(first.name, first.simulator))
        executions = self._count_executions()
        return {
            "kills": len(watchers) - len(self.places),
            "kills_before_it_was_up": sum(place.killed_early for place in self.places),
            "comfyui_kills": len(self.comfyui_kills),
            "jobs": len(jobs),
            "in_flight": self.least_in_flight,
            "lost": self.crowd.jobs - len(jobs),
            "not_final": sum(not status["done"] for status in jobs.values()),
            "statuses": dict(Counter(status["status"] for status in jobs.values())),
            "second_executions": executions.total() - len(executions),
            "reads": reader.reads,
            "torn": len(reader.torn),
            "went_back_or_changed": len(reader.backwards) + len(reader.changed),
        }

    def _count_comfyui_kills(self, status: Status) -> int:
        """While the job lived, give or take a second."""
        begin, end = (datetime.fromisoformat(status[key]).timestamp() for key in ("created_at", "finished_at"))
        return sum(begin - 1 <= at <= end + 1 for at in self.comfyui_kills)

    def _count_executions(self) -> Counter[str]:
        by_id = Counter[str]()
        for counts in (self.volume.executions, *(p.simulator.control()["executions_by_tag"] for p in self.places)):
            for tag, count in counts.items():
                by_id[tag.split("/")[0]] += count
        return by_id


@contextlib.contextmanager
def open_site(s3: S3Server, seed: int, module: str = "handoff_cli") -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        site = Site(s3, stack, seed, module)
        for place in site.places:
            place.start()
        yield site


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("share", range(SHARES))
def test_watchers_killed_at_random(share: int, s3_server: S3Server, note: Note) -> None:
    """Nothing lost, nothing torn, and nothing executed twice, since every ComfyUI keeps its state."""
    seed = SEED + share
    with open_site(s3_server, seed) as site:
        for _ in range(KILLS):
            site.kill_a_watcher()
        site.drain()
        figures, requeued = site.check(), site.reader.requeued
    note(seed=seed, **figures)
    assert figures["second_executions"] == 0
    assert requeued == []
    statuses = figures["statuses"]
    assert isinstance(statuses, dict)
    assert statuses.keys() <= {"succeeded", "cancelled"}


@pytest.mark.timeout(3600 if SOAK else 300)
def test_watchers_and_comfyui_killed_at_random(s3_server: S3Server, note: Note) -> None:
    """A job is executed at most once more for each kill of ComfyUI in its life."""
    seed = SEED + SHARES
    with open_site(s3_server, seed) as site:
        for number in range(KILLS if SOAK else 4):
            site.kill_a_watcher()
            if number % WATCHER_KILLS_PER_COMFYUI_KILL == 0:
                site.kill_a_comfyui()
        site.drain()
        figures = site.check()
    note(seed=seed, **figures)


@pytest.mark.skipif(not SOAK, reason="a control")
@pytest.mark.parametrize(
    ("fault", "noticed"),
    [("no_look_up_before_resubmitting", r"was executed \d times"), ("status_written_in_place", r"status\.json: b'")],
)
def test_a_mistake_is_noticed(s3_server: S3Server, fault: str, noticed: str) -> None:
    with open_site(s3_server, SEED, f"tests.planted {fault}") as site:
        for _ in range(15):
            site.kill_a_watcher()
        site.drain()
        with pytest.raises(AssertionError, match=noticed):
            site.check()

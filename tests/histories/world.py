"""One machine in memory: the two folders, watchers with their ComfyUIs, a bucket, adapters and people. The watchers are
the real program; what is replaced is time, threads, chance, and the two servers.
"""

import json
import os
import random
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import structlog

import watcher.watch
from handoff import timestamps
from handoff.decode import canonical
from handoff.failures import DiskUnavailable, Failure
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.settings import WatcherSettings
from handoff.spool import publisher
from handoff.spool.record import Record
from handoff.spool.seat import UnfitVolume
from handoff.state import FINAL, Status
from tests.histories.bucket import Bucket
from tests.histories.clock import Clock, make_old
from tests.histories.comfyui import Client, ComfyUI, Socket
from tests.histories.flushes import Flushes
from tests.histories.process import (
    NEVER,
    THREADING_OF_COURIER,
    Hints,
    Process,
    TurningCourier,
    TurningLoop,
    sleep_of_courier,
)
from tests.planted.faults import plant
from tests.spool import actors
from tests.spool.actors import Actor, Call, Killed, current
from watcher import courier, reception, worker
from watcher.prompts import Tag
from workflows.catalogue import Catalogue

URLS = ("http://one:8188", "http://two:8188")
OWN = ("handoff", "watcher", "workflows")
BUGS = ("bug", "intake_failed", "courier", "comfyui_check_failed", "unreadable_record", "unreadable_status")
ORDER = {Status.QUEUED: 0, Status.RUNNING: 0, Status.SAVING: 1}
"""Of one attempt, for readers: a lost one is `queued` again; from `saving` on there is no way back."""
REST_S = 1000.0
LEAVE_S = 60.0
PATIENCE, TURNS = (0, 0, 3, 30), (1, 2, 8)
Body = dict[str, Any]


class World:
    def __init__(self, fault: str | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        (self.root / "input").mkdir()
        (self.root / "output").mkdir()
        (self.root / "workflows").mkdir()
        self.folders = Folders(input=f"{self.root}/input", output=f"{self.root}/output")
        self.folders.make()
        self.dice = random.Random(0)
        self.clock = Clock(self.sleep)
        self.comfyuis = {url: ComfyUI(url, self.root / "output", self.clock, self._check_post) for url in URLS}
        self.bucket = Bucket(self.clock, complain=self.complain, published=self._tell_status)
        self.flushes = Flushes(self.folders, self.complain)
        self.watchers: list[Process] = []
        self.disk_full = False
        self.violations: list[str] = []
        self.log: list[MutableMapping[str, Any]] = []
        self.seen: dict[str, tuple[int, int]] = {}
        """The furthest that readers saw of an id: attempt, and how far that was."""
        self.decided: dict[str, bytes] = {}
        self.ends: dict[str, Body] = {}
        """The final documents."""
        self.counts: Counter[str] = Counter()
        self.taken_over: Counter[str] = Counter()
        """How often a token went to the watcher of another ComfyUI, which cannot know what the first one has of it."""
        self.seats: dict[Process, str] = {}
        self._servers: dict[str, str] = {}
        """Which ComfyUI the watcher in a folder serves."""
        self._umask = os.umask(0o002)
        self._patch = pytest.MonkeyPatch()
        self._install()
        if fault is not None:
            plant(fault, self._patch)

    def close(self) -> None:
        try:
            for process in self.watchers:
                process.kill()
        finally:
            self._patch.undo()
            structlog.reset_defaults()
            os.umask(self._umask)
            shutil.rmtree(self.root)

    # the replacements

    def _install(self) -> None:
        actors.install(self._patch, self._observe)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in OWN and isinstance(getattr(module, "time", None), ModuleType):
                self._patch.setattr(module, "time", self.clock)
        patience = Clock(sleep_of_courier)
        patience.monotonic = self.clock.monotonic  # type: ignore[method-assign]
        self._patch.setattr(courier, "time", patience)
        self._patch.setattr(courier, "threading", THREADING_OF_COURIER)
        self._patch.setattr(timestamps, "now", self.clock.wall)
        self._patch.setattr(secrets, "token_hex", lambda size=16: f"{self.dice.getrandbits(8 * size):0{2 * size}x}")
        self._patch.setattr(random, "sample", self.dice.sample)
        self._patch.setattr(random, "randrange", self.dice.randrange)
        self._patch.setattr(worker, "Loop", self._make_loop)
        self._patch.setattr(worker, "Courier", self._make_courier)
        self._patch.setattr(reception, "Hints", self._make_hints)
        self._patch.setattr(worker, "ComfyUI", lambda url: Client(self.comfyuis[url]))
        self._patch.setattr(
            worker, "ComfyUIEvents", lambda url, on_event: Socket(self.comfyuis[url], on_event, self.dice)
        )
        self._patch.setattr(watcher.watch, "signal", SimpleNamespace(signal=self._take_handler, SIGTERM=15, SIGINT=2))
        self._patch.setattr(watcher.watch, "open_store", lambda _: self.bucket)
        self._patch.setattr(Catalogue, "list", lambda _: [])  # reading every template at each start takes long
        structlog.configure(processors=[self._hear], cache_logger_on_first_use=False)

    def sleep(self, seconds: float) -> None:
        if isinstance(process := current(), Process):
            process.sleep(self.clock.now + seconds)

    def _make_loop(self, **pools: int) -> TurningLoop:
        return TurningLoop(_here(), self.clock, self.dice, **pools)

    def _make_courier(self, *arguments: Any, **named: Any) -> TurningCourier:
        made = TurningCourier(self.clock, *arguments, **named)
        _loop_here().sources.append(made)
        return made

    def _make_hints(self, folders: list[str], on_hint: Callable[[str, str], None]) -> Hints:
        made = Hints(folders, on_hint)
        _loop_here().sources.append(made)
        return made

    def _take_handler(self, number: int, handler: Callable[[int, None], None]) -> None:
        _here().on_sigterm = lambda: handler(number, None)

    def _hear(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.log.append(event)
        if event["event"] in BUGS:
            self.complain(f"{level}: {event}")
        raise structlog.DropEvent

    # what can be seen

    def complain(self, problem: str) -> None:
        self.violations.append(problem)

    def published(self, id: str) -> bytes | None:
        try:
            return Path(self.folders.status(id)).read_bytes()
        except FileNotFoundError:
            return None

    def _observe(self, call: Call) -> None:
        """What any process just did. Who watches a folder is told; who reads a status reads this one."""
        self.flushes.note(call)
        if call.name == "unlink" and call.args[0].endswith(".cancel"):
            id = os.path.basename(call.args[0]).removesuffix(".cancel")
            if id not in self.decided and os.path.lexists(self.folders.reservation(id)):
                self.complain(f"the wish to cancel {id} was removed before its end was decided")
        if call.name != "rename" or not isinstance(call.args[1], str):
            return
        folder, name = os.path.split(call.args[1])
        self._note_seats(os.path.basename(call.args[0]), folder, name)
        if folder in (self.folders.inbox, self.folders.input):
            self.tell(folder, name)
        elif name == "status.json" and os.path.dirname(folder) == self.folders.output:
            self._read_status(os.path.basename(folder))

    def _check_post(self, tag: Tag) -> None:
        self.flushes.check_post(tag.id, tag.token, self.seats[_here()])

    def _tell_status(self, id: str) -> bytes | None:
        """What the bucket should be told of an end."""
        self.flushes.check_status(id)
        return self.published(id)

    def _note_seats(self, before: str, folder: str, name: str) -> None:
        if before.startswith("new-"):
            self._servers[name] = _here().name
            self.seats[_here()] = f"{folder}/{name}"
        elif name.startswith("from-") and before.startswith("w-"):
            self.counts["takeovers"] += 1
            if self._servers[before] != self._servers[os.path.basename(folder)]:
                self.taken_over.update(path.name.removeprefix("r-") for path in Path(folder, name).rglob("r-*"))

    def _read_status(self, id: str) -> None:
        data = self.published(id) or b""
        if id in self.decided:
            if data != self.decided[id]:
                self.complain(f"{id} was final, and changed: {self.decided[id]!r} {data!r}")
            return
        document = json.loads(data)
        reached = (document["attempt"], ORDER.get(document["status"], 2))
        before = self.seen.get(id, (0, 0))
        if reached < before or (before[1] > 0 and reached[0] > before[0] and not document["done"]):
            self.complain(f"{id} went back from {before} to {reached}: {document}")
        self.seen[id] = reached
        if document["status"] in FINAL:
            self.decided[id], self.ends[id] = data, document

    def tell(self, folder: str, name: str) -> None:
        for process in self.watchers:
            if not process.over and process.loop is not None:
                for source in process.loop.sources:
                    if isinstance(source, Hints):
                        source.tell(folder, name)

    # people and adapters

    def drop(self, name: str, content: Body | bytes) -> None:
        data = content if isinstance(content, bytes) else canonical(content)
        path = Path(self.folders.input, name)
        path.write_bytes(data)
        self.clock.now += 0.001
        os.utime(path, (self.clock.time(), self.clock.time()))
        self.tell(self.folders.input, name)

    def cancel(self, id: str) -> None:
        mark = self.folders.cancel_mark(id)
        Path(mark).touch()
        self.tell(self.folders.input, os.path.basename(mark))

    def publish(self, record: Record) -> Literal["new", "replay", "conflict"]:
        try:
            return publisher.publish(self.folders, record)
        except Failure:
            return "conflict"

    def record(self, id: str, body: Body) -> Record:
        job = parse_job(body, default_workflow="none")
        received = timestamps.to_text(timestamps.now())
        return Record(
            token="", id=id, sha256=job.sha256, received_at=received, body=job.body, priority=job.priority or 0
        )

    # watchers

    def start(self, url: str) -> Process:
        """`handoff watch`, on the ComfyUI at this address."""
        settings = WatcherSettings(
            _env_file=None,
            input_dir=Path(self.folders.input),
            output_dir=Path(self.folders.output),
            workflows_dir=self.root / "workflows",
            comfyui_url=url,
            watcher_name=url,
            s3_prefix="",
            language="en",
        )
        process = Process(lambda: watcher.watch.watch(settings), name=url, is_full=lambda: self.disk_full)
        self.watchers.append(process)
        self.counts["starts"] += 1
        return process

    def alive(self) -> list[Process]:
        return [process for process in self.watchers if not process.over]

    def work(self, turns: int, seconds: float = NEVER) -> bool:
        """Everybody makes turns, in an order that is drawn. When nobody can, time passes, but no longer than `seconds`.

        False: that time is over.
        """
        end = self.clock.now + seconds
        everybody: list[Process | ComfyUI | Bucket] = [*self.watchers, *self.comfyuis.values(), self.bucket]
        for _ in range(turns):
            times = [(actor.next_at(), actor) for actor in everybody]
            ready = [actor for at, actor in times if at <= self.clock.now]
            if not ready:
                soonest = min(at for at, _ in times)
                if soonest > end:
                    self.clock.now = max(self.clock.now, min(end, 1e9))
                    return False
                self.clock.now = soonest
                continue
            chosen = self.dice.choice(ready)
            if isinstance(chosen, Process):
                chosen.patience, chosen.turns = self.dice.choice(PATIENCE), self.dice.choice(TURNS)
            chosen.go()
        return True

    def age(self) -> None:
        make_old(self.root)

    # at rest

    def heal(self) -> None:
        """Everything works from now on."""
        self.bucket.away = self.disk_full = False
        self.bucket.accidents.clear()
        for comfyui in self.comfyuis.values():
            comfyui.come_back()
            comfyui.accidents.clear()
            comfyui.outcomes.clear()
        for process in self.alive():
            process.disarm()
            process.frozen = False

    def settle(self) -> None:
        """Until nothing is left to do; then everybody leaves, and one that comes much later clears up behind them."""
        self.heal()
        self.age()
        end, left = self.clock.now + REST_S, ["?"]
        while left and self.clock.now < end and not self.violations:
            if not any(process.name == URLS[0] for process in self.alive()):
                self.start(URLS[0])
            self.work(10_000, 5.0)
            left = self.leftovers()
        self.check()
        assert left == [], f"it does not come to rest: {left}\n" + "\n".join(map(str, self.log[-12:]))
        self.leave()
        self.age()
        last = self.start(URLS[0])
        self.work(10_000, 2.0)
        self.leave()
        assert last.error is None
        self.check()

    def leave(self) -> None:
        for process in self.alive():
            process.terminate()
        end = self.clock.now + LEAVE_S
        while self.alive() and self.clock.now < end:
            self.work(1000, 1.0)
        assert self.alive() == [], "SIGTERM was not enough"

    def leftovers(self) -> list[str]:
        """What is not at rest yet."""
        seats = {self.seats.get(process) for process in self.alive()}
        found = [name for name in _list(self.folders.input) if name not in ("uploads", "rejected", ".handoff")]
        found += [*_list(self.folders.inbox), *_list(self.folders.tmp)]
        for name in _list(self.folders.spool):
            if name.startswith("w-") and f"{self.folders.spool}/{name}" not in seats:
                found.append(f"{name}, whose watcher is dead")
            elif name.startswith("w-"):
                entries = _list(f"{self.folders.spool}/{name}")
                found += [f"{name}/{entry}" for entry in entries if entry not in ("lease", "server.json")]
        for name in _list(self.folders.output):
            if name != ".handoff" and name not in self.ends:
                found.append(f"output/{name}")
        found += [f"ids/{id}" for id in _list(self.folders.ids) if id not in self.ends]
        found += [f"{server.url} is busy" for server in self.comfyuis.values() if server.next_at() < NEVER]
        return sorted(found)

    def check(self) -> None:
        for process in self.watchers:
            if process.over and not isinstance(process.error, Killed | None) and not _may_not_start(process):
                self.complain(f"{process.name} ended with {process.error!r}")
        assert self.violations == [], "\n".join(self.violations)


def _may_not_start(process: Process) -> bool:
    """A start on a full disk ends with an error; so does one that took a minute, since its trials were cleared away."""
    if process.loop is not None:
        return False
    full = isinstance(process.error, DiskUnavailable) and process.met_a_full_disk
    slow = isinstance(process.error, UnfitVolume) and process.was_frozen_while_it_started
    return full or slow


def _list(folder: str) -> list[str]:
    """Without what a watcher tries out at its start: if it is killed, that is cleared away a minute later."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".trial-")]
    except FileNotFoundError:
        return []


def run(work: Callable[[], Any], *, stop_at: int = 0, freeze: bool = False) -> Actor:
    return actors.run(work, stop_at=stop_at, freeze=freeze)


def _here() -> Process:
    process = current()
    assert isinstance(process, Process)
    return process


def _loop_here() -> TurningLoop:
    loop = _here().loop
    assert loop is not None
    return loop

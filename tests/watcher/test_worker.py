"""A worker in this process, with a simulator beside it: slow uploads, takeovers that fail, jobs that were passed on."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handoff import timestamps
from handoff.failures import NotPermitted, Unavailable
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.settings import WatcherSettings
from handoff.spool import publisher, takeover
from handoff.spool.journal import Journal
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.stores.folder import FolderStore
from tests.e2e.jobs import Job, canvas, sleeping
from tests.e2e.volume import Status, eventually
from tests.servers.simulator import Simulator, start_simulator
from watcher import worker as worker_module
from watcher.capabilities import read_capabilities
from watcher.comfyui import ComfyUI
from watcher.peers import Peers
from watcher.worker import Worker


class Place:
    """A volume, a simulated ComfyUI and a bucket in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = Folders(input=f"{root}/input", output=f"{root}/output")
        for folder in (self.folders.input, self.folders.output, root / "workflows"):
            os.makedirs(folder)
        self.folders.make()
        self.store = FolderStore(root / "bucket", "jobs")

    @contextmanager
    def comfyui(self, *flags: str) -> Iterator[Simulator]:
        input_dir, output_dir = Path(self.folders.input), Path(self.folders.output)
        with start_simulator(self.root / "comfyui", *flags, input_dir=input_dir, output_dir=output_dir) as simulator:
            yield simulator

    def make_worker(self, url: str, **settings: Any) -> Worker:
        chosen = WatcherSettings(
            _env_file=None,
            input_dir=Path(self.folders.input),
            output_dir=Path(self.folders.output),
            workflows_dir=self.root / "workflows",
            comfyui_url=url,
            language="en",
            **settings,
        )
        return Worker(chosen, self.store, Seat(self.folders, chosen.server))

    @contextmanager
    def running(self, worker: Worker) -> Iterator[None]:
        """The worker in a thread of its own; what it raises is raised here."""
        problems: list[BaseException] = []

        def run() -> None:
            try:
                worker.run()
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join(20)
            worker._seat.leave()
        assert not thread.is_alive()
        assert problems == []

    def submit(self, id: str, body: Job) -> None:
        job = parse_job(body, default_workflow="txt2img")
        received = timestamps.to_text(timestamps.now())
        record = Record(token="0" * 16, id=id, sha256=job.sha256, received_at=received, body=job.body)
        assert publisher.publish(self.folders, record) == "new"

    def status(self, id: str) -> Status | None:
        try:
            found: Status = json.loads(Path(self.folders.status(id)).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def ended(self, id: str, *, limit_s: float = 10) -> Status:
        def look() -> Status | None:
            found = self.status(id)
            return found if found is not None and found["done"] else None

        return eventually(look, f"{id} ends", limit_s=limit_s)

    def claim(self, id: str, seat: Seat) -> None:
        """A job that the watcher with this seat has claimed."""
        self.submit(id, canvas())
        (name,) = os.listdir(self.folders.inbox)
        token = name.removesuffix(".json").rsplit("-", 1)[1]
        assert Journal(seat).claim(name, token) is not None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def executions(simulator: Simulator) -> int:
    return sum(simulator.control()["executions"].values())


def test_uploads_that_take_for_ever_do_not_keep_comfyui_waiting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object, the early job.json too, stands still at the gate; all jobs are drawn nevertheless."""
    gate = threading.Event()
    for name in ("put_file", "put_bytes"):
        _hold(monkeypatch, place.store, name, gate)
    with place.comfyui("--probe-nodes") as simulator, place.running(place.make_worker(simulator.url)):
        ids = [f"job-{number}" for number in range(10)]
        for id in ids:
            place.submit(id, sleeping(0.1))
        try:
            eventually(lambda: executions(simulator) == len(ids), "all are drawn", limit_s=10)
            eventually(
                lambda: all((found := place.status(id)) is not None and found["status"] == "saving" for id in ids),
                "all are verified and published",
                limit_s=10,
            )
        finally:
            gate.set()
        for id in ids:
            assert place.ended(id)["ok"]
            assert (place.root / "bucket" / "jobs" / id / "job.json").is_file()


def _hold(monkeypatch: pytest.MonkeyPatch, store: FolderStore, name: str, gate: threading.Event) -> None:
    put: Callable[..., None] = getattr(store, name)

    def put_when_open(*arguments: Any, **named: Any) -> None:
        assert gate.wait(30)
        put(*arguments, **named)

    monkeypatch.setattr(store, name, put_when_open)


def test_the_decision_of_a_failed_job_does_not_wait_for_the_bucket(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    _hold(monkeypatch, place.store, "put_bytes", gate)
    with place.comfyui() as simulator, place.running(place.make_worker(simulator.url)):
        simulator.control(node_exception=8)
        for number in range(8):  # more than the bucket has threads
            place.submit(f"fails-{number}", canvas())
        try:
            for number in range(8):
                assert place.ended(f"fails-{number}")["error"]["reason"] == "node_error"
        finally:
            gate.set()


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EACCES])
def test_a_takeover_that_is_interrupted_is_finished_at_a_later_beat(
    place: Place, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    dying = Seat(place.folders, "another ComfyUI")
    place.claim("inherited", dying)
    with place.comfyui() as simulator:
        worker = place.make_worker(simulator.url)
        with place.running(worker):
            eventually(lambda: worker._comfyui_watch.usable, "it is up")
            failed = _fail_once(monkeypatch, trouble)
            dying.leave()  # its folder stays, with the job
            worker._death_watch._lease_s = 0.5  # the setting allows no less than 5 s
            assert place.ended("inherited", limit_s=14)["ok"]
            assert failed == ["r-"]
            assert executions(simulator) == 1
    assert not os.path.exists(place.folders.watcher(dying.wid))


def _fail_once(monkeypatch: pytest.MonkeyPatch, trouble: int, *, times: int = 1) -> list[str]:
    """The first record cannot be moved out of a `from-*` folder, or the first few times. Returns what could not."""
    rename = os.rename
    failed: list[str] = []

    def rename_or_fail(source: Any, target: Any, **folders: Any) -> None:
        if "/from-" in str(source) and "/r-" in str(source) and len(failed) < times:
            failed.append("r-")
            raise OSError(trouble, os.strerror(trouble), str(target))
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", rename_or_fail)
    return failed


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EACCES])
def test_a_start_that_cannot_finish_a_takeover_comes_back_to_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    with place.comfyui() as simulator:
        first = place.make_worker(simulator.url)
        dead = first._seat
        first._loop.close(by=time.monotonic())
        place.claim("inherited", dead)
        dead.leave()
        failed = _fail_once(monkeypatch, trouble, times=2)
        with place.running(place.make_worker(simulator.url)):
            assert place.ended("inherited")["ok"]
        assert failed == ["r-", "r-"], "at the start and at the first beat"
        assert executions(simulator) == 1


def test_what_was_taken_over_is_gone_on_with_though_the_next_cannot_be(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [Seat(place.folders, "one"), Seat(place.folders, "two")]
    place.claim("inherited", dead[0])
    take_over = takeover.take_over

    def take_over_or_fail(seat: Seat, wid: str) -> bool:
        if wid == dead[1].wid:
            raise NotPermitted("its folder is another user's")
        return take_over(seat, wid)

    monkeypatch.setattr(takeover, "take_over", take_over_or_fail)
    monkeypatch.setattr(takeover.DeathWatch, "find_dead", lambda *_: [seat.wid for seat in dead])
    for seat in dead:
        seat.leave()
    os.makedirs(dead[1].path)
    with place.comfyui() as simulator, place.running(place.make_worker(simulator.url)):
        assert place.ended("inherited")["ok"]


def test_a_takeover_tells_whether_there_was_anything(place: Place) -> None:
    seat = Seat(place.folders, "one")
    assert not takeover.finish_takeovers(seat)
    os.makedirs(f"{seat.path}/from-{'0' * 16}")
    assert takeover.finish_takeovers(seat)
    assert not takeover.finish_takeovers(seat)
    seat.leave()


def test_a_job_that_was_passed_on_is_looked_at_again_when_the_able_watcher_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "SWEEP_S", 0.5)
    able = Seat(place.folders, "the able one")
    with place.comfyui("--probe-nodes") as rich:
        comfyui = ComfyUI(rich.url)
        Peers(able).publish(read_capabilities(comfyui.stats(), comfyui.object_info()), [])
        comfyui.close()
    with place.comfyui() as poor:
        worker = place.make_worker(poor.url)
        with place.running(worker):
            place.submit("special", sleeping(0.1))
            eventually(lambda: worker._line._passed, "it is passed on")
            eventually(lambda: os.listdir(place.folders.inbox), "it lies in the inbox again")
            assert place.status("special") is None
            able.leave()
            status = place.ended("special")
            assert (status["status"], status["error"]["reason"]) == ("failed", "workflow_unavailable")
            assert "ProbeSleep" in status["error"]["message"]
        assert executions(poor) == 0


def test_the_timer_of_a_deadline_goes_with_its_job(place: Place) -> None:
    with place.comfyui() as simulator:
        worker = place.make_worker(simulator.url)
        with place.running(worker):
            for number in range(5):
                place.submit(f"job-{number}", canvas(queue_timeout_s=86400))
            for number in range(5):
                assert place.ended(f"job-{number}")["ok"]
            eventually(lambda: len(worker._jobs) == 0, "all are filed", limit_s=10)
            assert worker._line._timers == {}


def test_one_job_with_trouble_of_its_own_gives_way_when_the_bucket_is_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds out whether the bucket is back may itself be stuck: its folder cannot be written."""
    away = threading.Event()
    away.set()
    put_file = place.store.put_file

    def put(*arguments: Any, **named: Any) -> None:
        if away.is_set():
            raise Unavailable("the bucket is away")
        if "stuck" in str(arguments[0]):
            raise NotPermitted("output/stuck cannot be read")
        put_file(*arguments, **named)

    monkeypatch.setattr(place.store, "put_file", put)
    with place.comfyui() as simulator, place.running(place.make_worker(simulator.url)):
        place.submit("stuck", canvas())
        eventually(lambda: (found := place.status("stuck")) is not None and found["status"] == "saving", "it waits")
        for number in range(3):
            place.submit(f"job-{number}", canvas())
        for number in range(3):
            id = f"job-{number}"
            eventually(lambda id=id: (found := place.status(id)) and found["status"] == "saving", f"{id} waits")  # type: ignore[misc]
        away.clear()
        for number in range(3):
            assert place.ended(f"job-{number}", limit_s=14)["ok"]
        assert (place.status("stuck") or {})["status"] == "saving"

"""Up, down, and up only to fail again; dead workers, and servers that merely looked like one."""

import sys
from pathlib import Path

import pytest

from handoff.failures import Unavailable
from tests.watcher.stepping import SteppingLoop, use_clock
from watcher import comfyui_watch
from watcher.capabilities import Capabilities
from watcher.comfyui import ComfyUI
from watcher.comfyui_watch import RESTART_S, ComfyUIWatch
from watcher.prompts import Queue, Tag

AWAY = Unavailable("connection refused")


class Server(ComfyUI):
    """What it has and does is set by the test."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.up = True
        self.classes = frozenset({"SaveImage"})
        self.running: tuple[str, ...] = ()
        self.waiting: tuple[str, ...] = ()
        self.reads = 0
        self.looks = 0

    def read(self) -> Capabilities:
        self.reads += 1
        if not self.up:
            raise AWAY
        return Capabilities(version="0.33.0", devices=(), classes=self.classes, models={}, simulated=True)

    def queue(self) -> Queue:
        self.looks += 1
        if not self.up:
            raise AWAY
        return make_queue(self.running, self.waiting)


def make_queue(running: tuple[str, ...], waiting: tuple[str, ...]) -> Queue:
    tags: dict[str, Tag] = {}
    return Queue(running=running, waiting=waiting, tags=tags)


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, restart_command: str | None = None) -> None:
        self.loop = SteppingLoop()
        use_clock(monkeypatch, self.loop, comfyui_watch)
        self.server = Server()
        self.found: list[Capabilities] = []
        self.watch = ComfyUIWatch(self.loop, self.server, restart_command=restart_command, on_up=self.found.append)
        monkeypatch.setattr(self.watch, "read", self.server.read)

    def come_up(self) -> None:
        self.watch.check()
        self.loop.work()
        assert self.watch.usable


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_while_it_is_away_it_is_asked_at_growing_distances(scene: Scene) -> None:
    scene.server.up = False
    scene.watch.check()
    scene.loop.pass_time(60)
    assert scene.watch.state == "down"
    assert 10 <= scene.server.reads <= 20
    scene.server.up = True
    scene.loop.pass_time(5)
    assert scene.watch.usable
    assert len(scene.found) == 1


def test_one_that_is_up_only_to_fail_is_asked_less_and_less(scene: Scene) -> None:
    """Every POST fails, every read works: a proxy that lets only GETs through."""
    scene.come_up()
    for _ in range(300):
        if scene.watch.usable:
            scene.watch.report_down(AWAY)
        scene.loop.pass_time(0.1)
    assert scene.server.reads <= 12, "in 30 s"


def test_one_that_was_up_for_long_is_asked_at_once(scene: Scene) -> None:
    scene.come_up()
    scene.loop.pass_time(60)
    scene.watch.report_down(AWAY)
    assert not scene.watch.usable
    scene.loop.work()
    assert scene.watch.usable


def test_two_reports_of_one_outage_are_one(scene: Scene) -> None:
    scene.come_up()
    scene.server.up = False
    scene.loop.pass_time(60)
    reads = scene.server.reads
    for _ in range(5):
        scene.watch.report_down(AWAY)
    scene.loop.work()
    assert scene.server.reads == reads + 1


def look_for(scene: Scene, seconds: float) -> None:
    """As an execution does that waits at ComfyUI."""
    for _ in range(int(seconds)):
        scene.watch.suspect_dead_worker()
        scene.loop.pass_time(1)


def test_waiting_prompts_and_none_that_runs_are_a_dead_worker(scene: Scene) -> None:
    scene.come_up()
    scene.server.waiting = ("a",)
    look_for(scene, 4)
    assert scene.watch.usable
    look_for(scene, 4)
    assert scene.watch.state == "dead worker"
    assert not scene.watch.usable


def test_when_it_executes_again_it_is_up(scene: Scene) -> None:
    scene.come_up()
    scene.server.waiting = ("a",)
    look_for(scene, 8)
    assert scene.watch.state == "dead worker"
    scene.server.waiting, scene.server.running = (), ("a",)
    scene.loop.pass_time(10)
    assert scene.watch.usable


def test_a_moment_between_two_prompts_is_no_death(scene: Scene) -> None:
    scene.come_up()
    for _ in range(10):
        scene.server.waiting, scene.server.running = ("a",), ()
        look_for(scene, 3)
        scene.server.running = ("a",)
        look_for(scene, 2)
    assert scene.watch.usable


def test_idle_before_an_outage_and_idle_after_it_are_not_one_long_idleness(scene: Scene) -> None:
    scene.come_up()
    scene.server.waiting = ("a",)
    scene.watch.suspect_dead_worker()
    scene.loop.work()
    scene.server.up = False
    scene.watch.report_down(AWAY)
    scene.loop.pass_time(3600)
    scene.server.up = True
    scene.loop.pass_time(10)
    assert scene.watch.usable
    scene.watch.suspect_dead_worker()
    scene.loop.work()
    assert scene.watch.usable, "seen idle once"


def make_restarts(monkeypatch: pytest.MonkeyPatch, log: Path) -> Scene:
    return Scene(monkeypatch, f'{sys.executable} -c \'open("{log}", "a").write("x")\'')


def test_the_restart_command_runs_once_in_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = make_restarts(monkeypatch, tmp_path / "restarts")
    scene.come_up()
    scene.server.waiting = ("a",)
    look_for(scene, RESTART_S - 20)
    assert (tmp_path / "restarts").read_text() == "x"


def test_the_restart_command_runs_again_when_one_restart_was_not_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene = make_restarts(monkeypatch, tmp_path / "restarts")
    scene.come_up()
    scene.server.waiting = ("a",)
    look_for(scene, RESTART_S + 20)
    assert (tmp_path / "restarts").read_text() == "xx"


def test_a_restart_command_that_fails_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(monkeypatch, "false --password hunter2")
    scene.come_up()
    scene.server.waiting = ("a",)
    look_for(scene, 8)
    said = capsys.readouterr()
    assert "false" in said.out + said.err
    assert "hunter2" not in said.out + said.err


def test_what_was_read_anew_is_told_only_when_it_changed(scene: Scene) -> None:
    scene.come_up()
    same = scene.server.read()
    scene.watch.renew(same)
    assert len(scene.found) == 1
    scene.server.classes |= {"ProbeSleep"}
    scene.watch.renew(scene.server.read())
    assert len(scene.found) == 2
    assert scene.watch.capabilities is scene.found[1]


def test_a_check_that_fails_unexpectedly_is_repeated(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes = [RuntimeError("a mistake")]

    def read() -> Capabilities:
        if mistakes:
            raise mistakes.pop()
        return scene.server.read()

    monkeypatch.setattr(scene.watch, "read", read)
    scene.watch.check()
    scene.loop.work()
    assert scene.watch.state == "down"
    scene.loop.pass_time(5)
    assert scene.watch.usable

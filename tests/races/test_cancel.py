"""A wish to cancel, at every moment of a job's life: the job ends once, as cancelled or as it was, and the mark goes."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.conftest import SOAK
from tests.e2e.conftest import House, StartWatcher
from tests.e2e.jobs import Job, canvas, encode, graph, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.test_bucket import give_back, take_away
from tests.e2e.test_line import with_picture
from tests.e2e.test_order_and_time import go_on, pause
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.races import contenders
from tests.races.fleet import run_simulators, start_watchers
from tests.races.test_one_id import ended
from tests.servers.simulator import Simulator

CANCELS = 500 if SOAK else 24
AT_ONCE = 6


@dataclass
class Scene:
    house: House
    id: str
    afterwards: list[Callable[[], object]] = field(default_factory=list)

    @property
    def volume(self) -> Volume:
        return self.house.volume

    @property
    def simulator(self) -> Simulator:
        return self.house.simulator

    @property
    def name(self) -> str:
        return f"{self.id}.json"

    @property
    def mark(self) -> Path:
        return self.volume.input / f"{self.id}.cancel"

    def drop(self, body: Job) -> None:
        self.volume.drop(self.name, {**body, "id": self.id})

    def submit(self, body: Job) -> None:
        assert contenders.submit(self.volume.root, 0, id=self.id, body=body) == "new"

    def cancel(self) -> None:
        self.mark.touch()

    def pause(self) -> None:
        pause(self.house)
        self.afterwards.append(partial(go_on, self.house))

    def is_running(self) -> bool:
        status = self.volume.status(self.id)
        return status is not None and status["started_at"] is not None

    def is_in_seat(self, pattern: str) -> bool:
        return any(self.volume.spool.glob(f"w-*/{pattern}"))

    def finish(self) -> None:
        while self.afterwards:
            self.afterwards.pop()()


def before_it_is_there(scene: Scene) -> None:
    scene.cancel()
    scene.drop(canvas())


def while_it_is_written(scene: Scene) -> None:
    data = encode(canvas(id=scene.id))
    with (scene.volume.input / scene.name).open("wb", buffering=0) as file:
        file.write(data[:20])
        scene.cancel()
        time.sleep(0.2)
        file.write(data[20:])
    scene.volume.note(scene.name, data)


def in_input(scene: Scene) -> None:
    scene.house.watcher.freeze()
    scene.drop(canvas())
    scene.cancel()
    scene.house.watcher.thaw()


def claimed(scene: Scene) -> None:
    """The drop waits for its picture, so its id is not known yet."""
    scene.drop(with_picture("late.png"))
    eventually(lambda: scene.is_in_seat(f"c-*~{scene.name}"), "it is claimed")
    scene.cancel()
    time.sleep(0.2)
    bring_picture(scene)


def waiting(scene: Scene) -> None:
    scene.pause()
    scene.drop(canvas())
    scene.house.watcher.wait_for("accepted", id=scene.id)
    scene.cancel()


def being_planned(scene: Scene) -> None:
    scene.submit(with_picture("never.png"))
    eventually(lambda: scene.is_in_seat("r-*"), "it is claimed")
    scene.cancel()


def before_the_post(scene: Scene) -> None:
    """ComfyUI is away; it is back when the job is over."""
    scene.simulator.pause()
    scene.afterwards.append(scene.simulator.resume)
    scene.drop(canvas())
    eventually(lambda: scene.is_in_seat("r-*"), "it is claimed, and its POST unanswered")
    scene.cancel()
    time.sleep(0.2)
    scene.simulator.resume()


def while_the_post_is_open(scene: Scene) -> None:
    scene.simulator.control(delayed_posts=1, post_delay_s=1.0)
    posts = scene.simulator.control()["prompts_received"]
    scene.drop(sleeping(600))
    eventually(lambda: scene.simulator.control()["prompts_received"] > posts, "the POST is there")
    scene.cancel()


def waiting_at_comfyui(scene: Scene) -> None:
    first = Scene(scene.house, "first")
    first.drop(sleeping(600))
    scene.afterwards.append(first.cancel)
    eventually(lambda: queued(scene.simulator), "the first is there")
    scene.drop(canvas())
    eventually(lambda: queued(scene.simulator) == 2, "both are there")
    scene.cancel()


def running(scene: Scene) -> None:
    scene.drop(sleeping(600))
    eventually(scene.is_running, "it runs")
    scene.cancel()


def running_and_deaf(scene: Scene) -> None:
    """A node that cannot be interrupted: the wish is met when it is over, and the result not used."""
    scene.drop(sleeping(1.5, deaf=True))
    eventually(scene.is_running, "it runs")
    scene.cancel()


def just_drawn(scene: Scene) -> None:
    """ComfyUI has told of the success, and its history does not show it yet."""
    scene.simulator.control(history_lag_s=1.0)
    scene.drop(canvas())
    eventually(lambda: list(scene.volume.output.glob(".handoff/work/*/*.png")), "the picture is there")
    scene.cancel()


def saving(scene: Scene) -> None:
    take_away(scene.volume)
    scene.afterwards.append(partial(give_back, scene.volume))
    scene.drop(canvas())
    scene.volume.wait_until(scene.name, "saving")
    scene.cancel()
    time.sleep(0.2)
    scene.finish()


def decided(scene: Scene) -> None:
    """Its failure is final, and the bucket does not know yet."""
    take_away(scene.volume)
    scene.afterwards.append(partial(give_back, scene.volume))
    broken = graph()
    broken["1"]["inputs"]["width"] = 0
    scene.drop({"graph": broken})
    ended(scene.volume, scene.id)
    scene.cancel()
    time.sleep(0.2)
    scene.finish()


def over(scene: Scene) -> None:
    scene.drop(canvas())
    ended(scene.volume, scene.id)
    scene.cancel()


MOMENTS: dict[Callable[[Scene], None], set[str]] = {
    before_it_is_there: {"cancelled"},
    while_it_is_written: {"cancelled"},
    in_input: {"cancelled"},
    claimed: {"cancelled"},
    waiting: {"cancelled"},
    being_planned: {"cancelled"},
    before_the_post: {"cancelled", "succeeded"},  # its POST lay unanswered in ComfyUI's socket, and may win
    while_the_post_is_open: {"cancelled"},
    waiting_at_comfyui: {"cancelled"},
    running: {"cancelled"},
    running_and_deaf: {"cancelled"},
    just_drawn: {"succeeded"},
    saving: {"succeeded"},
    decided: {"failed"},
    over: {"succeeded"},
}


def bring_picture(scene: Scene) -> None:
    staged = scene.volume.root / "staging" / "late.png"
    Image.new("RGB", (8, 8)).save(staged)
    staged.rename(scene.volume.input / "late.png")
    scene.volume.left.add("late.png")


def queued(simulator: Simulator) -> int:
    """Prompts that wait or run there."""
    queue = requests.get(f"{simulator.url}/queue", timeout=60).json()
    return len(queue["queue_running"]) + len(queue["queue_pending"])


def assert_idle(simulator: Simulator) -> None:
    eventually(lambda: queued(simulator) == 0, "nothing is left at ComfyUI")


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_cancelled(house: House, moment: Callable[[Scene], None]) -> None:
    scene = Scene(house, moment.__name__.replace("_", "-"))
    try:
        moment(scene)
        status = ended(house.volume, scene.id)
        assert status["status"] in MOMENTS[moment]
        eventually(lambda: not scene.mark.exists(), "the mark is gone")
    finally:
        scene.finish()
        house.simulator.control(reset=True)
    house.check()
    assert house.volume.status(scene.id) == status
    assert_idle(house.simulator)


@pytest.mark.timeout(CANCELS + 120)
def test_cancelled_at_any_moment(volume: Volume, watch: StartWatcher, note: Note) -> None:
    """Dropped and submitted jobs, quick and slow ones, among two watchers; the moment is drawn by lot."""
    chance = random.Random(10)
    ends: dict[str, int] = {}
    with run_simulators(volume, 2) as simulators:
        watchers = start_watchers(watch, simulators, scan_s=1)

        def run(number: int) -> str:
            id = f"job-{number}"
            body = chance.choice([canvas(), {"graph": graph()}, sleeping(0.3), sleeping(0.1, deaf=True)])
            steps: list[tuple[float, Callable[[], object]]] = [
                (chance.uniform(0, 0.8), (volume.input / f"{id}.cancel").touch),
                (chance.uniform(0, 0.3), lambda: bring(id, body, dropped=chance.random() < 0.5)),
            ]
            begun = time.monotonic()
            for at, step in sorted(steps, key=lambda step: step[0]):
                time.sleep(max(0.0, begun + at - time.monotonic()))
                step()
            status = ended(volume, id)["status"]
            assert status in ("cancelled", "succeeded")
            return str(status)

        def bring(id: str, body: Job, *, dropped: bool) -> None:
            if dropped:
                contenders.drop(volume.root, int(id[4:]), name=f"{id}.json", body={**body, "id": id})
            else:
                assert contenders.submit(volume.root, 0, id=id, body=body) == "new"

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for status in pool.map(run, range(CANCELS)):
                ends[status] = ends.get(status, 0) + 1
        check_promises(volume, *simulators, watchers=tuple(watchers))
        for simulator in simulators:
            assert_idle(simulator)
        assert len(volume.jobs()) == CANCELS
    note(cancels=CANCELS, **ends, lost=CANCELS - sum(ends.values()))

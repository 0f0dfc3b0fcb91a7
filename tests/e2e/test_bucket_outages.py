"""The bucket is away for minutes: ComfyUI draws on, nothing is drawn twice for it, and then all results arrive, once and whole."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.conftest import SOAK
from tests.e2e.jobs import canvas, film
from tests.e2e.place import Place
from tests.e2e.promises import check_promises
from tests.figures import Note
from tests.stores.fault_proxy import Choose, Fault, FaultProxy, running_proxy

SHORT_S = 3.0
LONG_S = {"refused": 600.0, "hanging": 60.0, "storm": 120.0, "misconfigured": 60.0, "resets": 60.0}
PAUSE_S = 0.5  # between two jobs


class Road:
    """The way to the store, which can be cut: then connections are refused, and those that stand are reset."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._stack = ExitStack()
        self._port = 0
        self.proxy = self.open()
        self.endpoint = self.proxy.endpoint

    def open(self) -> FaultProxy:
        self.proxy = self._stack.enter_context(running_proxy(self._upstream, self._port))
        self._port = int(self.proxy.endpoint.rpartition(":")[2])
        return self.proxy

    def cut(self) -> None:
        self._stack.close()


@pytest.fixture
def road(place: Place) -> Iterator[Road]:
    road = Road(place.server.endpoint)
    yield road
    road.cut()


@dataclass
class Mixed:
    """Each request meets one of these, by chance."""

    faults: tuple[Fault | None, ...]
    chance: random.Random

    def __call__(self, method: str, path: str) -> Fault | None:
        return self.chance.choice(self.faults)


def mix(*faults: Fault | None) -> Callable[[], Choose]:
    return lambda: Mixed(faults, random.Random(20261124))


OUTAGES: dict[str, Callable[[], Choose] | None] = {
    "refused": None,
    "hanging": mix(Fault.HANG),
    "storm": mix(Fault.BUSY, Fault.THROTTLED, Fault.THROTTLED, None),
    "misconfigured": mix(Fault.SKEWED, Fault.DENIED, Fault.NO_BUCKET),
    "resets": mix(Fault.RESET_MID_BODY, Fault.LOSE_REPLY, Fault.CUT_ANSWER, Fault.NONSENSE),
}


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("kind", OUTAGES)
def test_comfyui_draws_on_while_the_bucket_is_away(place: Place, road: Road, note: Note, kind: str) -> None:
    volume = place.volume
    watcher = place.start(HANDOFF_S3_ENDPOINT_URL=road.endpoint)
    volume.drop("before.json", canvas())
    volume.succeed("before.json")
    make_fault = OUTAGES[kind]
    if make_fault is None:
        road.cut()
    else:
        road.proxy.choose = make_fault()
    begun = time.monotonic()
    names = ["film.json"]
    volume.drop("film.json", film())
    while time.monotonic() - begun < (LONG_S[kind] if SOAK else SHORT_S):
        names.append(f"meanwhile-{len(names)}.json")
        volume.drop(names[-1], canvas())
        time.sleep(PAUSE_S)
    for name in names:
        volume.wait_until(name, "saving", "succeeded")
    away_s = time.monotonic() - begun
    drawn = sum(place.simulator.control()["executions"].values()) - 1
    if make_fault is None:
        road.open()
    else:
        road.proxy.choose = lambda _method, _path: None
    back = time.monotonic()
    for status in volume.succeed(*names, limit_s=120 + len(names)):
        assert status["attempt"] == 1
    caught_up_s = time.monotonic() - back
    check_promises(volume, place.simulator, watchers=(watcher,))
    place.bucket.check_objects(volume)
    note(away_s=away_s, drawn_meanwhile=drawn, drawn_twice=drawn - len(names), caught_up_s=caught_up_s)
    assert drawn == len(names)

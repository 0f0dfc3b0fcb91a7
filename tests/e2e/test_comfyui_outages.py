"""ComfyUI is killed, keeps silent, loses replies or answers nonsense while jobs wait: each is drawn, and once where that is possible."""

import json
import random
import time
from collections import Counter

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import House, StartWatcher
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.servers.simulator import Simulator
from tests.stores.fault_proxy import Answer, running_proxy

RESTARTS, QUEUED = (10, 30) if SOAK else (4, 10)
LOST_REPLIES = 1000 if SOAK else 40
SILENT_REPLIES = 20 if SOAK else 3
GARBLED_JOBS = 300 if SOAK else 10


@pytest.mark.timeout(600 if SOAK else 120)
def test_a_queue_outlives_restarts_of_comfyui(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    """Each restart falls on a job that runs. Whoever was running at three of them is given up, as one that kills ComfyUI."""
    chance = random.Random(20261124)
    watcher = watch(simulator)
    names = [f"queued-{number}.json" for number in range(QUEUED)]
    for name in names:
        volume.drop(name, sleeping(0.3))
    for _ in range(RESTARTS):
        eventually(lambda: simulator.control()["executions"], "a job runs")
        time.sleep(chance.uniform(0.0, 0.25))  # so that it falls somewhere else each time
        remember_executions(volume, simulator)
        simulator.restart()
    found = volume.finish(*names)
    check_promises(volume, simulator, allowed=dict.fromkeys(names, 1 + RESTARTS), watchers=(watcher,))
    executions = Counter(volume.executions)
    executions.update(simulator.control()["executions_by_tag"])
    more = sum(executions.values()) - len(names)
    assert more <= RESTARTS, "one execution more for each restart, at most"
    assert {status["error"]["reason"] for status in found if not status["ok"]} <= {"lost"}
    note(
        comfyui_restarts=RESTARTS,
        jobs=len(names),
        final=len(found),
        succeeded=sum(status["ok"] for status in found),
        executions_more_than_jobs=more,
    )


@pytest.mark.timeout(3600 if SOAK else 120)
def test_replies_that_are_lost_again_and_again_cost_no_second_submission(house: House, note: Note) -> None:
    before = house.simulator.control(lost_replies=LOST_REPLIES)
    names = [f"reply-lost-{number}.json" for number in range(LOST_REPLIES)]
    for name in names:
        house.volume.drop(name, canvas())
    for status in house.volume.succeed(*names, limit_s=60 + 2 * LOST_REPLIES):
        assert status["attempt"] == 1
    after = house.simulator.control()
    house.check()
    assert after["faults"]["lost_replies"] == 0
    submissions = after["prompts_accepted"] - before["prompts_accepted"]
    note(lost_replies=LOST_REPLIES, duplicate_submissions=submissions - LOST_REPLIES)
    assert submissions == LOST_REPLIES


@pytest.mark.timeout(600 if SOAK else 120)
def test_replies_that_never_come_hold_up_nobody_for_long(house: House, note: Note) -> None:
    """The connection stays open; a look beside it finds that ComfyUI has the prompt."""
    house.simulator.control(silent_replies=SILENT_REPLIES)
    names = [f"silent-reply-{number}.json" for number in range(SILENT_REPLIES + 1)]
    begun = time.monotonic()
    for name in names:
        house.volume.drop(name, canvas())
    for status in house.volume.succeed(*names, limit_s=60 + 10 * SILENT_REPLIES):
        assert status["attempt"] == 1
    held_s = (time.monotonic() - begun) / SILENT_REPLIES
    house.check()
    note(silent_replies=SILENT_REPLIES, seconds_each=held_s)
    assert held_s < 20, "a POST without an answer is given up after two minutes"


@pytest.mark.timeout(3600 if SOAK else 120)
def test_nonsense_instead_of_answers_is_asked_again(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    chance = random.Random(20261124)
    told: Counter[str] = Counter()

    def choose(method: str, path: str) -> Answer | None:
        if path.startswith("/ws"):
            return Answer(503, b"")
        if method != "GET" or chance.random() > 0.3:
            return None
        answer = make_nonsense(chance, path)
        told[path.split("/")[1]] += 1
        return answer

    with running_proxy(simulator.url) as proxy:
        proxy.choose = choose
        watcher = watch(proxy.endpoint)
        names = [f"garbled-{number}.json" for number in range(GARBLED_JOBS)]
        for name in names:
            volume.drop(name, canvas())
        for status in volume.succeed(*names, limit_s=60 + 10 * GARBLED_JOBS):
            assert status["attempt"] == 1
        check_promises(volume, simulator, watchers=(watcher,))
    note(jobs=GARBLED_JOBS, nonsense_answers=sum(told.values()))
    assert told["api"] > 0


def make_nonsense(chance: random.Random, path: str) -> Answer:
    """Nothing that ComfyUI could mean: a lie of the right form is no matter of this test."""
    if chance.random() < 0.05:
        return Answer(200, b" " * (70 << 20))
    last = path.rpartition("/")[2]
    bodies = [
        b"",
        b"null",
        b"[]",
        b'"ok"',
        b"\xff\xfe{",
        b'{"a": NaN',
        b"[" * 100_000,
        b"<!doctype html><title>Bad gateway</title>",
        json.dumps({"error": "no backend"}).encode(),
        json.dumps({"status": 5, "outputs": [], last: 5, "queue_running": 5, "queue_pending": {}}).encode(),
        json.dumps({"status": "completed", "outputs": [[]], last: [], "queue_running": [5]}).encode(),
    ]
    status = chance.choice([200, 200, 200, 302, 404, 429, 500, 502])
    return Answer(status, chance.choice(bodies), chance.choice(["application/json", "text/html"]))


@pytest.mark.parametrize(("path", "body"), [("/object_info", b"{}"), ("/system_stats", b"<html>")])
def test_a_comfyui_that_describes_itself_with_nonsense_is_asked_until_it_does_not(
    volume: Volume, simulator: Simulator, watch: StartWatcher, path: str, body: bytes
) -> None:
    left = [1]

    def choose(_: str, asked: str) -> Answer | None:
        if asked.startswith("/ws"):
            return Answer(503, b"")
        if asked != path or not left:
            return None
        left.pop()
        return Answer(200, body)

    with running_proxy(simulator.url) as proxy:
        proxy.choose = choose
        watcher = watch(proxy.endpoint)
        volume.drop("one.json", canvas())
        volume.succeed("one.json")
        check_promises(volume, simulator, watchers=(watcher,))

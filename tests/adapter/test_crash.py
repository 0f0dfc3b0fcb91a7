"""kill -9 of the adapter around its reply: what it answered 2xx exists, and asking again makes one job of it."""

import json
import os
import platform
import random
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from handoff.folders import Folders
from handoff.spool.publisher import sweep
from tests.adapter.conftest import KEYS
from tests.conftest import SOAK
from tests.crash.test_kill_points import TRACER
from tests.e2e.conftest import make_root
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.servers.adapter import Adapter, start_adapter

JOB = {"workflow": "canvas", "params": {"width": 32}}
SPOOL = "input/.handoff"
SAMPLE = [
    ("exit", f"write {SPOOL}/tmp/* #1"),
    ("exit", f"linkat {SPOOL}/tmp/* {SPOOL}/ids/victim #1"),
    ("exit", f"rename {SPOOL}/tmp/* {SPOOL}/inbox/*#-*.json #1"),
    ("entry", f"fsync {SPOOL}/inbox #1"),
]


@pytest.fixture
def volume() -> Iterator[Volume]:
    with make_root() as root:
        yield Volume.make(root / "volume")


def jobs_in(volume: Volume) -> Tally[str]:
    """How often each id stands in the inbox."""
    return Tally(json.loads(path.read_bytes())["id"] for path in (volume.spool / "inbox").iterdir())


def submit(adapter: Adapter, id: str) -> int | None:
    """None: no answer, since it was killed."""
    try:
        return adapter.put(f"/v1/jobs/{id}", json=JOB, timeout=20).status_code
    except requests.RequestException:
        return None


def start_traced(volume: Volume, log: str, moment: str, point: str) -> Adapter:
    wrap = (sys.executable, "-S", str(TRACER), str(volume.root), log, moment, point)
    return start_adapter(volume.root, api_keys=KEYS, wrap=wrap)


def count_points(volume: Volume) -> list[str]:
    log = volume.root / "trace.log"
    with start_traced(volume, str(log), "never", "") as adapter:
        before = len(log.read_text().splitlines())
        assert submit(adapter, "victim") == 202
        points = log.read_text().splitlines()[before:]
    return [point for point in points if "adapter-#.log" not in point]


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows the calls of x86-64 only")
def test_killed_at_every_call_of_a_submission(note: Note) -> None:
    cases = SAMPLE
    with make_root() as root:
        found = count_points(Volume.make(root / "volume"))
        assert {point for _, point in SAMPLE} <= set(found)
        if SOAK:
            cases = [(moment, point) for point in found for moment in ("entry", "exit")]
    for moment, point in cases:
        with make_root() as root:
            volume = Volume.make(root / "volume")
            with start_traced(volume, "/dev/null", moment, point) as adapter:
                assert submit(adapter, "victim") is None, f"nothing is answered before {moment} of {point}"
            with start_adapter(volume.root, api_keys=KEYS) as next_one:
                known = next_one.get("/v1/jobs/victim").status_code
                assert submit(next_one, "victim") in ({200} if known == 200 else {202}), (moment, point)
                assert next_one.get("/v1/jobs/victim?format=text").text == "queued"
            assert jobs_in(volume) == {"victim": 1}, (moment, point)
    note(points=len(cases), kills=len(cases), lost=0, doubled=0)


@pytest.mark.timeout(1800 if SOAK else 120)
def test_killed_at_random_under_load(volume: Volume, note: Note) -> None:
    note(**kill_at_random(volume, kills=50 if SOAK else 4))


def test_an_answer_before_its_job_is_noticed(volume: Volume) -> None:
    with pytest.raises(AssertionError, match="lost"):
        kill_at_random(volume, kills=2, module="tests.adapter.planted answer_before_it_is_published")


def kill_at_random(volume: Volume, *, kills: int, module: str = "handoff_cli") -> dict[str, int]:
    """Clients submit on and on, the adapter is killed and started again. Returns what was counted."""
    random.seed(11)
    settings: dict[str, Any] = {"api_keys": KEYS, "jobs_per_key": 10**6, "module": module}
    answered: list[str] = []
    asked: list[str] = []
    stop = threading.Event()
    adapter = start_adapter(volume.root, **settings)
    port = int(adapter.url.rpartition(":")[2])

    def load(number: int) -> None:
        count = 0
        with requests.Session() as session:
            session.trust_env = False
            while not stop.is_set():
                id = f"load-{number}-{count}"
                count += 1
                asked.append(id)
                try:
                    answer = session.put(
                        f"http://127.0.0.1:{port}/v1/jobs/{id}", json=JOB, auth=("shop", adapter.key or ""), timeout=20
                    )
                except requests.RequestException:
                    time.sleep(0.05)
                    continue
                if answer.ok:
                    answered.append(id)

    clients = [threading.Thread(target=load, args=(number,)) for number in range(6)]
    for client in clients:
        client.start()
    try:
        for _ in range(kills):
            time.sleep(random.uniform(0.3, 1.2))
            adapter.kill()
            adapter = start_adapter(volume.root, port=port, **settings)
    finally:
        stop.set()
        for client in clients:
            client.join()
    with adapter:
        found = jobs_in(volume)
        assert answered
        lost = [id for id in answered if found[id] != 1]
        assert lost == [], f"{len(lost)} of {len(answered)} lost"
        assert set(found.values()) == {1}
        unclear = [id for id in asked if id not in set(answered) and (volume.spool / "ids" / id).exists()]
        for id in unclear:
            assert submit(adapter, id) == 200
        after = jobs_in(volume)
        assert [id for id in unclear if after[id] != 1] == []
    for path in (volume.spool / "tmp").iterdir():
        os.utime(path, (0, 0))
    swept = sweep(Folders(str(volume.input), str(volume.output)))
    assert set(jobs_in(volume)) == set(os.listdir(volume.spool / "ids"))
    return {
        "kills": kills,
        "submitted": len(asked),
        "answered": len(answered),
        "unclear": len(unclear),
        "swept": swept,
        "lost": len(lost),
    }

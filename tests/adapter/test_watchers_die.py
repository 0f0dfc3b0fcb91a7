"""Whoever waits for a job outlasts the watcher that had it: real programs, killed, while the poll is held."""

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.jobs import sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.servers.adapter import Adapter, start_adapter
from tests.servers.watcher import start_watcher

ADMIN = "hk_admin_0123456789"


def poll(adapter: Adapter, id: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    return requests.get(f"{adapter.url}/v1/jobs/{id}?wait=60", headers=headers, timeout=90)


@pytest.mark.parametrize("source", ["volume", "bucket"])
def test_a_poll_outlasts_the_death_of_a_watcher(source: str) -> None:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(make_root())
        volume = Volume.make(root / "volume")
        simulator = stack.enter_context(run_simulator(volume))
        first = stack.enter_context(start_watcher(volume.root, simulator.url))
        first.wait_for("comfyui_up")
        keys = f"ops:{ADMIN}:admin"
        output = volume.output if source == "volume" else root / "no-such-folder"
        settings: dict[str, Any] = {"status_source": source, "output_dir": output, "api_keys": keys}
        adapter = stack.enter_context(start_adapter(volume.root, **settings))
        pool = stack.enter_context(ThreadPoolExecutor())
        volume.submit("long", sleeping(3.0))
        held = pool.submit(poll, adapter, "long")
        eventually(lambda: (found := volume.status("long")) and found["status"] == "running", "it runs")
        first.kill()
        second = stack.enter_context(start_watcher(volume.root, simulator.url))
        document = held.result(90).json()
        assert (document["status"], document["attempt"]) == ("succeeded", 1)
        answer = adapter.get("/v1/jobs/long/outputs/1", key=ADMIN)
        assert hashlib.sha256(answer.content).hexdigest() == document["outputs"][0]["sha256"]
        assert answer.content == Path(volume.output / "long" / document["outputs"][0]["name"]).read_bytes()
        check_promises(volume, simulator, watchers=(second,))

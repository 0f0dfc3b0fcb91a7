"""The few calls that the simulator's own tests make. Not a client for anything else."""

import time
import uuid
from typing import Any

import requests

from tests.servers.simulator import Simulator
from tests.simulator.graphs import Graph


def post(simulator: Simulator, graph: Graph, **fields: Any) -> requests.Response:
    return requests.post(f"{simulator.url}/prompt", json={"prompt": graph, **fields}, timeout=10)


def submit(simulator: Simulator, graph: Graph, **fields: Any) -> str:
    """The prompt's id."""
    answer = post(simulator, graph, **{"prompt_id": str(uuid.uuid4()), **fields})
    assert answer.status_code == 200, answer.text
    prompt_id: str = answer.json()["prompt_id"]
    return prompt_id


def find_job(simulator: Simulator, prompt_id: str) -> dict[str, Any] | None:
    answer = requests.get(f"{simulator.url}/api/jobs/{prompt_id}", timeout=10)
    if answer.status_code == 404:
        return None
    job: dict[str, Any] = answer.json()
    return job


def wait_for_end(simulator: Simulator, prompt_id: str, *, timeout_s: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        job = find_job(simulator, prompt_id)
        if job is not None and job["status"] not in ("pending", "in_progress"):
            return job
        assert time.monotonic() < deadline, f"{prompt_id} did not end: {job}"
        time.sleep(0.01)


def wait_for_status(simulator: Simulator, prompt_id: str, status: str) -> None:
    deadline = time.monotonic() + 10
    while (job := find_job(simulator, prompt_id)) is None or job["status"] != status:
        assert time.monotonic() < deadline, f"{prompt_id} is not {status}: {job}"
        time.sleep(0.01)


def run(simulator: Simulator, graph: Graph, **fields: Any) -> dict[str, Any]:
    return wait_for_end(simulator, submit(simulator, graph, **fields))


def listed_files(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        entry
        for ui in job["outputs"].values()
        for entries in ui.values()
        for entry in entries
        if isinstance(entry, dict)
    ]

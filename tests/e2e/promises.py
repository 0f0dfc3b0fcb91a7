"""What must hold at the end of every test, whatever happened in it. Written from the outside: no code of ours is used."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.e2e.volume import Status, Volume
from tests.servers.simulator import Simulator
from tests.servers.watcher import LIMIT_S, Watcher

FINAL = {"succeeded", "failed", "cancelled", "expired", "rejected"}
KEYS = {
    "schema", "id", "status", "done", "ok", "workflow", "attempt", "priority", "source", "owner", "retry_of", "metadata",
    "progress", "step", "created_at", "started_at", "finished_at", "queue_s", "run_s", "save_s", "gpu_s", "outputs",
    "texts", "url", "markdown", "error", "comfyui", "warnings",
}  # fmt: skip
OUTPUT_KEYS = {"name", "kind", "media_type", "bytes", "sha256", "width", "height", "key", "url"}
OWN = {"uploads", "rejected", ".handoff"}
BUGS = ("bug", "intake_failed", "background_failed", "unreadable_record", "unreadable_status", "comfyui_check_failed")


def check_promises(
    volume: Volume, *simulators: Simulator, allowed: Mapping[str, int] | None = None, watchers: tuple[Watcher, ...] = ()
) -> None:
    """`allowed`: how often the job dropped under a name may have been executed, where that is not once."""
    end = time.monotonic() + LIMIT_S
    while (left := _leftovers(volume)) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == [], "it does not come to rest"
    jobs = volume.jobs()
    _check_places(volume, jobs)
    for id, status in jobs.items():
        _check_status(id, status)
        _check_files(volume, id, status)
        _check_bucket(volume, id, status)
    assert set(_list(volume.spool / "ids")) == jobs.keys()
    assert Counter(path.name for path in volume.spool.glob("done/*/*")) == Counter(jobs.keys())
    _check_executions(volume, jobs, simulators, allowed or {})
    for watcher in watchers:
        assert [line for line in watcher.log if line["event"] in BUGS] == []
        assert "Traceback" not in watcher.text
    volume.spoiled = False


def _leftovers(volume: Volume) -> list[str]:
    """What is not at rest yet, or was forgotten."""
    found = [name for name in _list(volume.input) if name not in OWN | volume.left]
    for path in (volume.spool / "inbox", volume.spool / "tmp", volume.output / ".handoff" / "work"):
        found += [f"{path.name}/{name}" for name in _list(path)]
    for name in _list(volume.spool):
        if name.startswith("w-"):
            entries = set(_list(volume.spool / name)) - {"lease", "server.json"}
            found += [f"{name}/{entry}" for entry in entries]
    for name in _list(volume.output / ".handoff"):
        if name.startswith("w-"):
            found += [f"pen {name}/{entry}" for entry in _list(volume.output / ".handoff" / name) if entry != "feed"]
    found += [f"{id} is {status['status']}" for id, status in volume.jobs().items() if not status["done"]]
    return sorted(found)


def _list(path: os.PathLike[str]) -> list[str]:
    """What a watcher that is killed while it tries the volume out leaves is cleared away a minute later."""
    try:
        return [name for name in os.listdir(path) if not name.startswith(".trial-")]
    except FileNotFoundError:
        return []


def _check_places(volume: Volume, jobs: dict[str, Status]) -> None:
    """Every dropped file is in exactly one place: one job, or rejected with its bytes untouched."""
    sources = Counter(status["source"] for status in jobs.values() if status["retry_of"] is None)
    for name, drop in volume.drops.items():
        rejected = volume.input / "rejected" / name
        is_rejected = os.path.lexists(rejected)
        expected = 0 if name in volume.replays else 1
        assert sources[name] + is_rejected == expected, f"{name}: {sources[name]} jobs, rejected: {is_rejected}"
        if is_rejected:
            assert rejected.with_name(f"{name}.reason.json").is_file()
            if rejected.is_file() and not rejected.is_symlink():
                assert rejected.read_bytes() == drop.data


def _check_status(id: str, status: Status) -> None:
    assert status.keys() >= KEYS
    assert status["schema"] == 1
    assert status["id"] == id
    assert status["status"] in FINAL
    assert status["done"] is True
    assert status["ok"] is (status["status"] == "succeeded")
    assert (status["error"] is None) is status["ok"]
    assert status["finished_at"] >= status["created_at"]
    if status["ok"]:
        assert status["outputs"] or status["texts"]
        assert status["progress"] == 1.0
        assert status["started_at"] is not None
    else:
        error = status["error"]
        assert error["reason"]
        assert error["message"]
        assert error["hint"]
        assert "(" not in error["message"][:1]
        assert isinstance(error["retryable"], bool)


def _check_files(volume: Volume, id: str, status: Status) -> None:
    folder = volume.output / id
    names = {output["name"] for output in status["outputs"]}
    assert len(names) == len(status["outputs"])
    for output in status["outputs"]:
        assert output.keys() >= OUTPUT_KEYS
        path = folder / output["name"]
        assert not path.is_symlink()
        _check_bytes(path.read_bytes(), output)
    assert set(os.listdir(folder)) >= names | {"status.json", "job.json"}
    if status["ok"]:
        assert set(os.listdir(folder)) == names | {"status.json", "job.json"}
    job = json.loads((folder / "job.json").read_bytes())
    assert job["id"] == id


def _check_bytes(data: bytes, output: dict[str, Any]) -> None:
    assert len(data) == output["bytes"] > 0
    assert hashlib.sha256(data).hexdigest() == output["sha256"]


def _check_bucket(volume: Volume, id: str, status: Status) -> None:
    document = (volume.output / id / "status.json").read_bytes()
    assert volume.bucket.get(f"jobs/{id}/status.json") == document
    assert volume.bucket.get(f"jobs/{id}/job.json") == (volume.output / id / "job.json").read_bytes()
    for output in status["outputs"]:
        data = volume.bucket.get(output["key"])
        assert data is not None, f"the bucket has no {output['key']}"
        _check_bytes(data, output)


def _check_executions(
    volume: Volume, jobs: dict[str, Status], simulators: tuple[Simulator, ...], allowed: Mapping[str, int]
) -> None:
    by_tag = Counter(volume.executions)
    for simulator in simulators:
        counters = simulator.control()
        assert counters["harm"] == []
        by_tag.update(counters["executions_by_tag"])
    repeated = {tag: count for tag, count in by_tag.items() if count > 1}
    assert repeated == {}, "one attempt was executed more than once"
    by_id = Counter(tag.split("/")[0] for tag in by_tag.elements())
    assert by_id.keys() <= jobs.keys()
    for id, status in jobs.items():
        most = allowed.get(status["source"], 1)
        assert by_id[id] <= most, f"{id} was executed {by_id[id]} times"
        if status["ok"]:
            assert by_id[id] >= 1


def remember_executions(volume: Volume, simulator: Simulator) -> None:
    """Before a simulator is killed, which forgets them."""
    total = Counter(volume.executions)
    total.update(simulator.control()["executions_by_tag"])
    volume.executions = dict(total)

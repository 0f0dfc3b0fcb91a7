"""The checks of every other test can fail: each promise is broken by hand once, and noticed."""

import json
import os
from collections.abc import Callable

import pytest

from tests.e2e.conftest import House
from tests.e2e.jobs import canvas
from tests.e2e.volume import Status, Volume

Break = Callable[[Volume, Status], object]


def rewrite(volume: Volume, status: Status, **changes: object) -> None:
    """In both places, so that only the content is wrong."""
    data = json.dumps({**status, **changes}).encode()
    (volume.output / status["id"] / "status.json").write_bytes(data)
    (volume.root / "bucket" / "jobs" / status["id"] / "status.json").write_bytes(data)


def output(volume: Volume, status: Status) -> str:
    return os.fspath(volume.output / status["id"] / status["outputs"][0]["name"])


def in_bucket(volume: Volume, status: Status, name: str) -> str:
    return os.fspath(volume.root / "bucket" / "jobs" / status["id"] / name)


def flip(path: str) -> None:
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


BREAKS: dict[str, Break] = {
    "a drop vanished": lambda volume, _: volume.note("never-seen.json", b"{}"),
    "a drop is in two places": lambda volume, status: (volume.input / "rejected" / status["source"]).touch(),
    "not final": lambda volume, status: rewrite(volume, status, status="running"),
    "ok and not succeeded": lambda volume, status: rewrite(volume, status, status="failed"),
    "no outputs": lambda volume, status: rewrite(volume, status, outputs=[]),
    "an error beside success": lambda volume, status: rewrite(volume, status, error={"reason": "lost"}),
    "a file is gone": lambda volume, status: os.unlink(output(volume, status)),
    "a byte is wrong on disk": lambda volume, status: flip(output(volume, status)),
    "a byte is wrong in the bucket": lambda volume, status: flip(
        in_bucket(volume, status, status["outputs"][0]["name"])
    ),
    "the bucket's status differs": lambda volume, status: flip(in_bucket(volume, status, "status.json")),
    "no status in the bucket": lambda volume, status: os.unlink(in_bucket(volume, status, "status.json")),
    "no job.json": lambda volume, status: os.unlink(volume.output / status["id"] / "job.json"),
    "a stray file beside the outputs": lambda volume, status: (volume.output / status["id"] / "x").touch(),
    "executed twice": lambda volume, status: volume.executions.update({f"{status['id']}/9/": 1}),
    "a reservation is gone": lambda volume, status: os.unlink(volume.spool / "ids" / status["id"]),
    "the record is not filed": lambda volume, status: next(volume.spool.glob(f"done/*/{status['id']}")).unlink(),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_promise_is_noticed(house: House, name: str) -> None:
    volume = house.volume
    source = f"whole-{len(volume.drops)}.json"
    volume.drop(source, canvas())
    (status,) = volume.succeed(source)
    house.check()
    volume.spoiled = True
    drops, executions = dict(volume.drops), dict(volume.executions)
    backup = volume.root / "backup"
    os.system(f"cp -a {volume.root}/input {volume.root}/output {volume.root}/bucket {backup}/ 2>/dev/null")  # noqa: S605
    BREAKS[name](volume, status)
    with pytest.raises((AssertionError, FileNotFoundError, KeyError)):
        house.check()
    volume.drops, volume.executions = drops, executions


LEFT = ("input/.handoff/inbox/x", "input/.handoff/tmp/x", "output/.handoff/work/x", "input/forgotten.txt")


@pytest.mark.parametrize("path", LEFT)
def test_what_is_left_over_is_noticed(house: House, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    house.check()
    monkeypatch.setattr("tests.e2e.promises.LIMIT_S", 0.1)
    left = house.volume.root / path
    left.touch()
    with pytest.raises(AssertionError, match="come to rest"):
        house.check()
    left.unlink()
    house.check()

"""The checks of every other test can fail: each promise is broken by hand once, and noticed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import open_house
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import FolderBucket, Status, Volume

Break = Callable[[Volume, Status], object]


def rewrite(volume: Volume, document: Status, /, **changes: object) -> None:
    """In both places, so that only the content is wrong."""
    data = json.dumps({**document, **changes}).encode()
    (volume.output / document["id"] / "status.json").write_bytes(data)
    (volume.root / "bucket" / "jobs" / document["id"] / "status.json").write_bytes(data)


def output(volume: Volume, status: Status) -> str:
    return f"{volume.output}/{status['id']}/{status['outputs'][0]['name']}"


def in_bucket(volume: Volume, status: Status, name: str) -> str:
    return f"{volume.root}/bucket/jobs/{status['id']}/{name}"


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


@pytest.fixture(scope="module")
def finished() -> Iterator[Volume]:
    with open_house() as house:
        house.volume.drop("whole.json", canvas())
        house.volume.succeed("whole.json")
        house.check()
        remember_executions(house.volume, house.simulator)
        house.watcher.terminate()
        yield house.volume


@pytest.fixture
def volume(finished: Volume, tmp_path: Path) -> Volume:
    """A copy to break."""
    for name in ("input", "output", "bucket"):
        shutil.copytree(finished.root / name, tmp_path / name)
    bucket = FolderBucket(tmp_path / "bucket")
    return Volume(tmp_path, bucket, drops=dict(finished.drops), executions=dict(finished.executions))


def test_the_copy_keeps_every_promise(volume: Volume) -> None:
    check_promises(volume)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_promise_is_noticed(volume: Volume, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.e2e.promises.LIMIT_S", 0.0)
    (status,) = volume.succeed("whole.json")
    BREAKS[name](volume, status)
    with pytest.raises((AssertionError, FileNotFoundError)):
        check_promises(volume)


@pytest.mark.parametrize(
    "path",
    [
        "input/.handoff/inbox/x",
        "input/.handoff/tmp/x",
        "input/.handoff/w-1/c-x",
        "output/.handoff/w-1/x",
        "output/.handoff/work/x",
        "input/forgotten.txt",
    ],
)
def test_what_is_left_over_is_noticed(volume: Volume, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.e2e.promises.LIMIT_S", 0.0)
    left = volume.root / path
    left.parent.mkdir(exist_ok=True)
    left.touch()
    with pytest.raises(AssertionError, match="come to rest"):
        check_promises(volume)

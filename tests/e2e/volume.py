"""The shared volume as a user sees it: job files go in, status documents and pictures come out."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from handoff import timestamps
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.record import Record
from tests.e2e.jobs import Job, encode
from tests.servers.watcher import LIMIT_S

Status = dict[str, Any]
Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], what: str, *, limit_s: float = LIMIT_S) -> Found:
    """What `look` returns as soon as that is true. Fails after `limit_s`."""
    end = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)
    return found


class Bucket(Protocol):
    def get(self, key: str) -> bytes | None: ...

    def list_keys(self) -> set[str]: ...


@dataclass(frozen=True)
class FolderBucket:
    root: Path

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def list_keys(self) -> set[str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)) for path in files if ".unfinished" not in path.parts}


@dataclass(frozen=True)
class Drop:
    name: str
    data: bytes
    at: float
    """Wall clock, when it was whole."""


@dataclass
class Volume:
    """`root` holds input/, output/, bucket/ and staging/, which is on the same file system and watched by nobody."""

    root: Path
    bucket: Bucket
    drops: dict[str, Drop] = field(default_factory=dict)
    replays: set[str] = field(default_factory=set)
    """Names of drops that were the same job again: nothing is left of them."""
    left: set[str] = field(default_factory=set)
    """Names in input/ that are no jobs and stay."""
    executions: dict[str, int] = field(default_factory=dict)
    """Of simulators that are gone: by "id/attempt/token"."""
    spoiled: bool = False
    """Somebody works here, or broke something: no place for the next test."""

    @classmethod
    def make(cls, root: Path, bucket: Bucket | None = None) -> "Volume":
        for name in ("input", "output", "staging", "workflows"):
            (root / name).mkdir(parents=True)
        return cls(root, bucket or FolderBucket(root / "bucket"))

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def spool(self) -> Path:
        return self.input / ".handoff"

    def drop(self, name: str, job: Job | bytes) -> Drop:
        """Renamed into input/ from outside, as `mv` does."""
        data = encode(job)
        staged = self.root / "staging" / "job"
        staged.write_bytes(data)
        os.rename(staged, os.path.join(os.fspath(self.input), name))
        return self.note(name, data)

    def submit(self, id: str, job: Job) -> None:
        """Into the inbox, as `handoff submit` does."""
        folders = Folders(str(self.input), str(self.output))
        folders.make()
        parsed = parse_job(job, default_workflow="txt2img")
        received = timestamps.to_text(timestamps.now())
        record = Record(token="0" * 16, id=id, sha256=parsed.sha256, received_at=received, body=parsed.body)
        publisher.publish(folders, record)

    def note(self, name: str, data: bytes) -> Drop:
        """For what a test put into input/ in a way of its own."""
        drop = self.drops[name] = Drop(name, data, time.time())
        return drop

    def jobs(self) -> dict[str, Status]:
        """Every status document, by id."""
        found = {}
        for path in self._status_files():
            document = _read_whole(path)
            found[path.parent.name] = document
        return found

    def _status_files(self) -> Iterator[Path]:
        for folder in self.output.iterdir():
            path = folder / "status.json"
            if not folder.name.startswith(".") and path.is_file():
                yield path

    def status(self, id: str) -> Status | None:
        try:
            found = _read_whole(self.output / id / "status.json")
        except FileNotFoundError:
            return None
        return found

    def find(self, name: str) -> Status | None:
        """The status of the job that was dropped under this name."""
        return next((status for status in self.jobs().values() if status["source"] == name), None)

    def wait_until(self, name: str, *statuses: str, limit_s: float = LIMIT_S) -> Status:
        """The job's status document once it is one of `statuses`."""

        def look() -> Status | None:
            found = self.find(name)
            if found is not None and found["status"] not in statuses:
                assert not found["done"], f"{name} ended as {found['status']}: {found['error']}"
                return None
            return found

        return eventually(look, f"{name} is one of {statuses}", limit_s=limit_s)

    def finish(self, *names: str, limit_s: float = LIMIT_S) -> list[Status]:
        """The final status documents of the jobs that were dropped under these names."""

        def look() -> list[Status] | None:
            by_name = {status["source"]: status for status in self.jobs().values() if status["done"]}
            return [by_name[name] for name in names] if by_name.keys() >= set(names) else None

        return eventually(look, f"{', '.join(names)[:200]} ended", limit_s=limit_s)

    def succeed(self, *names: str, limit_s: float = LIMIT_S) -> list[Status]:
        found = self.finish(*names, limit_s=limit_s)
        assert {status["source"]: status["error"] for status in found if not status["ok"]} == {}
        return found

    def reason(self, name: str, *, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """What stands beside a rejected file."""
        path = self.input / "rejected" / f"{name}.reason.json"
        # the reason comes first, then the file beside it
        eventually(
            lambda: path.exists() and os.path.lexists(path.with_name(name)), f"{name} is rejected", limit_s=limit_s
        )
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found


def _read_whole(path: Path) -> Status:
    data = path.read_bytes()
    try:
        found: Status = json.loads(data)
    except ValueError:
        raise AssertionError(f"{path.name} was half written: {data[-80:]!r}") from None
    return found

"""A bucket in memory. It checks at each put what readers may rely on: a final status names only what is there."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from handoff.failures import Permanent, Transient, Unavailable
from handoff.stores.contract import Stored
from tests.histories.clock import Clock
from tests.histories.process import NEVER
from tests.spool.actors import step

Accident = Literal["answer lost", "lost on the way", "takes effect late"]


@dataclass(eq=False)
class Bucket:
    clock: Clock
    complain: Callable[[str], None]
    published: Callable[[str], bytes | None]
    """The status document of an id in `output/`."""
    away: bool = False
    accidents: list[Accident] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    late: list[tuple[float, str, bytes]] = field(default_factory=list)

    def put_file(self, key: str, path: Path, *, media_type: str, sha256: str, size: int, cache_control: str) -> None:
        del media_type, cache_control
        data = path.read_bytes()
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise Permanent(f"{path} does not hold these bytes")
        self._put(key, data)

    def put_bytes(
        self, key: str, data: bytes, *, media_type: str, cache_control: str = "no-store", durable: bool = True
    ) -> None:
        del media_type, cache_control, durable
        self._put(key, data)

    def create(self, key: str, data: bytes, *, media_type: str) -> bool:
        del media_type
        self._reach("create", key)
        return self.objects.setdefault(key, data) is data

    def get_bytes(self, key: str, limit: int) -> bytes | None:
        del limit
        self._reach("get", key)
        return self.objects.get(key)

    def head(self, key: str) -> Stored | None:
        self._reach("head", key)
        data = self.objects.get(key)
        return None if data is None else Stored(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def url(self, key: str, *, expires_s: int) -> str | None:
        return f"https://bucket.example/{key}?expires={expires_s}"

    def download(self, bucket: str, key: str, path: Path, limit: int) -> int:
        raise Permanent(f"no job here asks for {bucket}/{key} as {path}, {limit}")

    def describe(self) -> str:
        return "a bucket in memory"

    def check(self) -> None:
        self._reach("check", "")

    def next_at(self) -> float:
        return min((due for due, _, _ in self.late), default=NEVER)

    def go(self) -> None:
        for due, key, data in list(self.late):
            if due <= self.clock.now:
                self.late.remove((due, key, data))
                self._store(key, data)

    def _put(self, key: str, data: bytes) -> None:
        self._reach("PUT", key)
        accident = self.accidents.pop(0) if self.accidents else None
        if accident == "takes effect late":
            self.late.append((self.clock.now + 20.0, key, data))
        elif accident != "lost on the way":
            self._store(key, data)
        if accident is not None:
            raise Transient(accident)
        step("confirmed", key)

    def _reach(self, what: str, key: str) -> None:
        step(what, key)
        if self.away:
            raise Unavailable("the bucket is away")

    def _store(self, key: str, data: bytes) -> None:
        if key.endswith("/status.json"):
            self._check_status(key, data)
        self.objects[key] = data

    def _check_status(self, key: str, data: bytes) -> None:
        if self.objects.get(key, data) != data:
            self.complain(f"{key} was final, and changed")
        for output in json.loads(data)["outputs"]:
            there = self.objects.get(output["key"])
            if there is None:
                self.complain(f"{key} names {output['key']}, which is not there")
            elif hashlib.sha256(there).hexdigest() != output["sha256"]:
                self.complain(f"{output['key']} has other bytes than {key} says")
        if self.published(key.removesuffix("/status.json")) != data:
            self.complain(f"{key} is not what was decided")

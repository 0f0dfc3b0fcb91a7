"""A watcher's sign of life: a small file in its own folder, locked while the process lives and rewritten while it works."""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handoff import timestamps
from handoff.durable import read_file
from handoff.failures import Permanent

BEAT_S = 2.0
boot_id = timestamps.boot_id
_SIZE = 4096  # bytes; one write of one page, so that a reader never sees half of it


class LeaseText(BaseModel):
    """What the file says. `uptime_s`: the machine's own clock since boot, which no setting of the time changes."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    wid: str
    server: str
    boot_id: str
    beat: int
    uptime_s: float = 0.0
    health: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Lease:
    """The owner's side. The lock is the descriptor's: the kernel frees it when the process ends, however it ends."""

    descriptor: int
    text: LeaseText

    def beat(self, health: dict[str, Any], uptime_s: float) -> None:
        """Rewrites the file in place; a new file would lose the lock."""
        self.text = self.text.model_copy(update={"beat": self.text.beat + 1, "health": health, "uptime_s": uptime_s})
        os.pwrite(self.descriptor, _page(self.text), 0)

    def close(self) -> None:
        os.close(self.descriptor)


def create(path: str, text: LeaseText) -> Lease:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    os.pwrite(descriptor, _page(text), 0)
    with suppress(OSError):  # a file system without locks: death is then proved by the silent beat alone
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Lease(descriptor, text)


def read(path: str) -> LeaseText | None:
    """None where there is none or it cannot be understood, which counts as silence."""
    try:
        return LeaseText.model_validate_json(read_file(path, _SIZE).rstrip(b"\0 \n"))
    except (OSError, Permanent, ValidationError):
        return None


def is_released(path: str) -> bool:
    """Whether its owner's lock is gone, which on one machine proves that the owner is dead."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _page(text: LeaseText) -> bytes:
    data = text.model_dump_json().encode()
    if len(data) >= _SIZE:
        data = json.dumps({**text.model_dump(exclude={"health"}), "health": {}}).encode()
    return data.ljust(_SIZE - 1) + b"\n"

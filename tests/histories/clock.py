"""Time, moved on by hand. Files keep the real time, which is years ahead: they look young until they are made old."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

START = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
LONG_AGO = datetime(2010, 1, 1, tzinfo=UTC).timestamp()


class Clock:
    """Stands in for the module `time` in the programs. `sleep` is the process's own affair."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.now = 0.0
        self.jump = 0.0
        """How far somebody has set the wall clock forward or back."""
        self.sleep = sleep

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return START + self.now + self.jump

    def clock_gettime(self, _clock: int) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def make_old(root: Path) -> None:
    """As if nobody had touched these files for years."""
    for path in _walk(root):
        with suppress(FileNotFoundError):
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def _walk(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        yield folder
        yield from (f"{folder}/{name}" for name in files)

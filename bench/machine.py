"""What the figures were measured on, and what one fsync costs there. Reads /proc."""

import datetime as dt
import os
import platform
import time
from pathlib import Path
from typing import Any

from bench.figures import p50

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def load() -> float:
    """Processes that ran or wanted to, averaged over the last minute."""
    return os.getloadavg()[0]


def is_busy() -> bool:
    """Whether somebody else works here, so that the figures will be spoiled."""
    return load() > 0.5 * len(os.sched_getaffinity(0))


class FsyncClock:
    """Times one fsync now and then, while something else is measured: others use the disk, too, and not evenly."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fsync"
        self._taken: list[float] = []

    def tick(self) -> None:
        """Appends 512 bytes and waits until they are on the disk."""
        with self._path.open("ab", buffering=0) as file:
            file.write(b"x" * 512)
            start = time.monotonic()
            os.fsync(file.fileno())
            self._taken.append((time.monotonic() - start) * 1000)

    @property
    def ms(self) -> float:
        """The median."""
        return p50(self._taken)


def cpu_s(pid: int) -> float:
    """What all threads of a process have used so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory in MB of 1,000,000 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)

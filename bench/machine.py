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


def time_fsync(folder: Path, times: int = 50) -> float:
    """The median of an append of 512 bytes with fsync, in ms."""
    path = folder / "fsync"
    taken = []
    with path.open("ab", buffering=0) as file:
        for _ in range(times):
            start = time.monotonic()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            taken.append((time.monotonic() - start) * 1000)
    path.unlink()
    return p50(taken)


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

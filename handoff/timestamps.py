"""Times as they stand in every document: RFC 3339, UTC, milliseconds, `Z`."""

import functools
import time
from datetime import UTC, datetime


def now() -> datetime:
    """The wall clock. Only for showing and for naming; no protocol rule compares two machines' clocks."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Raises ValueError for anything but a time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment


def from_milliseconds(milliseconds: float) -> datetime:
    """ComfyUI's own times: milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@functools.cache
def boot_id() -> str:
    """Which run of which machine this is; containers of one host share it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def uptime() -> str:
    """Now, by the clock since the machine's start, which all its containers share and no setting of the time changes."""
    return f"{boot_id()} {time.clock_gettime(time.CLOCK_BOOTTIME):.3f}"


def seconds_since(uptime: str | None) -> float | None:
    """None where that clock does not tell: of another machine, or of before its restart."""
    boot, _, seconds = (uptime or "").partition(" ")
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - float(seconds) if boot == boot_id() else None
    except ValueError:
        return None

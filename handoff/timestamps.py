"""Times as they stand in every document: RFC 3339, UTC, milliseconds, `Z`."""

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

"""Which part of a file a request asks for (RFC 9110, section 14). Pure."""

import re

_ONE = re.compile(r"bytes\s*=\s*(?P<first>[0-9]{0,18})\s*-\s*(?P<last>[0-9]{0,18})\s*", re.IGNORECASE)


class UnsatisfiableRange(Exception):  # noqa: N818
    """It begins behind the end of the file."""


def choose_range(header: str | None, size: int) -> tuple[int, int] | None:
    """From the first byte to behind the last. None: the whole file, also where several parts or nonsense is asked for,
    which a server may pass over.

    Raises UnsatisfiableRange.
    """
    found = _ONE.fullmatch((header or "").strip())
    if not found or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        start, stop = max(0, size - int(found["last"])), size
    else:
        start = int(found["first"])
        stop = min(size, int(found["last"]) + 1) if found["last"] else size
        if found["last"] and int(found["last"]) < start:
            return None
    if start >= size:
        raise UnsatisfiableRange
    return start, stop

"""Which job a watcher worked at when its process died: one that brings watcher after watcher down is given up.

Around work at what came from outside (graphs, pictures, outputs) a small file lies in the seat, one byte for each time that
the work was begun and did not end, whichever watcher it was. It outlives the process, not a power loss, and goes along with
a takeover.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from handoff.durable import disk_errors
from handoff.failures import Failure, Reason
from handoff.spool.seat import Seat

DEATHS = 5  # a watcher may be killed for other reasons, but hardly so often at the same few milliseconds


@contextmanager
def working_at(seat: Seat, name: str) -> Iterator[None]:
    """`name` is a job's token or a claim's stamp. Raises Failure for what was worked at each time when a watcher died, Fenced,
    Unavailable.
    """
    path = f"{seat.path}/x-{name}"
    with seat.power(), disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        try:
            deaths = os.fstat(descriptor).st_size
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)
    try:
        if deaths >= DEATHS:
            raise Failure(Reason.INTERNAL_ERROR, problem=f"the watcher died {deaths} times while it worked at this job")
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)

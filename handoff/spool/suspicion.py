"""Which job a watcher worked at when its process died: one that brings watcher after watcher down is given up.

Around work at what came from outside (graphs, pictures, outputs) a small file lies in the seat, one byte for each time that
the work was begun and did not end, whichever watcher it was. It outlives the process, not a power loss, and goes along with
a takeover.

Whatever was under way at a death is under suspicion. Of the suspects only one at a time is worked at, so that a further death
counts against that one alone: the others, and what was begun meanwhile, come clean when their work ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from handoff.durable import disk_errors
from handoff.failures import Failure, Reason
from handoff.spool.seat import Seat

BESIDE = "-job"  # follows the token where work is done beside the job's other work: that has a mark of its own
DEATHS = 5  # a watcher may be killed for other reasons, but hardly so often while it works at the same job

_under_way: set[str] = set()


@contextmanager
def working_at(seat: Seat, name: str) -> Iterator[None]:
    """`name` is a job's token, perhaps with BESIDE, or a claim's stamp. Not to be nested, nor used twice at once for one name.

    Waits for other suspects. Raises Failure for what was worked at each time when a watcher died, Fenced, Unavailable.
    """
    path = f"{seat.path}/x-{name}"
    with seat.suspects if _count_deaths(path) else nullcontext():
        deaths = _add_mark(seat, path)
        _under_way.add(path)
        try:
            if deaths >= DEATHS:
                problem = f"the watcher died {deaths} times while it worked at this job"
                raise Failure(Reason.INTERNAL_ERROR, problem=problem)
            yield
        finally:
            _under_way.discard(path)
            _remove(path)


def _count_deaths(path: str) -> int:
    with suppress(OSError):
        return os.lstat(path).st_size
    return 0


def _add_mark(seat: Seat, path: str) -> int:
    """How many were there."""
    with seat.power(), disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        try:
            deaths = os.fstat(descriptor).st_size
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)
    return deaths


def acquit(seat: Seat, name: str) -> None:
    """Forgets the deaths of a job or claim that is out of this seat.

    An inherited mark may never have been worked at again, and on a disk in trouble the one of work that ended stays.
    """
    _remove(f"{seat.path}/x-{name}")
    _remove(f"{seat.path}/x-{name}{BESIDE}")


def pardon(seat: Seat) -> None:
    """The run ends without a death: what it leaves unfinished, a slow upload for example, is under no suspicion."""
    for path in list(_under_way):
        if path.startswith(f"{seat.path}/"):
            _remove(path)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)

"""A live job whose record is damaged: what can still be said of it, so that it ends like every accepted job.

The name tells the token, the reservation the id: it is another file since the first attempt, and before that the same
one under another name. The work folders tell how many attempts there were, since each is made before its POST.

Nothing is written: a whole record with an attempt and no end would be taken for a job that goes on. Its end is decided first.
"""

import os
from contextlib import suppress

from handoff import timestamps
from handoff.documents import DamagedDocument, UnreadableDocument
from handoff.durable import disk_errors
from handoff.folders import Folders
from handoff.job import prompt_id
from handoff.spool.record import MOST_ATTEMPTS, Record
from handoff.spool.seat import Seat


def rebuild(seat: Seat, token: str) -> Record | None:
    """The record for the job to be ended by.

    None: it is not damaged (but of a newer version, or closed to us), or nobody knows whose it was. Raises Fenced, OSError.
    """
    path = seat.record_path(token)
    with seat.power(), disk_errors(path):
        try:
            record = Record.read(path)
        except DamagedDocument:
            reserved = _find_reserved(seat.folders, token, os.lstat(path).st_ino)
        except UnreadableDocument:
            return None
        else:
            return record if lacks_plan(record) else None
        if reserved is None:
            return None
        attempt = _count_attempts(seat.folders, token)
    return reserved.evolve(attempt=attempt, prompt_id=prompt_id(token, attempt) if attempt else None)


def lacks_plan(record: Record) -> bool:
    """Whether it is what earlier versions left that were killed between the two: sent, and nobody knows with what graph."""
    return record.attempt > 0 and record.job is None


def _find_reserved(folders: Folders, token: str, inode: int) -> Record | None:
    """Looks through all ids there ever were. That is slow, and nearly never needed."""
    with os.scandir(folders.ids) as entries:
        for entry in entries:
            if entry.inode() == inode:
                now = timestamps.to_text(timestamps.now())
                return Record(token=token, id=entry.name, sha256="", received_at=now, body={})
            with suppress(UnreadableDocument, OSError):
                record = Record.read(entry.path)
                if record.token == token:
                    return record
    return None


def _count_attempts(folders: Folders, token: str) -> int:
    names = [name.rpartition("-") for name in os.listdir(folders.work)]
    numbers = [int(number) for name, _, number in names if name == token and number.isdecimal()]
    return max((number for number in numbers if number <= MOST_ATTEMPTS), default=0)  # others are a stranger's

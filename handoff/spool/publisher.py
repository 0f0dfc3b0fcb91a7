"""How an adapter or the command line gets a job in: no file drop, so that the id is reserved before the answer. Also how
both make the record of a job or of its repetition, and ask for an end.

A request whose process is killed between any two steps here is either finished by a repetition, by `sweep`, or never
answered 2xx.
"""

import os
import re
import secrets
import time
from contextlib import suppress
from typing import Literal

from handoff import durable, timestamps
from handoff.documents import UnreadableDocument
from handoff.failures import DiskUnavailable, Failure, Reason
from handoff.folders import Folders
from handoff.job import ID_LENGTH, Job, derive_id, inbox_name
from handoff.spool import reservations
from handoff.spool.record import Record

SWEEP_AFTER_S = 60.0
_SWEPT = ".swept"
_RETRY = re.compile(r"(?P<first>.+)-r(?P<number>[1-9][0-9]{0,5})")


def make_record(job: Job, folders: Folders, *, owner: str, source: str | None = None) -> Record:
    """The record of a job as it is published: the watcher that claims it plans it."""
    return Record(
        token="",  # the publisher's to draw
        id=job.id or _derive_free_id(source or job.workflow or "job", folders),
        sha256=job.sha256,
        source=source,
        owner=owner,
        received_at=timestamps.to_text(timestamps.now()),
        received_uptime=timestamps.uptime(),
        priority=job.priority or 0,
        body=job.body,
    )


def make_retry(record: Record, *, received_at: str) -> Record:
    """The stored body and the stored plan under the next id: no seed is drawn anew and no picture fetched again."""
    return Record(
        token="",  # the publisher's to draw
        id=retry_id(record.id),
        sha256=record.sha256,
        source=record.source,
        owner=record.owner,
        retry_of=record.id,
        received_at=received_at,
        received_uptime=timestamps.uptime(),
        priority=record.priority,
        body=record.body,
        job=record.job,
    )


def retry_id(id: str) -> str:
    """`poster` → `poster-r1` → `poster-r2`, cut to fit."""
    earlier = _RETRY.fullmatch(id)
    first, number = (earlier["first"], int(earlier["number"])) if earlier else (id, 0)
    end = f"-r{number + 1}"
    return first[: ID_LENGTH - len(end)] + end


def _derive_free_id(name: str, folders: Folders) -> str:
    salt, now, number = secrets.token_hex(8), timestamps.now(), 0
    while reservations.find(folders, id := derive_id(name, now, salt, number)) is not None:
        number += 1
    return id


def publish(folders: Folders, record: Record) -> Literal["new", "replay"]:
    """Puts a job into the inbox, durably, under a token of its own.

    Raises Failure(ID_TAKEN) when the id belongs to a job with another body, Unavailable when the disk is full or gone.
    """
    while True:
        # a token is never used twice: one that was swept away may still be seen by others
        record = record.evolve(token=secrets.token_hex(8))
        temporary = f"{folders.tmp}/{record.token}"
        holder = reservations.find(folders, record.id)
        if holder is not None:
            if holder.sha256 != record.sha256:
                raise Failure(Reason.ID_TAKEN, id=record.id)
            _finish(folders, _find_record(folders, record.id))
            return "replay"
        durable.write_file(temporary, record.to_bytes())
        try:
            with durable.disk_errors(folders.ids):
                reserved = reservations.reserve(folders, temporary, id=record.id, token=record.token)
        except FileNotFoundError:  # swept while this process slept
            if not os.path.isdir(folders.ids):
                raise
            continue
        except DiskUnavailable:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if reserved:
            _finish(folders, record)
            return "new"
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def ask_to_cancel(folders: Folders, id: str) -> None:
    """Leaves the mark that any watcher acts upon, durably. The id must be known. Raises Unavailable."""
    durable.write_file(folders.cancel_mark(id), b"")
    with durable.disk_errors(folders.input):
        durable.sync_folder(folders.input)


def _find_record(folders: Folders, id: str) -> Record | None:
    """None also for a tombstone: its job was finished long ago."""
    try:
        return Record.find(folders.reservation(id))
    except UnreadableDocument:
        return None


def _finish(folders: Folders, record: Record | None) -> None:
    """The last step, by whoever comes by: a repetition finishes what a killed request left behind."""
    if record is None:
        return
    target = f"{folders.inbox}/{inbox_name(record.rank, record.token)}"
    with durable.disk_errors(folders.inbox):
        for source in (f"{folders.tmp}/{record.token}", f"{folders.tmp}/{record.token}{_SWEPT}"):
            try:
                os.rename(source, target)
            except FileNotFoundError:
                continue
            break
        durable.sync_folder(folders.ids)
        durable.sync_folder(folders.inbox)


def sweep(folders: Folders) -> int:
    """Clears up after killed publishers: what has its id goes on, what has none goes away. Returns how many there were.

    First out of the publisher's reach, then the look: a live but slow publisher could link its id in between.
    """
    swept = 0
    for name in os.listdir(folders.tmp):
        token = name.removesuffix(_SWEPT)
        path = f"{folders.tmp}/{token}{_SWEPT}"
        with suppress(FileNotFoundError):
            if time.time() - os.stat(f"{folders.tmp}/{name}", follow_symlinks=False).st_mtime <= SWEEP_AFTER_S:
                continue
            if name != f"{token}{_SWEPT}":
                os.rename(f"{folders.tmp}/{name}", path)
            _clear_up(folders, path)
            swept += 1
    return swept


def _clear_up(folders: Folders, path: str) -> None:
    try:
        record = Record.read(path)
    except UnreadableDocument:
        # cut off while it was written, and so never linked to an id; or of a newer version, which is left to it
        if os.lstat(path).st_nlink == 1:
            os.unlink(path)
        return
    holder = reservations.find(folders, record.id)
    if holder is not None and holder.token == record.token:
        _finish(folders, record)
    else:
        os.unlink(path)

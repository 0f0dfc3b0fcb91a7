"""The reader's side: what is to be seen of jobs and watchers by whoever owns none of them. Nothing here writes.

Everything is read while watchers work: a file that is gone was moved on or finished, and a document that cannot be read
is named and passed over.
"""

import heapq
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from handoff import durable, timestamps
from handoff.documents import Document, UnreadableDocument
from handoff.failures import Permanent, Unavailable
from handoff.folders import Folders
from handoff.job import inbox_name, inbox_token, is_id
from handoff.spool import lease
from handoff.spool.record import Plan, Record, Tombstone
from handoff.state import FINAL, Status
from handoff.status import ComfyUIEntry, StatusDocument

FRESH_S = 10.0  # a beat comes every 2 s; one that is older than this was not made by a watcher that works
MOST_READ = 20_000  # documents that one listing opens, whatever its filters let through
_RECORD_LIMIT = 64 << 20
_Document = TypeVar("_Document", bound=Document)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


# ── one job ──


def find_status(folders: Folders, id: str) -> StatusDocument | Tombstone | None:
    """What is known of a job now: its status document, or, while it waits, the one that follows from its reservation.

    A tombstone is the final word on a job that retention removed. None: nobody knows this id.
    Raises UnreadableDocument, as everything here does, and Unavailable for a folder that cannot be listed.
    """
    if not is_id(id):
        return None
    published = find_document(folders, id)
    return published if published is not None else find_reserved(folders, id)


def find_reserved(folders: Folders, id: str) -> StatusDocument | Tombstone | None:
    """What the reservation alone says of a job, wherever it is now: that it was accepted, or that it was removed."""
    reserved = find_reservation(folders, id)
    return describe_waiting(reserved) if isinstance(reserved, Record) else reserved


def find_document(folders: Folders, id: str) -> StatusDocument | None:
    """What a watcher published of a job in `output/`."""
    return _find(StatusDocument, folders.status(id)) if is_id(id) else None


def find_record(folders: Folders, id: str) -> Record | None:
    """The newest journal of a job: where it is finished, live or waiting, else as it was reserved.

    None for an unknown id and for a tombstone.
    """
    found = locate(folders, id)
    return None if found is None else _find_record(found)


def locate(folders: Folders, id: str) -> str | None:
    """The path of the newest record of a job, which tells where in the spool it is."""
    if not is_id(id):
        return None
    for _ in range(2):  # it may move on while one place after the other is looked at
        for path in _possible_places(folders, id):
            if os.path.lexists(path):
                return path
    reserved = find_reservation(folders, id)
    return folders.reservation(id) if isinstance(reserved, Record) else None


def _possible_places(folders: Folders, id: str) -> Iterator[str]:
    reserved = find_reservation(folders, id)
    if isinstance(reserved, Record):
        yield f"{folders.inbox}/{inbox_name(reserved.rank, reserved.token)}"
        for folder in _seats(folders):
            yield f"{folder}/r-{reserved.token}"
    for day in _days(folders):
        yield f"{folders.done}/{day}/{id}"


def queue_position(folders: Folders, record: Record) -> int | None:
    """1 is next. None when it no longer waits. By the names alone, which are in the order of work."""
    mine = inbox_name(record.rank, record.token)
    names = [name for name in _names(folders.inbox) if inbox_token(name) is not None]
    return 1 + sum(name < mine for name in names) if mine in names else None


def describe_waiting(record: Record) -> StatusDocument:
    """The status of a job that nobody has published one of."""
    body = record.body
    plan = record.job or Plan(graph={}, workflow=_text(body.get("workflow")), metadata=_object(body.get("metadata")))
    return StatusDocument(
        id=record.id,
        workflow=plan.workflow,
        attempt=record.attempt,
        priority=record.priority,
        source=record.source,
        owner=record.owner,
        retry_of=record.retry_of,
        metadata=plan.metadata,
        created_at=record.received_at,
        warnings=plan.warnings,
        comfyui=ComfyUIEntry(prompt_id=record.prompt_id),
    )


def find_reservation(folders: Folders, id: str) -> Record | Tombstone | None:
    """The job as it was accepted, wherever it is now, or what retention left of it."""
    if not is_id(id):
        return None
    path = folders.reservation(id)
    try:
        data = durable.read_file(path, _RECORD_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (Permanent, OSError) as error:
        raise UnreadableDocument(f"{path} cannot be read: {error}") from None
    try:
        return _check(Record.from_bytes(data, path), path)
    except UnreadableDocument as error:
        with suppress(UnreadableDocument):
            return Tombstone.from_bytes(data, path)
        raise error from None


def _find_record(path: str) -> Record | None:
    record = _find(Record, path)
    return None if record is None else _check(record, path)


def _find(kind: type[_Document], path: str) -> _Document | None:
    try:
        return kind.find(path)
    except OSError as error:
        raise UnreadableDocument(f"{path} cannot be read: {error.strerror}") from None


def _check(record: Record, path: str) -> Record:
    """Raises UnreadableDocument for a record that no place in the queue follows from."""
    try:
        assert record.rank
    except ValueError as error:
        raise UnreadableDocument(f"{path} is damaged: received_at: {error}") from None
    return record


# ── many jobs ──


@dataclass(frozen=True, kw_only=True)
class Listing:
    """`more`: jobs beyond the limit may match, too. `unreadable`: what is wrong with documents that were passed over."""

    jobs: Sequence[StatusDocument]
    more: bool
    unreadable: Sequence[str]


FindStatus = Callable[[str], StatusDocument | None]
"""What was published of a job."""


def list_jobs(
    folders: Folders,
    *,
    statuses: Collection[Status] = frozenset(Status),
    workflow: str | None = None,
    owner: str | None = None,
    limit: int = 50,
    find_published: FindStatus | None = None,
    most_read: int | None = None,
) -> Listing:
    """Unfinished jobs, newest first, then finished ones, those sent last first. Opens little more than it returns,
    except for what the filters drop, and never more than `most_read` documents (MOST_READ).

    `find_published` is for readers that have no `output/`; it may raise UnreadableDocument.
    """
    look = _Look(folders, find_published or (lambda id: find_document(folders, id)))
    most_read = most_read or MOST_READ
    unfinished = look.unfinished(waiting=Status.QUEUED in statuses)
    found: dict[str, StatusDocument] = {}
    for document in chain(unfinished, look.finished() if FINAL & set(statuses) else ()):
        wanted = document.status in statuses and workflow in (None, document.workflow)
        if wanted and owner in (None, document.owner):
            found.setdefault(document.id, document)
        if len(found) > limit or look.opened >= most_read:
            break
    more = len(found) > limit or look.opened >= most_read
    return Listing(jobs=list(islice(found.values(), limit)), more=more, unreadable=look.unreadable)


@dataclass
class _Look:
    folders: Folders
    find_published: FindStatus
    opened: int = 0
    unreadable: list[str] = field(default_factory=list)

    def unfinished(self, *, waiting: bool) -> Iterator[StatusDocument]:
        """The inbox is looked at first: a job that leaves it meanwhile is found where it went."""
        names = [name for name in _names(self.folders.inbox) if inbox_token(name)] if waiting else []
        journals = [journal for path in _live_records(self.folders) if (journal := self._record(path))]
        live = sorted(((journal.rank[3:], journal) for journal in journals), key=_moment, reverse=True)
        names.sort(key=lambda name: name[3:], reverse=True)
        moved: set[str] = set()
        for _, record in heapq.merge(live, self._read_inbox(names, moved), key=_moment, reverse=True):
            yield from self._describe(record)
        for path in _live_records(self.folders):
            if os.path.basename(path).removeprefix("r-") in moved and (gone := self._record(path)):
                yield from self._describe(gone)

    def _read_inbox(self, names: list[str], moved: set[str]) -> Iterator[tuple[str, Record]]:
        for name in names:
            record = self._record(f"{self.folders.inbox}/{name}")
            if record is not None:
                yield name[3:20], record
            else:
                moved.add(inbox_token(name) or "")

    def finished(self) -> Iterator[StatusDocument]:
        for day in _days(self.folders):
            for id in _newest_first(f"{self.folders.done}/{day}"):
                document = self._status(id)
                if document is not None:
                    yield document

    def _describe(self, record: Record) -> Iterator[StatusDocument]:
        count = len(self.unreadable)
        published = self._status(record.id)
        if published is not None:
            yield published
        elif len(self.unreadable) == count:
            yield describe_waiting(record)

    def _record(self, path: str) -> Record | None:
        self.opened += 1
        try:
            return _find_record(path)
        except UnreadableDocument as error:
            self.unreadable.append(str(error))
            return None

    def _status(self, id: str) -> StatusDocument | None:
        self.opened += 1
        try:
            return self.find_published(id)
        except UnreadableDocument as error:
            self.unreadable.append(str(error))
            return None


def list_unfinished(folders: Folders) -> Iterator[str]:
    """Paths of all files from which a job may still come about or go on: drops, records on their way in, claims, journals.

    What moves on meanwhile may be missed; a second look finds it.
    """
    yield from (f"{folders.input}/{name}" for name in _names(folders.input) if name.lower().endswith(".json"))
    for folder in (folders.tmp, folders.inbox, *_seats(folders)):
        yield from (f"{folder}/{name}" for name in _names(folder) if not name.startswith("from-"))


def _moment(entry: tuple[str, Record]) -> str:
    return entry[0]


def _live_records(folders: Folders) -> Iterator[str]:
    for folder in _seats(folders):
        for name in _names(folder):
            if name.startswith("r-"):
                yield f"{folder}/{name}"


def _seats(folders: Folders) -> Iterator[str]:
    """The watchers' folders, and those that they took over and have not emptied yet."""
    for name in _names(folders.spool):
        if name.startswith("w-"):
            seat = f"{folders.spool}/{name}"
            yield seat
            yield from (f"{seat}/{inner}" for inner in _names(seat) if inner.startswith("from-"))


def _days(folders: Folders) -> list[str]:
    return sorted(filter(_DAY.fullmatch, _names(folders.done)), reverse=True)


def _newest_first(folder: str) -> list[str]:
    """Ids by the time of their record's last entry: when they were sent, or accepted if they never were."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [name for _, name in sorted(found, reverse=True) if is_id(name)]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unavailable(f"cannot list {folder}: {error.strerror}") from error


def find_unfinished(folders: Folders) -> dict[str, str]:
    """The record's path of every job that is not over, by token. Opens nothing."""
    found = {
        token: f"{folders.inbox}/{name}" for name in _names(folders.inbox) if (token := inbox_token(name)) is not None
    }
    return found | {os.path.basename(path).removeprefix("r-"): path for path in _live_records(folders)}


def find_owner(path: str) -> str | None:
    """Whose record lies there. None where it was moved on, or cannot be read."""
    try:
        record = _find_record(path)
    except UnreadableDocument:
        return None
    return None if record is None else record.owner


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


# ── the watchers ──


@dataclass(frozen=True, kw_only=True)
class SeenWatcher:
    """`alive` is None where only a second look can tell: a watcher on another machine, whose clock says nothing here."""

    text: lease.LeaseText
    alive: bool | None
    silent_s: float | None = None


def list_watchers(folders: Folders) -> list[SeenWatcher]:
    """Every watcher that has a folder, dead ones too, until another one takes them over."""
    here, now = lease.boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = []
    for name in sorted(_names(folders.spool)):
        path = f"{folders.spool}/{name}/lease"
        text = lease.read(path) if name.startswith("w-") else None
        if text is not None:
            seen.append(_judge(text, path, here, now))
    return seen


def _judge(text: lease.LeaseText, path: str, here: str, now: float) -> SeenWatcher:
    silent_s = now - text.uptime_s
    if text.boot_id != here or silent_s < 0:
        return SeenWatcher(text=text, alive=None)
    if text.beat == 0:  # it is just starting
        return SeenWatcher(text=text, alive=not lease.is_released(path))
    return SeenWatcher(text=text, alive=silent_s <= FRESH_S and not lease.is_released(path), silent_s=silent_s)


def look_again(folders: Folders, before: Sequence[SeenWatcher]) -> list[SeenWatcher]:
    """A second look, some seconds after `before`: a watcher of which that was unclear lives if its beat went on."""
    beats = {seen.text.wid: seen.text.beat for seen in before}
    return [
        SeenWatcher(text=seen.text, alive=seen.text.beat != beats.get(seen.text.wid, seen.text.beat))
        if seen.alive is None
        else seen
        for seen in list_watchers(folders)
    ]


# ── the pause ──


class Pause(BaseModel):
    """`input/.handoff/paused`. An empty file pauses as well as one that says why."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    since: str | None = None
    reason: str | None = None


def find_pause(folders: Folders) -> Pause | None:
    """None: the watchers claim jobs."""
    try:
        return Pause.model_validate_json(durable.read_file(folders.paused, 1 << 16))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, Permanent, ValidationError):
        return Pause(since=_changed_at(folders.paused))


def _changed_at(path: str) -> str | None:
    with suppress(OSError):
        return timestamps.to_text(timestamps.from_milliseconds(os.lstat(path).st_mtime * 1000))
    return None

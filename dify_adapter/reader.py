"""What is known of jobs, read from the shared volume or from the bucket. Nothing here writes; everything blocks."""

import os
import stat
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Protocol

from dify_adapter.ears import Places
from dify_adapter.estimate import Estimate
from dify_adapter.line import Line
from handoff.documents import UnreadableDocument
from handoff.failures import Permanent, Unavailable
from handoff.folders import Folders
from handoff.job import is_id
from handoff.spool import listing
from handoff.spool.listing import FindStatus, Listing
from handoff.spool.record import Tombstone
from handoff.spool.sight import Sight
from handoff.state import Status
from handoff.status import OutputEntry, StatusDocument
from handoff.stores.contract import Store

MOST_FETCHED = 16 << 20
"""Bytes of an output that is passed on from the bucket; a larger one is fetched there by a link. Dify takes 10 MB at most."""
LINK_LIFETIME_S = 3600
_MOST_LISTED = 500  # requests to the bucket for one listing
_LARGEST_DOCUMENT = 64 << 20
_WATCHED_DAYS = 2  # a job may be filed after midnight under the day of its end


@dataclass(frozen=True, kw_only=True)
class OpenOutput:
    """The bytes of an output. Whoever gets it closes `file`."""

    name: str
    media_type: str
    sha256: str
    size: int
    file: BinaryIO


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A link that opens the output without a key, for an hour."""

    url: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which jobs of a listing; without `owner` everybody's."""

    owner: str | None = None
    statuses: Collection[Status] = frozenset(Status)
    workflow: str | None = None
    limit: int = 50
    offset: int = 0


class Reader(Protocol):
    """All methods may be called from several threads. They raise Unavailable where the volume or the bucket is away, and
    UnreadableDocument.
    """

    def find(self, id: str) -> Sight | None:
        """None: nobody knows this id."""

    def list(self, wanted: Wanted) -> Listing:
        """Newest first."""

    def open_output(self, id: str, name: str) -> OpenOutput | Elsewhere | None:
        """By name, or by number from 1. None: the job has no such output, or it is there no longer."""

    is_cheap: bool
    """Whether `mark` tells something, so that `find` need not be called to see that nothing changed."""

    def mark(self, id: str) -> Hashable:
        """Changes whenever `find` may have something new to say. Costs next to nothing, and never raises."""

    def places(self) -> Places:
        """Where to listen for changes."""


class VolumeReader:
    """Reads the watchers' documents in `output/`, which may be mounted read-only."""

    is_cheap = True

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._line = Line(folders)
        self._estimate = Estimate(folders)

    def find(self, id: str) -> Sight | None:
        document = listing.find_document(self._folders, id)
        if document is not None:
            return Sight(document=document, eta_s=self._estimate.guess(document, None))
        sight = _find_waiting(self._folders, id, self._line, self._estimate)
        if sight is not None and not sight.done:
            self._require_output()
        return sight

    def list(self, wanted: Wanted) -> Listing:
        return _list(self._folders, wanted)

    def open_output(self, id: str, name: str) -> OpenOutput | None:
        if not is_id(id):
            return None
        document = StatusDocument.find(self._folders.status(id))
        if document is None:
            self._require_output()
            return None
        entry = _choose(document, name)
        file = None if entry is None else self._open(id, entry)
        return None if entry is None or file is None else _offer(entry, file)

    def _open(self, id: str, entry: OutputEntry) -> BinaryIO | None:
        """Only the file that the status document means: no link, and not one that somebody changed."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            folder = os.open(self._folders.job(id), flags | os.O_DIRECTORY)
            try:
                file = open(os.open(entry.name, flags | os.O_NONBLOCK, dir_fd=folder), "rb")  # noqa: SIM115
            finally:
                os.close(folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnreadableDocument(f"{entry.name} of {id} cannot be read: {error.strerror}") from None
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.bytes:
            file.close()
            raise UnreadableDocument(f"{entry.name} of {id} is no longer the file that was made")
        return file

    def mark(self, id: str) -> Hashable:
        if not is_id(id):
            return None
        try:
            found = os.stat(self._folders.status(id), follow_symlinks=False)
        except OSError:
            return os.path.lexists(self._folders.reservation(id))
        return found.st_ino, found.st_mtime_ns, found.st_size

    def places(self) -> Places:
        above = self._folders.pens
        return Places(
            named=frozenset({self._folders.ids}),
            pens=frozenset(f"{above}/{name}" for name in _names(above) if name.startswith("w-")),
            growing=frozenset({above}),
        )

    def _require_output(self) -> None:
        """An output folder that is not mounted just now looks as if every job were still waiting."""
        if os.path.lexists(f"{self._folders.spool}/site") and not os.path.isdir(self._folders.pens):
            raise Unavailable(f"{self._folders.pens} is not there; see that the output folder is mounted")


class BucketReader:
    """For an adapter without the output volume: final documents come from the bucket, and what is known of a job before
    its end is the courtesy `progress.json`, a few seconds old.
    """

    is_cheap = False

    def __init__(self, folders: Folders, store: Store, *, prefix: str) -> None:
        self._folders = folders
        self._store = store
        self._prefix = prefix.strip("/")
        self._line = Line(folders)
        self._estimate = Estimate(folders, self._find_published)

    def find(self, id: str) -> Sight | None:
        document = self._find_published(id) if is_id(id) else None
        if document is not None:
            return Sight(document=document, eta_s=self._estimate.guess(document, None))
        return _find_waiting(self._folders, id, self._line, self._estimate)

    def _find_published(self, id: str) -> StatusDocument | None:
        for name in ("status.json", "progress.json"):
            key = f"{id}/{name}"
            try:
                data = self._store.get_bytes(key, _LARGEST_DOCUMENT)
            except Permanent as error:
                raise UnreadableDocument(f"{key} in the bucket cannot be read: {error}") from None
            if data is not None:
                return StatusDocument.from_bytes(data, f"{key} in the bucket")
        return None

    def list(self, wanted: Wanted) -> Listing:
        return _list(self._folders, wanted, self._find_published, most_read=_MOST_LISTED)

    def open_output(self, id: str, name: str) -> OpenOutput | Elsewhere | None:
        document = self._find_published(id) if is_id(id) else None
        entry = None if document is None else _choose(document, name)
        if entry is None:
            return None
        key = entry.key.removeprefix(f"{self._prefix}/")
        if not key.startswith(f"{id}/"):  # another prefix than the watcher's is set here
            raise UnreadableDocument(f"{entry.key} does not begin with {self._prefix}/{id}/")
        url = self._store.url(key, expires_s=LINK_LIFETIME_S) if entry.bytes > MOST_FETCHED else None
        if url is not None:
            return Elsewhere(url=url)
        data = self._store.get_bytes(key, entry.bytes)
        return None if data is None or len(data) != entry.bytes else _offer(entry, BytesIO(data))

    def mark(self, id: str) -> Hashable:
        del id
        return None

    def places(self) -> Places:
        """A record is filed under the day of its end when the bucket has the final status."""
        above = self._folders.done
        days = sorted(_names(above), reverse=True)[:_WATCHED_DAYS]
        return Places(
            named=frozenset({self._folders.ids, *(f"{above}/{day}" for day in days)}), growing=frozenset({above})
        )


def _find_waiting(folders: Folders, id: str, line: Line, estimate: Estimate) -> Sight | None:
    """What the input volume says of a job of which nothing was published."""
    reserved = listing.find_reservation(folders, id)
    if reserved is None:
        _require_input(folders)
        return None
    if isinstance(reserved, Tombstone):
        return Sight(document=reserved)
    document, position = listing.describe_waiting(reserved), line.find_place(reserved)
    return Sight(document=document, position=position, eta_s=estimate.guess(document, position))


def _choose(document: StatusDocument, name: str) -> OutputEntry | None:
    """A name goes before a number."""
    named = next((output for output in document.outputs if output.name == name), None)
    if named is None and name.isascii() and name.isdigit() and 0 < int(name[:6]) <= len(document.outputs):
        return document.outputs[int(name[:6]) - 1]
    return named


def _offer(entry: OutputEntry, file: BinaryIO) -> OpenOutput:
    return OpenOutput(name=entry.name, media_type=entry.media_type, sha256=entry.sha256, size=entry.bytes, file=file)


def _list(
    folders: Folders, wanted: Wanted, find_published: FindStatus | None = None, most_read: int | None = None
) -> Listing:
    found = listing.list_jobs(
        folders,
        owner=wanted.owner,
        statuses=wanted.statuses,
        workflow=wanted.workflow,
        limit=wanted.offset + wanted.limit,
        find_published=find_published,
        most_read=most_read,
    )
    if not found.jobs:
        _require_input(folders)
    return Listing(jobs=found.jobs[wanted.offset :], more=found.more, unreadable=found.unreadable)


def _require_input(folders: Folders) -> None:
    """An input folder that is not mounted just now knows no job, which is not to say that there is none."""
    if not os.path.isdir(folders.ids):
        raise Unavailable(f"{folders.ids} is not there; see that the input folder is mounted")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

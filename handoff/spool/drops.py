"""From a dropped file to the inbox, or to `rejected/`.

A drop is never run from where it lies. It is claimed by a rename, read from the claim, and taken in: its id is
reserved by a link, and its one rename into the inbox is what makes a job of it. Every step may be the last before a
kill; doing the same steps again then finishes it once.
"""

import errno
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from handoff import durable, log, timestamps
from handoff.documents import UnreadableDocument
from handoff.failures import Failure, Permanent, Reason
from handoff.job import derive_id, inbox_name, submission_token
from handoff.messages import Language
from handoff.spool import reservations
from handoff.spool.record import Record
from handoff.spool.seat import Fenced, Seat
from handoff.spool.suspicion import acquit, working_at
from handoff.status import describe_failure

NAME_LIMIT = 200  # bytes of a job file's name; longer ones are rejected, as the names made from it would not fit
_FOLDER_LIMIT = 255  # bytes, the usual limit of a name in a folder
_NUMBERED = range(2, 10)  # for rejected names that are taken; after the last comes the token's beginning
_TOKEN_SHOWN = 8
_REASON = ".reason.json"
_REASON_LIMIT = 1 << 20
_TIME = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A dropped file in the watcher's folder. `stamp` (time and 16 random hex digits) names it whatever its name was."""

    stamp: str
    name: str
    uptime: str | None = field(default=None, compare=False)
    """`timestamps.uptime` at the claim; of what another process claimed only the wall clock's time is known."""

    @property
    def file_name(self) -> str:
        return f"c-{self.stamp}~{self.name}"

    @property
    def received_at(self) -> datetime:
        return datetime.strptime(self.stamp.partition("-")[0], _TIME).replace(tzinfo=UTC)

    @property
    def token(self) -> str:
        """Of the one job in it."""
        return submission_token(self.stamp, 1)


@dataclass(frozen=True, kw_only=True)
class TakenIn:
    """Where the job lies now. `record` is None when that was done earlier, and the job may have moved on since."""

    id: str
    inbox_name: str | None
    record: Record | None
    replay: bool = False


class Drops:
    def __init__(self, seat: Seat, on_publish: Callable[[str], None] = lambda _: None) -> None:
        """`on_publish` is told the name of each job just before it appears in the inbox, by whichever thread works."""
        self._seat = seat
        self._on_publish = on_publish
        self._folders = seat.folders
        self._publishing = threading.Lock()

    def claim(self, name: str) -> Claim | None:
        """Takes a file out of `input/`. None: somebody else did. Raises Fenced, Unavailable."""
        stamp = f"{timestamps.now().strftime(_TIME)}-{secrets.token_hex(8)}"
        claim = Claim(stamp=stamp, name=_cut(name, _FOLDER_LIMIT - len(f"c-{stamp}~")), uptime=timestamps.uptime())
        with self._seat.power(), durable.disk_errors(self._folders.input):
            try:
                os.rename(f"{self._folders.input}/{name}", self.path(claim))
            except FileNotFoundError:
                if not self._seat.held():
                    raise
                return None
        return claim

    def path(self, claim: Claim) -> str:
        return f"{self._seat.path}/{claim.file_name}"

    def find(self, claim: Claim) -> os.stat_result | None:
        """The claimed entry itself, no link followed; None when it was finished and cleared away. Raises Fenced."""
        with self._seat.power():
            try:
                return os.lstat(self.path(claim))
            except FileNotFoundError:
                if not self._seat.held():
                    raise
                return None

    def working_at(self, claim: Claim) -> AbstractContextManager[None]:
        """Around what is done with the content of a claim. Raises Failure for one that brings watchers down, Fenced, Unavailable."""
        return working_at(self._seat, claim.stamp)  # its job is worked at under its token

    def claims(self) -> list[Claim]:
        """What lies claimed and was not finished, in the order of its arrival."""
        with self._seat.power():
            names = sorted(name for name in os.listdir(self._seat.path) if name.startswith("c-"))
        parts = [name.removeprefix("c-").partition("~") for name in names]
        return [Claim(stamp=stamp, name=name) for stamp, _, name in parts]

    def publish_left(self) -> list[TakenIn]:
        """Publishes jobs that were made of claims which are gone. None should be, but a file system may lose an order.

        Raises Fenced, Unavailable; may be called again.
        """
        with self._seat.power(), durable.disk_errors(self._seat.path):
            made = sorted(name for name in os.listdir(self._seat.path) if name.startswith("b-"))
            if not made:
                return []
            # `b-` first, `c-` second, as in `take_in`
            claimed = {f"b-{claim.token}" for claim in self.claims()}
            left = [self._publish_left(f"{self._seat.path}/{name}") for name in made if name not in claimed]
        return [job for job in left if job is not None]

    def _publish_left(self, made: str) -> TakenIn | None:
        with self._publishing:
            try:
                record = Record.find(made)
                if record is None:  # published meanwhile
                    return None
                holder = reservations.find(self._folders, record.id)
                if holder is None or holder.token == record.token:
                    job = self._publish(record, made)
                    with suppress(FileNotFoundError):  # two names of one file: that rename did nothing
                        os.unlink(made)
                    return job
                problem = f"its id {record.id} is another job's"
            except UnreadableDocument as error:
                problem = str(error)
        log.get().error(
            "left_alone", file=os.path.basename(made), error=problem, hint="the drop it was made of is gone"
        )
        return None

    def take_in(self, claim: Claim, *, id: str | None, sha256: str, make: Callable[[str], Record]) -> TakenIn:
        """Makes one job of a claim. `make(id)` gives its record, resolved and with attempt 0; it may raise Failure.

        Raises Failure(ID_TAKEN), Fenced, Unavailable. May be called again after any of them, and after a kill.
        """
        made = f"{self._seat.path}/b-{claim.token}"
        with self._seat.power(), durable.disk_errors(self._seat.path):
            while True:
                record, wanted = self._find_made(claim, id, sha256)
                if record is None and isinstance(wanted, str):
                    record = make(wanted)  # may take long: what was found before it is found again behind it
                with self._publishing:
                    # "it is out" is believed only here: outside, its id may be seen between the link and the rename
                    before, still_wanted = self._find_made(claim, id, sha256)
                    if isinstance(still_wanted, TakenIn):
                        return still_wanted
                    if before is None:
                        if record is None or still_wanted != wanted:
                            continue
                        self._write_made(record, made)
                        before = record
                    if taken := self._publish(before, made):
                        return taken

    def _find_made(self, claim: Claim, id: str | None, sha256: str) -> tuple[Record | None, str | TakenIn]:
        """The job that an earlier try made of the claim; else the id to make it with, or what tells that it is out."""
        # `b-` first, `c-` second: a taker moves them the other way round
        record = Record.find(f"{self._seat.path}/b-{claim.token}")
        if record is not None:
            return record, record.id
        if not os.path.lexists(self.path(claim)):
            if not self._seat.held():
                raise Fenced
            return None, TakenIn(id=id or "", inbox_name=None, record=None)  # done, and cleared away
        return None, self._find_id(claim, id, sha256)

    def _write_made(self, record: Record, made: str) -> None:
        """The fsync comes before the link, since the reservation is the same file."""
        scratch = f"{self._seat.path}/t-{record.token}"
        durable.write_file(scratch, record.to_bytes())
        durable.replace(scratch, made, durable=False)

    def _publish(self, record: Record, made: str) -> TakenIn | None:
        """Reserves the id and puts the job into the inbox, which happens exactly once. None: the id was just taken."""
        with durable.disk_errors(self._folders.ids):
            if not reservations.reserve(self._folders, made, id=record.id, token=record.token):
                os.unlink(made)
                return None
            name = inbox_name(record.rank, record.token)
            self._on_publish(name)
            acquit(self._seat, record.token)  # before somebody can claim it, and work at it under this name
            os.rename(made, f"{self._folders.inbox}/{name}")
        return TakenIn(id=record.id, inbox_name=name, record=record)

    def _find_id(self, claim: Claim, id: str | None, sha256: str) -> str | TakenIn:
        """The id to use, or what tells that this claim is already out."""
        number = 0
        while True:
            wanted = id or derive_id(claim.name, claim.received_at, claim.token, number)
            holder = reservations.find(self._folders, wanted)
            if holder is None:
                return wanted
            if holder.token == claim.token:
                return TakenIn(id=wanted, inbox_name=None, record=None)
            if id is not None:
                if holder.sha256 == sha256:
                    return TakenIn(id=id, inbox_name=None, record=None, replay=True)
                raise Failure(Reason.ID_TAKEN, id=id)
            number += 1

    def settle(self, claims: Iterable[Claim]) -> None:
        """Removes claims whose job is out; one fsync of the folders serves them all. Raises Fenced, Unavailable."""
        with self._seat.power(), durable.disk_errors(self._folders.inbox):
            durable.sync_folder(self._folders.ids)
            durable.sync_folder(self._folders.inbox)
            for claim in claims:
                with suppress(FileNotFoundError):
                    os.unlink(self.path(claim))
                acquit(self._seat, claim.stamp)

    def reject(self, claim: Claim, failure: Failure, language: Language) -> str:
        """Moves a claim to `rejected/`, bytes untouched, beside the reason. Returns its name there.

        The reason goes first, by a link that refuses a taken name: that reserves the name for this claim. It is a rename
        that moves the drop itself: links to other users' files, and to folders, are refused (fs.protected_hardlinks).
        """
        with self._seat.power(), durable.disk_errors(self._folders.rejected):
            scratch = f"{self._seat.path}/t-{claim.token}"
            durable.write_file(scratch, _describe(claim, failure, language))
            for name in _free_names(claim):
                target = f"{self._folders.rejected}/{name}"
                if self._reserve_name(scratch, target, claim):
                    break
            else:
                raise FileExistsError(errno.EEXIST, "its own name is taken", target)
            with suppress(FileNotFoundError):  # moved by an earlier try
                os.rename(self.path(claim), target)
            os.unlink(scratch)
            durable.sync_folder(self._folders.rejected)
            acquit(self._seat, claim.stamp)
            return name

    def _reserve_name(self, reason: str, target: str, claim: Claim) -> bool:
        try:
            if not os.path.lexists(target):
                os.link(reason, f"{target}{_REASON}")
                return True
        except FileExistsError:
            pass
        try:
            said = json.loads(durable.read_file(f"{target}{_REASON}", _REASON_LIMIT))
        except (OSError, Permanent, ValueError):
            return False
        return isinstance(said, dict) and said.get("claim") == claim.stamp


def _describe(claim: Claim, failure: Failure, language: Language) -> bytes:
    error = describe_failure(failure, language)
    reason = {
        "schema": 1,
        "file": _printable(claim.name),
        "claim": claim.stamp,
        "rejected_at": timestamps.to_text(timestamps.now()),
        **error.model_dump(by_alias=True),
    }
    return json.dumps(reason, ensure_ascii=False, indent=2).encode() + b"\n"


def _free_names(claim: Claim) -> list[str]:
    """Few, since the same bad file may be dropped again every second; the last is nobody else's, and the same after a crash."""
    name = _cut(claim.name, _FOLDER_LIMIT - len(_REASON) - len("-") - _TOKEN_SHOWN)
    stem, suffix = os.path.splitext(name)
    return [name, *(f"{stem}-{end}{suffix}" for end in (*_NUMBERED, claim.token[:_TOKEN_SHOWN]))]


def _cut(name: str, limit: int) -> str:
    """A name of at most `limit` bytes that keeps its suffix."""
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    stem, suffix = os.path.splitext(data)
    suffix = suffix[-20:]
    return os.fsdecode(stem[: limit - len(suffix)] + suffix)


def _printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 show as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

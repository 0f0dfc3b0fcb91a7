"""From a dropped file to the inbox, or to `rejected/`.

A drop is never run from where it lies. It is claimed by a rename, read from the claim, and taken in: its id is
reserved by a link, and its one rename into the inbox is what makes a job of it. Every step may be the last before a
kill; doing the same steps again then finishes it once.
"""

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from handoff import durable, timestamps
from handoff.failures import Failure, Reason
from handoff.job import derive_id, inbox_name, submission_token
from handoff.messages import Language
from handoff.spool import reservations
from handoff.spool.record import Record
from handoff.spool.seat import Fenced, Seat
from handoff.status import describe_failure

NAME_LIMIT = 200  # bytes of a job file's name; longer ones are rejected, as the names made from it would not fit
_FOLDER_LIMIT = 255  # bytes, the usual limit of a name in a folder
_TIME = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A dropped file in the watcher's folder. `stamp` (time and 16 random hex digits) names it whatever its name was."""

    stamp: str
    name: str

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
    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._folders = seat.folders

    def claim(self, name: str) -> Claim | None:
        """Takes a file out of `input/`. None: somebody else did. Raises Fenced, Unavailable."""
        stamp = f"{timestamps.now().strftime(_TIME)}-{secrets.token_hex(8)}"
        claim = Claim(stamp=stamp, name=_cut(name, _FOLDER_LIMIT - len(f"c-{stamp}~")))
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

    def claims(self) -> list[Claim]:
        """What lies claimed and was not finished, in the order of its arrival."""
        with self._seat.power():
            names = sorted(name for name in os.listdir(self._seat.path) if name.startswith("c-"))
        parts = [name.removeprefix("c-").partition("~") for name in names]
        return [Claim(stamp=stamp, name=name) for stamp, _, name in parts]

    def is_taken_in(self, claim: Claim, id: str | None) -> bool:
        """Whether the id that the file itself names is already this claim's."""
        if id is None:
            return False
        holder = reservations.find(self._folders, id)
        return holder is not None and holder.token == claim.token

    def take_in(self, claim: Claim, *, id: str | None, sha256: str, make: Callable[[str], Record]) -> TakenIn:
        """Makes one job of a claim. `make(id)` gives its record, resolved and with attempt 0; it may raise Failure.

        Raises Failure(ID_TAKEN), Fenced, Unavailable. May be called again after any of them, and after a kill.
        """
        token = claim.token
        made = f"{self._seat.path}/b-{token}"
        with self._seat.power():
            while True:
                # `b-` first, `c-` second: a taker moves them the other way round
                record = Record.find(made)
                if record is None:
                    if not os.path.lexists(self.path(claim)):
                        raise Fenced
                    found = self._find_id(claim, id, sha256)
                    if isinstance(found, TakenIn):
                        return found
                    record = make(found)
                    scratch = f"{self._seat.path}/t-{token}"
                    durable.write_file(scratch, record.to_bytes())
                    durable.replace(scratch, made, durable=False)  # the fsync of the inode is what the link needs
                with durable.disk_errors(self._folders.ids):
                    reserved = reservations.reserve(self._folders, made, id=record.id, token=token)
                    if not reserved:
                        os.unlink(made)
                        continue
                    name = inbox_name(record.rank, token)
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

    def reject(self, claim: Claim, failure: Failure, language: Language) -> str:
        """Moves a claim to `rejected/`, bytes untouched, beside the reason. Returns its name there."""
        source = self.path(claim)
        with self._seat.power(), durable.disk_errors(self._folders.rejected):
            status = os.stat(source, follow_symlinks=False)
            for name in _free_names(_cut(claim.name, _FOLDER_LIMIT - len(".reason.json") - 5)):
                target = f"{self._folders.rejected}/{name}"
                if _is_another(target, status):
                    continue
                self._write_reason(claim, failure, language, f"{target}.reason.json")
                if _move(source, target, status):
                    durable.sync_folder(self._folders.rejected)
                    return name
        raise AssertionError("there is always another name")

    def _write_reason(self, claim: Claim, failure: Failure, language: Language, path: str) -> None:
        error = describe_failure(failure, language)
        reason = {
            "schema": 1,
            "file": _printable(claim.name),
            "rejected_at": timestamps.to_text(timestamps.now()),
            **error.model_dump(by_alias=True),
        }
        data = json.dumps(reason, ensure_ascii=False, indent=2).encode() + b"\n"
        durable.publish(data, f"{self._seat.path}/t-{claim.token}", path)


def _is_another(path: str, status: os.stat_result) -> bool:
    try:
        return not os.path.samestat(os.stat(path, follow_symlinks=False), status)
    except FileNotFoundError:
        return False


def _move(source: str, target: str, status: os.stat_result) -> bool:
    """False: the name is taken. A folder cannot be linked, so it is renamed, which replaces at most an empty folder."""
    if stat.S_ISDIR(status.st_mode):
        os.rename(source, target)
        return True
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if _is_another(target, status):
            return False
    os.unlink(source)
    return True


def _free_names(name: str) -> Iterable[str]:
    yield name
    stem, suffix = os.path.splitext(name)
    number = 2
    while True:
        yield f"{stem}-{number}{suffix}"
        number += 1


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

"""What lies in `input/`: told apart, waited for while it grows, and taken in or rejected.

A file is whole when it decodes to a JSON object, however young it is; anything else is given the settle time, counted
from its last change, before it is rejected. Nothing here waits: what is not ready comes back as `Later`.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from handoff import log, messages, timestamps
from handoff.decode import BYTES, JsonObject, JsonValue, decode
from handoff.documents import OWN_FAULTS, UnreadableDocument
from handoff.durable import disk_errors, read_file
from handoff.failures import DiskUnavailable, EdgeError, Failure, Permanent, Reason, Transient, Unavailable
from handoff.job import Job, parse_job
from handoff.pictures import NotYet
from handoff.spool.drops import NAME_LIMIT, Claim, Drops, TakenIn
from handoff.spool.record import Record
from handoff.spool.seat import Fenced
from watcher.planning import MustFetch, Planner

CANCEL = ".cancel"
_IGNORED_SUFFIXES = ("~", ".swp", ".swo", ".part", ".partial", ".tmp", ".crdownload", ".bak", CANCEL)
_IGNORED_NAMES = frozenset({"Thumbs.db", "desktop.ini", "uploads", "rejected", "3d", "pasted", "clipspace", "webcam"})
_PICTURES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".exr", ".psd",
    ".mp4", ".webm", ".mov", ".mkv", ".wav", ".mp3", ".flac", ".ogg", ".m4a", ".latent", ".glb", ".txt",
)  # fmt: skip

KINDS: dict[str, dict[messages.Language, str]] = {
    "link": {"en": "symbolic link", "zh": "符号链接"},
    "folder": {"en": "folder", "zh": "文件夹"},
    "pipe": {"en": "pipe", "zh": "管道"},
    "socket": {"en": "socket", "zh": "套接字"},
    "device": {"en": "device", "zh": "设备"},
}


def is_job_name(name: str) -> bool:
    """Whether a name in `input/` asks to be read as a job."""
    return name.lower().endswith(".json") and not name.startswith(".")


def is_stranger(name: str) -> bool:
    """Whether nobody would expect this name in `input/`: not a job, no picture for ComfyUI, no dropping of an editor."""
    return not (
        is_job_name(name)
        or name.startswith((".", "~", "#"))
        or name in _IGNORED_NAMES
        or name.endswith(_IGNORED_SUFFIXES)
        or name.lower().endswith(_PICTURES)
    )


@dataclass(frozen=True, kw_only=True)
class Taken:
    claim: Claim
    job: TakenIn


@dataclass(frozen=True, kw_only=True)
class Rejected:
    claim: Claim
    name: str
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Later:
    """To be taken up again: a claim that waits for a picture, or to be fetched where that does no harm.

    `error`: trouble of the installation, for which no job is rejected. `bug`: nobody foresaw it.
    """

    claim: Claim
    why: str
    fetch: bool = False
    error: EdgeError | OSError | None = None
    bug: Exception | None = None


Outcome = Taken | Rejected | Later


class _Torn(Exception):  # noqa: N818
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class _Growing:
    signature: tuple[int, int, int]
    since: float


class Intake:
    """`look` and `reject` are called from one thread only; `take` from several.

    Once a file is claimed it always comes back as an outcome, since as long as this watcher lives nobody else looks for it.
    """

    def __init__(
        self,
        drops: Drops,
        planner: Planner,
        *,
        input_folder: str,
        default_workflow: str,
        settle_s: float,
        picture_wait_s: float,
        language: messages.Language,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._drops = drops
        self._planner = planner
        self._input = input_folder
        self._default_workflow = default_workflow
        self._settle_s = settle_s
        self._picture_wait_s = picture_wait_s
        self._language = language
        self._on_outcome = on_outcome
        self._growing: dict[str, _Growing] = {}
        self._waiting_since: dict[str, float] = {}
        self._stuck: set[str] = set()

    @property
    def growing(self) -> set[str]:
        """Names that are not whole yet. Not to be asked for while `look` is under way."""
        return set(self._growing)

    @property
    def left_alone(self) -> set[str]:
        """Names that could not be read or moved. Not to be asked for while `look` is under way."""
        return set(self._stuck)

    def scan(self) -> tuple[set[str], set[str], set[str]]:
        """What lies at the top of `input/`: job names, cancel marks, strangers. Raises Unavailable."""
        jobs, marks, strangers = set(), set(), set()
        with disk_errors(self._input), os.scandir(self._input) as entries:
            for entry in entries:
                name = entry.name
                if is_job_name(name):
                    jobs.add(name)
                elif name.endswith(CANCEL):
                    marks.add(name)
                elif is_stranger(name):
                    strangers.add(name)
        self._stuck &= jobs
        return jobs, marks, strangers

    def look(self, names: Iterable[str]) -> float | None:
        """Takes in or rejects what is ready. Returns in how many seconds to look again, or None.

        Raises Fenced, DiskUnavailable.
        """
        for name in self._in_order({*names, *self._growing}):
            try:
                self._look_at(name)
            except (Fenced, DiskUnavailable):
                raise
            except Exception as error:  # noqa: BLE001 - a name that cannot be read or moved harms only itself
                self._name_once(name, error)
        if not self._growing:
            return None
        now = time.monotonic()
        return max(0.05, min(growing.since + self._settle_s - now for growing in self._growing.values()) + 0.01)

    def _name_once(self, name: str, error: Exception) -> None:
        if name not in self._stuck:
            self._stuck.add(name)
            foreseen = isinstance(error, EdgeError | OSError)
            log.get().error(
                "left_alone",
                file=name,
                error=str(error) or repr(error),
                hint="the watcher tries again at each scan; may it read and move it? see `handoff doctor`",
                exc_info=None if foreseen else error,
            )

    def _in_order(self, names: set[str]) -> list[str]:
        """Oldest first, so that what was dropped first is numbered first."""
        found = []
        for name in names:
            try:
                status = os.lstat(f"{self._input}/{name}")
            except OSError:
                self._growing.pop(name, None)
                continue
            found.append((status.st_mtime_ns, name))
        return [name for _, name in sorted(found)]

    def _look_at(self, name: str) -> None:
        path = f"{self._input}/{name}"
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._growing.pop(name, None)
            return
        failure = _judge_entry(name, status, self._language)
        if failure is not None:
            self.reject(name, failure)
            return
        data, failure = _read(path)
        value: JsonValue = None
        if failure is None:
            try:
                value = decode(data)
            except Failure as found:
                failure = found
        if failure is None and isinstance(value, dict):
            claim = self._claim(name)
            if claim is not None:
                self._on_outcome(_bring_back(claim, partial(self._take, claim, (data, value), may_fetch=False)))
            return
        if self._has_settled(name, status):
            if failure is None:
                failure = Failure(Reason.NOT_A_JOB, problem="it is valid JSON, but not an object")
            self.reject(name, self._with_time(failure))

    def _has_settled(self, name: str, status: os.stat_result) -> bool:
        signature = (status.st_ino, status.st_size, status.st_mtime_ns)
        growing = self._growing.get(name)
        now = time.monotonic()
        if growing is None or growing.signature != signature:
            self._growing[name] = _Growing(signature, now)
            return False
        return now - growing.since >= self._settle_s

    def _with_time(self, failure: Failure) -> Failure:
        if failure.reason is Reason.TRUNCATED:
            return Failure(Reason.TRUNCATED, bytes=failure.details["bytes"], seconds=self._settle_s)
        return failure

    def _claim(self, name: str) -> Claim | None:
        self._growing.pop(name, None)
        return self._drops.claim(name)

    def reject(self, name: str, failure: Failure) -> None:
        """Claims it and moves it to `rejected/`. Raises Fenced, Unavailable, OSError: it could not be claimed."""
        claim = self._claim(name)
        if claim is not None:
            self._on_outcome(self.give_up(claim, failure))

    def give_up(self, claim: Claim, failure: Failure) -> Outcome:
        """Moves a claim to `rejected/`. Raises Fenced."""
        return _bring_back(claim, partial(self._reject, claim, failure))

    def _reject(self, claim: Claim, failure: Failure) -> Outcome:
        name = self._drops.reject(claim, failure, self._language)
        self._waiting_since.pop(claim.stamp, None)
        return Rejected(claim=claim, name=name, failure=failure)

    def take(self, claim: Claim, *, may_fetch: bool) -> Outcome:
        """The steps of a claim, from wherever an earlier try, or a killed watcher, left off. Raises Fenced."""
        return _bring_back(claim, partial(self._take, claim, None, may_fetch=may_fetch))

    def _take(self, claim: Claim, hint: tuple[bytes, JsonObject] | None, *, may_fetch: bool) -> Outcome:
        status = self._drops.find(claim)
        if status is None:  # done by an earlier try, and cleared away
            self._waiting_since.pop(claim.stamp, None)
            return Taken(claim=claim, job=TakenIn(id="", inbox_name=None, record=None))
        if not stat.S_ISREG(status.st_mode):
            return self._reject(claim, _judge_kind(status.st_mode, self._language))
        try:
            with self._drops.working_at(claim):
                job = self._read_job(claim, hint)
                taken = self._drops.take_in(
                    claim,
                    id=job.id,
                    sha256=job.sha256,
                    make=lambda id: self._make_record(claim, job, id, may_fetch=may_fetch),
                )
        except MustFetch:
            return Later(claim=claim, why="a picture is to be fetched", fetch=True)
        except NotYet as missing:
            return self._wait(claim, self._picture_wait_s, f"waits for the picture {missing.picture}", missing.failure)
        except _Torn as torn:
            # its writer went on after the claim
            failure = self._with_time(torn.failure)
            return self._wait(claim, self._settle_s, "is still being written", lambda _: failure)
        except Failure as failure:
            return self._reject(claim, self._with_time(failure))
        self._waiting_since.pop(claim.stamp, None)
        return Taken(claim=claim, job=taken)

    def _read_job(self, claim: Claim, hint: tuple[bytes, JsonObject] | None) -> Job:
        """Read now, after the claim: what was read before is only a hint, and saves decoding the same bytes twice."""
        data, failure = _read(self._drops.path(claim))
        if failure is not None:
            raise failure
        try:
            value = hint[1] if hint is not None and hint[0] == data else decode(data)
        except Failure as torn:
            raise _Torn(torn) from None
        return parse_job(value, default_workflow=self._default_workflow)

    def _make_record(self, claim: Claim, job: Job, id: str, *, may_fetch: bool) -> Record:
        plan = self._planner.plan(job, may_fetch=may_fetch)
        return Record(
            token=claim.token,
            id=id,
            sha256=job.sha256,
            source=os.fsencode(claim.name).decode("utf-8", "backslashreplace"),
            received_at=timestamps.to_text(claim.received_at),
            received_uptime=claim.uptime,
            priority=job.priority or 0,
            body=job.body,
            job=plan,
        )

    def _wait(self, claim: Claim, limit_s: float, why: str, give_up: Callable[[float], Failure]) -> Outcome:
        now = time.monotonic()
        since = self._waiting_since.setdefault(claim.stamp, now)
        if now - since < limit_s:
            return Later(claim=claim, why=why)
        return self._reject(claim, give_up(round(now - since, 1)))


def _bring_back(claim: Claim, work: Callable[[], Outcome]) -> Outcome:
    """Whatever happens at work, the claim comes back. Raises Fenced: it is another watcher's now."""
    try:
        return work()
    except Fenced:
        raise
    except (Unavailable, Transient, UnreadableDocument, OSError) as error:
        return Later(claim=claim, why=str(error), error=error)
    except Exception as error:  # noqa: BLE001 - the caller counts them
        return Later(claim=claim, why=repr(error), bug=error)


def _judge_entry(name: str, status: os.stat_result, language: messages.Language) -> Failure | None:
    """What can be said of a directory entry without opening it."""
    if not stat.S_ISREG(status.st_mode):
        return _judge_kind(status.st_mode, language)
    data = os.fsencode(name)
    if len(data) > NAME_LIMIT:
        return Failure(Reason.BAD_NAME, problem=f"it has {len(data)} bytes", limit=NAME_LIMIT)
    try:
        data.decode()
    except UnicodeDecodeError:
        return Failure(Reason.BAD_NAME, problem="it is not UTF-8", limit=NAME_LIMIT)
    return None


def _judge_kind(mode: int, language: messages.Language) -> Failure:
    is_kind = {"link": stat.S_ISLNK, "folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    kind = next((kind for kind, test in is_kind.items() if test(mode)), "device")
    return Failure(Reason.NOT_A_FILE, kind=KINDS[kind][language])


def _read(path: str) -> tuple[bytes, Failure | None]:
    """Raises OSError for what is not the file's own fault."""
    try:
        return read_file(path, BYTES), None
    except Permanent:
        size = os.lstat(path).st_size if os.path.lexists(path) else 0
        return b"", Failure(Reason.TOO_LARGE, bytes=size, limit=BYTES)
    except OSError as error:
        if not os.path.lexists(path):
            return b"", Failure(Reason.TRUNCATED, bytes=0)
        if error.errno not in OWN_FAULTS:
            raise
        return b"", Failure(Reason.UNREADABLE, problem=error.strerror or str(error))

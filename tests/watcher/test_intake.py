"""What lies in `input/`: what is a job's name, when a file is whole, and what becomes of everything else."""

import errno
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from handoff import timestamps
from handoff.decode import BYTES, decode
from handoff.durable import read_file
from handoff.failures import DiskUnavailable, Failure, Permanent, Reason
from handoff.folders import Folders
from handoff.pictures import NotYet
from handoff.spool import reservations
from handoff.spool.drops import NAME_LIMIT, Drops
from handoff.spool.record import Plan
from handoff.spool.seat import Fenced, Seat
from handoff.spool.takeover import take_over
from watcher import intake as module
from watcher.deadlines import Deadline
from watcher.intake import Intake, Later, Outcome, Rejected, Taken, is_job_name, is_stranger
from watcher.planning import MustFetch

SETTLE_S, PICTURE_WAIT_S = 5.0, 60.0


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "海报.json", "a b.json", "a.tar.json", "1.Json", "-.json"])
def test_names_of_jobs(name: str) -> None:
    assert is_job_name(name)
    assert not is_stranger(name)


@pytest.mark.parametrize(
    "name",
    [".a.json", ".json", "a.json~", "a.json.part", "a.json.tmp", "a.json.crdownload", "a.jsonl.bak", ".a.json.swp",
     "#a.json#", "~$a.json.tmp", "a.png", "A.JPG", "a.safetensors.partial", "Thumbs.db", "desktop.ini", "uploads",
     "rejected", "3d", "clipspace", "cat.cancel", ".handoff", "mask.webp", "voice.wav"],
)  # fmt: skip
def test_names_that_are_expected_and_left_alone(name: str) -> None:
    assert not is_job_name(name)
    assert not is_stranger(name)


@pytest.mark.parametrize("name", ["a", "a.jsn", "a.zip", "json", "notes.md", "a.json.gz", "New folder"])
def test_names_that_nobody_expects(name: str) -> None:
    assert not is_job_name(name)
    assert is_stranger(name)


# a real spool, a planner that takes everything, and a clock that is set by hand


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Planner:
    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def plan(self, _job: object, *, may_fetch: bool) -> Plan:
        if self.errors:
            raise self.errors[0]
        return Plan(graph={})


@dataclass
class Desk:
    folders: Folders
    seat: Seat
    drops: Drops
    planner: Planner
    clock: Clock
    outcomes: list[Outcome] = field(default_factory=list)
    intake: Intake = field(init=False)

    def write(self, name: str, data: bytes | dict[str, Any]) -> Path:
        path = Path(self.folders.input, name)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    def look(self, *names: str) -> list[Outcome]:
        """What came of one look."""
        self.outcomes.clear()
        self.again_s = self.intake.look(names)
        return list(self.outcomes)

    @property
    def rejected(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(self.folders.rejected).iterdir() if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    folders = Folders(str(tmp_path / "input"), str(tmp_path / "output"))
    folders.make()
    seat = Seat(folders, "test")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    desk = Desk(folders, seat, Drops(seat), Planner(), clock)
    desk.intake = Intake(
        desk.drops,
        desk.planner,  # type: ignore[arg-type]
        input_folder=folders.input,
        default_workflow="txt2img",
        settle_s=SETTLE_S,
        picture_wait_s=PICTURE_WAIT_S,
        language="en",
        on_outcome=desk.outcomes.append,
    )
    yield desk
    seat.leave()


def only(outcomes: list[Outcome], kind: type[Any]) -> Any:
    assert len(outcomes) == 1, outcomes
    assert isinstance(outcomes[0], kind), outcomes
    return outcomes[0]


def test_a_whole_file_is_taken_in_however_young_it_is(desk: Desk) -> None:
    desk.write("a.json", {"id": "cat", "prompt": "x"})
    taken = only(desk.look("a.json"), Taken)
    assert taken.job.id == "cat"
    assert desk.again_s is None
    assert os.listdir(desk.folders.inbox) == [taken.job.inbox_name]
    assert taken.job.record.source == "a.json"
    assert desk.look("a.json") == []


@pytest.mark.parametrize("by_a_successor", [False, True])
def test_the_time_limit_of_a_drop_counts_from_its_claim(desk: Desk, by_a_successor: bool) -> None:
    """Also when whoever claimed it was killed, and an hour passes until it is taken in."""
    desk.write("a.json", {"prompt": "x", "queue_timeout_s": 60})
    claim = desk.drops.claim("a.json")
    assert claim is not None
    if by_a_successor:
        hour_ago = timestamps.now() - timedelta(hours=1)
        older = replace(claim, stamp=hour_ago.strftime("%Y%m%dT%H%M%S%f") + claim.stamp[-17:])
        os.rename(desk.drops.path(claim), desk.drops.path(older))
        (claim,) = desk.drops.claims()
    taken = desk.intake.take(claim, may_fetch=False)
    assert isinstance(taken, Taken)
    record = taken.job.record
    assert record is not None
    deadline = Deadline.of(record.evolve(job=None))
    assert deadline is not None
    assert deadline.left(timestamps.now()) == pytest.approx(60 - 3600 * by_a_successor, abs=5)
    assert (record.received_uptime is None) == by_a_successor


def test_files_are_taken_in_the_order_of_their_age(desk: Desk) -> None:
    for age, name in enumerate(["new.json", "middle.json", "old.json"]):
        path = desk.write(name, {"prompt": "x"})
        os.utime(path, (1000 - age, 1000 - age))
    outcomes = desk.look("middle.json", "new.json", "old.json")
    assert [outcome.claim.name for outcome in outcomes] == ["old.json", "middle.json", "new.json"]


def test_a_torn_file_is_given_the_settle_time_since_its_last_change(desk: Desk) -> None:
    path = desk.write("a.json", b'{"prompt": ')
    assert desk.look("a.json") == []
    assert desk.again_s == pytest.approx(SETTLE_S, abs=0.1)
    assert desk.intake.growing == {"a.json"}
    desk.clock.now += 4.9
    assert desk.look() == [], "growing files are looked at without being named"
    assert desk.again_s == pytest.approx(0.1, abs=0.1)
    path.write_bytes(b'{"prompt": "a longer')
    desk.clock.now += 0.2
    assert desk.look() == [], "it grew: the time begins anew"
    desk.clock.now += 4.9
    assert desk.look() == []
    desk.clock.now += 0.2
    rejected = only(desk.look(), Rejected)
    assert rejected.failure.reason is Reason.TRUNCATED
    assert desk.rejected["a.json"] == b'{"prompt": "a longer'
    assert desk.intake.growing == set()
    assert f"has not changed for {SETTLE_S} s" in json.loads(desk.rejected["a.json.reason.json"])["message"]


def test_a_torn_file_that_becomes_whole_is_a_job(desk: Desk) -> None:
    path = desk.write("a.json", b"")
    assert desk.look("a.json") == []
    desk.clock.now += 4
    path.write_bytes(b'{"prompt": "x"}')
    only(desk.look(), Taken)
    assert desk.intake.growing == set()


def test_a_torn_file_that_goes_away_is_forgotten(desk: Desk) -> None:
    desk.write("a.json", b"{").unlink()
    desk.write("b.json", b"{")
    desk.look("a.json", "b.json")
    Path(desk.folders.input, "b.json").unlink()
    assert desk.look() == []
    assert desk.intake.growing == set()
    assert desk.again_s is None


def test_a_replaced_file_is_another_one(desk: Desk) -> None:
    desk.write("a.json", b"{")
    desk.look("a.json")
    desk.clock.now += 4.9
    desk.write("b", b"}").rename(f"{desk.folders.input}/a.json")
    desk.clock.now += 0.2
    assert desk.look() == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[1, 2]", Reason.NOT_A_JOB),
        (b'"text"', Reason.NOT_A_JOB),
        (b"null", Reason.NOT_A_JOB),
        (b"", Reason.TRUNCATED),
        (b"{'a': 1}", Reason.NOT_JSON),
        (b'{"a": NaN}', Reason.BAD_NUMBER),
        (b'{"a": 1, "a": 2}', Reason.DUPLICATE_KEY),
        (b'{"prompt": "\xff\xfe"}', Reason.BAD_ENCODING),
        (b'{"a":' * 200, Reason.TOO_DEEP),
        (b'{"prompt": "' + b"x" * BYTES + b'"}', Reason.TOO_LARGE),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_what_is_no_job_is_rejected_after_the_settle_time(desk: Desk, data: bytes, reason: Reason) -> None:
    desk.write("a.json", data)
    assert desk.look("a.json") == []
    desk.clock.now += SETTLE_S
    assert only(desk.look(), Rejected).failure.reason is reason
    assert desk.rejected["a.json"] == data
    said = json.loads(desk.rejected["a.json.reason.json"])
    assert said["reason"] == reason.value
    assert not re.search(r"\((problem|line|column|bytes|seconds|limit|key|value)\)", said["message"] + said["hint"])
    assert os.listdir(desk.folders.ids) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, Reason.NOT_A_JOB),
        ({"prompt": "x", "priority": "high"}, Reason.BAD_FIELD),
        ({"workflow": "a", "parms": {}}, Reason.UNKNOWN_FIELD),
        ({"prompt": "x", "id": "Not An Id"}, Reason.BAD_FIELD),
        ({"nodes": [], "links": [], "version": 0.4}, Reason.UI_FORMAT),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_a_whole_file_that_is_no_job_is_rejected_at_once(desk: Desk, content: dict[str, Any], reason: Reason) -> None:
    desk.write("a.json", content)
    assert only(desk.look("a.json"), Rejected).failure.reason is reason


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_rejected_unopened(desk: Desk, kind: str, tmp_path: Path) -> None:
    path = Path(desk.folders.input, "a.json")
    (tmp_path / "secret").write_text('{"prompt": "secret"}')
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    else:
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    rejected = only(desk.look("a.json"), Rejected)
    assert rejected.failure.reason is Reason.NOT_A_FILE
    assert rejected.failure.details["kind"] == {"link": "symbolic link"}.get(kind, kind)
    assert not os.path.lexists(path)
    assert os.path.lexists(f"{desk.folders.rejected}/a.json")


@pytest.mark.parametrize("name", ["x" * (NAME_LIMIT - 4) + ".json", os.fsdecode(b"\xff\xfe.json")])
def test_a_name_that_cannot_be_used(desk: Desk, name: str) -> None:
    desk.write(name, {"prompt": "x"})
    rejected = only(desk.look(name), Rejected)
    assert rejected.failure.reason is Reason.BAD_NAME
    assert len(desk.rejected) == 2


def test_a_file_that_may_not_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _limit: int) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    desk.write("a.json", {"prompt": "x"})
    monkeypatch.setattr(module, "read_file", refuse)
    assert desk.look("a.json") == []
    desk.clock.now += SETTLE_S
    assert only(desk.look(), Rejected).failure.reason is Reason.UNREADABLE


def test_a_file_that_changes_after_the_claim_is_read_as_it_is_now(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer has it still open: what was read before the claim is a hint only."""
    desk.write("a.json", {"prompt": "first"})
    claim = desk.drops.claim

    def change_and_claim(name: str) -> Any:
        desk.write(name, {"prompt": "second"})
        return claim(name)

    monkeypatch.setattr(desk.drops, "claim", change_and_claim)
    assert only(desk.look("a.json"), Taken).job.record.body["prompt"] == "second"


def test_a_file_that_is_torn_after_the_claim_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a.json", {"prompt": "first"})
    claim = desk.drops.claim

    def tear_and_claim(name: str) -> Any:
        desk.write(name, b'{"prompt": "sec')
        return claim(name)

    monkeypatch.setattr(desk.drops, "claim", tear_and_claim)
    later = only(desk.look("a.json"), Later)
    desk.clock.now += SETTLE_S - 1
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Later)
    Path(desk.drops.path(later.claim)).write_bytes(b'{"prompt": "second"}')
    taken = desk.intake.take(later.claim, may_fetch=False)
    assert isinstance(taken, Taken)
    assert taken.job.record is not None
    assert taken.job.record.body["prompt"] == "second"


def test_a_file_that_stays_torn_after_the_claim_is_rejected(desk: Desk) -> None:
    desk.write("a.json", b"{")
    claim = desk.drops.claim("a.json")
    assert claim is not None
    assert isinstance(desk.intake.take(claim, may_fetch=False), Later)
    desk.clock.now += SETTLE_S
    rejected = desk.intake.take(claim, may_fetch=False)
    assert isinstance(rejected, Rejected)
    assert rejected.failure.reason is Reason.TRUNCATED


def test_a_missing_picture_is_waited_for_and_then_named(desk: Desk) -> None:
    desk.planner.errors = [NotYet("cat.png")]
    desk.write("a.json", {"prompt": "x"})
    later = only(desk.look("a.json"), Later)
    assert "cat.png" in later.why
    desk.clock.now += PICTURE_WAIT_S - 1
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Later)
    desk.clock.now += 1
    rejected = desk.intake.take(later.claim, may_fetch=False)
    assert isinstance(rejected, Rejected)
    assert rejected.failure.reason is Reason.MISSING_PICTURE
    assert rejected.failure.details["seconds"] == PICTURE_WAIT_S


def test_a_picture_that_arrives_in_time(desk: Desk) -> None:
    desk.planner.errors = [NotYet("cat.png")]
    desk.write("a.json", {"prompt": "x"})
    later = only(desk.look("a.json"), Later)
    desk.planner.errors = []
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Taken)


def test_what_takes_long_is_left_to_another_thread(desk: Desk) -> None:
    desk.planner.errors = [MustFetch()]
    desk.write("a.json", {"prompt": "x"})
    assert only(desk.look("a.json"), Later).fetch


def test_what_cannot_be_planned_is_rejected(desk: Desk) -> None:
    desk.planner.errors = [Failure(Reason.UNKNOWN_WORKFLOW, workflow="a", nearest="b")]
    desk.write("a.json", {"workflow": "a"})
    assert only(desk.look("a.json"), Rejected).failure.reason is Reason.UNKNOWN_WORKFLOW


def test_a_full_disk_is_nobodys_fault(desk: Desk) -> None:
    desk.planner.errors = [DiskUnavailable("no space")]
    desk.write("a.json", {"prompt": "x"})
    later = only(desk.look("a.json"), Later)
    assert isinstance(later.error, DiskUnavailable)
    assert desk.rejected == {}
    desk.planner.errors = []
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Taken)


@pytest.mark.parametrize(
    "error", [ValueError("a mistake"), OSError(errno.ESTALE, "Stale file handle"), Permanent("no")]
)
def test_a_claim_always_comes_back(desk: Desk, error: Exception) -> None:
    """Nobody else would look for it as long as this watcher lives; and the others of the batch are looked at."""
    desk.planner.errors = [error]
    for age, name in enumerate(["b.json", "a.json"]):
        os.utime(desk.write(name, {"prompt": "x"}), (1000 - age, 1000 - age))
    first, second = desk.look("a.json", "b.json")
    assert isinstance(first, Later)
    assert isinstance(second, Later)
    assert (first.error, first.bug) == ((error, None) if isinstance(error, OSError) else (None, error))
    again = desk.intake.take(first.claim, may_fetch=False)
    assert isinstance(again, Later)
    assert desk.rejected == {}
    desk.planner.errors = []
    assert isinstance(desk.intake.take(first.claim, may_fetch=False), Taken)


def test_a_claim_comes_back_when_it_cannot_be_rejected(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    desk.write("a.json", {"unknown": 1})
    with monkeypatch.context() as patched:
        patched.setattr(desk.drops, "reject", refuse)
        later = only(desk.look("a.json"), Later)
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Rejected)


@pytest.mark.parametrize("trouble", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOMEM])
def test_no_job_is_rejected_for_the_installations_trouble(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    def refuse(path: str, limit: int) -> bytes:
        if path.endswith("bad.json"):
            raise OSError(trouble, os.strerror(trouble), path)
        return read_file(path, limit)

    for age, name in enumerate(["good.json", "bad.json"]):
        os.utime(desk.write(name, {"prompt": "x"}), (1000 - age, 1000 - age))
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(module, "read_file", refuse)
        assert only(desk.look("bad.json", "good.json"), Taken).claim.name == "good.json"
        desk.clock.now += 10 * SETTLE_S
        assert desk.look("bad.json") == []
        claim = desk.drops.claim("bad.json")
        assert claim is not None
        later = desk.intake.take(claim, may_fetch=False)
        assert isinstance(later, Later)
        assert isinstance(later.error, OSError)
    assert [(line["event"], line["file"]) for line in logs] == [("left_alone", "bad.json")]
    assert desk.intake.left_alone == {"bad.json"}
    desk.intake.scan()
    assert desk.intake.left_alone == set(), "it is gone"
    assert isinstance(desk.intake.take(claim, may_fetch=False), Taken)


def test_nothing_is_kept_of_a_claim_that_was_finished_elsewhere(desk: Desk) -> None:
    desk.planner.errors = [NotYet("cat.png")]
    desk.write("a.json", {"prompt": "x"})
    later = only(desk.look("a.json"), Later)
    assert desk.intake._waiting_since
    os.unlink(desk.drops.path(later.claim))
    assert isinstance(desk.intake.take(later.claim, may_fetch=False), Taken)
    assert desk.intake._waiting_since == {}


def test_the_same_id_again(desk: Desk) -> None:
    desk.write("a.json", {"id": "cat", "prompt": "x"})
    only(desk.look("a.json"), Taken)
    desk.write("b.json", {"prompt": "x", "id": "cat"})
    assert only(desk.look("b.json"), Taken).job.replay
    desk.write("c.json", {"prompt": "y", "id": "cat"})
    assert only(desk.look("c.json"), Rejected).failure.reason is Reason.ID_TAKEN


def test_take_of_a_claim_that_is_done(desk: Desk) -> None:
    """It was cleared away between being listed and being taken."""
    desk.write("a.json", {"prompt": "x"})
    claim = only(desk.look("a.json"), Taken).claim
    assert isinstance(desk.intake.take(claim, may_fetch=False), Taken), "taken again, not yet cleared away"
    desk.drops.settle([claim])
    again = desk.intake.take(claim, may_fetch=False)
    assert isinstance(again, Taken)
    assert (again.job.record, again.job.inbox_name) == (None, None)
    assert len(os.listdir(desk.folders.inbox)) == 1


def test_one_name_that_cannot_be_claimed_harms_only_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if os.path.basename(source) in errors:
            raise OSError(errors[os.path.basename(source)], "refused", source)
        rename(source, target)

    errors = {"a-another-users.json": 13, "b-immutable.json": 1, "c-mounted.json": 16}
    for age, name in enumerate([*errors, "z.json"]):
        os.utime(desk.write(name, {"prompt": "x"}), (1000 + age, 1000 + age))
    monkeypatch.setattr(os, "rename", refuse)
    taken = only(desk.look(*errors, "z.json"), Taken)
    assert taken.claim.name == "z.json"
    assert sorted(errors) == sorted(name for name in os.listdir(desk.folders.input) if name.endswith(".json"))


def test_a_fenced_watcher_takes_nothing(desk: Desk) -> None:
    desk.write("a.json", {"prompt": "x"})
    desk.write("b.json", {"prompt": "x"})
    claim = desk.drops.claim("a.json")
    assert claim is not None
    other = Seat(desk.folders, "other")
    take_over(other, desk.seat.wid)
    with pytest.raises(Fenced):
        desk.look("b.json")
    with pytest.raises(Fenced):
        desk.intake.take(claim, may_fetch=False)
    assert os.path.lexists(f"{desk.folders.input}/b.json")
    other.leave()


def test_a_scan_tells_jobs_marks_and_strangers_apart(desk: Desk) -> None:
    for name in ("a.json", "B.JSON", "cat.cancel", "notes.md", "cat.png", ".hidden", "a.json~"):
        Path(desk.folders.input, name).touch()
    assert desk.intake.scan() == ({"a.json", "B.JSON"}, {"cat.cancel"}, {"notes.md"})


def test_the_bytes_are_decoded_once_when_nothing_changed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(data: bytes) -> Any:
        nonlocal count
        count += 1
        return decode(data)

    monkeypatch.setattr(module, "decode", counted)
    desk.write("a.json", {"prompt": "x"})
    only(desk.look("a.json"), Taken)
    assert count == 1


def test_utf16_with_a_mark_is_a_job_too(desk: Desk) -> None:
    desk.write("a.json", '{"prompt": "猫"}'.encode("utf-16"))
    taken = only(desk.look("a.json"), Taken)
    holder = reservations.find(desk.folders, taken.job.id)
    assert holder is not None
    assert holder.token == taken.claim.token


def test_a_thousand_files_are_looked_at_quickly(desk: Desk) -> None:
    for number in range(1000):
        desk.write(f"{number}.json", b"{")
    started = time.perf_counter()
    desk.look(*(f"{number}.json" for number in range(1000)))
    assert time.perf_counter() - started < 5
    assert len(desk.intake.growing) == 1000

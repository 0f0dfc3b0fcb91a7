"""What an outside reader sees, with jobs put where watchers and adapters put them, by the code that they use."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handoff import timestamps
from handoff.decode import body_sha256
from handoff.documents import UnreadableDocument
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.spool import lease, listing
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting, find_record, find_status, list_jobs, locate, queue_position
from handoff.spool.publisher import publish
from handoff.spool.record import Plan, Record, Tombstone
from handoff.spool.seat import Seat
from handoff.spool.takeover import take_over
from handoff.state import Event, Status
from handoff.status import StatusDocument, describe_failure

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    folders = Folders(input=str(tmp_path / "input"), output=str(tmp_path / "output"))
    folders.make()
    return folders


@pytest.fixture
def seat(folders: Folders) -> Iterator[Seat]:
    seat = Seat(folders, "a server")
    yield seat
    seat.lease.close()


def submit(folders: Folders, id: str, *, minute: int = 0, priority: int = 0, workflow: str = "txt2img") -> Record:
    """A waiting job, as an adapter publishes it."""
    body = {"workflow": workflow, "params": {"prompt": id}, "metadata": {"order": 7}}
    record = Record(
        token="",
        id=id,
        sha256=body_sha256(body),  # type: ignore[arg-type]
        received_at=timestamps.to_text(NOON + timedelta(minutes=minute)),
        priority=priority,
        body=body,
    )
    assert publish(folders, record) == "new"
    found = find_record(folders, id)
    assert found is not None
    return found


def claim(seat: Seat, record: Record) -> Record:
    (name,) = [name for name in os.listdir(seat.folders.inbox) if record.token in name]
    claimed = Journal(seat).claim(name, record.token)
    assert claimed is not None
    return claimed


def run(seat: Seat, record: Record) -> StatusDocument:
    """Journalled and sent."""
    journal = Journal(seat)
    plan = Plan(workflow=record.body["workflow"], graph={})
    journal.write(record.next_attempt(server=seat.server, at=record.received_at, plan=plan))
    document = describe_waiting(record).follow(Event.SUBMITTED, attempt=1, step="KSampler 3/20")
    journal.publish_status(document, record.token, durable_write=False)
    return document


def finish(seat: Seat, record: Record, *, day: str = "2026-11-24", event: Event = Event.FAILED) -> StatusDocument:
    """From the inbox to the end."""
    journal = Journal(seat)
    claimed = claim(seat, record)
    document = run(seat, claimed)
    if event is Event.MIRRORED:
        document = document.follow(Event.GENERATED)
    error = None if event is Event.MIRRORED else describe_failure(Failure(Reason.NO_OUTPUTS), "en", id=record.id)
    document = document.finish(event, NOON, error=error)
    journal.publish_status(document, record.token, durable_write=True)
    journal.finish(claimed.evolve(attempt=1), day)
    return document


def ids(found: listing.Listing) -> list[str]:
    return [job.id for job in found.jobs]


class TestOneJob:
    def test_unknown(self, folders: Folders) -> None:
        assert find_status(folders, "nobody") is None
        assert find_record(folders, "nobody") is None

    @pytest.mark.parametrize("id", ["../output", "a/b", "", ".", "UPPER", "x" * 65, "a\0b"])
    def test_a_name_that_is_no_id_is_unknown_and_opens_nothing(self, folders: Folders, id: str) -> None:
        assert find_status(folders, id) is None
        assert find_record(folders, id) is None

    def test_a_waiting_job_is_described_by_its_reservation(self, folders: Folders) -> None:
        submit(folders, "poster", priority=5)
        document = find_status(folders, "poster")
        assert isinstance(document, StatusDocument)
        assert (document.status, document.done, document.priority) == (Status.QUEUED, False, 5)
        assert (document.workflow, document.metadata) == ("txt2img", {"order": 7})
        assert document.created_at == "2026-11-24T12:00:00.000Z"

    def test_the_plan_says_more_than_the_body(self, folders: Folders, seat: Seat) -> None:
        record = submit(folders, "poster")
        plan = Plan(workflow="other", graph={}, metadata={"a": 1}, warnings=["careful"])
        document = describe_waiting(record.evolve(job=plan))
        assert (document.workflow, document.metadata, document.warnings) == ("other", {"a": 1}, ["careful"])

    def test_a_claimed_job_is_still_queued(self, folders: Folders, seat: Seat) -> None:
        record = claim(seat, submit(folders, "poster"))
        document = find_status(folders, "poster")
        assert isinstance(document, StatusDocument)
        assert document.status is Status.QUEUED
        assert queue_position(folders, record) is None

    def test_what_the_watcher_published_goes_first(self, folders: Folders, seat: Seat) -> None:
        published = run(seat, claim(seat, submit(folders, "poster")))
        assert find_status(folders, "poster") == published
        assert published.step == "KSampler 3/20"

    def test_the_newest_record_is_found_wherever_it_lies(self, folders: Folders, seat: Seat) -> None:
        record = submit(folders, "poster")
        assert str(locate(folders, "poster")).startswith(folders.inbox)
        run(seat, claim(seat, record))
        live = find_record(folders, "poster")
        assert live is not None
        assert live.attempt == 1
        taker = Seat(folders, "another server")
        os.rename(seat.path, f"{taker.path}/from-{seat.wid}")
        assert f"/from-{seat.wid}/" in str(locate(folders, "poster"))
        taker.lease.close()

    def test_the_record_of_a_finished_job(self, folders: Folders, seat: Seat) -> None:
        finish(seat, submit(folders, "poster"), day="2026-11-23")
        assert locate(folders, "poster") == f"{folders.done}/2026-11-23/poster"
        record = find_record(folders, "poster")
        assert record is not None
        assert record.job is not None

    def test_a_tombstone_is_the_final_word(self, folders: Folders, seat: Seat) -> None:
        finish(seat, submit(folders, "poster"))
        tombstone = Tombstone(token="0" * 16, sha256="f" * 64, status="failed", finished_at="2026-11-24T12:00:00.000Z")
        Path(folders.reservation("poster")).unlink()
        Path(folders.reservation("poster")).write_bytes(tombstone.to_bytes())
        Path(folders.status("poster")).unlink()
        os.unlink(f"{folders.done}/2026-11-24/poster")
        assert find_status(folders, "poster") == tombstone
        assert find_record(folders, "poster") is None

    def test_a_damaged_document_is_named(self, folders: Folders) -> None:
        submit(folders, "poster")
        Path(folders.job("poster")).mkdir()
        Path(folders.status("poster")).write_text("{")
        with pytest.raises(UnreadableDocument, match=r"poster/status\.json"):
            find_status(folders, "poster")

    def test_a_reservation_that_is_no_record_is_named(self, folders: Folders) -> None:
        Path(folders.reservation("poster")).write_text('{"token": "x"}')
        with pytest.raises(UnreadableDocument, match="ids/poster"):
            find_status(folders, "poster")

    def test_a_record_without_a_time_is_damaged(self, folders: Folders) -> None:
        record = submit(folders, "poster").evolve(received_at="yesterday")
        os.unlink(folders.reservation("poster"))
        Path(folders.reservation("poster")).write_bytes(record.to_bytes())
        with pytest.raises(UnreadableDocument, match="received_at"):
            find_status(folders, "poster")

    def test_a_link_is_not_followed(self, folders: Folders, tmp_path: Path) -> None:
        finished = tmp_path / "elsewhere.json"
        finished.write_bytes(StatusDocument(id="poster", created_at="2026-11-24T12:00:00.000Z").to_bytes())
        Path(folders.job("poster")).mkdir()
        Path(folders.status("poster")).symlink_to(finished)
        with pytest.raises(UnreadableDocument, match="symbolic links"):
            find_status(folders, "poster")


class TestQueue:
    def test_places_follow_priority_and_then_time(self, folders: Folders) -> None:
        late, early = submit(folders, "late", minute=2), submit(folders, "early", minute=1)
        urgent = submit(folders, "urgent", minute=3, priority=10)
        assert [queue_position(folders, record) for record in (urgent, early, late)] == [1, 2, 3]

    def test_strangers_in_the_inbox_do_not_count_and_nothing_is_opened(self, folders: Folders) -> None:
        record = submit(folders, "poster")
        Path(folders.inbox, "000-notes.json").write_text("")
        os.mkfifo(f"{folders.inbox}/{'0' * 20}-{'0' * 16}.json")  # would block whoever opens it; its name counts
        assert queue_position(folders, record) == 2

    def test_without_an_inbox(self, tmp_path: Path, folders: Folders) -> None:
        record = submit(folders, "poster")
        assert queue_position(Folders(input=str(tmp_path / "x"), output=str(tmp_path / "y")), record) is None


class TestManyJobs:
    def test_unfinished_ones_by_time_and_then_finished_ones_by_day(self, folders: Folders, seat: Seat) -> None:
        for number in range(3):
            finish(seat, submit(folders, f"done-{number}"), day=f"2026-11-2{number}")
        records = [submit(folders, f"new-{number}", minute=number, priority=-number) for number in range(4)]
        run(seat, claim(seat, records[2]))
        claim(seat, records[0])
        found = list_jobs(folders)
        assert ids(found) == ["new-3", "new-2", "new-1", "new-0", "done-2", "done-1", "done-0"]
        assert [job.status for job in found.jobs[:4]] == ["queued", "running", "queued", "queued"]
        assert (found.more, found.unreadable) == (False, [])

    def test_within_a_day_the_one_sent_last_comes_first(self, folders: Folders, seat: Seat) -> None:
        for id in ("b", "a", "c"):
            finish(seat, submit(folders, id))
            time.sleep(0.005)
        assert ids(list_jobs(folders)) == ["c", "a", "b"]

    def test_filters(self, folders: Folders, seat: Seat) -> None:
        finish(seat, submit(folders, "good"), event=Event.MIRRORED)
        finish(seat, submit(folders, "bad"))
        submit(folders, "waiting", workflow="invert")
        run(seat, claim(seat, submit(folders, "running")))
        for statuses, wanted in (
            ({Status.SUCCEEDED}, ["good"]),
            ({Status.FAILED}, ["bad"]),
            ({Status.QUEUED}, ["waiting"]),
            ({Status.RUNNING}, ["running"]),
            ({Status.FAILED, Status.SUCCEEDED}, ["bad", "good"]),
        ):
            assert ids(list_jobs(folders, statuses=statuses)) == wanted
        assert ids(list_jobs(folders, workflow="invert")) == ["waiting"]
        assert ids(list_jobs(folders, workflow="nothing")) == []

    def test_a_job_that_is_decided_and_not_yet_filed_counts_as_finished(self, folders: Folders, seat: Seat) -> None:
        document = run(seat, claim(seat, record := submit(folders, "poster")))
        Journal(seat).publish_status(document.finish(Event.FAILED, NOON), record.token, durable_write=True)
        assert ids(list_jobs(folders, statuses={Status.FAILED})) == ["poster"]
        assert ids(list_jobs(folders, statuses={Status.RUNNING})) == []

    def test_the_limit_bounds_the_work(self, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(30):
            submit(folders, f"job-{number}", minute=number)
        opened: list[str] = []
        read = Record.find

        def find(path: str) -> Record | None:
            opened.append(path)
            return read(path)

        monkeypatch.setattr(Record, "find", find)
        found = list_jobs(folders, limit=5)
        assert ids(found) == [f"job-{number}" for number in (29, 28, 27, 26, 25)]
        assert found.more
        assert len(opened) <= 7

    def test_exactly_the_limit_is_all(self, folders: Folders) -> None:
        for number in range(5):
            submit(folders, f"job-{number}", minute=number)
        assert not list_jobs(folders, limit=5).more

    def test_filters_cannot_make_it_read_without_end(self, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(20):
            submit(folders, f"job-{number}", minute=number)
        monkeypatch.setattr(listing, "MOST_READ", 10)
        found = list_jobs(folders, workflow="nothing")
        assert (ids(found), found.more) == ([], True)

    def test_damaged_documents_are_named_and_passed_over(self, folders: Folders, seat: Seat) -> None:
        finish(seat, submit(folders, "torn-status"))
        Path(folders.status("torn-status")).write_text('{"schema": 1')
        finish(seat, submit(folders, "newer"))
        Path(folders.status("newer")).write_text(json.dumps({"schema": 2, "id": "newer", "created_at": "?"}))
        torn = submit(folders, "torn-record", minute=1)
        path = Path(f"{folders.inbox}/{torn.rank}-{torn.token}.json")
        path.unlink()
        path.write_bytes(b"\xff\0")
        Path(seat.path, f"r-{'a' * 16}").mkdir()
        Path(folders.done, "2026-11-24", "strange name").write_text("")
        Path(folders.done, "not-a-day").mkdir()
        submit(folders, "good")
        found = list_jobs(folders)
        assert ids(found) == ["good"]
        assert len(found.unreadable) == 4

    def test_a_job_that_moves_on_meanwhile_is_seen_once(
        self, folders: Folders, seat: Seat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is claimed after the watchers' folders were looked at and before its file in the inbox is."""
        record = submit(folders, "poster")
        submit(folders, "other", minute=-5)
        read = Record.find
        moved: list[Record] = []

        def find(path: str) -> Record | None:
            if record.token in path and not moved:
                moved.append(claim(seat, record))
            return read(path)

        monkeypatch.setattr(Record, "find", find)
        assert sorted(ids(list_jobs(folders))) == ["other", "poster"]
        assert moved

    def test_a_removed_job_is_gone(self, folders: Folders, seat: Seat) -> None:
        finish(seat, submit(folders, "poster"))
        os.unlink(folders.status("poster"))
        assert ids(list_jobs(folders)) == []

    def test_an_empty_place(self, tmp_path: Path) -> None:
        found = list_jobs(Folders(input=str(tmp_path / "nothing"), output=str(tmp_path / "nothing")))
        assert (found.jobs, found.more, found.unreadable) == ([], False, [])


class TestWatchers:
    def test_a_beating_one_lives(self, folders: Folders, seat: Seat) -> None:
        seat.beat({"comfyui": "up"})
        (seen,) = listing.list_watchers(folders)
        assert (seen.alive, seen.text.server, seen.text.health) == (True, "a server", {"comfyui": "up"})

    def test_one_that_just_starts_lives(self, folders: Folders, seat: Seat) -> None:
        assert [seen.alive for seen in listing.list_watchers(folders)] == [True]

    def test_a_killed_one_is_dead_at_once(self, folders: Folders) -> None:
        seat = Seat(folders, "a server")
        seat.beat({})
        seat.lease.close()
        assert [seen.alive for seen in listing.list_watchers(folders)] == [False]

    def test_a_hanging_one_is_dead_though_it_holds_its_lock(self, folders: Folders, seat: Seat) -> None:
        seat.lease.beat({}, time.clock_gettime(time.CLOCK_BOOTTIME) - listing.FRESH_S - 1)
        (seen,) = listing.list_watchers(folders)
        assert seen.alive is False
        assert seen.silent_s is not None
        assert seen.silent_s > listing.FRESH_S

    def test_of_another_machine_only_a_second_look_tells(self, folders: Folders, seat: Seat) -> None:
        seat.lease.text = seat.lease.text.model_copy(update={"boot_id": "another"})
        seat.beat({})
        first = listing.list_watchers(folders)
        assert [seen.alive for seen in first] == [None]
        assert [seen.alive for seen in listing.look_again(folders, first)] == [False]
        seat.beat({})
        assert [seen.alive for seen in listing.look_again(folders, first)] == [True]

    def test_a_dead_one_is_gone_when_it_was_taken_over(self, folders: Folders, seat: Seat) -> None:
        dead = Seat(folders, "another server")
        dead.lease.close()
        take_over(seat, dead.wid)
        assert [seen.text.wid for seen in listing.list_watchers(folders)] == [seat.wid]

    def test_looking_does_not_kill(self, folders: Folders, seat: Seat) -> None:
        for _ in range(20):
            listing.list_watchers(folders)
        assert not lease.is_released(f"{seat.path}/lease")


class TestPause:
    def test_none(self, folders: Folders) -> None:
        assert listing.find_pause(folders) is None

    def test_with_a_reason(self, folders: Folders) -> None:
        pause = listing.Pause(since="2026-11-24T12:00:00.000Z", reason="cleaning")
        Path(folders.paused).write_text(pause.model_dump_json())
        assert listing.find_pause(folders) == pause

    @pytest.mark.parametrize("content", [b"", b"because", b"\xff", b'{"reason": 3}'])
    def test_any_file_pauses(self, folders: Folders, content: bytes) -> None:
        Path(folders.paused).write_bytes(content)
        pause = listing.find_pause(folders)
        assert pause is not None
        assert pause.since is not None
        assert pause.since.startswith("20")
        assert pause.reason is None

"""The spool's single parts where something unusual lies in their way."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from handoff import documents, durable, timestamps
from handoff.documents import DamagedDocument, UnreadableDocument
from handoff.failures import DiskUnavailable, Failure, NotPermitted, Reason, Unavailable
from handoff.job import derive_id, inbox_name, parse_job
from handoff.spool import journal, lease, publisher, reservations
from handoff.spool.drops import Claim, TakenIn
from handoff.spool.journal import WORK_KEPT_S
from handoff.spool.record import MOST_ATTEMPTS, Record, Tombstone
from handoff.spool.reservations import Reservation
from handoff.spool.salvage import rebuild
from handoff.spool.seat import Seat, SecondWatcher, UnfitVolume, prove
from handoff.spool.takeover import DeathWatch, clear_leftovers, finish_takeovers, is_unfinished, take_over
from tests.spool.actors import run
from tests.spool.world import (
    DAY,
    LONG_AGO,
    Watcher,
    World,
    first_status,
    listed,
    make_record,
    record_of,
    run_watcher,
)

BODY = {"prompt": "a cat"}


# drops


def test_one_id_dropped_fifty_times_is_one_job(world: World) -> None:
    for number in range(50):
        world.drop(f"{number}.json", {"id": "cat", **BODY})
    run_watcher(world)
    world.check_at_rest(jobs=1)
    assert sum(world.runs.values()) == 1


def test_one_file_dropped_fifty_times_without_an_id_is_fifty_jobs(world: World) -> None:
    watcher = Watcher(world)
    for _ in range(50):
        world.drop("cat.json", BODY)
        watcher.take_in_all()
    watcher.work_all()
    watcher.seat.leave()
    world.check_at_rest(jobs=50)
    assert all(id.startswith("cat-20") for id in world.reservations())


def test_the_same_id_with_another_body_is_rejected_and_says_so(world: World) -> None:
    other = b'{"id":"cat","prompt":"a dog"}'
    world.drop("a.json", {"id": "cat", **BODY})
    run_watcher(world)
    decided = world.visible()["output/cat/status.json"]
    world.drop("b.json", other)
    run_watcher(world)
    world.check_at_rest(jobs=1, rejected={"b.json": other})
    assert b'"id_taken"' in world.rejected()["b.json.reason.json"]
    assert world.visible()["output/cat/status.json"] == decided


def test_a_rejected_drop_uses_up_no_id(world: World) -> None:
    world.drop("a.json", b'{"id": "cat", "prompt": ')
    run_watcher(world)
    world.drop("a.json", {"id": "cat", **BODY})
    run_watcher(world)
    assert world.status("cat").ok


def test_an_id_that_only_output_knows_is_compared_with_its_job_document(world: World) -> None:
    """The input volume was replaced."""
    sha256 = record_of("cat", BODY).sha256
    Path(world.folders.job("cat")).mkdir()
    Path(world.folders.job_document("cat")).write_text(f'{{"sha256": "{sha256}"}}')
    assert publisher.publish(world.folders, record_of("cat", BODY)) == "replay"
    with pytest.raises(Failure) as caught:
        publisher.publish(world.folders, record_of("cat", {"prompt": "a dog"}))
    assert caught.value.reason is Reason.ID_TAKEN


def test_a_derived_id_is_never_one_that_has_files_in_output(world: World) -> None:
    watcher = Watcher(world)
    world.drop("a.json", BODY)
    claim = watcher.drops.claim("a.json")
    assert claim is not None
    first = derive_id("a.json", claim.received_at, claim.token, 0)
    Path(world.folders.job(first)).mkdir()
    watcher.take(claim)
    assert list(world.reservations()) == [derive_id("a.json", claim.received_at, claim.token, 1)]


@pytest.mark.parametrize("name", ["ä" * 120 + ".json", "x" * 250 + ".json", "a~b~c.json", "é\udcff.json", ".json"])
def test_a_claim_keeps_what_it_needs_of_any_name(world: World, name: str) -> None:
    world.drop(name, BODY)
    watcher = Watcher(world)
    claim = watcher.drops.claim(name)
    assert claim is not None
    assert len(os.fsencode(claim.file_name)) <= 255
    assert claim.name.endswith(".json")
    assert watcher.drops.claims() == [claim]
    assert abs((claim.received_at - timestamps.now()).total_seconds()) < 60


def test_a_claim_tells_its_time_and_token_from_its_name_alone() -> None:
    claim = Claim(stamp="20261124T083015123456-00112233445566ff", name="a.json")
    assert claim.received_at == datetime(2026, 11, 24, 8, 30, 15, 123456, UTC)
    assert claim.token == Claim(stamp=claim.stamp, name="b.json").token


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_rejected_as_it_is(world: World, kind: str, tmp_path: Path) -> None:
    path = Path(world.folders.input, "a.json")
    if kind == "folder":
        path.mkdir()
        (path / "inside").write_text("x")
    elif kind == "link":
        path.symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(path)
    watcher = Watcher(world)
    claim = watcher.drops.claim("a.json")
    assert claim is not None
    assert watcher.drops.reject(claim, Failure(Reason.NOT_A_FILE, kind=kind), "en") == "a.json"
    mode = os.lstat(f"{world.folders.rejected}/a.json").st_mode
    assert {"folder": stat.S_ISDIR, "link": stat.S_ISLNK, "pipe": stat.S_ISFIFO}[kind](mode)
    assert watcher.drops.claims() == []


def test_one_bad_file_dropped_all_day_costs_no_more_each_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(world)
    claims, looks = [], 0
    lexists = os.path.lexists

    def counted(path: str) -> bool:
        nonlocal looks
        looks += 1
        return lexists(path)

    for number in range(40):
        world.drop("a.json", b"{%d" % number)
        claim = watcher.drops.claim("a.json")
        assert claim is not None
        claims.append(claim)
        looks = 0
        monkeypatch.setattr(os.path, "lexists", counted)
        name = watcher.drops.reject(claim, Failure(Reason.TRUNCATED, bytes=2, seconds=5.0), "en")
        monkeypatch.undo()
        assert looks <= 10
        assert watcher.drops.reject(claim, Failure(Reason.TRUNCATED, bytes=2, seconds=5.0), "en") == name
        assert Path(world.folders.rejected, name).read_bytes() == b"{%d" % number
    expected = {"a.json", *(f"a-{n}.json" for n in range(2, 10)), *(f"a-{c.token[:8]}.json" for c in claims[9:])}
    assert {name for name in world.rejected() if not name.endswith(".reason.json")} == expected


def take_in(watcher: Watcher, claim: Claim) -> TakenIn:
    job = parse_job({**BODY}, default_workflow="txt2img")
    return watcher.drops.take_in(claim, id=None, sha256=job.sha256, make=lambda id: make_record(claim, job, id))


def refuse_the_inbox(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None) -> None:
    """Once."""
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if "/inbox/" in target:
            monkeypatch.setattr(os, "rename", rename)
            before()
            raise OSError(errno.ENOSPC, "No space left on device", target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)


def test_a_drop_whose_id_can_be_seen_is_not_out_before_its_job_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who believed it between the link and the rename would clear the claim away, and the job with it."""
    watcher = Watcher(world)
    claim = watcher.drops.claim(_dropped(world))
    assert claim is not None
    found: list[TakenIn] = []
    made = f"{watcher.seat.path}/b-{claim.token}"
    second = threading.Thread(target=lambda: found.append(take_in(watcher, claim)))

    def look_meanwhile() -> None:
        os.rename(made, f"{made}~")  # as if it looked for `b-` just before that was written
        second.start()
        second.join(0.3)
        os.rename(f"{made}~", made)

    refuse_the_inbox(monkeypatch, look_meanwhile)
    with pytest.raises(DiskUnavailable):
        take_in(watcher, claim)
    second.join(10)
    assert found[0].inbox_name is not None
    assert listed(world.folders.inbox) == [found[0].inbox_name]


def test_a_job_whose_claim_is_gone_is_published_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(world)
    claims = []
    for _ in range(2):
        claim = watcher.drops.claim(_dropped(world))
        assert claim is not None
        claims.append(claim)
        refuse_the_inbox(monkeypatch)
        with pytest.raises(DiskUnavailable):
            take_in(watcher, claim)
    os.unlink(watcher.drops.path(claims[0]))
    assert [job.record.token for job in watcher.drops.publish_left() if job.record] == [claims[0].token]
    assert watcher.drops.publish_left() == []
    assert [name[21:37] for name in listed(world.folders.inbox)] == [claims[0].token]
    watcher.seat.leave()
    run_watcher(world)
    world.check_at_rest(jobs=2)


def test_a_job_whose_claim_and_id_are_gone_is_left_and_named(world: World) -> None:
    watcher = Watcher(world)
    made = Path(watcher.seat.path, f"b-{'a' * 16}")
    made.write_bytes(record_of("cat", BODY, token="a" * 16).to_bytes())
    publisher.publish(world.folders, record_of("cat", BODY))
    Path(watcher.seat.path, f"b-{'b' * 16}").write_bytes(b"{")
    with capture_logs() as logs:
        assert watcher.drops.publish_left() == []
    assert [line["file"] for line in logs] == [f"b-{'a' * 16}", f"b-{'b' * 16}"]
    assert made.exists()


# reservations and adapters


@pytest.mark.parametrize("trouble", [errno.EIO, errno.EMFILE])
def test_a_reservation_that_cannot_be_read_now_is_the_disks_trouble(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    def refuse(path: str, _limit: int) -> bytes:
        raise OSError(trouble, os.strerror(trouble), path)

    monkeypatch.setattr(reservations, "read_file", refuse)
    with pytest.raises(DiskUnavailable):
        reservations.find(world.folders, "cat")


def test_a_tombstone_still_holds_its_id(world: World) -> None:
    record = record_of("cat", BODY, token="a" * 16)
    tombstone = Tombstone(token=record.token, sha256=record.sha256, status="succeeded", finished_at="2026-11-24")
    Path(world.folders.reservation("cat")).write_bytes(tombstone.to_bytes())
    assert reservations.find(world.folders, "cat") == Reservation(
        token=record.token, sha256=record.sha256, finished=True
    )
    assert publisher.publish(world.folders, record) == "replay"
    with pytest.raises(Failure):
        publisher.publish(world.folders, record_of("cat", {"prompt": "a dog"}))
    assert os.listdir(world.folders.inbox) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"[]"])
def test_a_damaged_reservation_is_taken_and_harms_nobody_else(world: World, content: bytes) -> None:
    Path(world.folders.reservation("cat")).write_bytes(content)
    with pytest.raises(Failure):
        publisher.publish(world.folders, record_of("cat", BODY))
    assert publisher.publish(world.folders, record_of("dog", BODY)) == "new"


def test_a_link_in_the_place_of_a_job_document_is_not_followed(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f'{{"sha256": "{record_of("cat", BODY).sha256}"}}')
    Path(world.folders.job("cat")).mkdir()
    Path(world.folders.job_document("cat")).symlink_to(secret)
    assert reservations.find(world.folders, "cat") == Reservation(token=None, sha256=None)


def test_a_torn_file_does_not_stop_the_sweep(new_world: Callable[[], World]) -> None:
    world = new_world()
    run(lambda: publisher.publish(world.folders, record_of("cat", BODY)), stop_before="rename")
    torn = {"0" * 16: b"", "f" * 16: b'{"schema": 1, "tok'}
    for name, content in torn.items():
        world.drop(f".handoff/tmp/{name}", content)
    os.mkdir(f"{world.folders.tmp}/folder")
    world.sweep()
    assert not torn.keys() & {name.removesuffix(".swept") for name in os.listdir(world.folders.tmp)}
    run_watcher(world)
    assert world.status("cat").ok


def test_the_sweep_leaves_young_files_and_those_of_a_newer_version(world: World) -> None:
    newer = record_of("cat", BODY, token="a" * 16).to_bytes().replace(b'"schema":1', b'"schema":2')
    world.drop(f".handoff/tmp/{'a' * 16}", newer)
    os.link(f"{world.folders.tmp}/{'a' * 16}", world.folders.reservation("cat"))
    publisher.sweep(world.folders)
    assert os.listdir(world.folders.tmp) == ["a" * 16]
    world.sweep()
    assert os.listdir(world.folders.tmp) == ["a" * 16 + ".swept"]


def test_publishing_into_a_spool_without_ids_ends(world: World) -> None:
    os.rmdir(world.folders.ids)
    with pytest.raises((FileNotFoundError, Unavailable)):
        publisher.publish(world.folders, record_of("cat", BODY))


# journal


def test_records_skips_what_is_filed_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(world)
    for id in ("a", "b"):
        publisher.publish(world.folders, record_of(id, BODY))
    for name in listed(world.folders.inbox):
        watcher.journal.claim(name, name[21:37])
    records = watcher.journal.records()
    listdir = os.listdir

    def list_then_file(path: str) -> list[str]:
        names = listdir(path)
        if path == watcher.seat.path:
            monkeypatch.setattr(os, "listdir", listdir)
            watcher.journal.finish(records[0], DAY)
        return names

    monkeypatch.setattr(os, "listdir", list_then_file)
    assert watcher.journal.records() == records[1:]


def test_a_damaged_record_is_left_alone(world: World) -> None:
    watcher = Watcher(world)
    Path(watcher.seat.record_path("a" * 16)).write_bytes(b"{")
    assert watcher.journal.records() == []
    watcher.seat.leave()
    assert os.path.lexists(f"{watcher.seat.path}/r-{'a' * 16}")


def test_a_record_that_may_not_be_read_is_named_and_harms_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(world)
    records = [record_of(id, BODY, token=id * 16) for id in ("a", "b")]
    for record in records:
        watcher.journal.write(record)

    def refuse(path: str, limit: int) -> bytes:
        if path.endswith("a" * 16):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return durable.read_file(path, limit)

    monkeypatch.setattr(documents, "read_file", refuse)
    with capture_logs() as logs:
        assert watcher.journal.records() == records[1:]
    assert [line["event"] for line in logs] == ["unreadable_record"]
    assert "Permission denied" in logs[0]["error"]


@pytest.mark.parametrize("received_at", ["x", "2026-11-24", "0001-01-01T00:00:00+14:00"])
def test_a_record_without_a_usable_time_is_damaged(received_at: str) -> None:
    data = record_of("cat", BODY).to_bytes().replace(b"2026-11-24T08:00:00.000Z", received_at.encode())
    with pytest.raises(UnreadableDocument, match="received_at"):
        Record.from_bytes(data, "x")


@pytest.mark.parametrize("attempt", ["-1", str(MOST_ATTEMPTS + 1), "999999999999"])
def test_a_record_with_a_number_of_attempts_that_nobody_made_is_damaged(attempt: str) -> None:
    data = record_of("cat", BODY).to_bytes().replace(b'"attempt":0', f'"attempt":{attempt}'.encode())
    with pytest.raises(DamagedDocument, match="attempt"):
        Record.from_bytes(data, "x")


def test_the_attempts_of_a_damaged_record_are_no_strangers_number(world: World) -> None:
    watcher, token = Watcher(world), "a" * 16
    record = record_of("cat", BODY, token=token)
    Path(world.folders.reservation("cat")).write_bytes(record.to_bytes())
    Path(watcher.seat.record_path(token)).write_bytes(b"{")
    for number in ("1", "2", "999999999999", "x"):
        os.mkdir(f"{world.folders.work}/{token}-{number}")
    rebuilt = rebuild(watcher.seat, token)
    assert rebuilt is not None
    assert (rebuilt.id, rebuilt.attempt) == ("cat", 2)
    assert Path(watcher.seat.record_path(token)).read_bytes() == b"{", "nothing is written before its end is decided"


def test_a_waiting_job_of_a_newer_version_stays_where_it_is(world: World) -> None:
    newer = record_of("cat", BODY, token="a" * 16)
    name = inbox_name(newer.rank, newer.token)
    Path(world.folders.inbox, name).write_bytes(newer.to_bytes().replace(b'"schema":1', b'"schema":2'))
    watcher = Watcher(world)
    with pytest.raises(UnreadableDocument, match="newer"):
        watcher.journal.claim(name, newer.token)
    assert listed(world.folders.inbox) == [name]
    assert watcher.journal.tokens() == []


@pytest.mark.parametrize("trouble", [errno.EMFILE, errno.EIO])
def test_a_waiting_job_that_cannot_be_read_now_goes_on_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    publisher.publish(world.folders, record_of("cat", BODY))
    watcher, (name,) = Watcher(world), listed(world.folders.inbox)

    def refuse(path: str, _limit: int) -> bytes:
        raise OSError(trouble, os.strerror(trouble), path)

    with monkeypatch.context() as patched:
        patched.setattr(documents, "read_file", refuse)
        with pytest.raises(DiskUnavailable):
            watcher.journal.claim(name, name[21:37])
    assert listed(world.folders.inbox) == [name]
    record = watcher.journal.claim(name, name[21:37])
    assert record is not None
    assert record.id == "cat"


@pytest.mark.parametrize("kind", ["folder", "full folder", "not permitted", "read-only"])
def test_no_cancel_mark_keeps_a_record_from_being_filed(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    watcher = Watcher(world)
    watcher.journal.write(record_of("cat", BODY, token="a" * 16))
    mark = Path(world.folders.cancel_mark("cat"))
    if "folder" in kind:
        (mark / "inside" if kind == "full folder" else mark).mkdir(parents=True)
    else:
        mark.touch()
        number, unlink = errno.EPERM if kind == "not permitted" else errno.EROFS, os.unlink

        def refuse(path: str) -> None:
            if path == str(mark):
                raise OSError(number, os.strerror(number), path)
            unlink(path)

        monkeypatch.setattr(os, "unlink", refuse)
    with capture_logs() as logs:
        watcher.journal.finish(watcher.journal.records()[0], DAY)
        watcher.journal.remove_mark("cat")
    assert world.done().keys() == {"cat"}
    assert mark.exists() == (kind != "folder")
    assert [line["event"] for line in logs] == ["mark_left"] * (kind != "folder")


def test_an_output_is_published_again_under_the_same_name(world: World) -> None:
    """Killed after its rename: the second time both names are of one file, and the rename does nothing."""
    watcher = Watcher(world)
    source = Path(world.folders.work, "a.png")
    source.write_bytes(b"picture")
    for _ in range(2):
        watcher.journal.publish_output(str(source), "cat", "a.png", "a" * 16, sha256="")
        assert os.listdir(watcher.seat.pen) == []
    assert Path(world.folders.job("cat"), "a.png").samefile(source)


def test_old_work_folders_go_when_nobody_waits_for_them(world: World) -> None:
    watcher = Watcher(world)
    record = record_of("live", BODY, token="b" * 16)
    watcher.journal.write(record)
    long_ago = LONG_AGO - WORK_KEPT_S
    for name in ("aaaaaaaaaaaaaaaa-1", f"{record.token}-1", "cccccccccccccccc-1"):
        os.mkdir(f"{world.folders.work}/{name}")
        if not name.startswith("c"):
            os.utime(f"{world.folders.work}/{name}", (long_ago, long_ago))
    watcher.journal.clear_work()
    assert sorted(os.listdir(world.folders.work)) == [f"{record.token}-1", "cccccccccccccccc-1"]


def test_the_feed_names_every_change(world: World) -> None:
    watcher = Watcher(world)
    for id in ("cat", "dog", "cat"):
        watcher.journal.publish_status(first_status(record_of(id, BODY)), "a" * 16, durable_write=False)
    assert Path(watcher.seat.pen, "feed").read_text().split() == ["cat", "dog", "cat"]


def test_the_feed_does_not_grow_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FEED_BYTES", 100)
    watcher = Watcher(world)
    for number in range(1000):
        watcher.journal.announce(f"cat-{number}")
    feed = Path(watcher.seat.pen, "feed").read_text()
    assert feed.endswith("cat-999\n")
    assert len(feed) <= 110


# seat, lease, takeover


def test_a_second_watcher_of_the_same_comfyui_does_not_start(world: World) -> None:
    watcher = Watcher(world)
    with pytest.raises(SecondWatcher, match=watcher.seat.wid):
        Watcher(world)
    watcher.seat.leave()
    Watcher(world).seat.leave()


def test_a_volume_that_cannot_link_is_refused_with_a_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnfitVolume, match="hard links do not work"):
        prove(world.folders)
    assert listed(world.folders.spool) == ["done", "ids", "inbox", "tmp"]


def test_a_volume_whose_links_replace_names_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda source, target, **_: Path(target).write_bytes(Path(source).read_bytes()))
    with pytest.raises(UnfitVolume, match="replaced an existing name"):
        prove(world.folders)


def test_two_mounts_are_refused_with_a_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UnfitVolume, match="two mounts"):
        prove(world.folders)


def test_a_silent_watcher_of_another_comfyui_is_dead_after_the_lease_and_not_before(world: World) -> None:
    silent, other = Watcher(world, "one"), Watcher(world, "two")
    watch = DeathWatch(other.seat, lease_s=30)
    silent.seat.lease.close()  # even when its lock is free: its ComfyUI still has its prompts
    assert watch.find_dead(1000.0) == []
    assert watch.find_dead(1029.9) == []
    assert watch.find_dead(1030.0) == [silent.seat.wid]


def test_every_beat_begins_the_lease_anew(world: World) -> None:
    alive, other = Watcher(world, "one"), Watcher(world, "two")
    watch = DeathWatch(other.seat, lease_s=30)
    for now in range(0, 300, 29):
        assert watch.find_dead(float(now)) == []
        alive.seat.beat({"now": now})


def test_a_predecessor_is_dead_at_once_when_its_lock_is_free(world: World) -> None:
    before = Watcher(world)
    before.drops.claim(_dropped(world))
    before.seat.lease.close()
    assert DeathWatch(Watcher(world).seat, lease_s=30).find_dead(0.0) == [before.seat.wid]


def test_a_living_one_is_not_dead_however_it_is_named(world: World) -> None:
    one = Watcher(world)
    assert not lease.is_released(f"{one.seat.path}/lease")
    text = lease.read(f"{one.seat.path}/lease")
    assert text is not None
    assert (text.wid, text.server, text.boot_id) == (one.seat.wid, "one", lease.boot_id())


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 4096, b"x" * 10_000])
def test_a_lease_that_cannot_be_understood_is_silence(world: World, content: bytes) -> None:
    os.mkdir(world.folders.watcher("f" * 16))
    Path(world.folders.watcher("f" * 16), "lease").write_bytes(content)
    watch = DeathWatch(Watcher(world).seat, lease_s=30)
    assert watch.find_dead(0.0) == []
    assert watch.find_dead(30.0) == ["f" * 16]


def test_a_beat_with_too_much_to_say_says_that_it_lives(world: World) -> None:
    watcher = Watcher(world)
    watcher.seat.beat({"problem": "x" * 10_000})
    text = lease.read(f"{watcher.seat.path}/lease")
    assert text is not None
    assert text.beat == watcher.seat.lease.text.beat
    assert os.stat(f"{watcher.seat.path}/lease").st_size == 4096


def test_a_takeover_copes_with_whatever_lies_there(world: World) -> None:
    """Also with a folder within the folder, and with a claim that is a folder."""
    dead, taker = Watcher(world, "one"), Watcher(world, "two")
    os.makedirs(f"{dead.seat.path}/odd/folder")
    os.mkdir(f"{world.folders.input}/a.json")
    claim = dead.drops.claim("a.json")
    os.mkdir(f"{dead.seat.pen}/odd")
    assert take_over(taker.seat, dead.seat.wid)
    assert not take_over(taker.seat, dead.seat.wid)
    assert taker.drops.claims() == [claim]
    assert not os.path.lexists(dead.seat.pen)
    assert [name for name in os.listdir(taker.seat.path) if name.startswith("from-")] == []


@pytest.mark.parametrize(
    ("module", "call", "trouble", "raised"),
    [
        (os, "rmdir", errno.EROFS, DiskUnavailable),
        (os, "rmdir", errno.EIO, DiskUnavailable),
        (os, "rmdir", errno.EACCES, NotPermitted),
        (os, "rmdir", errno.ENOTEMPTY, NotPermitted),  # it never gets empty
        (shutil, "rmtree", errno.EACCES, NotPermitted),  # another user's folder in it
    ],
)
def test_a_takeover_that_cannot_be_finished_says_so_and_is_finished_later(
    world: World, monkeypatch: pytest.MonkeyPatch, module: Any, call: str, trouble: int, raised: type[Exception]
) -> None:
    dead, taker = Watcher(world, "one"), Watcher(world, "two")
    os.makedirs(f"{dead.seat.path}/odd/folder")
    asked, waits = getattr(module, call), 0

    def refuse(path: Any, *rest: Any, **named: Any) -> None:
        if "/from-" in str(path) and not named.get("ignore_errors"):
            raise OSError(trouble, os.strerror(trouble), path)
        asked(path, *rest, **named)

    def wait(_: float) -> None:
        nonlocal waits
        waits += 1
        assert waits < 100, "it would go on for ever"

    with monkeypatch.context() as patched:
        patched.setattr(module, call, refuse)
        patched.setattr("handoff.spool.takeover.time.sleep", wait)
        with pytest.raises(raised, match="from-" if raised is NotPermitted else "cannot write"):
            take_over(taker.seat, dead.seat.wid)
    assert is_unfinished(taker.seat)
    assert finish_takeovers(taker.seat)
    assert not is_unfinished(taker.seat)


def test_a_newer_record_replaces_an_older_one(world: World) -> None:
    dead, taker = Watcher(world, "one"), Watcher(world, "two")
    record = record_of("cat", BODY, token="a" * 16)
    taker.journal.write(record)
    assert record.job is not None
    newer = record.next_attempt(server="one", at=record.received_at, plan=record.job)
    dead.journal.write(newer)
    take_over(taker.seat, dead.seat.wid)
    assert taker.journal.records() == [newer]


def test_clear_leftovers_removes_what_a_killed_start_left(new_world: Callable[[], World]) -> None:
    world = new_world()
    steps = run(lambda: Seat(world.folders, "one").leave())
    for number in range(1, len(steps.calls)):
        run(lambda: Seat(world.folders, "one"), stop_at=number)
    watcher = Watcher(world)
    watcher.take_over_the_dead(after_the_lease=True)
    clear_leftovers(watcher.seat, thoroughly=True)
    assert any(name.startswith("new-") for name in os.listdir(world.folders.spool)), "young ones may still be starting"
    world.age()
    clear_leftovers(watcher.seat, thoroughly=True)
    watcher.seat.leave()
    world.check_at_rest(jobs=0)


def test_a_watcher_that_leaves_keeps_its_unfinished_jobs_for_the_next(world: World) -> None:
    watcher = Watcher(world)
    claim = watcher.drops.claim(_dropped(world))
    watcher.seat.leave()
    successor = Watcher(world)
    successor.take_over_the_dead()
    assert successor.drops.claims() == [claim]


def test_an_untouched_job_goes_back_under_its_old_name(world: World) -> None:
    publisher.publish(world.folders, record_of("cat", BODY))
    before = listed(world.folders.inbox)
    watcher = Watcher(world)
    record = watcher.journal.claim(before[0], before[0][21:37])
    assert record is not None
    assert listed(world.folders.inbox) == []
    watcher.journal.release(record)
    assert listed(world.folders.inbox) == before
    assert watcher.journal.claim("9" * 20 + "-" + "a" * 16 + ".json", "a" * 16) is None


def test_a_record_survives_its_round_trip() -> None:
    record = record_of("cat", {"prompt": "猫", "metadata": {"a": [1, 2.5, None, "\u2028"]}})
    assert Record.from_bytes(record.to_bytes(), "x") == record


def _dropped(world: World) -> str:
    world.drop("a.json", BODY)
    return "a.json"

"""What is read of jobs: from the volume, mounted read-only or not, and from the bucket alone."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_adapter import reader as module
from dify_adapter.reader import BucketReader, Elsewhere, OpenOutput, Reader, VolumeReader, Wanted
from handoff.documents import UnreadableDocument
from handoff.failures import Unavailable
from handoff.folders import Folders
from handoff.spool.record import Tombstone
from handoff.state import Status
from handoff.status import StatusDocument
from handoff.stores.folder import FolderStore
from tests.adapter.scene import PNG, Scene, Watcher, make_store
from tests.servers.rgw import S3Server

ALL = {"cat.png": (PNG, "image/png"), "cat-notes.txt": (b"notes", "text/plain")}


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


class Place:
    """A reader, and a watcher whose work it sees."""

    def __init__(self, scene: Scene, watcher: Watcher, reader: Reader) -> None:
        self.scene, self.watcher, self.reader = scene, watcher, reader

    def status(self, id: str) -> Status | None:
        sight = self.reader.find(id)
        return None if sight is None else sight.status


@pytest.fixture(params=["volume", "read-only", "folder", "s3"])
def place(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path) -> Iterator[Place]:
    with scene.watcher() as watcher:
        if request.param == "volume":
            yield Place(scene, watcher, VolumeReader(scene.folders))
        elif request.param == "read-only":
            seen = tmp_path / "seen"
            seen.mkdir()
            mounted = subprocess.run(
                ["mount", "--bind", "-o", "ro", scene.folders.output, seen], capture_output=True, check=False
            )
            if mounted.returncode:
                pytest.skip("needs the right to mount")
            try:
                with pytest.raises(OSError, match="Read-only"):
                    (seen / "anything").write_text("")
                yield Place(scene, watcher, VolumeReader(Folders(input=scene.folders.input, output=str(seen))))
            finally:
                subprocess.run(["umount", "-l", seen], check=True)
        else:
            watcher.store = make_store(request.param, request, tmp_path)
            nowhere = Folders(input=scene.folders.input, output=str(tmp_path / "nowhere"))
            yield Place(scene, watcher, BucketReader(nowhere, watcher.store, prefix="jobs"))


def test_a_life(place: Place) -> None:
    assert place.status("cat") is None
    record = place.scene.submit("cat", owner="shop")
    sight = place.reader.find("cat")
    assert sight is not None
    assert isinstance(sight.document, StatusDocument)
    assert (sight.status, sight.position, sight.document.owner) == (Status.QUEUED, 1, "shop")
    place.watcher.run(record)
    assert place.status("cat") is Status.RUNNING
    place.watcher.save(record, ALL)
    assert place.status("cat") is Status.SAVING
    final = place.watcher.finish(record)
    sight = place.reader.find("cat")
    assert sight is not None
    assert sight.done
    assert sight.document == final


def test_outputs(place: Place) -> None:
    place.watcher.succeed(place.scene.submit("cat"), ALL)
    for name, number in (("cat.png", "1"), ("cat-notes.txt", "2")):
        for asked in (name, number):
            found = place.reader.open_output("cat", asked)
            assert isinstance(found, OpenOutput)
            with found.file as file:
                assert (file.read(), found.media_type) == ALL[name]
            assert (found.name, found.size) == (name, len(ALL[name][0]))
    for name in ("3", "0", "-1", "²", "1.0", "status.json", "job.json", "../cat/cat.png", "./cat.png", "", "cat.png\0"):
        assert place.reader.open_output("cat", name) is None
    for id in ("dog", "../cat", "cat/../cat", "", ".handoff"):
        assert place.reader.open_output(id, "cat.png") is None


def test_a_listing(place: Place) -> None:
    for number, owner in enumerate(["shop", "artist", "shop"]):
        place.watcher.succeed(place.scene.submit(f"done-{number}", owner=owner))
    for number in range(3):
        place.scene.submit(f"waiting-{number}", owner="shop", workflow="canvas")
    place.watcher.run(place.scene.submit("running", owner="artist"))

    def ids(**options: Any) -> list[str]:
        return [job.id for job in place.reader.list(Wanted(**options)).jobs]

    assert set(ids()[:4]) == {"running", "waiting-0", "waiting-1", "waiting-2"}
    assert set(ids()[4:]) == {"done-0", "done-1", "done-2"}
    assert set(ids(owner="artist")) == {"running", "done-1"}
    assert set(ids(owner="shop", statuses={Status.SUCCEEDED})) == {"done-0", "done-2"}
    assert set(ids(workflow="canvas")) == {"waiting-0", "waiting-1", "waiting-2"}
    pages = [ids(limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [id for page in pages for id in page] == ids()
    assert place.reader.list(Wanted(limit=3)).more
    assert not place.reader.list(Wanted(limit=7)).more


def test_the_line(place: Place) -> None:
    records = [place.scene.submit(f"job-{number}", priority=number % 2) for number in range(6)]

    def positions() -> list[int | None]:
        sights = [place.reader.find(record.id) for record in records]
        return [sight.position if sight else None for sight in sights]

    assert positions() == [4, 1, 5, 2, 6, 3]
    place.watcher.claim(records[1])
    assert positions() == [3, None, 4, 1, 5, 2]


def test_a_guess_at_the_end(place: Place) -> None:
    first = place.scene.submit("first")
    sight = place.reader.find("first")
    assert sight is not None
    assert sight.eta_s is None
    place.watcher.succeed(first)  # in two seconds
    place.reader._estimate._renewed_at = None  # type: ignore[attr-defined]
    for number in range(3):
        place.scene.submit(f"job-{number}")
    sights = [place.reader.find(f"job-{number}") for number in range(3)]
    assert [sight and sight.eta_s for sight in sights] == [2.0, 4.0, 6.0]
    done = place.reader.find("first")
    assert done is not None
    assert done.eta_s is None


def test_what_retention_left_of_a_job(place: Place) -> None:
    record = place.scene.submit("cat")
    grave = Tombstone(token=record.token, sha256=record.sha256, status="failed", finished_at=record.received_at)
    Path(place.scene.folders.reservation("cat")).write_bytes(grave.to_bytes())
    sight = place.reader.find("cat")
    assert sight is not None
    assert (sight.document, sight.done, sight.position) == (grave, True, None)


@pytest.mark.parametrize("id", ["", "..", "../cat", "Cat", "a/b", ".handoff", "x" * 65, "cat\n"])
def test_what_is_no_id_is_unknown(place: Place, id: str) -> None:
    assert place.reader.find(id) is None
    assert place.reader.mark(id) is None


def test_a_document_of_a_newer_version_is_named(place: Place) -> None:
    record = place.scene.submit("cat")
    place.watcher.run(record)
    final = json.dumps({"schema": 99, "id": "cat"}).encode()
    if place.watcher.store is None:
        Path(place.scene.folders.status("cat")).write_bytes(final)
    else:
        place.watcher.store.put_bytes("cat/status.json", final, media_type="application/json")
    with pytest.raises(UnreadableDocument, match="newer version"):
        place.reader.find("cat")


def test_a_volume_that_is_gone_is_unavailable(place: Place) -> None:
    os.rename(place.scene.folders.spool, f"{place.scene.folders.input}/away")
    for ask in (lambda: place.reader.find("cat"), lambda: place.reader.list(Wanted())):
        with pytest.raises(Unavailable, match="mounted"):
            ask()
    os.rename(f"{place.scene.folders.input}/away", place.scene.folders.spool)


# ── the volume alone ──


@pytest.fixture
def finished(scene: Scene) -> Path:
    """The folder of a finished job."""
    with scene.watcher() as watcher:
        watcher.succeed(scene.submit("cat"))
    return Path(scene.folders.job("cat"))


def test_no_link_is_followed(scene: Scene, finished: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(PNG)
    (finished / "cat.png").unlink()
    (finished / "cat.png").symlink_to(secret)
    with pytest.raises(UnreadableDocument):
        VolumeReader(scene.folders).open_output("cat", "cat.png")
    shutil.move(finished, tmp_path / "moved")
    finished.symlink_to(tmp_path / "moved")
    assert VolumeReader(scene.folders).open_output("cat", "cat.png") is None


def test_a_file_that_was_changed_is_not_sent_as_what_was_made(scene: Scene, finished: Path) -> None:
    (finished / "cat.png").write_bytes(PNG + b"more")
    with pytest.raises(UnreadableDocument, match="no longer"):
        VolumeReader(scene.folders).open_output("cat", "cat.png")
    (finished / "cat.png").unlink()
    assert VolumeReader(scene.folders).open_output("cat", "cat.png") is None
    os.mkfifo(finished / "cat.png")
    with pytest.raises(UnreadableDocument):
        VolumeReader(scene.folders).open_output("cat", "cat.png")


# ── the bucket alone ──


def test_a_large_output_is_fetched_from_the_bucket_itself(
    scene: Scene, s3_server: S3Server, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FETCHED", 10)
    for kind, expected in (("s3", Elsewhere), ("folder", OpenOutput)):
        with scene.watcher(kind) as watcher:
            watcher.store = make_store(kind, request, tmp_path)
            watcher.succeed(scene.submit(kind))
            found = BucketReader(scene.folders, watcher.store, prefix="jobs").open_output(kind, "1")
            assert isinstance(found, expected)
            if isinstance(found, Elsewhere):
                assert found.url.startswith(s3_server.endpoint)
            else:
                found.file.close()


def test_the_prefix_of_another_installation_is_said(scene: Scene, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "bucket", "jobs")
    with scene.watcher() as watcher:
        watcher.store = store
        watcher.succeed(scene.submit("cat"))
    with pytest.raises(UnreadableDocument, match="does not begin with"):
        BucketReader(scene.folders, store, prefix="other").open_output("cat", "1")

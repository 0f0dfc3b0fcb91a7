"""A bucket's prefix belongs to one installation, known by a name that lies on its volume."""

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handoff import durable, site
from handoff.failures import Unavailable
from handoff.folders import Folders
from handoff.site import MARKER, ForeignSite, Site
from handoff.spool.seat import Seat
from handoff.spool.takeover import clear_leftovers
from handoff.stores.folder import FolderStore


def make_volume(root: Path) -> Folders:
    folders = Folders(input=f"{root}/input", output=f"{root}/output")
    for folder in (folders.input, folders.output):
        Path(folder).mkdir(parents=True)
    folders.make()
    return folders


def read_marker(bucket: Path) -> str:
    name: str = json.loads((bucket / "jobs" / MARKER).read_bytes())["site"]
    return name


def test_a_second_installation_on_one_prefix_is_told_what_to_do(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "bucket", "jobs")
    Site(make_volume(tmp_path / "one"), store).ensure()
    before = read_marker(tmp_path / "bucket")
    with pytest.raises(ForeignSite, match=re.escape(before)) as raised:
        Site(make_volume(tmp_path / "two"), store).ensure()
    assert "HANDOFF_S3_PREFIX" in str(raised.value)
    assert MARKER in str(raised.value)
    assert read_marker(tmp_path / "bucket") == before


def test_two_installations_on_two_prefixes_have_two_names(tmp_path: Path) -> None:
    names = set()
    for name in ("one", "two"):
        Site(make_volume(tmp_path / name), FolderStore(tmp_path / name, "jobs")).ensure()
        names.add(read_marker(tmp_path / name))
    assert len(names) == 2


def test_the_name_outlives_a_restart_and_a_lost_marker(tmp_path: Path) -> None:
    folders, store = make_volume(tmp_path / "volume"), FolderStore(tmp_path / "bucket", "jobs")
    Site(folders, store).ensure()
    name = read_marker(tmp_path / "bucket")
    Site(folders, store).ensure()
    assert read_marker(tmp_path / "bucket") == name
    (tmp_path / "bucket" / "jobs" / MARKER).unlink()
    Site(folders, store).ensure()
    assert read_marker(tmp_path / "bucket") == name


def test_two_first_watchers_at_once_agree_on_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_volume(tmp_path / "volume")
    both_saw_none = threading.Barrier(2, timeout=10)

    def write_late(path: str, data: bytes) -> None:
        both_saw_none.wait()
        durable.write_file(path, data)

    monkeypatch.setattr(site, "durable", _Durable(write_late))
    problems: list[BaseException] = []

    def ensure(bucket: str) -> None:
        try:
            Site(folders, FolderStore(tmp_path / bucket, "jobs")).ensure()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=ensure, args=(bucket,)) for bucket in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert read_marker(tmp_path / "one") == read_marker(tmp_path / "two")
    assert sorted(os.listdir(folders.spool)) == ["done", "ids", "inbox", "site", "tmp"]
    assert sorted(os.listdir(folders.pens)) == ["site", "work"]


def test_what_a_killed_first_start_left_goes_from_both_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    folders, link, long_ago = make_volume(tmp_path / "volume"), os.link, time.time() - 3600

    for place in (folders.spool, folders.pens):

        def die(source: str, target: str, place: str = place, **named: bool) -> None:
            if os.path.dirname(target) == place:
                os.utime(source, (long_ago, long_ago))
                raise Killed
            link(source, target, **named)

        with monkeypatch.context() as patched:
            patched.setattr(os, "link", die)
            with pytest.raises(Killed):
                Site(folders, FolderStore(tmp_path / "bucket", "jobs")).ensure()
    seat = Seat(folders, "one")
    clear_leftovers(seat, thoroughly=False)
    seat.leave()
    assert sorted(os.listdir(folders.pens)) == ["work"]
    assert sorted(os.listdir(folders.spool)) == ["done", "ids", "inbox", "site", "tmp"]


class _Durable:
    """The module, but for one function."""

    read_file, sync_folder, disk_errors = (
        staticmethod(durable.read_file),
        staticmethod(durable.sync_folder),
        staticmethod(durable.disk_errors),
    )

    def __init__(self, write_file: Callable[[str, bytes], None]) -> None:
        self.write_file = write_file


def test_the_store_is_asked_once_when_it_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "bucket", "jobs")
    answers: list[Exception | None] = [Unavailable("away"), None]
    create, asked = store.create, []

    def answer(key: str, data: bytes, *, media_type: str) -> bool:
        asked.append(key)
        if (error := answers.pop(0)) is not None:
            raise error
        return create(key, data, media_type=media_type)

    monkeypatch.setattr(store, "create", answer)
    ours = Site(make_volume(tmp_path / "volume"), store)
    with pytest.raises(Unavailable):
        ours.ensure()
    ours.ensure()
    ours.ensure()
    assert asked == [MARKER, MARKER]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"site": 1}', b"\xff", b'{"site": "another"}'])
def test_a_marker_that_is_not_ours_or_unreadable_stops_us(tmp_path: Path, data: bytes) -> None:
    store = FolderStore(tmp_path / "bucket", "jobs")
    store.put_bytes(MARKER, data, media_type="application/json")
    with pytest.raises(ForeignSite, match=r"another|unreadable"):
        Site(make_volume(tmp_path / "volume"), store).ensure()

"""The write ritual: the order of its calls, what is left after an error, and reading what strangers put there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handoff import durable
from handoff.failures import DiskUnavailable, NotPermitted, Permanent, Unavailable


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every later call of fsync and rename, with the file's or folder's name."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def fsync_noted(descriptor: int) -> None:
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def rename_noted(source: str, target: str) -> None:
        calls.append(("rename", os.path.basename(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync_noted)
    monkeypatch.setattr(os, "rename", rename_noted)
    return calls


def fail(monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, failing)


def test_the_order_of_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pen", "shown"):
        (tmp_path / name).mkdir()
    calls = record(monkeypatch)
    durable.publish(b"x" * 100_000, f"{tmp_path}/pen/t", f"{tmp_path}/shown/status.json")
    assert calls == [("fsync", "t"), ("rename", "status.json"), ("fsync", "shown")]
    assert (tmp_path / "shown" / "status.json").read_bytes() == b"x" * 100_000
    assert os.listdir(tmp_path / "pen") == []


def test_without_durability_it_is_still_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch)
    durable.publish(b"x", f"{tmp_path}/t", f"{tmp_path}/a", durable=False)
    assert calls == [("rename", "a")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_disk_in_trouble_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    (tmp_path / "a").write_bytes(b"before")
    fail(monkeypatch, function, code)
    with pytest.raises(DiskUnavailable, match=os.strerror(code)):
        durable.publish(b"after", f"{tmp_path}/t", f"{tmp_path}/a")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, as a full disk does after it let the file be made."""
    with pytest.raises((DiskUnavailable, NotPermitted)), durable.disk_errors("x"), open("/dev/full", "wb", 0) as full:
        full.write(b"x")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_what_is_forbidden_is_about_one_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int) -> None:
    fail(monkeypatch, "open", code)
    with pytest.raises(NotPermitted) as caught:
        durable.write_file(f"{tmp_path}/a", b"")
    assert not isinstance(caught.value, DiskUnavailable)


def test_a_folder_that_is_gone_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.publish(b"x", f"{tmp_path}/gone/t", f"{tmp_path}/a")
    with pytest.raises(FileNotFoundError):
        durable.replace(f"{tmp_path}/gone", f"{tmp_path}/a")


def test_an_unfinished_file_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"half a file of an earlier try")
    durable.write_file(f"{tmp_path}/t", b"whole")
    assert (tmp_path / "t").read_bytes() == b"whole"


def test_writing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "t").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        durable.write_file(f"{tmp_path}/t", b"x")
    assert (tmp_path / "other").read_bytes() == b"other"


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert durable.read_file(f"{tmp_path}/a", 3_000_000) == b"x" * 3_000_000
    with pytest.raises(Permanent, match="larger than 2999999 bytes"):
        durable.read_file(f"{tmp_path}/a", 2_999_999)
    (tmp_path / "empty").touch()
    assert durable.read_file(f"{tmp_path}/empty", 0) == b""


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, make: Callable[[str], None]) -> None:
    make(f"{tmp_path}/a")
    with pytest.raises(Permanent, match="no regular file"):
        durable.read_file(f"{tmp_path}/a", 10)


def test_reading_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        durable.read_file(f"{tmp_path}/a", 10)


def test_a_device_is_not_read() -> None:
    with pytest.raises(Permanent):
        durable.read_file("/dev/zero", 10)


def test_no_descriptor_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(f"{tmp_path}/pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(Permanent):
            durable.read_file(f"{tmp_path}/pipe", 10)
        durable.sync_folder(str(tmp_path))
    with monkeypatch.context() as patch:
        fail(patch, "fsync", errno.EIO)
        with pytest.raises(DiskUnavailable):
            durable.write_file(f"{tmp_path}/a", b"x")
        with pytest.raises(OSError, match="Input/output"):
            durable.sync_folder(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    right = "8c3e5c9f1f5d1a5ca8b1a5b1bfb4a4d2"
    with pytest.raises(Unavailable, match="changed while it was published"):
        durable.copy_file(f"{tmp_path}/a", f"{tmp_path}/b", sha256=right)
    assert os.listdir(tmp_path) == ["a"]
    import hashlib

    durable.copy_file(f"{tmp_path}/a", f"{tmp_path}/b", sha256=hashlib.sha256(b"picture").hexdigest())
    assert (tmp_path / "b").read_bytes() == b"picture"


def test_a_folder_that_somebody_put_in_the_way_is_named_for_people_to_remove(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with pytest.raises(NotPermitted, match=r"status\.json"):
        durable.publish(b"x", f"{tmp_path}/t", f"{tmp_path}/status.json")
    (tmp_path / "status.json").rmdir()
    durable.publish(b"x", f"{tmp_path}/t", f"{tmp_path}/status.json")

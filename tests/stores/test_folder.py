"""The folder store: what lies where, with which modes, and what happens when the disk fails."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handoff.failures import Permanent, Unavailable
from handoff.stores.folder import FolderStore
from tests.stores.conftest import File

MakeFile = Callable[[int], File]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def store(root: Path) -> FolderStore:
    return FolderStore(root, "/team/jobs/")


@pytest.fixture
def _shared_umask() -> Iterator[None]:
    before = os.umask(0o007)
    yield
    os.umask(before)


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_the_layout_is_that_of_the_bucket(store: FolderStore, root: Path, make_file: MakeFile) -> None:
    make_file(5).put(store, "a-job/picture.png")
    store.put_bytes("a-job/status.json", b"{}", media_type="application/json")
    assert listing(root) == ["team/jobs/a-job/picture.png", "team/jobs/a-job/status.json"]
    assert store.url("a-job/picture.png", expires_s=60) is None


@pytest.mark.usefixtures("_shared_umask")
def test_the_group_may_write_what_the_umask_allows(store: FolderStore, root: Path) -> None:
    store.put_bytes("a-job/status.json", b"{}", media_type="application/json")
    assert stat.S_IMODE((root / "team/jobs/a-job").stat().st_mode) & 0o777 == 0o770
    assert stat.S_IMODE((root / "team/jobs/a-job/status.json").stat().st_mode) == 0o660


def test_nothing_unfinished_is_ever_seen(store: FolderStore, root: Path, make_file: MakeFile) -> None:
    file = make_file(30 << 20)
    sizes: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            sizes.update(path.stat().st_size for path in (root / "team").rglob("*.png"))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(3):
        file.put(store, f"a-job/{number}.png")
    done.set()
    watcher.join()
    assert sizes <= {file.size}
    assert len(listing(root)) == 3


def test_links_inside_the_bucket_are_not_followed(store: FolderStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "team/jobs").mkdir(parents=True)
    (root / "team/jobs/a-job").symlink_to(outside)
    (root / "team/jobs/file").symlink_to(outside / "secret")
    for use in (
        lambda: store.put_bytes("a-job/x", b"x", media_type="text/plain"),
        lambda: store.create("a-job/x", b"x", media_type="text/plain"),
        lambda: store.get_bytes("a-job/secret", 100),
        lambda: store.get_bytes("file", 100),
        lambda: store.head("file"),
    ):
        with pytest.raises(Permanent, match="link"):
            use()
    store.put_bytes("file", b"own", media_type="text/plain")
    assert (outside / "secret").read_text() == "secret"
    assert os.listdir(outside) == ["secret"]


def test_folders_and_pipes_are_no_objects(store: FolderStore, root: Path) -> None:
    (root / "team/jobs/folder").mkdir(parents=True)
    os.mkfifo(root / "team/jobs/pipe")
    for key in ("folder", "pipe"):
        with pytest.raises(Permanent, match="regular"):
            store.get_bytes(key, 10)
    with pytest.raises(Permanent, match="folder"):
        store.put_bytes("folder", b"x", media_type="text/plain")
    with pytest.raises(Permanent, match="longer"):
        store.put_bytes("x" * 300, b"x", media_type="text/plain")


def test_the_place_of_unfinished_files_is_no_key(root: Path) -> None:
    with pytest.raises(Permanent, match="unfinished"):
        FolderStore(root).put_bytes(".unfinished/x", b"x", media_type="text/plain")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_is_unavailable_and_leaves_nothing(
    store: FolderStore, root: Path, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store.put_bytes("a-job/picture.png", b"before", media_type="image/png")
    file = make_file(1000)
    real = getattr(os, call)

    def fail(*args: object, **kwargs: object) -> object:
        if call == "open" and args[0] == file.path:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Unavailable, match=r"a-job/picture\.png") as raised:
        file.put(store, "a-job/picture.png")
    monkeypatch.undo()
    assert os.strerror(number) in str(raised.value)
    assert (root / "team/jobs/a-job/picture.png").read_bytes() == b"before"
    assert os.listdir(root / ".unfinished") == []


@pytest.mark.parametrize("durable", [True, False])
def test_only_courtesy_objects_skip_the_fsync(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    store.put_bytes("a-job/first", b"", media_type="text/plain")
    calls: list[str] = []

    def count(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, counted)

    count("fsync")
    count("rename")
    store.put_bytes("a-job/progress.json", b"x", media_type="text/plain", durable=durable)
    assert calls == (["fsync", "rename", "fsync"] if durable else ["rename"])


def test_a_new_folder_is_made_durable_too(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.put_bytes("a-job/progress.json", b"x", media_type="text/plain", durable=False)
    assert [path.rsplit("/", 1)[1] for path in synced] == ["bucket", "bucket", "team", "jobs"]


def test_leftovers_of_a_killed_process_are_swept_after_a_day(store: FolderStore, root: Path) -> None:
    store.check()
    old, new = root / ".unfinished/old", root / ".unfinished/new"
    for path, age in ((old, 90_000), (new, 3_600)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    store.check()
    assert os.listdir(root / ".unfinished") == ["new"]


def test_pictures_from_buckets_need_s3(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="HANDOFF_BUCKET"):
        store.download("other", "x.png", tmp_path / "x.png", 10)
    assert not (tmp_path / "x.png").exists()


def test_a_prefix_that_leads_out_is_refused(root: Path) -> None:
    for prefix in ("../x", "a//b", "a/./b", "a\nb"):
        with pytest.raises(ValueError, match="prefix"):
            FolderStore(root, prefix)


def test_a_root_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        FolderStore(tmp_path / "file", "jobs").check()

"""What every store promises: the folder, and a real S3 server over http and https with the settings that ship."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handoff.failures import Permanent
from handoff.stores.contract import CHECK_KEY, CHECK_TEXT, Store, Stored
from tests.stores.conftest import File

MakeFile = Callable[[int], File]


def put_text(store: Store, key: str, text: str) -> None:
    store.put_bytes(key, text.encode(), media_type="application/json")


@pytest.mark.parametrize("size", [0, 1, 100_000, 20 << 20])
def test_a_file_arrives_whole(store: Store, job: str, make_file: MakeFile, size: int) -> None:
    file = make_file(size)
    file.put(store, f"{job}/picture.png")
    assert store.head(f"{job}/picture.png") == Stored(size=size, sha256=file.sha256)
    assert store.get_bytes(f"{job}/picture.png", size) == file.data


def test_bytes_come_back_and_are_replaced(store: Store, job: str) -> None:
    put_text(store, f"{job}/status.json", "first")
    put_text(store, f"{job}/status.json", "second, longer")
    store.put_bytes(f"{job}/progress.json", b"", media_type="application/json", durable=False)
    assert store.get_bytes(f"{job}/status.json", 100) == b"second, longer"
    assert store.get_bytes(f"{job}/progress.json", 100) == b""


def test_what_is_not_there_is_none(store: Store, job: str) -> None:
    assert store.get_bytes(f"{job}/status.json", 100) is None
    assert store.head(f"{job}/status.json") is None
    put_text(store, f"{job}/status.json", "x")
    assert store.head(f"{job}/other.json") is None


def test_an_object_above_the_limit_is_refused(store: Store, job: str) -> None:
    put_text(store, f"{job}/big", "x" * 1001)
    assert store.get_bytes(f"{job}/big", 1001) == b"x" * 1001
    with pytest.raises(Permanent, match="1000"):
        store.get_bytes(f"{job}/big", 1000)


@pytest.mark.parametrize(
    "key", ["图片/猫 猫.png", "a+b/c&d=e?f#g%20h.png", "ünï/code~'(1)*.png", "a\\b", "_marker.json", "😀" * 60]
)
def test_keys_keep_their_letters(store: Store, key: str) -> None:
    put_text(store, key, key)
    assert store.get_bytes(key, 1000) == key.encode()
    assert store.create(key, b"other", media_type="text/plain") is False
    assert store.get_bytes(key, 1000) == key.encode()


@pytest.mark.parametrize(
    "key", ["", "/", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "..", "a\nb", "a\0b", "\ud800", "x" * 1025]
)  # fmt: skip
def test_keys_that_escape_are_refused(store: Store, make_file: MakeFile, key: str) -> None:
    for use in (
        lambda: put_text(store, key, "x"),
        lambda: make_file(1).put(store, key),
        lambda: store.get_bytes(key, 1),
        lambda: store.head(key),
        lambda: store.create(key, b"", media_type="text/plain"),
    ):
        with pytest.raises(Permanent):
            use()


def test_of_many_creators_one_wins(store: Store, job: str) -> None:
    def create(number: int) -> bool:
        return store.create(f"{job}/{number // 8}", b"%d" % number, media_type="text/plain")

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(40)))
    for race in range(5):
        assert won[8 * race :][:8].count(True) == 1
        winner = 8 * race + won[8 * race :].index(True)
        assert store.get_bytes(f"{job}/{race}", 10) == b"%d" % winner


def test_eight_threads_share_a_store(store: Store, job: str, make_file: MakeFile) -> None:
    files = [make_file(10_000 + number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: files[number].put(store, f"{job}/{number % 3}/{number}.png"), range(40)))
    for number, file in enumerate(files):
        assert store.head(f"{job}/{number % 3}/{number}.png") == Stored(size=file.size, sha256=file.sha256)


@pytest.mark.parametrize("size", [1000, 17 << 20])
@pytest.mark.parametrize("change", [{"size": 999}, {"size": 18 << 20}, {"sha256": "0" * 64}], ids=str)
def test_a_file_that_is_not_as_promised_is_not_published(
    store: Store, job: str, make_file: MakeFile, size: int, change: dict[str, object]
) -> None:
    with pytest.raises(Permanent):
        make_file(size).put(store, f"{job}/picture.png", **change)
    assert store.head(f"{job}/picture.png") is None


def test_only_regular_files_are_published(store: Store, job: str, make_file: MakeFile, tmp_path: Path) -> None:
    file = make_file(10)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file.path)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "missing", file.path / "below"):
        with pytest.raises(Permanent):
            file.put(store, f"{job}/picture.png", path=path)
    assert store.head(f"{job}/picture.png") is None


def test_the_check_writes_where_jobs_will(store: Store) -> None:
    store.check()
    assert store.get_bytes(CHECK_KEY, 1000) == CHECK_TEXT
    store.check()
    assert "jobs" in store.describe()

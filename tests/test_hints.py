"""Hints with the kernel's real events: what arrives, how soon, and what is said when events are lost."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from handoff.hints import Hints

SOON_S = 0.1  # what a person may wait for
LIMIT_S = 2.0  # what a busy machine may take


class Heard:
    def __init__(self, folders: list[Path]) -> None:
        self.queue: SimpleQueue[tuple[float, str, str]] = SimpleQueue()
        self.hints = Hints(
            [str(folder) for folder in folders],
            lambda folder, name: self.queue.put((time.monotonic(), os.path.basename(folder), name)),
        )

    def next(self, folder: str, name: str) -> float:
        """The time of the first hint of this name. Fails when none comes."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                at, where, what = self.queue.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                pytest.fail(f"no hint of {folder}/{name}")
            if (where, what) == (folder, name):
                return at

    def rest(self) -> list[tuple[str, str]]:
        time.sleep(0.1)
        found = []
        while not self.queue.empty():
            found.append(self.queue.get()[1:])
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    return folder


@pytest.fixture
def heard(folder: Path) -> Iterator[Heard]:
    heard = Heard([folder])
    assert heard.hints.arm() is None
    yield heard
    heard.hints.close()


def soon(heard: Heard, name: str, since: float) -> None:
    assert heard.next("input", name) - since < LIMIT_S


def test_a_file_that_is_closed_after_writing(heard: Heard, folder: Path) -> None:
    with open(folder / "a.json", "wb") as file:
        file.write(b"x")
        file.flush()
        heard.next("input", "a.json")  # it was created
        heard.rest()
        file.write(b"y")
    heard.next("input", "a.json")


def test_a_file_that_is_written_again(heard: Heard, folder: Path) -> None:
    (folder / "a.json").write_bytes(b"x")
    heard.next("input", "a.json")
    heard.rest()
    (folder / "a.json").write_bytes(b"y")
    heard.next("input", "a.json")


def test_a_file_that_is_renamed_into_the_folder(heard: Heard, folder: Path) -> None:
    outside = folder.parent / "elsewhere" / "a"
    outside.write_bytes(b"x")
    at = time.monotonic()
    outside.rename(folder / "a.json")
    soon(heard, "a.json", at)


def test_a_file_that_is_renamed_within_the_folder(heard: Heard, folder: Path) -> None:
    (folder / "a.part").write_bytes(b"x")
    at = time.monotonic()
    (folder / "a.part").rename(folder / "a.json")
    soon(heard, "a.json", at)


def test_a_hard_link(heard: Heard, folder: Path) -> None:
    outside = folder.parent / "elsewhere" / "a"
    outside.write_bytes(b"x")
    at = time.monotonic()
    os.link(outside, folder / "a.json")
    soon(heard, "a.json", at)


@pytest.mark.parametrize("after_s", [0.05, 0.1, 0.2, 0.4])
def test_a_rename_soon_after_a_claim_is_not_held_back(heard: Heard, folder: Path, after_s: float) -> None:
    """Each claim is a rename out of the folder; watchdog as it comes pairs it with what comes within half a second."""
    elsewhere = folder.parent / "elsewhere"
    (folder / "first.json").write_bytes(b"x")
    (elsewhere / "second").write_bytes(b"x")
    heard.next("input", "first.json")
    (folder / "first.json").rename(elsewhere / "claimed")
    time.sleep(after_s)
    delays = []
    for number in range(3):  # the quickest of three: the machine may be busy
        (elsewhere / f"{number}").write_bytes(b"x")
        at = time.monotonic()
        (elsewhere / f"{number}").rename(folder / f"{number}.json")
        delays.append(heard.next("input", f"{number}.json") - at)
        (folder / f"{number}.json").rename(elsewhere / f"claimed-{number}")
        time.sleep(after_s)
    assert min(delays) < SOON_S, delays


def test_what_happens_below_the_folder_is_none_of_its_business(heard: Heard, folder: Path) -> None:
    (folder / "uploads").mkdir()
    heard.next("input", "uploads")
    (folder / "uploads" / "b.png").write_bytes(b"x")
    assert heard.rest() == []


def test_deleting_and_reading_are_no_news(heard: Heard, folder: Path) -> None:
    (folder / "a.json").write_bytes(b"x")
    heard.next("input", "a.json")
    heard.rest()
    (folder / "a.json").read_bytes()
    os.utime(folder / "a.json")
    (folder / "a.json").unlink()
    assert heard.rest() == []


def test_a_folder_that_is_removed_may_hold_anything_now(heard: Heard, folder: Path) -> None:
    folder.rmdir()
    heard.next("input", "")


def test_a_folder_that_was_replaced_is_watched_when_armed_again(heard: Heard, folder: Path) -> None:
    folder.rmdir()
    heard.next("input", "")
    folder.mkdir()
    assert heard.hints.arm() is None
    (folder / "a.json").write_bytes(b"x")
    heard.next("input", "a.json")


def test_arming_twice_changes_nothing(heard: Heard, folder: Path) -> None:
    assert heard.hints.arm() is None
    (folder / "a.json").touch()
    heard.next("input", "a.json")
    heard.rest()
    (folder / "b.json").touch()
    heard.next("input", "b.json")
    assert ("input", "a.json") not in heard.rest()


def test_several_folders(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("input", "inbox")]
    for folder in folders:
        folder.mkdir()
    heard = Heard(folders)
    assert heard.hints.arm() is None
    for folder in folders:
        (folder / "x").touch()
        heard.next(folder.name, "x")
    heard.hints.close()


def test_lost_events_mean_that_anything_may_have_changed(heard: Heard) -> None:
    """Watchdog tells of an overflow in its log only."""
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflow! Events are lost.")
    heard.next("input", "")
    logging.getLogger("watchdog.observers.inotify_c").warning("something else")
    assert heard.rest() == []


def test_the_log_of_watchdog_is_listened_to_at_the_place_where_it_speaks() -> None:
    """Else the test above would prove nothing."""
    import inspect

    from watchdog.observers import inotify_c

    assert inotify_c.logger.name.startswith("watchdog.observers")
    assert "overflow" in inspect.getsource(inotify_c)


def test_after_closing_nothing_is_heard(folder: Path) -> None:
    heard = Heard([folder])
    assert heard.hints.arm() is None
    heard.hints.close()
    (folder / "a.json").touch()
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflow!")
    assert heard.rest() == []


def test_where_nothing_can_be_watched_it_says_why(tmp_path: Path) -> None:
    heard = Heard([tmp_path / "gone"])
    trouble = heard.hints.arm()
    assert trouble is not None
    assert "No such file" in trouble
    heard.hints.close()


def test_names_are_what_the_system_says(heard: Heard, folder: Path) -> None:
    name = os.fsdecode("海报-\xff.json".encode("latin-1", "ignore") + b"\xff.json")
    (folder / name).touch()
    heard.next("input", name)

"""Files that arrive while a watcher starts: between its first look and its first event none may fall through."""

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import SOAK
from tests.e2e.jobs import canvas, encode
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.servers.watcher import Watcher, start_watcher

STARTS = 200 if SOAK else 3
NOBODY = "http://127.0.0.1:9"  # no ComfyUI is needed to take files in
NO_RESCAN_S = 3600
PAUSE_S = 0.008
SOON_S = 20.0  # what an event tells of takes milliseconds; the rest is a busy machine, and a backlog of the start


def rename(volume: Volume, name: str, data: bytes) -> None:
    volume.drop(name, data)


def copy(volume: Volume, name: str, data: bytes) -> None:
    (volume.input / name).write_bytes(data)


def write_slowly(volume: Volume, name: str, data: bytes) -> None:
    with (volume.input / name).open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 3):
            file.write(data[start : start + len(data) // 3])
            time.sleep(PAUSE_S)


def link(volume: Volume, name: str, data: bytes) -> None:
    source = volume.root / "staging" / name
    source.write_bytes(data)
    os.link(source, volume.input / name)


WAYS: tuple[Callable[[Volume, str, bytes], None], ...] = (rename, copy, write_slowly, link)


class Writer(threading.Thread):
    """Drops files without end, each in another way than the one before."""

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self._volume = volume
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        number = 0
        while not self._ended.wait(PAUSE_S):
            way = WAYS[number % len(WAYS)]
            name, data = f"{way.__name__}-{number}.json", encode(canvas())
            way(self._volume, name, data)
            self._volume.note(name, data)
            number += 1

    def stop(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(STARTS * 10 + 100)
def test_no_file_is_missed_while_a_watcher_starts(tmp_path: Path, note: Note) -> None:
    """The timer for rescans is an hour: whatever is found was found by the first look or by an event."""
    delays: list[float] = []
    files = before = 0
    for number in range(STARTS):
        volume = Volume.make(tmp_path / f"start-{number}")
        writer = Writer(volume)
        with start_watcher(volume.root, NOBODY, scan_s=NO_RESCAN_S) as watcher:
            watcher.wait_for("watching")
            time.sleep(0.2)  # the writer's turn: files of which only events tell
            writer.stop()
            accepted = wait_for_all(watcher, volume)
        watching = timestamp(watcher.find("watching")[0])
        delays += [accepted[name] - max(drop.at, watching) for name, drop in volume.drops.items()]
        before += sum(drop.at < watching for drop in volume.drops.values())
        files += len(accepted)
    assert max(delays) < SOON_S, sorted(delays)[-10:]
    note(
        starts=STARTS,
        files=files,
        there_before_it_watched=before,
        longest_until_accepted_s=max(delays),
    )


def wait_for_all(watcher: Watcher, volume: Volume) -> dict[str, float]:
    def look() -> dict[str, float] | None:
        found = {line["file"]: timestamp(line) for line in watcher.find("accepted")}
        return found if found.keys() == volume.drops.keys() else None

    return eventually(look, "every file is accepted")


def timestamp(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()

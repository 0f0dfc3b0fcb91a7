"""How a run that was fenced off is parted from."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handoff.folders import Folders
from tests.e2e.volume import eventually
from watcher import watch


class Worker:
    """What it has at ComfyUI is asked to stop; ComfyUI hangs until the test is over."""

    ids = ("cat",)
    waiting = 0

    def __init__(self) -> None:
        self.abandoned = False
        self.hangs = threading.Event()

    def abandon(self) -> None:
        self.abandoned = True
        self.hangs.wait(60)


def part(root: Path, *, mounted: bool) -> Worker:
    folders = Folders(input=f"{root}/input", output=f"{root}/output")
    os.makedirs(folders.spool, exist_ok=True)
    mount = watch._mount_of(folders)
    assert mount.startswith("mnt_id:")
    seat: Any = SimpleNamespace(path=folders.watcher("0" * 16), folders=folders, wid="0" * 16)
    successor: Any = SimpleNamespace(folders=folders, wid="1" * 16)
    worker: Any = Worker()
    watch._part_from(seat, worker, mount if mounted else "mnt_id:\t0\n", successor=successor)
    return worker  # type: ignore[no-any-return]


def test_a_comfyui_that_hangs_does_not_hold_up_the_next_run(tmp_path: Path) -> None:
    worker = part(tmp_path, mounted=True)
    eventually(lambda: worker.abandoned, "its prompts are cancelled")
    worker.hangs.set()


@pytest.mark.parametrize("name", ["w-2222222222222222", "nobody"])
def test_while_the_volume_is_away_nothing_is_cancelled(tmp_path: Path, name: str) -> None:
    """Whoever else lost it has a seat on the folder below, too."""
    (tmp_path / "input" / ".handoff").mkdir(parents=True)
    (tmp_path / "input" / ".handoff" / name).mkdir()
    threads = threading.active_count()
    assert not part(tmp_path, mounted=False).abandoned
    assert threading.active_count() == threads

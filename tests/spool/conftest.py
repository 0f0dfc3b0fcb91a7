"""Fixtures of the spool's tests."""

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.spool import actors
from tests.spool.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def new_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    """Worlds in which actors can be stopped at every system call; in memory where the system has such a folder."""
    actors.install(monkeypatch)
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as root:
        numbers = count()
        yield lambda: World(Path(root, str(next(numbers))))

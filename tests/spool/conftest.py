"""Fixtures of the spool's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.spool import actors
from tests.spool.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def new_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    """Worlds in which actors can be stopped at every system call."""
    actors.install(monkeypatch)
    count = 0

    def make() -> World:
        nonlocal count
        count += 1
        return World(tmp_path / f"world-{count}")

    return make

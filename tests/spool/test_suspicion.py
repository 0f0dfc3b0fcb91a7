"""Who is held to have killed the watcher, when several jobs were worked at as it died."""

import os
import threading
from pathlib import Path

import pytest

from handoff.failures import Failure
from handoff.folders import Folders
from handoff.spool.seat import Seat
from handoff.spool.suspicion import BESIDE, DEATHS, acquit, pardon, working_at
from tests.e2e.volume import eventually

NAMES = ("poison", "innocent", "another")


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    folders = Folders(input=f"{tmp_path}/input", output=f"{tmp_path}/output")
    for folder in (folders.input, folders.output):
        os.mkdir(folder)
    folders.make()
    return Seat(folders, "here")


def marks(seat: Seat) -> dict[str, int]:
    return {name: os.stat(f"{seat.path}/{name}").st_size for name in os.listdir(seat.path) if name.startswith("x-")}


def live(seat: Seat) -> set[str]:
    """Who failed. The poison kills the process as soon as it is worked at; what stands on the disk then is put back."""
    left: dict[str, int] = {}
    failed: set[str] = set()

    def work(name: str) -> None:
        try:
            with working_at(seat, name):
                if name == "poison":
                    left.update(marks(seat))
        except Failure:
            failed.add(name)

    threads = [threading.Thread(target=work, args=[name]) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, deaths in left.items():
        Path(seat.path, name).write_bytes(b"x" * deaths)
    return failed


def test_a_death_counts_against_one_suspect_alone(seat: Seat) -> None:
    for name in NAMES:
        Path(seat.path, f"x-{name}").write_bytes(b"x")
    entered: list[str] = []
    leave = threading.Event()

    def work(name: str) -> None:
        with working_at(seat, name):
            entered.append(name)
            leave.wait(60)

    threads = [threading.Thread(target=work, args=[name]) for name in NAMES]
    for thread in threads:
        thread.start()
    eventually(lambda: entered, "one is worked at")
    with working_at(seat, "fresh"):
        assert sorted(marks(seat).values()) == [1, 1, 1, 2]
        assert marks(seat)["x-" + entered[0]] == 2
    leave.set()
    for thread in threads:
        thread.join()
    assert sorted(entered) == sorted(NAMES)
    assert marks(seat) == {}


def test_what_kills_again_and_again_is_given_up_and_its_neighbours_are_not(seat: Seat) -> None:
    for name in NAMES:  # all of them were under way when it killed for the first time
        Path(seat.path, f"x-{name}").write_bytes(b"x")
    for _ in range(DEATHS - 1):
        assert live(seat) == set()
        assert all(deaths <= 1 for name, deaths in marks(seat).items() if name != "x-poison")
    assert live(seat) == {"poison"}
    assert marks(seat) == {}


def test_a_run_that_ends_without_a_death_puts_nobody_under_suspicion(seat: Seat) -> None:
    Path(seat.path, "x-inherited").write_bytes(b"xx")
    with working_at(seat, "slow upload"):
        pardon(seat)
        assert marks(seat) == {"x-inherited": 2}


def test_no_mark_of_a_job_outlives_it(seat: Seat) -> None:
    """On a read-only disk the mark of work that ended stays."""
    for name in ("cat", f"cat{BESIDE}"):
        Path(seat.path, f"x-{name}").write_bytes(b"x")
    acquit(seat, "cat")
    assert marks(seat) == {}

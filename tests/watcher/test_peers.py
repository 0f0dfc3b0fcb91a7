"""What the other watchers can run, from the documents they wrote."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handoff.folders import Folders
from handoff.spool.seat import Fenced, Seat
from watcher.capabilities import Capabilities
from watcher.peers import Peers

GRAPH = {"1": {"class_type": "Fancy", "inputs": {}}}


def can(*classes: str) -> Capabilities:
    return Capabilities(version="0.33.0", devices=(), simulated=True, classes=frozenset(classes), models={})


class Fleet:
    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.folders = Folders(input=f"{root}/input", output=f"{root}/output")
        for folder in (self.folders.input, self.folders.output):
            os.makedirs(folder)
        self.folders.make()
        self._stack = stack

    def seat(self, server: str) -> Seat:
        seat = Seat(self.folders, server)
        self._stack.callback(seat.leave)
        return seat


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


def test_the_able_are_told_from_those_that_lack_something(fleet: Fleet) -> None:
    ours = Peers(fleet.seat("ours"))
    ours.publish(can("Fancy"), ["txt2img"])
    assert ours.find_able(GRAPH) == ([], []), "one's own is no peer"
    Peers(fleet.seat("able")).publish(can("Fancy", "Other"), [])
    Peers(fleet.seat("poor")).publish(can("Other"), [])
    assert ours.find_able(GRAPH) == (["able"], ["poor lacks the node class Fancy"])


def test_one_that_has_not_seen_its_comfyui_says_nothing(fleet: Fleet) -> None:
    ours = Peers(fleet.seat("ours"))
    fleet.seat("starting")
    assert ours.find_able(GRAPH) == ([], [])


def test_one_that_was_taken_over_can_run_nothing(fleet: Fleet) -> None:
    seat, other = fleet.seat("ours"), fleet.seat("able")
    ours = Peers(seat)
    Peers(other).publish(can("Fancy"), [])
    assert ours.find_able(GRAPH)[0] == ["able"]
    os.rename(other.path, f"{seat.path}/from-{other.wid}")
    assert ours.find_able(GRAPH) == ([], [])


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"server": "x"}',
        b'{"server": "x", "version": 1, "devices": [1], "simulated": 2, "classes": 3, "models": 4}',
        b'{"server": "x", "version": "", "devices": [], "simulated": true, "classes": ["Fancy"], "models": []}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_a_damaged_document_harms_nobody(fleet: Fleet, document: bytes) -> None:
    ours = Peers(fleet.seat("ours"))
    damaged = fleet.seat("damaged")
    Peers(fleet.seat("able")).publish(can("Fancy"), [])
    Path(damaged.path, "server.json").write_bytes(document)
    assert ours.find_able(GRAPH) == (["able"], [])


def test_a_new_document_replaces_the_old_one(fleet: Fleet) -> None:
    ours, other = Peers(fleet.seat("ours")), Peers(fleet.seat("other"))
    other.publish(can("Other"), [])
    assert ours.find_able(GRAPH)[0] == []
    other.publish(can("Other", "Fancy"), [])
    assert ours.find_able(GRAPH)[0] == ["other"]


def test_one_that_was_taken_over_publishes_nothing(fleet: Fleet) -> None:
    seat = fleet.seat("fenced")
    os.rename(seat.path, f"{seat.path}-gone")
    with pytest.raises(Fenced):
        Peers(seat).publish(can("Fancy"), [])

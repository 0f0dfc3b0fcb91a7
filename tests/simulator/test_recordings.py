"""The simulator answers as a real ComfyUI 0.33 did, but for the rows of one table."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.simulator import Simulator, start_simulator
from tests.simulator import replay

pytestmark = pytest.mark.xdist_group("recordings")

# (cases, a difference that is known (a regular expression), why it stays)
DIFFERENCES: list[tuple[str, str, str]] = []


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("recordings"), "--probe-nodes") as running:
        yield running


@pytest.mark.parametrize("name", replay.names())
def test_the_simulator_answers_as_recorded(name: str, simulator: Simulator) -> None:
    case = replay.load(name)
    replay.empty_folders(simulator)
    simulator.control(restart=True)
    if "dummy.safetensors" in case.get("setup", ""):
        (simulator.base / "models" / "checkpoints" / "dummy.safetensors").write_bytes(b"not a model")
    differences = replay.Replay(simulator, case).run()
    known = [pattern for cases, pattern, _ in DIFFERENCES if name[:2] in cases.split()]
    unknown = [line for line in differences if not any(re.search(pattern, line) for pattern in known)]
    assert unknown == []
    gone = [pattern for pattern in known if not any(re.search(pattern, line) for line in differences)]
    assert gone == [], "the table names differences that are none any more"


def test_every_row_of_the_table_names_a_recording() -> None:
    numbers = {name[:2] for name in replay.names()}
    assert all(set(cases.split()) <= numbers for cases, _, _ in DIFFERENCES)

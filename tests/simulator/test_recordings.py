"""The simulator answers as a real ComfyUI 0.33 did, but for the rows of one table."""

import re
from collections.abc import Iterator

import pytest

from tests.servers.simulator import Simulator, start_simulator
from tests.simulator import replay

pytestmark = pytest.mark.xdist_group("recordings")

# (cases, a difference that is known (a regular expression), why it stays)
DIFFERENCES = [
    ("06 12", r"preview_output\.(nodeId|filename)", "one of several outputs, chosen by the order of the nodes"),
    ("12", r"case12both_0000[12]", "which of two nodes under one prefix gets 00001 depends on the order of the nodes"),
    ("48", r"\.(dependent_outputs|errors\[[01]\]|details)", "order of the nodes, and of a node's inputs"),
    ("16", r"GET /view\?filename=ComfyUI_temp_\w+\.png.*Content-Disposition", "it has the five random letters"),
    ("25", r"000006|tiny-grey", "decoding by PyAV refuses some tiny pictures; Pillow takes them"),
    ("25", r"a_(jpg|webp)_00001_\.png: pixels", "PyAV and Pillow round the colours of JPEG and WebP differently"),
    ("52", r"exception_message", "the tips after the first sentence of the hint are left out"),
    ("71 81", r"\.system\.(ram_\w+|python_version|argv)", "the machine's own"),
    ("71 81", r"\.system\.(comfyui_version|simulated)", "it says that it is a simulator"),
    ("71 81", r"\.system\.(required|installed|comfy_package|pytorch|deploy)", "there is no frontend and no torch"),
    ("71 81", r"\.devices\[0\]\.(torch_)?vram_", "the machine's own"),
]


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
    differences = replay.Replay(simulator, name, case).run()
    known = [pattern for cases, pattern, _ in DIFFERENCES if name[:2] in cases.split()]
    unknown = [line for line in differences if not any(re.search(pattern, line) for pattern in known)]
    assert unknown == []
    gone = [pattern for pattern in known if not any(re.search(pattern, line) for line in differences)]
    assert gone == [], "the table names differences that are none any more"


def test_every_row_of_the_table_names_a_recording() -> None:
    numbers = {name[:2] for name in replay.names()}
    assert all(set(cases.split()) <= numbers for cases, _, _ in DIFFERENCES)

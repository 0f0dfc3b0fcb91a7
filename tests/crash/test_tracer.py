"""The tracer itself: it counts over all threads, and kills before a call is done or after."""

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.test_kill_points import TRACER

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows the calls of x86-64 only")

PROGRAM = """
import os, sys, threading
def work(name):
    for number in range(2):
        os.mkdir(f"{sys.argv[1]}/{name}-{number}")
for name in "abc":
    thread = threading.Thread(target=work, args=(name,))
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize(
    ("moment", "point", "status", "made"),
    [
        ("entry", "mkdir c-# #2", 128 + signal.SIGKILL, ["a-0", "a-1", "b-0", "b-1", "c-0"]),
        ("exit", "mkdir b-# #1", 128 + signal.SIGKILL, ["a-0", "a-1", "b-0"]),
        ("entry", "mkdir d-# #1", 0, ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]),
    ],
)
def test_a_program_is_killed_at_the_call(tmp_path: Path, moment: str, point: str, status: int, made: list[str]) -> None:
    root, log = tmp_path / "root", tmp_path / "log"
    root.mkdir()
    traced = [sys.executable, "-c", PROGRAM, str(root)]
    command = [sys.executable, "-S", str(TRACER), str(root), str(log), moment, point, *traced]
    assert subprocess.run(command, timeout=60).returncode == status
    assert sorted(path.name for path in root.iterdir()) == made
    seen = log.read_text().splitlines()
    assert seen[:2] == ["mkdir a-# #1", "mkdir a-# #2"]
    assert len(seen) == len(made) + (moment == "entry" and status != 0)

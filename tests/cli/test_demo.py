"""The demo as people start it: a process of its own, on a simulator it starts or on a server that is already there."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handoff.folders import Folders
from handoff.spool.seat import Seat
from handoff.status import OutputEntry
from handoff_cli.demo import Sample, _find_problem, _find_reason, _list_known
from tests.servers.simulator import Simulator, start_simulator

COMMAND = [sys.executable, "-m", "handoff_cli", "demo"]


@pytest.fixture
def comfyui(tmp_path: Path) -> Iterator[Simulator]:
    """It stands for a real one: the demo did not start it."""
    with start_simulator(tmp_path / "real") as simulator:
        yield simulator


def environment(**settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HANDOFF_")}
    return inherited | {f"HANDOFF_{name.upper()}": value for name, value in settings.items()}


def play(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=100
    )


def processes_in(folder: Path) -> list[int]:
    """Whose working directory lies below this folder."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            here = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if here.startswith(str(folder)):
            found.append(int(pid))
    return found


def wait_for_processes(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(found := processes_in(folder)) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{count} processes were expected in {folder}")


def printed_paths(text: str) -> list[str]:
    return re.findall(r"^ {2}(\S+\.png)$", text, re.MULTILINE)


def check_results(folder: Path, text: str, output: Path) -> None:
    """Six files that exist, each with the sha256 in its status."""
    paths = printed_paths(text)
    assert len(paths) == len(set(paths)) == 6
    documents = [json.loads(path.read_bytes()) for path in output.glob("*/status.json")]
    recorded = {entry["name"]: entry["sha256"] for document in documents for entry in document["outputs"]}
    for path in paths:
        data = (folder / path).read_bytes()
        assert recorded[os.path.basename(path)] == hashlib.sha256(data).hexdigest()
    assert [document["status"] for document in documents] == ["succeeded"] * 3


def test_three_jobs_on_its_own_simulator(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HANDOFF_BUCKET=not-for-the-demo\nHANDOFF_COMFYUI_URL=http://192.0.2.1:1\n")
    began = time.monotonic()
    done = play(tmp_path, comfyui_url="http://192.0.2.1:1", input_dir="/nowhere")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 55
    root = tmp_path / "data/demo-1"
    check_results(tmp_path, done.stdout, root / "output")
    for name in ("city.json", "sea.json", "sun.json"):
        assert f"{name}: succeeded" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert len(done.stdout.splitlines()) <= 45
    assert processes_in(tmp_path) == []
    assert [path.name for path in (root / "input").iterdir() if path.suffix == ".json"] == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing_running(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for_processes(tmp_path / "data", 2)
    process.send_signal(number)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert "nothing was left running" in text
    assert processes_in(tmp_path) == []


def wait_for_watcher(folder: Path) -> int:
    """Its process id, once it is itself and no longer a copy of the demo."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in wait_for_processes(folder, 1):
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"watch" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        time.sleep(0.01)
    raise TimeoutError("no watcher was started")


def test_a_watcher_that_dies_is_named(tmp_path: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    os.kill(wait_for_watcher(tmp_path / "data"), signal.SIGKILL)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "The watcher ended by itself" in text
    assert "data/demo-1/watcher.log" in text
    assert processes_in(tmp_path) == []


def test_on_a_comfyui_that_is_there(tmp_path: Path, comfyui: Simulator) -> None:
    kept = comfyui.input_dir / "mine.png"
    kept.write_bytes(b"mine")
    for number in (1, 2):  # twice: an earlier demo's results are not taken for this one's
        done = play(tmp_path, "--comfyui-url", comfyui.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(set(printed_paths(done.stdout))) == 6
        assert len(list(comfyui.output_dir.glob("demo-*/status.json"))) == 3 * number
        if number == 1:
            check_results(tmp_path, done.stdout, comfyui.output_dir)
    assert comfyui.process.poll() is None
    assert f"{comfyui.input_dir}/.handoff stays" in done.stdout
    assert sorted(path.name for path in comfyui.input_dir.iterdir() if path.is_file()) == ["mine.png"]
    assert comfyui.control()["prompts_accepted"] == 6
    assert comfyui.control()["harmful_requests"] == 0


def test_a_failed_job_is_no_success(tmp_path: Path, comfyui: Simulator) -> None:
    comfyui.control(node_exception=1)
    done = play(tmp_path, "--comfyui-url", comfyui.url)
    assert done.returncode == 1
    assert "SIMULATED failure of a node" in done.stdout
    assert "data/demo-1/watcher.log" in done.stdout
    assert len(printed_paths(done.stdout)) == 4


def test_an_earlier_rejection_says_nothing_about_this_one(tmp_path: Path) -> None:
    folders = Folders(input=str(tmp_path / "input"), output=str(tmp_path / "output"))
    for path in (folders.rejected, folders.output):
        os.makedirs(path)
    sample = Sample(name="red.json", about="", body={})

    def reject(name: str, file: str) -> None:
        reason = {"file": file, "message": f"{name} is wrong.", "hint": "Mend it."}
        Path(folders.rejected, f"{name}.reason.json").write_text(json.dumps(reason))

    reject("red.json", "red.json")
    known = _list_known(folders)
    reject("blue.json", "blue.json")
    assert _find_reason(folders, sample, known) is None
    reject("red-2.json", "red.json")
    assert _find_reason(folders, sample, known) == "red-2.json is wrong. Mend it."


def test_folders_that_are_not_comfyuis(tmp_path: Path, comfyui: Simulator) -> None:
    other = tmp_path / "other"
    other.mkdir()
    done = play(tmp_path, "--comfyui-url", comfyui.url, input_dir=str(other), output_dir=str(comfyui.output_dir))
    assert done.returncode == 3
    assert f"{other} is not the one that ComfyUI shows" in done.stdout
    assert "HANDOFF_INPUT_DIR" in done.stdout
    assert list(other.iterdir()) == []
    assert list(comfyui.output_dir.iterdir()) == []
    assert not (tmp_path / "data").exists()


def test_folders_that_are_not_here(tmp_path: Path) -> None:
    with start_simulator(tmp_path / "real") as simulator:
        gone = tmp_path / "elsewhere"
        simulator.base.rename(gone)
        done = play(tmp_path, "--comfyui-url", simulator.url)
        gone.rename(simulator.base)
    assert done.returncode == 3
    assert f"{simulator.input_dir} is not on this machine" in done.stdout
    assert not (tmp_path / "data").exists()


def test_a_comfyui_that_is_away(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = play(tmp_path, "--comfyui-url", f"http://127.0.0.1:{port}")
    assert done.returncode == 3
    assert "does not answer" in done.stdout
    assert not (tmp_path / "data").exists()


def test_no_address(tmp_path: Path) -> None:
    done = play(tmp_path, "--comfyui-url", "localhost:8188")
    assert done.returncode == 2
    assert "http://HOST:PORT" in done.stdout


def test_a_watcher_that_works_there_already(tmp_path: Path, comfyui: Simulator) -> None:
    folders = Folders(input=str(comfyui.input_dir), output=str(comfyui.output_dir))
    folders.make()
    seat = Seat(folders, "another server")
    try:
        done = play(tmp_path, "--comfyui-url", comfyui.url)
    finally:
        seat.leave()
    assert done.returncode == 3
    assert "A watcher already works" in done.stdout
    assert not (tmp_path / "data").exists()


def test_where_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file stands where the folder should be")
    done = play(tmp_path)
    assert done.returncode == 2
    assert "Run the demo where you may write" in done.stdout


def test_other_bytes_than_recorded_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    right = OutputEntry(name="a.png", kind="image", media_type="image/png", bytes=3, sha256=sha256, key="jobs/a/a.png")
    assert _find_problem(path, right) is None
    assert _find_problem(path, right.model_copy(update={"sha256": "0" * 64})) is not None
    assert _find_problem(path, right.model_copy(update={"bytes": 4})) is not None
    assert _find_problem(tmp_path / "gone.png", right) == "No such file or directory"

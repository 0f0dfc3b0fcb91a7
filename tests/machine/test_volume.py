"""The volume itself fails while jobs run: full, out of inodes, read-only, emptied, removed, unmounted."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.jobs import canvas, encode, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.test_installation import fill
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.machine.mounts import mounted
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

JOBS = 100 if SOAK else 12
ROUNDS = 10 if SOAK else 1


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    with mounted(folder, "-t", "tmpfs", "-o", options, "none"):
        yield


def drop_in_place(volume: Volume, name: str, job: object) -> None:
    """Written where it lies: `input/` is a mount of its own."""
    data = encode(job)  # type: ignore[arg-type]
    (volume.input / name).write_bytes(data)
    volume.note(name, data)


Spoil = Callable[[Volume], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def full(volume: Volume) -> Iterator[None]:
    ballast = volume.input / "ballast.bin"
    fill(ballast)
    yield
    ballast.unlink()


@contextlib.contextmanager
def out_of_inodes(volume: Volume) -> Iterator[None]:
    folder = volume.input / "uploads" / "ballast"
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (folder / str(number)).touch()
    yield
    shutil.rmtree(folder)


@contextlib.contextmanager
def read_only(volume: Volume) -> Iterator[None]:
    """By a second mount over the first: the lease that is held open for writing forbids to remount that one."""
    with mounted(volume.input, "--bind", str(volume.input)):
        command = ["mount", "-o", "remount,bind,ro", str(volume.input)]
        # refused as long as a file is open for writing here, which the watcher's may be for a moment
        eventually(lambda: subprocess.run(command, capture_output=True).returncode == 0, "it is read-only")
        yield


@pytest.mark.timeout(1800 if SOAK else 240)
@pytest.mark.parametrize("spoil", [full, out_of_inodes, read_only])
def test_input_is_in_trouble_for_a_while(volume: Volume, watch: StartWatcher, note: Note, spoil: Spoil) -> None:
    with tmpfs(volume.input, "size=2m,nr_inodes=1000"), run_simulator(volume) as simulator:
        watcher = watch(simulator, scan_s=1)
        watcher.wait_for("comfyui_up")
        for number in range(ROUNDS):
            names = [f"job-{number}-{job}.json" for job in range(JOBS)]
            for name in names:  # some wait, some run, some are on their way out
                drop_in_place(volume, name, sleeping(0.05))
            eventually(lambda: simulator.control()["executions"], "the first ones run")
            with spoil(volume):
                watcher.wait_for("disk", count=number + 1)
                executions = sum(simulator.control()["executions"].values())
            watcher.wait_for("disk_recovered", count=number + 1)
            volume.succeed(*names, limit_s=120)
        check_promises(volume, simulator, watchers=(watcher,))
        note(jobs=ROUNDS * JOBS, executed_before_it_was_over=executions)
        watcher.kill()


def test_output_is_read_only_for_a_while(volume: Volume, watch: StartWatcher, note: Note) -> None:
    with tmpfs(volume.output, "size=4m"), run_simulator(volume) as simulator:
        watcher = watch(simulator, scan_s=1)
        watcher.wait_for("comfyui_up")
        names = [f"job-{job}.json" for job in range(JOBS)]
        watcher.freeze()
        for name in names:
            volume.drop(name, canvas())
        subprocess.run(["mount", "-o", "remount,ro", volume.output], check=True)
        watcher.thaw()
        watcher.wait_for("disk")
        subprocess.run(["mount", "-o", "remount,rw", volume.output], check=True)
        watcher.wait_for("disk_recovered")
        volume.succeed(*names, limit_s=120)
        check_promises(volume, simulator, watchers=(watcher,))
        note(jobs=len(names))
        watcher.kill()


def begin(volume: Volume, simulator: Simulator, watch: StartWatcher, *, seconds: float) -> Watcher:
    """One job is done, one runs, one waits."""
    watcher = watch(simulator, scan_s=0.5, window=1)
    volume.drop("before.json", canvas(id="before"))
    volume.succeed("before.json")
    volume.drop("during.json", sleeping(seconds, id="during"))
    volume.wait_until("during.json", "running")
    volume.drop("waits.json", canvas(id="waits"))
    eventually(lambda: len(os.listdir(volume.spool / "inbox")), "it waits")
    return watcher


def look_inside(simulator: Simulator) -> list[object]:
    queue = requests.get(f"{simulator.url}/queue", timeout=10).json()
    return [*queue["queue_running"], *queue["queue_pending"]]


How = Literal["emptied", "recreated", "spool removed"]


def remove_input(volume: Volume, how: How) -> None:
    if how == "recreated":
        shutil.rmtree(volume.input)
        volume.input.mkdir()
        return
    for path in [volume.spool] if how == "spool removed" else list(volume.input.iterdir()):
        shutil.rmtree(path)


@pytest.mark.parametrize("how", ["emptied", "recreated", "spool removed"])
def test_input_is_removed_while_jobs_run(volume: Volume, simulator: Simulator, watch: StartWatcher, how: How) -> None:
    """The jobs whose records were deleted are gone, which the log says; results stay, and what comes later is taken."""
    watcher = begin(volume, simulator, watch, seconds=30)
    done = (volume.output / "before" / "status.json").read_bytes()
    remove_input(volume, how)
    said = watcher.wait_for("removed")
    assert said["ids"] == ["during"]
    watcher.wait_for("watching", count=2)
    eventually(lambda: not look_inside(simulator), "nobody draws for a job that is gone")
    volume.drop("after.json", canvas(id="after"))
    volume.drop("during-again.json", canvas(id="waits"))
    volume.succeed("after.json", "during-again.json")
    assert (volume.output / "before" / "status.json").read_bytes() == done
    assert watcher.process.poll() is None


@pytest.mark.parametrize("how", ["emptied", "recreated"])
def test_output_is_removed_while_jobs_run(volume: Volume, simulator: Simulator, watch: StartWatcher, how: How) -> None:
    """The records lie in input/: every job that was accepted and not done ends well, and is drawn once."""
    watcher = begin(volume, simulator, watch, seconds=1)
    if how == "recreated":
        shutil.rmtree(volume.output)
        volume.output.mkdir()
    else:
        for path in list(volume.output.iterdir()):
            shutil.rmtree(path)
    watcher.wait_for("watching", count=2)
    volume.drop("after.json", canvas())
    statuses = volume.succeed("during.json", "waits.json", "after.json")
    assert [status["attempt"] for status in statuses] == [1, 1, 1]
    assert volume.bucket.get("jobs/before/status.json") is not None


def test_the_volume_goes_away_and_comes_back(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    """As when an operator unmounts and mounts it: for a while the watcher sees the empty folders below."""
    shown = volume.root / "shown"
    with contextlib.ExitStack() as stack:
        stack.enter_context(mounted(shown, "--bind", str(volume.root)))
        watcher = watch(simulator, input_dir=shown / "input", output_dir=shown / "output", scan_s=0.5)
        volume.drop("before.json", canvas())
        volume.succeed("before.json")
        volume.drop("during.json", sleeping(1))
        volume.wait_until("during.json", "running")
        stack.close()
        volume.drop("meanwhile.json", canvas())
        watcher.wait_for("no_seat")
        stack.enter_context(mounted(shown, "--bind", str(volume.root)))
        watcher.wait_for("watching", count=2)
        volume.succeed("during.json", "meanwhile.json")
        check_promises(volume, simulator, watchers=(watcher,))
        watcher.kill()
    note(jobs=3)


def test_input_alone_goes_away_and_comes_back(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    """What lies below its mount point can be written to: nothing says that the jobs were removed, and nothing is stopped."""
    shown = volume.root / "shown"
    with contextlib.ExitStack() as stack:
        stack.enter_context(mounted(shown, "--bind", str(volume.input)))
        watcher = watch(simulator, input_dir=shown, scan_s=0.5)
        volume.drop("during.json", sleeping(8, id="during"))
        volume.wait_until("during.json", "running")
        for number in (1, 2):
            stack.close()
            watcher.wait_for("watching", count=2 * number)
            stack.enter_context(mounted(shown, "--bind", str(volume.input)))
            watcher.wait_for("watching", count=2 * number + 1)
            watcher.wait_for("resumed", count=number)
        assert watcher.wait_for("other_volume")["ids"] == ["during"]
        [status] = volume.succeed("during.json")
        assert status["attempt"] == 1
        assert not [line for line in watcher.log if line["event"] == "removed"]
        check_promises(volume, simulator, watchers=(watcher,))
        watcher.kill()

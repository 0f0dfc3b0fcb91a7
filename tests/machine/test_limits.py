"""Few file descriptors, and volumes that are cut into mounts."""

import pytest

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.machine.mounts import mounted
from tests.servers.simulator import Simulator


@pytest.mark.parametrize("limit", [64, 32])
def test_few_file_descriptors(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note, limit: int
) -> None:
    watcher = watch(simulator, scan_s=0.5, wrap=("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"))
    watcher.wait_for("comfyui_up")
    names = [f"job-{number}.json" for number in range(40)]
    for name in names:
        volume.drop(name, canvas())
    volume.succeed(*names)
    check_promises(volume, simulator, watchers=(watcher,))
    note(descriptors=limit, jobs=len(names))


@pytest.mark.parametrize(
    "folder", ["input/uploads", "input/rejected", "input/.handoff", "input/.handoff/ids", "input/.handoff/tmp",
               "input/.handoff/done", "output/.handoff", "output/.handoff/work"]
)  # fmt: skip
def test_two_mounts_of_one_file_system_stop_the_start(volume: Volume, watch: StartWatcher, folder: str) -> None:
    """The device numbers are the same, and a rename between them is refused all the same."""
    within = volume.root / folder
    within.mkdir(parents=True)
    with mounted(within, "--bind", str(within)):
        watcher = watch("http://127.0.0.1:9")
        assert watcher.wait() == 2
    assert "as one volume" in watcher.text
    assert f"{folder.partition('/')[0]}/" in watcher.text
    assert "Traceback" not in watcher.text

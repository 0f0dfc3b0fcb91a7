"""Three containers, three users, one group: who drops, the watcher, and ComfyUI."""

import os
import subprocess

import pytest

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, encode, sleeping
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.machine.mounts import as_user, share
from tests.servers.simulator import start_simulator

DROPPER, WATCHER, COMFYUI = 61_204, 61_205, 61_206


def drop_as(volume: Volume, name: str, data: bytes, *, umask: str) -> None:
    """Written in place, by another user."""
    command = [*as_user(DROPPER, umask=umask), "sh", "-c", 'cat > "$1"', "sh", str(volume.input / name)]
    subprocess.run(command, input=data, check=True)


@pytest.mark.parametrize("umask", ["002", "022"])
def test_three_users_of_one_group(volume: Volume, watch: StartWatcher, note: Note, umask: str) -> None:
    share(volume.root.parent, volume.root, volume.input, volume.output)
    base = volume.root / "comfyui"
    base.mkdir()
    share(base)
    comfyui = tuple(as_user(COMFYUI, umask=umask))
    with start_simulator(
        base, "--probe-nodes", input_dir=volume.input, output_dir=volume.output, wrap=comfyui
    ) as simulator:
        watcher = watch(simulator, wrap=as_user(WATCHER, umask="077"), scan_s=0.5, settle_s=0.5)
        watcher.wait_for("comfyui_up")
        jobs = {"one.json": canvas(), "two.json": sleeping(0.1), "gone.json": sleeping(60, id="gone")}
        for name, job in jobs.items():
            drop_as(volume, name, encode(job), umask=umask)
            volume.note(name, encode(job))
        drop_as(volume, "bad.json", b"[1]", umask=umask)
        volume.note("bad.json", b"[1]")
        volume.wait_until("gone.json", "running")
        drop_as(volume, "gone.cancel", b"", umask=umask)
        drop_as(volume, "secret.json", secret := encode(canvas()), umask="077")
        volume.note("secret.json", secret)
        said = volume.reason("secret.json")
        assert said["reason"] == "unreadable"
        assert "chmod g+r" in said["hint"]
        os.chmod(volume.input / "rejected" / "secret.json", 0o640)  # as the hint says
        os.rename(volume.input / "rejected" / "secret.json", volume.input / "secret.json")
        volume.succeed("one.json", "two.json", "secret.json")
        (gone,) = volume.finish("gone.json")
        assert gone["status"] == "cancelled"
        assert volume.reason("bad.json")["reason"] == "not_a_job"
        check_promises(volume, simulator, watchers=(watcher,))
        owners = {path.stat().st_uid for path in volume.output.glob("*/status.json")}
        assert owners == {WATCHER}
        note(users=3, jobs=len(volume.jobs()))


def test_comfyui_keeps_its_pictures_to_itself(volume: Volume, watch: StartWatcher) -> None:
    """With umask 077 nobody else may read what it drew: the job says so, and what to do."""
    share(volume.root.parent, volume.root, volume.input, volume.output)
    base = volume.root / "comfyui"
    base.mkdir()
    share(base)
    comfyui = tuple(as_user(COMFYUI, umask="077"))
    with start_simulator(base, input_dir=volume.input, output_dir=volume.output, wrap=comfyui) as simulator:
        watcher = watch(simulator, wrap=as_user(WATCHER))
        volume.drop("one.json", canvas())
        (status,) = volume.finish("one.json")
        assert not status["ok"]
        assert "ermission" in status["error"]["message"]
        check_promises(volume, simulator, watchers=(watcher,))


def test_a_volume_that_the_watcher_may_not_write_stops_the_start(volume: Volume, watch: StartWatcher) -> None:
    volume.root.parent.chmod(0o755)
    watcher = watch("http://127.0.0.1:9", wrap=as_user(WATCHER))
    assert watcher.wait() == 2
    assert "group" in watcher.text
    assert "Traceback" not in watcher.text

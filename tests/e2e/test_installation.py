"""Where a watcher is put: two mounts, a full disk, a mount without events, wrong settings, foreign buckets."""

import os
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.jobs import canvas, encode
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.machine.mounts import mounted
from tests.servers.simulator import Simulator
from tests.servers.watcher import start_watcher


def in_memory(folder: Path, size: str) -> AbstractContextManager[None]:
    """A file system of its own."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none")


def test_input_and_output_are_two_mounts(volume: Volume, watch: StartWatcher) -> None:
    with in_memory(volume.input, "16m"), in_memory(volume.output, "16m"), run_simulator(volume) as simulator:
        watcher = watch(simulator)
        for name in ("one.json", "two.json"):
            data = encode(canvas())
            (volume.input / name).write_bytes(data)
            volume.note(name, data)
        volume.note("bad.json", b'{"hello": 1}')
        (volume.input / "bad.json").write_bytes(b'{"hello": 1}')
        volume.succeed("one.json", "two.json")
        assert volume.reason("bad.json")["reason"] == "not_a_job"
        check_promises(volume, simulator, watchers=(watcher,))
        watcher.kill()


def test_a_folder_below_input_that_is_another_mount_stops_the_start(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    inbox = volume.spool / "inbox"
    inbox.mkdir(parents=True)
    with in_memory(inbox, "1m"):
        watcher = watch(simulator)
        assert watcher.wait() == 2
        assert "mount" in watcher.text
        assert str(volume.input) in watcher.text or "input/" in watcher.text


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_full_disk_delays_and_loses_nothing(volume: Volume, watch: StartWatcher, which: str) -> None:
    full = volume.input if which == "input" else volume.output
    with in_memory(full, "4m"), run_simulator(volume) as simulator:
        watcher = watch(simulator)
        watcher.wait_for("comfyui_up")
        data = [encode(canvas()) for _ in range(5)]
        names = [f"job-{number}.json" for number in range(5)]
        for name, content in zip(names, data, strict=True):
            volume.note(name, content)
        # written before the disk is full and claimed after it: only then has the watcher to cope
        watcher.freeze()
        for name, content in zip(names, data, strict=True):
            (volume.input / name).write_bytes(content)
        fill(full / "ballast.bin")
        volume.left.add("ballast.bin")
        watcher.thaw()
        watcher.wait_for("disk")
        os.unlink(full / "ballast.bin")
        statuses = volume.finish(*names)
        watcher.wait_for("disk_recovered")
        for status in statuses:
            # ComfyUI itself may have met the full disk: that is a failure with a name, and never a false success
            assert status["ok"] or (which == "output" and status["error"]["reason"] in ("node_error", "output_broken"))
        check_promises(volume, simulator, watchers=(watcher,))
        watcher.kill()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_polling_needs_no_events(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    watcher = watch(simulator, watch="polling", scan_s=0.3)
    watcher.wait_for("polling", why="HANDOFF_WATCH=polling")
    for name in ("one.json", "two.json"):
        volume.drop(name, canvas())
    volume.succeed("one.json", "two.json")
    check_promises(volume, simulator, watchers=(watcher,))


def test_a_job_folder_is_replaced_while_it_is_watched(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    """As when a volume is restored from a backup: what the watcher owned is gone, and it starts anew."""
    watcher = watch(simulator, scan_s=0.5)
    volume.drop("before.json", canvas())
    volume.succeed("before.json")
    check_promises(volume, simulator, watchers=(watcher,))
    backup = volume.root / "backup"
    shutil.copytree(volume.spool, backup, ignore=shutil.ignore_patterns("w-*"))
    volume.spool.rename(volume.root / "old-spool")
    backup.rename(volume.spool)
    watcher.wait_for("watching", count=2)
    volume.drop("after.json", canvas())
    volume.succeed("after.json")
    check_promises(volume, simulator, watchers=(watcher,))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HANDOFF_WINDOWS": "3"}, ("HANDOFF_WINDOWS", "HANDOFF_WINDOW")),
        ({"window": "many"}, ("HANDOFF_WINDOW",)),
        ({"input_dir": "/nowhere/input"}, ("HANDOFF_INPUT_DIR", "/nowhere/input")),
        ({"HANDOFF_COMFYUI_URL": "127.0.0.1:8188"}, ("HANDOFF_COMFYUI_URL", "http://")),
        ({"lease_s": 1}, ("HANDOFF_LEASE_S",)),
        ({"language": "fr"}, ("HANDOFF_LANGUAGE",)),
        ({"url_allow": "http://*"}, ("HANDOFF_URL_ALLOW",)),
        ({"s3_prefix": "../up"}, ("HANDOFF_S3_", "prefix", "../up")),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_touched(
    volume: Volume, watch: StartWatcher, settings: dict[str, object], words: tuple[str, ...]
) -> None:
    volume.drop("waits.json", canvas())
    watcher = watch("http://127.0.0.1:9", **settings)
    assert watcher.wait() == 2
    for word in words:
        assert word in watcher.text
    assert "Traceback" not in watcher.text
    assert (volume.input / "waits.json").exists()


def test_two_installations_cannot_share_a_prefix(volume: Volume, simulator: Simulator, watch: StartWatcher) -> None:
    first = watch(simulator)
    volume.drop("first.json", canvas())
    volume.succeed("first.json")
    check_promises(volume, simulator, watchers=(first,))
    other = Volume.make(volume.root / "other")
    with (
        run_simulator(other) as elsewhere,
        start_watcher(other.root, elsewhere.url, bucket_dir=volume.root / "bucket") as second,
    ):
        other.drop("foreign.json", canvas())
        assert second.wait() != 0
        assert "HANDOFF_S3_PREFIX" in second.text + "".join(str(line) for line in second.log)
    assert not [key for key in volume.bucket.list_keys() if "foreign" in key]

"""`handoff watch` that cannot start, and `handoff health`."""

import json
import time
from pathlib import Path

import pytest

from handoff.spool.seat import Seat
from tests.cli.conftest import House, Place, eventually, running_watcher

pytestmark = pytest.mark.xdist_group("cli-watchers")  # one house for all

NOWHERE = "http://127.0.0.1:9"


class TestStart:
    def test_a_folder_that_was_set_must_exist(self, place: Place) -> None:
        ran = place.run("watch", input_dir=place.root / "nothing").expect(2)
        assert "HANDOFF_INPUT_DIR" in ran.err

    def test_a_wrong_setting(self, place: Place) -> None:
        assert "HANDOFF_WINDOW" in place.run("watch", window="many").expect(2).err

    def test_a_second_one_on_the_same_comfyui(self, house: House) -> None:
        assert "another watcher" in house.run("watch").expect(2).err

    def test_a_bucket_that_cannot_be(self, place: Place) -> None:
        assert "HANDOFF_BUCKET" in place.run("watch", bucket="Not A Bucket", comfyui_url=NOWHERE).expect(2).err


class TestHealth:
    def test_alive(self, house: House) -> None:
        eventually(lambda: house.health().get("comfyui") == "up", "a beat that knows of ComfyUI")
        answer = house.run("health", "--json").expect(0).json
        assert answer["ok"] is True
        (watcher,) = answer["watchers"]
        assert watcher["health"]["comfyui"] == "up"
        assert "comfyui" in house.run("health").expect(0).out

    def test_of_another_comfyui(self, house: House) -> None:
        assert NOWHERE in house.run("health", comfyui_url=NOWHERE).expect(3).err
        house.run("health", "--any", comfyui_url=NOWHERE).expect(0)

    def test_none_and_a_killed_one(self, place: Place) -> None:
        folders = place.make_folders()
        answer = place.run("health", "--json", "--any").expect(3)
        assert answer.json == {"ok": False, "watchers": []}
        seat = Seat(folders, "a server")
        seat.beat({})
        place.run("health", watcher_name="a server").expect(0)
        seat.lease.close()
        assert "silent or unlocked" in place.run("health", watcher_name="a server").expect(3).err
        assert "the last one is silent" in place.run("submit", "txt2img", "-p", "prompt=x").expect(0).err

    def test_one_on_another_machine_is_looked_at_twice(self, place: Place) -> None:
        seat = Seat(place.make_folders(), "a server")
        seat.lease.text = seat.lease.text.model_copy(update={"boot_id": "another"})
        seat.beat({})
        with place.start("health", "--any", "--json") as process:
            while process.poll() is None:
                seat.beat({})
                time.sleep(0.05)
            assert process.stdout is not None
            assert json.load(process.stdout)["ok"] is True
        assert process.returncode == 0
        place.run("health", "--any").expect(3)
        seat.lease.close()


def test_no_password_is_shown(place: Place) -> None:
    url = "http://me:hush@host:8188"
    seat = Seat(place.make_folders(), f"host {url}")
    for is_alive in (True, False):
        seat.beat({}) if is_alive else seat.lease.close()
        for arguments in (["health", "--any"], ["health", "--any", "--json"], ["health"]):
            ran = place.call(*arguments, comfyui_url=url)
            assert "host" in ran.out + ran.err
            assert "hush" not in ran.out + ran.err


def test_a_job_waits_for_the_first_watcher(house: House, tmp_path: Path) -> None:
    place = Place(tmp_path, {"HANDOFF_COMFYUI_URL": house.simulator.url, "HANDOFF_WATCHER_NAME": "late"})
    ran = place.run("submit", "txt2img", "-p", "prompt=x", "--id", "early").expect(0)
    assert "No watcher works on" in ran.err
    assert "handoff watch" in ran.err
    assert place.run("status", "early", "--json").expect(0).json["queue_position"] == 1
    document = place.root / "data/output/early/status.json"
    with running_watcher(place):
        # the shared ComfyUI writes into the other house's output folder, so that this job can only fail
        place.run("status", "early", "--wait").expect(1)
    assert json.loads(document.read_text())["error"]["reason"] == "output_missing"
    place.run("health").expect(3)


@pytest.mark.parametrize("reason", ["", "because\x1b[31m of this"])
def test_a_reason_is_text_and_nothing_else(place: Place, reason: str) -> None:
    place.make_folders()
    place.run("pause", "--reason", reason).expect(0)
    ran = place.run("pause").expect(0)
    assert "\x1b" not in ran.err
    assert "Paused since 20" in ran.err

"""Every planted mistake breaks a promise that the tests notice; without it the same scene goes well."""

import json
import re
from collections.abc import Callable

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher, run_simulator
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import remember_executions
from tests.e2e.test_bucket import give_back, take_away
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.planted.faults import FAULTS
from tests.planted.relay import relay
from tests.planted.stage import Stage
from tests.planted.test_fsync_audit import FLUSHES
from tests.servers.simulator import Simulator

Scene = Callable[[Stage], None]


def killed_just_after_the_post(stage: Stage) -> None:
    first = stage.watch()
    stage.simulator.control(silent_replies=1)
    stage.volume.drop("a.json", canvas())
    eventually(lambda: stage.simulator.control()["prompts_accepted"], "ComfyUI has it")
    first.kill()
    stage.let_on()
    stage.watch()
    stage.volume.succeed("a.json")
    stage.check()


def killed_while_it_runs(stage: Stage) -> None:
    first = stage.watch()
    stage.volume.drop("a.json", sleeping(1.0))
    eventually(lambda: stage.is_started("a.json"), "it runs")
    first.kill()
    stage.watch()
    stage.volume.succeed("a.json")
    stage.check()


def cut_off_while_the_post_is_under_way(stage: Stage) -> None:
    with relay(stage.simulator.url) as wire:
        stage.watch(wire.url)
        stage.simulator.control(delayed_posts=1, post_delay_s=1.0)
        stage.volume.drop("a.json", canvas())
        eventually(lambda: stage.simulator.control()["prompts_received"], "the POST is there")
        wire.cut()
        stage.volume.succeed("a.json")
        eventually(stage.is_idle, "every POST is taken up")
        assert sum(stage.simulator.control()["executions_by_tag"].values()) == 1, "it was drawn twice"
        stage.check()


def the_answer_to_the_post_is_lost(stage: Stage) -> None:
    stage.watch()
    stage.simulator.control(lost_replies=1)
    stage.volume.drop("a.json", sleeping(0.5))
    stage.volume.succeed("a.json")
    stage.check()


def comfyui_restarts_while_it_runs(stage: Stage) -> None:
    stage.watch()
    stage.volume.drop("a.json", sleeping(1.0))
    eventually(lambda: stage.is_started("a.json"), "it runs")
    remember_executions(stage.volume, stage.simulator)
    stage.simulator.restart()
    stage.volume.succeed("a.json")
    stage.check(allowed={"a.json": 2})


def killed_when_the_end_is_in_the_bucket(stage: Stage) -> None:
    first = stage.watch()
    stage.volume.drop("a.json", canvas(id="a"))
    document = eventually(lambda: stage.volume.bucket.get("jobs/a/status.json"), "the bucket has the end")
    first.kill()
    stage.let_on()
    stage.watch()
    stage.volume.succeed("a.json")
    stage.check()
    assert stage.volume.bucket.get("jobs/a/status.json") == document, "a final status changed"


def killed_while_the_bucket_is_away(stage: Stage) -> None:
    take_away(stage.volume)
    first = stage.watch()
    stage.volume.drop("a.json", canvas())
    first.wait_for("bucket_away")
    (status,) = stage.volume.jobs().values()
    first.kill()
    assert not status["ok"], "success, and the bucket has nothing"
    give_back(stage.volume)
    stage.let_on()
    stage.watch()
    stage.volume.succeed("a.json")
    stage.check()


def killed_after_the_drop_left_the_input_folder(stage: Stage) -> None:
    first = stage.watch()
    stage.pause()
    stage.volume.drop("a.json", canvas())
    stage.wait_for_the_moment(lambda: first.find("accepted"))
    first.kill()
    stage.let_on()
    stage.unpause()
    stage.watch()
    stage.volume.drop("b.json", canvas())
    stage.volume.succeed("b.json")
    assert stage.volume.find("a.json"), "a job was lost"
    stage.check()


def two_watchers_see_one_file(stage: Stage) -> None:
    with run_simulator(stage.volume, name="comfyui-2") as other:
        stage.watch()
        stage.watch(other)
        stage.volume.drop("a.json", canvas())
        stage.wait_for_the_moment(lambda: stage.is_done("a.json"), of=2)
        stage.let_on()
        stage.volume.succeed("a.json")
        stage.check(other)


def two_watchers_take_in_one_id(stage: Stage) -> None:
    with run_simulator(stage.volume, name="comfyui-2") as other:
        stage.watch()
        stage.watch(other)
        for name in ("a.json", "b.json"):
            stage.volume.drop(name, canvas(id="wanted"))
        rejected = stage.volume.input / "rejected"
        stage.wait_for_the_moment(lambda: list(rejected.glob("*.json")), of=2)
        stage.let_on()
        eventually(lambda: stage.volume.jobs() and all(job["done"] for job in stage.volume.jobs().values()), "it ends")
        stage.check(other)


def a_frozen_watcher_wakes_up(stage: Stage) -> None:
    with run_simulator(stage.volume, name="comfyui-2") as other:
        frozen = stage.watch()
        stage.volume.drop("a.json", sleeping(600, run_timeout_s=1))
        stage.wait_for_the_moment(lambda: stage.is_started("a.json"))
        frozen.freeze()
        stage.watch(other, waits=False).wait_for("took_over")
        (status,) = stage.volume.finish("a.json")
        eventually(lambda: stage.volume.bucket.get(f"jobs/{status['id']}/status.json"), "the bucket has the end")
        frozen.thaw()
        stage.let_on()
        stage.volume.drop("b.json", canvas())
        stage.volume.succeed("b.json")
        eventually(lambda: frozen.find("fenced") or stage.volume.status(status["id"]) != status, "it has woken up")
        eventually(lambda: not stage.half_published(), "what it was about to publish is out or gone")
        assert stage.volume.status(status["id"]) == status, "a final status changed"
        stage.check(other, allowed={"a.json": 2})


def cancelled_and_killed(stage: Stage) -> None:
    first = stage.watch()
    stage.pause()
    stage.volume.drop("a.json", canvas(id="a"))
    first.wait_for("accepted")
    mark = stage.volume.input / "a.cancel"
    mark.touch()
    eventually(lambda: not mark.exists(), "it is heard")
    first.kill()
    stage.let_on()
    stage.unpause()
    stage.watch()
    (status,) = stage.volume.finish("a.json")
    assert status["status"] == "cancelled", "the wish to cancel was forgotten"
    stage.check()


def comfyui_saves_an_empty_file(stage: Stage) -> None:
    stage.watch()
    stage.simulator.control(outputs=["empty"])
    stage.volume.drop("a.json", canvas())
    stage.volume.finish("a.json")
    stage.check()


def somebody_reads_all_the_time(stage: Stage) -> None:
    stage.watch()
    stage.volume.drop("a.json", canvas(id="a"))
    stage.wait_for_the_moment(lambda: stage.is_done("a.json"))
    for path in stage.volume.output.glob("a/*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise AssertionError(f"{path.name} was half written") from None
    stage.let_on()
    stage.volume.succeed("a.json")
    stage.check()


def a_bad_file_is_dropped(stage: Stage) -> None:
    stage.watch()
    stage.volume.drop("a.json", b'{"hello": 1}')
    eventually(lambda: not (stage.volume.input / "a.json").exists(), "it is gone")
    stage.volume.drop("b.json", canvas())
    stage.volume.succeed("b.json")
    stage.check()


CAUGHT: dict[str, tuple[Scene, str]] = {
    "status_written_in_place": (somebody_reads_all_the_time, "half written"),
    "journal_after_the_post": (killed_just_after_the_post, "one attempt was executed more than once"),
    "status_before_objects": (killed_while_the_bucket_is_away, "success, and the bucket has nothing"),
    "decision_after_the_bucket": (killed_when_the_end_is_in_the_bucket, "a final status changed"),
    "claim_by_copy": (two_watchers_see_one_file, "a.json: 2 jobs"),
    "claim_removed_before_it_is_out": (killed_after_the_drop_left_the_input_folder, "a job was lost"),
    "id_looked_up_only": (two_watchers_take_in_one_id, "json: 0 jobs, rejected: False"),
    "no_fencing": (a_frozen_watcher_wakes_up, "a final status changed"),
    "pen_left_to_the_dead": (a_frozen_watcher_wakes_up, "a final status changed"),
    "check_then_write": (a_frozen_watcher_wakes_up, "a final status changed"),
    "no_look_up_before_resubmitting": (killed_while_it_runs, "was executed 2 times"),
    "unclear_post_sent_again": (the_answer_to_the_post_is_lost, "one attempt was executed more than once"),
    "no_quiet_time": (cut_off_while_the_post_is_under_way, "it was drawn twice"),
    "attempt_number_reused": (comfyui_restarts_while_it_runs, "one attempt was executed more than once"),
    "mark_removed_before_the_decision": (cancelled_and_killed, "the wish to cancel was forgotten"),
    "outputs_not_verified": (comfyui_saves_an_empty_file, "> 0"),
    "bad_file_deleted": (a_bad_file_is_dropped, "a.json: 0 jobs, rejected: False"),
    "id_drawn_anew": (killed_after_the_drop_left_the_input_folder, "assert {'a-"),
}
"""Which scene shows the mistake, and what is said of it."""

SLOW = {"pen_left_to_the_dead", "check_then_write"}
"""A lease has to run out in their scene, as in that of `no_fencing`; tests/histories shows them always."""

SCENES = {scene.__name__: scene for scene, _ in CAUGHT.values()}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_without_a_mistake(volume: Volume, simulator: Simulator, watch: StartWatcher, scene: Scene) -> None:
    scene(Stage(volume, simulator, watch))


@pytest.mark.parametrize("fault", [fault for fault in CAUGHT if SOAK or fault not in SLOW])
def test_caught(volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note, fault: str) -> None:
    scene, words = CAUGHT[fault]
    with pytest.raises(AssertionError, match=re.escape(words)) as caught:
        scene(Stage(volume, simulator, watch, fault))
    note(caught_by=scene.__name__, said=repr(str(caught.value).splitlines()[0]))


def test_every_mistake_has_its_test() -> None:
    assert CAUGHT.keys() | FLUSHES.keys() == FAULTS.keys()
    assert not CAUGHT.keys() & FLUSHES.keys()

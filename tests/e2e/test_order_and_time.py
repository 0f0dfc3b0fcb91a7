"""Priorities, time-outs, pause and cancel."""

import time

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import House
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.volume import Status, eventually


def pause(house: House) -> None:
    (house.volume.spool / "paused").touch()


def go_on(house: House) -> None:
    (house.volume.spool / "paused").unlink()


def wait_in_inbox(house: House, *names: str) -> None:
    """Until the jobs are accepted; they are not claimed while the house is paused."""
    for name in names:
        house.watcher.wait_for("accepted", file=name)


def order_of_execution(house: House, names: set[str]) -> list[str]:
    jobs = house.volume.jobs()
    tags = house.simulator.control()["executions_by_tag"]  # in the order in which they began
    sources = [jobs[tag.split("/")[0]]["source"] for tag in tags]
    return [source for source in sources if source in names]


def cancel(house: House, id: str) -> None:
    (house.volume.input / f"{id}.cancel").touch()


def mark_is_gone(house: House, id: str) -> bool:
    return not (house.volume.input / f"{id}.cancel").exists()


def test_the_higher_priority_is_drawn_first_and_then_the_older(house: House) -> None:
    priorities = [0, -100, 5, 100, 0, 5, -1]
    names = [f"p{number}.json" for number in range(len(priorities))]
    pause(house)
    for name, priority in zip(names, priorities, strict=True):
        house.volume.drop(name, {**sleeping(0.2), "priority": priority})
        wait_in_inbox(house, name)
    go_on(house)
    house.volume.succeed(*names)
    assert order_of_execution(house, set(names)) == [
        "p3.json", "p2.json", "p5.json", "p0.json", "p4.json", "p6.json", "p1.json"
    ]  # fmt: skip
    house.check()


def test_a_paused_watcher_accepts_and_does_not_draw(house: House) -> None:
    before = sum(house.simulator.control()["executions"].values())
    pause(house)
    house.volume.drop("patient.json", canvas())
    wait_in_inbox(house, "patient.json")
    time.sleep(0.5)  # time enough to do what it must not
    assert house.volume.find("patient.json") is None
    assert sum(house.simulator.control()["executions"].values()) == before
    go_on(house)
    house.volume.succeed("patient.json")
    house.check()


def test_a_job_that_waits_too_long_expires(house: House) -> None:
    pause(house)
    house.volume.drop("late.json", canvas(queue_timeout_s=0.5))
    house.volume.drop("patient-too.json", canvas(queue_timeout_s=600))
    (status,) = house.volume.finish("late.json")
    assert status["status"] == "expired"
    assert status["error"]["reason"] == "queue_timeout"
    assert "0.5" in status["error"]["message"]
    assert status["attempt"] == 0
    go_on(house)
    house.volume.succeed("patient-too.json")
    house.check()
    assert order_of_execution(house, {"late.json"}) == []


def test_a_job_that_runs_too_long_fails_and_comfyui_is_free_again(house: House) -> None:
    house.volume.drop("endless.json", sleeping(600, run_timeout_s=0.5))
    (status,) = house.volume.finish("endless.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "timeout")
    house.volume.drop("after.json", canvas())
    house.volume.succeed("after.json")
    house.check()


def test_cancel_a_waiting_job(house: House) -> None:
    pause(house)
    house.volume.drop("unwanted.json", canvas(id="unwanted"))
    wait_in_inbox(house, "unwanted.json")
    cancel(house, "unwanted")
    (status,) = house.volume.finish("unwanted.json")
    assert (status["status"], status["error"]["reason"]) == ("cancelled", "cancelled")
    eventually(lambda: mark_is_gone(house, "unwanted"), "the mark is gone")
    go_on(house)
    house.check()
    assert order_of_execution(house, {"unwanted.json"}) == []


def test_cancel_before_the_job_arrives(house: House) -> None:
    cancel(house, "early")
    house.volume.drop("early.json", sleeping(600, id="early"))
    (status,) = house.volume.finish("early.json")
    assert status["status"] == "cancelled"
    eventually(lambda: mark_is_gone(house, "early"), "the mark is gone")
    house.check()


def test_cancel_a_running_job(house: House) -> None:
    house.volume.drop("running.json", sleeping(600, id="running"))
    house.volume.drop("next.json", canvas())
    eventually(lambda: _has_started(house.volume.find("running.json")), "it runs")
    cancel(house, "running")
    (status,) = house.volume.finish("running.json")
    assert (status["status"], status["error"]["reason"]) == ("cancelled", "cancelled")
    house.volume.succeed("next.json")
    eventually(lambda: mark_is_gone(house, "running"), "the mark is gone")
    house.check()


def _has_started(status: Status | None) -> bool:
    return status is not None and status["started_at"] is not None


def test_cancel_a_finished_job_changes_nothing(house: House) -> None:
    house.volume.drop("done.json", canvas(id="all-done"))
    (before,) = house.volume.succeed("done.json")
    cancel(house, "all-done")
    eventually(lambda: mark_is_gone(house, "all-done"), "the mark is gone")
    house.check()
    assert house.volume.status("all-done") == before


@pytest.mark.skipif(not SOAK, reason="a minute: only in the long form of the tests")
def test_cancel_an_unknown_id_is_rejected_after_a_minute(house: House) -> None:
    cancel(house, "nobody-ever")
    house.volume.note("nobody-ever.cancel", b"")
    reason = house.volume.reason("nobody-ever.cancel", limit_s=100)
    assert reason["reason"] == "unknown_id"
    assert "nobody-ever" in reason["message"]
    house.check()


def test_cancel_an_unknown_id_waits_for_the_job_and_harms_nothing(house: House) -> None:
    """After a minute it goes to rejected/; that takes too long here. Until then it stays and nothing else is delayed."""
    cancel(house, "nobody")
    house.volume.left.add("nobody.cancel")
    house.volume.drop("somebody.json", canvas())
    house.volume.succeed("somebody.json")
    assert not mark_is_gone(house, "nobody")
    house.check()

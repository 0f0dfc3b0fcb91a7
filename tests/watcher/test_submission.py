"""Between the journal and ComfyUI's answer: whatever goes wrong there, the attempt stays known and is not sent twice."""

from typing import Any, cast

import pytest

from handoff.spool.listing import describe_waiting
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Fenced
from handoff.status import StatusDocument
from watcher.capabilities import Capabilities
from watcher.submission import NotPosted, Sent, Submission

NODES = Capabilities(version="0.33.0", devices=(), simulated=True, classes=frozenset({"SaveImage"}), models={})


class Outside:
    """The seat, the journal and ComfyUI in one; each call raises what the test has put into `errors`."""

    server = "here"

    def __init__(self) -> None:
        self.errors: dict[str, BaseException] = {}
        self.calls: list[str] = []
        self.marked = False

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def held(self) -> bool:
        return True

    def write(self, _: Record) -> None:
        self._call("write")

    def make_work_folder(self, record: Record) -> str:
        self._call("make_work_folder")
        return f".handoff/work/{record.token}-{record.attempt}"

    def is_cancelled(self, _: str) -> bool:
        return self.marked

    def submit(self, *_: Any, **__: Any) -> None:
        self._call("submit")

    def publish_status(self, *_: Any, **__: Any) -> None:
        self._call("publish_status")


def send(outside: Outside) -> Sent:
    nobody = cast(Any, outside)
    submission = Submission(seat=nobody, journal=nobody, comfyui=nobody, language="en", client_id=lambda: "me")
    graph = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}}
    noon = "2026-11-24T12:00:00.000Z"
    record = Record(token="0" * 16, id="cat", sha256="", received_at=noon, body={}, job=Plan(graph=graph))
    document: StatusDocument = describe_waiting(record)
    return submission.send(record, document, NODES, resend=False)


@pytest.mark.parametrize("error", [IsADirectoryError(), FileNotFoundError(), ZeroDivisionError()])
@pytest.mark.parametrize(("step", "outcome"), [("submit", "unclear"), ("publish_status", "accepted")])
def test_what_nobody_foresaw_does_not_forget_the_attempt(step: str, outcome: str, error: Exception) -> None:
    outside = Outside()
    outside.errors[step] = error
    sent = send(outside)
    assert (sent.outcome, sent.record.attempt, sent.trouble) == (outcome, 1, error)


def test_before_the_post_it_says_that_nothing_was_sent() -> None:
    outside = Outside()
    outside.errors["make_work_folder"] = error = ZeroDivisionError()
    with pytest.raises(NotPosted) as caught:
        send(outside)
    assert caught.value.record.attempt == 1
    assert caught.value.__cause__ is error
    assert "submit" not in outside.calls


@pytest.mark.parametrize("step", ["make_work_folder", "publish_status"])
def test_one_that_is_fenced_says_so(step: str) -> None:
    outside = Outside()
    outside.errors[step] = Fenced()
    with pytest.raises(Fenced):
        send(outside)


def test_a_mark_that_came_late_is_seen_before_the_post() -> None:
    outside = Outside()
    outside.marked = True
    assert send(outside).outcome == "cancelled"
    assert outside.calls == ["write", "make_work_folder"]

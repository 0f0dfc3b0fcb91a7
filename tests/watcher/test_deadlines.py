"""When waiting jobs expire, and which waiting jobs are read for it."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from handoff import documents, timestamps
from handoff.durable import read_file
from handoff.spool.record import Plan, Record
from handoff.status import StatusDocument
from watcher.deadlines import YOUNG_S, Deadline, read_deadlines


def record(number: int, *, age_s: float = 0.0, timeout_s: object = 60) -> Record:
    return Record(
        token=f"{number:016x}",
        id=f"job-{number}",
        sha256="",
        received_at=timestamps.to_text(timestamps.now() - timedelta(seconds=age_s)),
        body={"queue_timeout_s": timeout_s},
    )


@pytest.mark.parametrize("timeout_s", [None, "60", 10**400, [60]], ids=lambda value: type(value).__name__)
def test_what_is_no_number_of_seconds_is_no_deadline(timeout_s: object) -> None:
    assert Deadline.of(record(1, timeout_s=timeout_s)) is None


def test_a_deadline_is_counted_from_the_acceptance() -> None:
    deadline = Deadline.of(record(1, age_s=20))
    assert deadline is not None
    assert deadline.left(timestamps.now()) == pytest.approx(40, abs=1)
    planned = record(1).evolve(job=Plan(graph={}, queue_timeout_s=9.0))
    assert Deadline.of(planned) == Deadline(token=planned.token, created_at=planned.received_at, timeout_s=9.0)


def test_one_bad_document_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeless = record(1)
    data = {
        "torn": b"{",
        "no time": timeless.to_bytes().replace(timeless.received_at.encode(), b"yesterday"),
        "too long": record(2, timeout_s=10**400).to_bytes(),
        "unreadable": record(3).to_bytes(),
        "old": record(4, age_s=YOUNG_S + 5).to_bytes(),
        "young": record(5).to_bytes(),
    }
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)

    def refuse(path: str, limit: int) -> bytes:
        if path.endswith("unreadable"):
            raise OSError(5, os.strerror(5), path)
        return read_file(path, limit)

    monkeypatch.setattr(documents, "read_file", refuse)
    told: list[StatusDocument] = []
    deadlines = read_deadlines(str(tmp_path), [*data, "claimed meanwhile"], told.append)
    assert [deadline.token for deadline in deadlines] == [f"{4:016x}", f"{5:016x}"]
    assert [document.id for document in told] == ["job-2", "job-5"]

"""Progress for pollers of the bucket: the newest word, not too often, and the last one at once."""

import time
from collections.abc import Callable, Iterator

import pytest

from handoff.failures import Unavailable
from handoff.site import ForeignSite
from handoff.status import StatusDocument
from watcher import courier
from watcher.courier import Courier

FIRST_S, PAUSE_S = 0.1, 0.2


class Bucket:
    def __init__(self) -> None:
        self.puts: list[tuple[float, StatusDocument]] = []
        self.errors: list[Exception] = []

    def put(self, document: StatusDocument) -> None:
        self.puts.append((time.monotonic(), document))
        if self.errors:
            raise self.errors.pop()

    @property
    def steps(self) -> list[str | None]:
        return [document.step for _, document in self.puts]


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Courier]:
    monkeypatch.setattr(courier, "FIRST_S", FIRST_S)
    monkeypatch.setattr(courier, "PAUSE_S", PAUSE_S)
    courier_ = Courier(bucket.put)
    yield courier_
    courier_.close(by=time.monotonic() + 5)


def document(id: str = "cat", step: str | None = None, *, done: bool = False) -> StatusDocument:
    return StatusDocument(id=id, created_at="2026-11-24T08:30:00.000Z", step=step, done=done)


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_only_the_newest_is_told(told: Courier, bucket: Bucket) -> None:
    for step in ("1", "2", "3"):
        told.tell(document(step=step))
    wait_for(lambda: bool(bucket.puts))
    assert bucket.steps == ["3"]


def test_the_first_word_waits_since_many_jobs_are_over_before(told: Courier, bucket: Bucket) -> None:
    started = time.monotonic()
    told.tell(document())
    wait_for(lambda: bool(bucket.puts))
    assert bucket.puts[0][0] - started >= FIRST_S


def test_there_is_a_pause_between_two_words_of_one_job(told: Courier, bucket: Bucket) -> None:
    told.tell(document(step="1"))
    wait_for(lambda: bool(bucket.puts))
    told.tell(document(step="2"))
    wait_for(lambda: len(bucket.puts) == 2)
    assert bucket.puts[1][0] - bucket.puts[0][0] >= PAUSE_S * 0.95


def test_the_last_word_is_told_at_once_and_is_the_last(told: Courier, bucket: Bucket) -> None:
    told.tell(document(step="1"))
    told.tell(document(step="end", done=True))
    started = time.monotonic()
    wait_for(lambda: bool(bucket.puts))
    assert bucket.puts[0][0] - started < FIRST_S
    time.sleep(FIRST_S + PAUSE_S)
    assert bucket.steps == ["end"]


def test_one_job_does_not_keep_another_waiting(told: Courier, bucket: Bucket) -> None:
    for id in ("cat", "dog", "cow"):
        told.tell(document(id))
    wait_for(lambda: len(bucket.puts) == 3)
    assert {document.id for _, document in bucket.puts} == {"cat", "dog", "cow"}


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a mistake")])
def test_an_error_costs_one_word(told: Courier, bucket: Bucket, error: Exception) -> None:
    bucket.errors.append(error)
    told.tell(document("cat", "1"))
    wait_for(lambda: len(bucket.puts) == 1)
    told.tell(document("dog", "2"))
    wait_for(lambda: len(bucket.puts) == 2)
    assert bucket.steps == ["1", "2"]


def test_a_flood_is_bounded(told: Courier, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_MOST", 10)
    monkeypatch.setattr(courier, "FIRST_S", 0.3)
    for number in range(100):
        told.tell(document(f"job-{number}"))
    told.tell(document("job-3", "newer"))
    wait_for(lambda: len(bucket.puts) == 10)
    time.sleep(0.1)
    assert {document.id for _, document in bucket.puts} == {f"job-{number}" for number in range(10)}
    assert "newer" in bucket.steps


def test_nothing_is_kept_of_jobs_whose_last_word_another_watcher_has(told: Courier, bucket: Bucket) -> None:
    for number in range(100):
        for _ in range(10):
            told.tell(document(f"job-{number}"))
    assert len(told._order) == 100
    wait_for(lambda: len(bucket.puts) == 100)
    wait_for(lambda: not told._due)
    assert (told._newest, told._order) == ({}, [])


def test_the_order_does_not_grow_while_the_bucket_is_away(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "PAUSE_S", 0.5)
    bucket.errors = [Unavailable("away")] * 1000
    courier_ = Courier(bucket.put)
    courier_.tell(document("first", done=True))
    wait_for(lambda: len(bucket.puts) == 1)
    for step in range(1000):
        courier_.tell(document("cat", str(step)))
    assert len(courier_._order) == 1
    courier_.close(by=time.monotonic() + 5)


def test_a_job_that_another_watcher_took_is_not_told_of_as_waiting(bucket: Bucket, told: Courier) -> None:
    told._has_status = {"theirs", "sent"}.__contains__
    told.tell(document("theirs"))
    told.tell(document("sent").evolve(attempt=1))
    told.tell(document("ours"))
    wait_for(lambda: not told._due)
    assert {document.id for _, document in bucket.puts} == {"sent", "ours"}


def test_in_a_foreign_bucket_nothing_more_is_told(bucket: Bucket, told: Courier) -> None:
    bucket.errors.append(ForeignSite("another installation's"))
    told.tell(document("cat"))
    wait_for(lambda: not told._thread.is_alive())
    told.tell(document("dog"))
    assert [document.id for _, document in bucket.puts] == ["cat"]
    assert "dog" not in told._newest


def test_closing_is_quick(bucket: Bucket) -> None:
    courier_ = Courier(bucket.put)
    courier_.tell(document())
    started = time.monotonic()
    courier_.close(by=time.monotonic() + 5)
    assert time.monotonic() - started < 1
    assert bucket.puts == []

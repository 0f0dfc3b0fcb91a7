"""The jobs that wait: order, what is passed over, and that a hundred thousand of them are no burden."""

import random
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from handoff.job import inbox_name
from watcher.waiting import Waiting


def name(rank: int, token: int) -> str:
    return inbox_name(f"{rank:020d}", f"{token:016x}")


def drain(waiting: Waiting) -> list[str | None]:
    found = []
    while (token := waiting.next()) is not None:
        found.append(waiting.name(token))
        waiting.discard(token)
    return found


@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_sorted_names_are_the_order_of_work(ranks: list[int]) -> None:
    waiting = Waiting()
    names = [name(rank, token) for token, rank in enumerate(ranks)]
    for one in names:
        assert waiting.add(one)
    assert len(waiting) == len(names)
    assert drain(waiting) == sorted(names)
    assert len(waiting) == 0


def test_the_next_is_left_in_place() -> None:
    waiting = Waiting()
    waiting.add(name(1, 1))
    assert waiting.next() == waiting.next() == f"{1:016x}"
    assert f"{1:016x}" in waiting
    assert waiting.name(f"{1:016x}") == name(1, 1)
    assert waiting.name("0" * 16) is None


def test_what_is_known_or_no_job_is_not_added() -> None:
    waiting = Waiting()
    assert waiting.add(name(1, 1))
    assert not waiting.add(name(1, 1))
    for stranger in ("a.json", "", ".trial-0123", "1-2.json", name(1, 1) + "~"):
        assert not waiting.add(stranger)
    assert len(waiting) == 1


def test_who_is_set_aside_has_no_turn_until_it_is_brought_back_to_its_place() -> None:
    waiting = Waiting()
    for rank in range(5):
        waiting.add(name(rank, rank))
    aside = [f"{0:016x}", f"{1:016x}", f"{4:016x}"]
    for token in aside:
        waiting.set_aside(token)
    assert waiting.next() == f"{2:016x}"
    waiting.bring_back(aside.pop())
    assert drain(waiting) == [name(2, 2), name(3, 3), name(4, 4)]
    assert len(waiting) == 2
    for token in aside:
        waiting.bring_back(token)
    assert drain(waiting) == [name(0, 0), name(1, 1)]


def test_one_may_be_set_aside_before_it_is_back_in_the_inbox() -> None:
    waiting = Waiting()
    waiting.set_aside(f"{1:016x}")
    assert waiting.add(name(1, 1))
    assert waiting.next() is None
    waiting.bring_back(f"{1:016x}")
    assert drain(waiting) == [name(1, 1)]


def test_one_that_is_gone_is_set_aside_no_longer() -> None:
    waiting = Waiting()
    waiting.add(name(1, 1))
    waiting.set_aside(f"{1:016x}")
    waiting.discard(f"{1:016x}")
    waiting.add(name(1, 1))
    assert drain(waiting) == [name(1, 1)]


def test_a_hundred_thousand_that_only_others_can_run_slow_nothing_down() -> None:
    waiting = Waiting()
    for number in range(100_000):
        waiting.add(name(number, number))
        waiting.set_aside(f"{number:016x}")
    waiting.add(name(100_000, 100_000))
    started = time.perf_counter()
    for _ in range(1000):
        assert waiting.next() == f"{100_000:016x}"
    assert time.perf_counter() - started < 5, "about 0.1 s; passing all of them over each time would take minutes"


def test_one_that_comes_back_waits_once() -> None:
    waiting = Waiting()
    for _ in range(3):
        assert waiting.add(name(1, 1))
        waiting.discard(f"{1:016x}")
    assert waiting.add(name(1, 1))
    assert drain(waiting) == [name(1, 1)]


def test_one_that_comes_back_with_another_rank_has_the_new_one() -> None:
    waiting = Waiting()
    waiting.add(name(9, 1))
    waiting.discard(f"{1:016x}")
    waiting.add(name(1, 1))
    waiting.add(name(5, 2))
    assert drain(waiting) == [name(1, 1), name(5, 2)]


def test_a_scan_tells_what_is_new_and_forgets_what_is_gone(tmp_path: Path) -> None:
    waiting = Waiting()
    for rank in (1, 2):
        (tmp_path / name(rank, rank)).touch()
    (tmp_path / "stranger").touch()
    waiting.add(name(1, 1))
    assert list(waiting.scan(str(tmp_path))) == [name(2, 2)]
    assert list(waiting.scan(str(tmp_path))) == []
    (tmp_path / name(1, 1)).unlink()
    (tmp_path / name(0, 3)).touch()
    assert list(waiting.scan(str(tmp_path))) == [name(0, 3)]
    assert drain(waiting) == [name(0, 3), name(2, 2)]


def test_a_hundred_thousand_jobs() -> None:
    waiting = Waiting()
    names = [name(random.randrange(10**9), token) for token in range(100_000)]
    started = time.perf_counter()
    for one in names:
        waiting.add(one)
    found = drain(waiting)
    elapsed = time.perf_counter() - started
    assert found == sorted(names)
    assert elapsed < 10, "about 0.5 s; a search through all names would take minutes"

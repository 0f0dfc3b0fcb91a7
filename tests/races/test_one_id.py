"""One id, wanted by many at once: one job, and everybody else is told."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.conftest import SOAK
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Status, Volume, eventually
from tests.figures import Note
from tests.races import contenders
from tests.races.contenders import Contenders, Step
from tests.races.fleet import run_simulators, start_watchers

DROPS = 50
ROUNDS = 20 if SOAK else 3


@pytest.fixture(scope="module")
def eight() -> Iterator[Contenders]:
    contenders = Contenders()
    with contenders.pool:
        yield contenders


@pytest.mark.parametrize("bodies", [1, 2])
def test_fifty_drops_of_one_id_are_one_job(volume: Volume, watch: StartWatcher, note: Note, bodies: int) -> None:
    with run_simulators(volume, 2) as simulators:
        watchers = start_watchers(watch, simulators)
        drawn = [canvas(id="contested") for _ in range(bodies)]
        names = [f"{'ab'[number % bodies]}-{number}.json" for number in range(DROPS)]
        for number, name in enumerate(names):
            volume.drop(name, drawn[number % bodies])
        winner = ended(volume, "contested")
        same = {name for name in names if name[0] == winner["source"][0]}
        others = set(names) - same

        def answered() -> bool:
            replayed = {line["file"] for watcher in watchers for line in watcher.find("replay")}
            return replayed == same - {winner["source"]} and rejected(volume) == others

        eventually(answered, "every file has its answer")
        volume.replays |= same - {winner["source"]}
        assert {volume.reason(name)["reason"] for name in others} <= {"id_taken"}
        check_promises(volume, *simulators, watchers=tuple(watchers))
        note(drops=DROPS, bodies=bodies, jobs=len(volume.jobs()), replays=len(volume.replays), conflicts=len(others))


@pytest.mark.timeout(60 * ROUNDS + 60)
def test_one_id_submitted_by_eight_processes_is_one_job(
    volume: Volume, watch: StartWatcher, note: Note, eight: Contenders
) -> None:
    with run_simulators(volume, 2) as simulators:
        watchers = start_watchers(watch, simulators)
        for number in range(ROUNDS):
            body, other = canvas(), canvas()
            same = [partial(contenders.submit, id=f"wanted-{number}", body=body) for _ in range(6)]
            differs = [partial(contenders.submit, id=f"wanted-{number}", body=other) for _ in range(2)]
            answers = eight.contend(volume.root, [*same, *differs])
            assert answers.count("new") == 1
            replays, conflicts = (5, 2) if "new" in answers[:6] else (1, 6)
            assert (answers.count("replay"), answers.count("id_taken")) == (replays, conflicts)
            assert ended(volume, f"wanted-{number}")["ok"]
        assert len(volume.jobs()) == ROUNDS
        check_promises(volume, *simulators, watchers=tuple(watchers))
        note(processes=8, rounds=ROUNDS, jobs=len(volume.jobs()))


@pytest.mark.timeout(60 * ROUNDS + 60)
def test_cancel_retry_and_drop_of_one_id_at_once(
    volume: Volume, watch: StartWatcher, note: Note, eight: Contenders
) -> None:
    """The id belongs to a job that was cancelled. Nothing that happens to it now changes how it ended; a retry is a new job."""
    with run_simulators(volume, 2) as simulators:
        watchers = start_watchers(watch, simulators)
        retried = 0
        for number in range(ROUNDS):
            id, body = f"turn-{number}", canvas()
            (volume.input / f"{id}.cancel").touch()
            volume.drop(f"{id}.json", {**body, "id": id})
            before = ended(volume, id)
            assert before["status"] == "cancelled"
            steps: list[Step] = [
                *(partial(contenders.cancel, id=id) for _ in range(2)),
                *(partial(contenders.retry, id=id) for _ in range(3)),
                partial(contenders.cancel, id=f"{id}-r1", after_s=0.05 * (number % 5)),
                partial(contenders.drop, name=f"{id}-again.json", body={**body, "id": id}),
                partial(contenders.submit, id=id, body=body),
            ]
            answers = eight.contend(volume.root, steps)
            assert sorted(answers[2:5]) == ["new", "replay", "replay"]
            assert answers[7] == "replay"
            again = ended(volume, f"{id}-r1")
            assert again["retry_of"] == id
            assert again["status"] in ("succeeded", "cancelled")
            retried += again["ok"]
            assert volume.status(id) == before
        for watcher in watchers:
            assert not watcher.find("rejected")
        check_promises(volume, *simulators, watchers=tuple(watchers))
        assert len(volume.jobs()) == 2 * ROUNDS
        note(rounds=ROUNDS, retries_that_succeeded=retried, retries_that_were_cancelled=ROUNDS - retried)


def ended(volume: Volume, id: str) -> Status:
    def look() -> Status | None:
        found = volume.status(id)
        return found if found is not None and found["done"] else None

    return eventually(look, f"{id} ends")


def rejected(volume: Volume) -> set[str]:
    return {path.name for path in (volume.input / "rejected").iterdir() if not path.name.endswith(".reason.json")}

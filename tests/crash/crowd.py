"""Job files of every kind, thrown into a volume while its watchers are killed."""

import random
from collections.abc import Callable
from typing import Any

from tests.e2e.jobs import Job, canvas, encode, graph, sleeping
from tests.e2e.volume import Volume

REJECTS: tuple[Callable[[int], bytes], ...] = (
    lambda number: b'{"hello": %d}' % number,
    lambda number: b'{"workflow": "canvas", "params": {"width": -%d}}' % (number + 1),
    lambda number: b'{"prompt": "cut off %d' % number,
)


class Crowd:
    """Seeded. `jobs` counts what has to end as a job: neither rejected files nor replays."""

    def __init__(self, volume: Volume, chance: random.Random) -> None:
        self.jobs = 0
        self.rejects: set[str] = set()
        self.submitted: set[str] = set()
        self._volume = volume
        self._chance = chance
        self._number = 0
        self._by_id: dict[str, list[str]] = {}
        """Names of the files that hold a job with this id and the same body."""
        self._bodies: dict[str, Job] = {}

    def add(self) -> None:
        self._number += 1
        add = self._chance.choices(
            [
                self._named,
                self._anonymous,
                self._exported,
                self._submitted,
                self._replay,
                self._reject,
                self._cancelled,
            ],
            weights=[6, 4, 4, 3, 2, 2, 2],
        )[0]
        add(f"{add.__name__.strip('_')}-{self._number}")

    def note_replays(self) -> None:
        """Afterwards: of the files with one id exactly one became the job, whichever was first."""
        sources = {status["source"] for status in self._volume.jobs().values()}
        for names in self._by_id.values():
            winners = sources & set(names)
            assert len(winners) == 1, f"{names}: {winners}"
            self._volume.replays |= set(names) - winners

    def _drawing(self, **fields: Any) -> Job:
        return sleeping(self._chance.uniform(0.0, 0.3), **fields) if self._chance.random() < 0.5 else canvas(**fields)

    def _drop(self, name: str, job: Job | bytes) -> None:
        self._volume.drop(f"{name}.json", job)
        self.jobs += 1

    def _named(self, name: str) -> None:
        self._bodies[name] = self._drawing(id=name)
        self._by_id[name] = [f"{name}.json"]
        self._drop(name, self._bodies[name])

    def _anonymous(self, name: str) -> None:
        self._drop(name, self._drawing(priority=self._chance.randint(-5, 5)))

    def _exported(self, name: str) -> None:
        nodes = graph(seconds=self._chance.uniform(0.0, 0.2))
        body = self._chance.choice([nodes, {"prompt": nodes, "client_id": "x"}, {"prompt": f"a cat, {name}"}])
        self._drop(name, encode(body).decode().encode(self._chance.choice(["utf-8", "utf-8-sig", "utf-16"])))

    def _submitted(self, name: str) -> None:
        self._volume.submit(name, self._drawing())
        self.submitted.add(name)
        self.jobs += 1

    def _replay(self, name: str) -> None:
        if self._bodies:
            id = self._chance.choice(list(self._bodies))
            self._by_id[id].append(f"{name}.json")
            self._volume.drop(f"{name}.json", self._bodies[id])

    def _reject(self, name: str) -> None:
        self._volume.drop(f"{name}.json", self._chance.choice(REJECTS)(self._number))
        self.rejects.add(f"{name}.json")

    def _cancelled(self, name: str) -> None:
        """The mark lies there at once: the job may still run, since success that was already reached wins."""
        self._drop(name, sleeping(self._chance.uniform(0.0, 0.3), id=name))
        (self._volume.input / f"{name}.cancel").touch()

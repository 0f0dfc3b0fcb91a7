"""Any order of what may happen to a spool: drops, requests, repetitions, cancels, kills, freezes, takeovers."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handoff.failures import Failure
from handoff.spool import publisher
from handoff.spool.seat import Fenced
from tests.spool import actors
from tests.spool.actors import Actor, Killed, run
from tests.spool.world import Watcher, World, record_of, recover, run_watcher

IDS = st.sampled_from(["cat", "dog", "cow"])
BODIES = st.sampled_from(["black", "white"])
STEPS = st.integers(1, 260)


class Spool(RuleBasedStateMachine):
    """What was promised is written down here; at the end everything is brought to rest and compared with it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.root = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.world = World(Path(self.root, "world"))
        self.promised: dict[str, str] = {}
        """Id to body of every request that was answered."""
        self.frozen: list[Actor] = []
        self.anonymous = 0
        self.dropped = 0
        self.decided: dict[str, bytes] = {}

    @initialize()
    def install(self) -> None:
        actors.install(self.patch)

    def teardown(self) -> None:
        try:
            for actor in self.frozen:
                actor.finish()
                assert isinstance(actor.error, Fenced | None), actor.error
            recover(self.world)
            self.check_the_end()
        finally:
            self.patch.undo()
            shutil.rmtree(self.root)

    def check_the_end(self) -> None:
        held = self.world.reservations()
        rejected = {name: data for name, data in self.world.rejected().items() if not name.endswith(".reason.json")}
        self.world.check_at_rest(jobs=len(held), rejected=rejected, runs=1 + len(self.frozen))
        for id, body in self.promised.items():
            assert held[id].body["prompt"] == body
        assert sum(id.startswith("drop") for id in held) == self.anonymous, "a drop was lost or taken in twice"

    @rule(id=IDS, body=BODIES)
    def request(self, id: str, body: str) -> None:
        self.remember(id, body, self.publish(id, body))

    @rule(id=IDS, body=BODIES, at=st.integers(1, 30))
    def request_and_die(self, id: str, body: str, at: int) -> None:
        actor = run(lambda: self.publish(id, body), stop_at=at)
        if isinstance(actor.error, Killed):
            return
        self.remember(id, body, actor.result)

    def publish(self, id: str, body: str) -> str:
        try:
            return publisher.publish(self.world.folders, record_of(id, {"prompt": body}))
        except Failure:
            return "conflict"

    def remember(self, id: str, body: str, answer: str) -> None:
        if answer == "conflict":
            assert self.world.reservations()[id].body["prompt"] != body
        else:
            assert self.promised.setdefault(id, body) == body, "two bodies were promised under one id"

    @rule()
    def drop(self) -> None:
        self.anonymous += 1
        self.world.drop(f"drop{self.anonymous}.json", {"prompt": "grey"})

    @rule(id=IDS, body=BODIES)
    def drop_with_an_id(self, id: str, body: str) -> None:
        self.dropped += 1
        self.world.drop(f"{self.dropped}-named.json", {"id": id, "prompt": body})

    @rule()
    def drop_rubbish(self) -> None:
        self.dropped += 1
        self.world.drop(f"{self.dropped}-bad.json", b"{")

    @rule(id=IDS)
    def cancel(self, id: str) -> None:
        if id in self.world.reservations():
            self.world.cancel(id)

    @rule()
    def work(self) -> None:
        run_watcher(self.world)

    @rule(at=STEPS)
    def work_and_die(self, at: int) -> None:
        actor = run(lambda: run_watcher(self.world), stop_at=at)
        assert isinstance(actor.error, Killed | None), actor.error

    @precondition(lambda self: len(self.frozen) < 2)
    @rule(at=STEPS)
    def work_and_freeze(self, at: int) -> None:
        """Under a name of its own, since a second watcher of the same ComfyUI would not start."""
        server = f"frozen {len(self.frozen)}"
        self.frozen.append(run(lambda: run_watcher(self.world, server), stop_at=at, freeze=True))

    @rule(at=st.integers(0, 300))
    def take_over(self, at: int) -> None:
        """After the lease: also those that are frozen."""

        def work() -> None:
            watcher = Watcher(self.world)
            watcher.take_over_the_dead(after_the_lease=True)
            watcher.run()

        actor = run(work, stop_at=at)
        assert isinstance(actor.error, Killed | None), actor.error

    @invariant()
    def nothing_final_changes(self) -> None:
        for path in Path(self.world.folders.output).glob("*/status.json"):
            data = path.read_bytes()
            if b'"done":true' in data:
                assert self.decided.setdefault(path.parent.name, data) == data

    @invariant()
    def every_id_has_one_token(self) -> None:
        holders: dict[str, Any] = {id: record.token for id, record in self.world.reservations().items()}
        assert len(set(holders.values())) == len(holders)


TestSpool = Spool.TestCase
TestSpool.settings = settings(stateful_step_count=15, suppress_health_check=list(HealthCheck), deadline=None)

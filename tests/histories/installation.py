"""Everything that may happen to an installation with the real watcher, one rule each.

What was promised meanwhile is written down; at the end everything is healed, brought to rest and compared with it.
"""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import ClassVar, get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handoff import timestamps
from handoff.decode import canonical
from handoff.job import parse_job
from handoff.spool.listing import find_record
from handoff.spool.publisher import make_retry
from handoff.spool.record import Record
from tests.histories import bucket, comfyui
from tests.histories.process import Process
from tests.histories.world import URLS, Body, World, run
from tests.spool.actors import Actor, Killed
from watcher.decisions import REFUSALS, STRIKES

IDS = st.sampled_from(["cat", "dog", "cow"])
CALLS = st.one_of(
    st.tuples(st.integers(1, 300), st.just("")),
    st.tuples(st.integers(1, 3), st.sampled_from(["rename", "link", "unlink", "POST", "answered", "PUT", "confirmed"])),
)
"""The n-th call; or the n-th of one kind, of the system, of ComfyUI or of the bucket."""
BAD = st.sampled_from([b"{", b"[]", b'{"graph": {}}', b'{"id": "NO", "prompt": 1}', b"\xff"])
COUNTS: Counter[str] = Counter()


def graph(color: int, seconds: float) -> Body:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"color": color}},
        "5": {"class_type": "ProbeSleep", "inputs": {"image": ["1", 0], "seconds": seconds}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "picture"}},
    }


BODIES = st.builds(
    lambda color, seconds, options: {"graph": graph(color, seconds), **options},
    st.integers(1, 2),
    st.sampled_from([0.0, 0.0, 8.0, 70.0]),
    st.sampled_from([{}, {}, {"queue_timeout_s": 20}, {"run_timeout_s": 30}, {"priority": 5}]),
)


def body_of(content: Body | bytes) -> Body:
    """As it is kept in a record."""
    assert isinstance(content, dict)
    return parse_job(content, default_workflow="none").body


class Installation(RuleBasedStateMachine):
    fault: ClassVar[str | None] = None
    """A mistake that is planted in the programs, to see that it is found."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.fault)
        self.promised: dict[str, Body] = {}
        """Id and body of all that was answered 2xx."""
        self.drops: dict[str, Body | bytes] = {}
        self.cancelled: set[str] = set()
        self.adapters: list[tuple[Actor, str, Body]] = []
        """Frozen ones."""
        self.number = 0
        self.happened = 0

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world.dice.seed(seed)
        self.world.start(URLS[0])

    def teardown(self) -> None:
        try:
            for adapter, id, body in self.adapters:
                self.wake(adapter, id, body)
            self.world.settle()
            self.check_the_end()
            COUNTS.update(self.world.counts)
            COUNTS.update(examples=1, events=self.happened, jobs=len(self.world.ends))
        finally:
            self.world.close()

    # jobs come in

    @rule(id=IDS, body=BODIES)
    def publish(self, id: str, body: Body) -> None:
        self.remember(id, body, run(lambda: self.world.publish(self.world.record(id, body))))

    @rule(body=BODIES)
    def publish_without_an_id(self, body: Body) -> None:
        self.number += 1
        self.publish(f"random-{self.number}", body)

    @rule(id=IDS, body=BODIES, at=st.integers(1, 30))
    def publish_and_be_killed(self, id: str, body: Body, at: int) -> None:
        self.remember(id, body, run(lambda: self.world.publish(self.world.record(id, body)), stop_at=at))

    @precondition(lambda self: len(self.adapters) < 2)
    @rule(id=IDS, body=BODIES, at=st.integers(1, 30))
    def publish_and_freeze(self, id: str, body: Body, at: int) -> None:
        adapter = run(lambda: self.world.publish(self.world.record(id, body)), stop_at=at, freeze=True)
        self.adapters.append((adapter, id, body))

    @precondition(lambda self: self.adapters)
    @rule()
    def thaw_an_adapter(self) -> None:
        self.wake(*self.adapters.pop(0))

    def wake(self, adapter: Actor, id: str, body: Body) -> None:
        adapter.finish()
        self.remember(id, body, adapter)

    def remember(self, id: str, body: Body, adapter: Actor) -> None:
        match adapter.result, adapter.error:
            case None, Killed():
                self.world.counts["kills"] += 1
            case "conflict", None:
                assert self.holder(id).body != body_of(body)
            case _, None:
                assert self.promised.setdefault(id, body) == body, "two bodies were promised under one id"
                self.world.flushes.check_answer(id)
            case _, error:
                assert self.world.disk_full, error

    def holder(self, id: str) -> Record:
        return Record.read(self.world.folders.reservation(id))

    @rule(body=BODIES)
    def drop(self, body: Body) -> None:
        self.number += 1
        self.put(f"drop{self.number}.json", body)

    @rule(id=IDS, body=BODIES)
    def drop_with_an_id(self, id: str, body: Body) -> None:
        self.number += 1
        self.put(f"named{self.number}.json", {"id": id, **body})

    @rule(data=BAD)
    def drop_rubbish(self, data: bytes) -> None:
        self.number += 1
        self.put(f"bad{self.number}.json", data)

    def put(self, name: str, content: Body | bytes) -> None:
        self.drops[name] = content
        self.world.drop(name, content)

    @rule(id=IDS)
    def cancel(self, id: str) -> None:
        self.cancelled.add(id)
        self.world.counts["cancels"] += 1
        self.world.cancel(id)

    @precondition(lambda self: any(not end["ok"] for end in self.world.ends.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """As `handoff retry` does."""
        id = data.draw(st.sampled_from(sorted(id for id, end in self.world.ends.items() if not end["ok"])))
        record = find_record(self.world.folders, id)
        assert record is not None
        self.world.counts["retries"] += 1
        again = make_retry(record, received_at=timestamps.to_text(timestamps.now()))
        self.remember(again.id, again.body, run(lambda: self.world.publish(again)))

    # watchers

    @rule(turns=st.integers(1, 60))
    def work(self, turns: int) -> None:
        self.world.work(turns, 1.0)

    @rule(seconds=st.sampled_from([0.5, 4.0, 45.0]))
    def work_on(self, seconds: float) -> None:
        self.world.work(1000, seconds)

    @rule()
    def start(self) -> None:
        """One for each ComfyUI is enough."""
        served = {process.name for process in self.world.alive()}
        for url in [url for url in URLS if url not in served][:1]:
            self.world.start(url)

    @precondition(lambda self: self.world.alive())
    @rule(before=CALLS, which=st.integers(0, 1))
    def kill(self, before: tuple[int, str], which: int) -> None:
        """`kill -9`."""
        process = self.one(which)
        process.arm(*before)
        self.world.work(300, 5.0)
        process.kill()
        self.world.counts["kills"] += 1

    @precondition(lambda self: self.world.alive())
    @rule(before=CALLS, which=st.integers(0, 1), is_taken_over=st.booleans())
    def freeze(self, before: tuple[int, str], which: int, is_taken_over: bool) -> None:
        """Until it is thawed; or just until another one has had its lease's time to take its jobs over."""
        process = self.one(which)
        process.arm(*before, freeze=True)
        self.world.work(300, 5.0)
        process.disarm()
        process.frozen = not process.over
        self.world.counts["freezes"] += 1
        if is_taken_over:
            self.start()
            self.world.work(3000, 45.0)
            process.frozen = False

    @precondition(lambda self: any(process.frozen for process in self.world.alive()))
    @rule()
    def thaw(self) -> None:
        for process in self.world.alive():
            process.frozen = False

    @precondition(lambda self: self.world.alive())
    @rule(which=st.integers(0, 1))
    def terminate(self, which: int) -> None:
        process = self.one(which)
        if not process.frozen:
            process.terminate()

    def one(self, which: int) -> Process:
        alive = self.world.alive()
        return alive[which % len(alive)]

    # what surrounds them

    @rule(url=st.sampled_from(URLS), forgets=st.booleans())
    def comfyui_fails(self, url: str, forgets: bool) -> None:
        """It restarts, with an empty queue and history; or it is away, until this happens again."""
        server = self.world.comfyuis[url]
        if forgets:
            server.restart()
            self.world.counts["restarts"] += 1
        elif server.up:
            self.world.counts["comfyui_outages"] += 1
            server.go_away()
        else:
            server.come_back()

    @rule(url=st.sampled_from(URLS), accident=st.sampled_from(get_args(comfyui.Accident)))
    def a_post_will_fail(self, url: str, accident: comfyui.Accident) -> None:
        self.world.counts["failing_posts"] += 1
        self.world.comfyuis[url].accidents.append(accident)

    @rule(url=st.sampled_from(URLS), outcome=st.sampled_from(get_args(comfyui.Outcome)))
    def a_run_will_fail(self, url: str, outcome: comfyui.Outcome) -> None:
        self.world.counts["failing_runs"] += 1
        self.world.comfyuis[url].outcomes.append(outcome)

    @rule(accident=st.sampled_from([None, *get_args(bucket.Accident)]))
    def the_bucket_fails(self, accident: bucket.Accident | None) -> None:
        """Its next put; or it is away, until this happens again."""
        self.world.counts["bucket_failures"] += 1
        if accident is not None:
            self.world.bucket.accidents.append(accident)
        else:
            self.world.bucket.away = not self.world.bucket.away

    @rule()
    def the_disk_fills_or_empties(self) -> None:
        self.world.counts["full_disks"] += not self.world.disk_full
        self.world.disk_full = not self.world.disk_full

    @rule(seconds=st.sampled_from([-7200.0, 0.0, 7200.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        """Or, with 0, the files' own times are: they look old."""
        self.world.counts["clock_jumps"] += seconds != 0
        self.world.clock.jump += seconds
        if not seconds:
            self.world.age()

    # what must hold

    @invariant()
    def nothing_was_seen_that_may_not_be(self) -> None:
        self.happened += 1
        self.world.check()

    def check_the_end(self) -> None:
        world, folders = self.world, self.world.folders
        held = {id: self.holder(id) for id in os.listdir(folders.ids)}
        assert held.keys() == world.ends.keys()
        assert len({record.token for record in held.values()}) == len(held), "one submission has two ids"
        self.check_promises(held)
        for id, record in held.items():
            self.check_job(id, record)
        self.check_executions(held)
        assert sorted(os.listdir(folders.input)) == [".handoff", "rejected", "uploads"]
        assert sorted(os.listdir(folders.spool)) == ["done", "ids", "inbox", "site", "tmp"]
        assert os.listdir(folders.tmp) == os.listdir(folders.inbox) == []
        assert sorted(os.listdir(folders.output)) == sorted([".handoff", *held])
        assert set(os.listdir(folders.pens)) - {"site"} == {"work"}
        assert os.listdir(folders.work) == []

    def check_promises(self, held: dict[str, Record]) -> None:
        """Every job that was promised is there, and every drop became one job, or lies in `rejected/`, or was a repetition."""
        for id, body in self.promised.items():
            assert held[id].body == body_of(body)
        sources = Counter(record.source for record in held.values() if record.retry_of is None)
        for name, content in self.drops.items():
            rejected = Path(self.world.folders.rejected, name)
            holder = held.get(str(content.get("id"))) if isinstance(content, dict) else None
            is_replay = holder is not None and sources[name] == 0 and holder.body == body_of(content)
            assert sources[name] + rejected.exists() + is_replay == 1, f"{name} is lost or doubled"
            if rejected.exists():
                data = content if isinstance(content, bytes) else canonical(content)
                assert rejected.read_bytes() == data
                assert rejected.with_name(f"{name}.reason.json").exists()
                assert isinstance(content, bytes) or holder is not None, f"{name} was rejected"
        assert sum(sources.values()) == len(held) - sum(record.retry_of is not None for record in held.values())

    def check_job(self, id: str, record: Record) -> None:
        world = self.world
        end = world.ends[id]
        data = world.published(id)
        assert data == world.decided[id] == world.bucket.objects[f"{id}/status.json"]
        for output in end["outputs"] if end["ok"] else []:
            found = Path(world.folders.job(id), output["name"]).read_bytes()
            assert hashlib.sha256(found).hexdigest() == output["sha256"]
            assert found == comfyui.picture(end["comfyui"]["prompt_id"]), "this is not what was drawn for it"
            assert world.bucket.objects[output["key"]] == found
        assert end["ok"] or end["error"]["reason"] in self.excuses(id, record), end

    def excuses(self, id: str, record: Record) -> set[str]:
        """Why this job may have failed, after what happened in this history."""
        outcomes = Counter(
            outcome for server in self.world.comfyuis.values() for outcome in server.ended.get(record.token, ())
        )
        lost = self.world.taken_over[record.token]
        refused = 0
        for server in self.world.comfyuis.values():
            lost += server.forgotten[record.token]
            refused += server.refused[record.token]
        reasons = {
            "lost": lost >= STRIKES,
            "comfyui_error": refused > REFUSALS,
            "cancelled": id in self.cancelled,
            "queue_timeout": "queue_timeout_s" in record.body,
            "timeout": "run_timeout_s" in record.body,
            "node_error": outcomes["node error"],
            "out_of_memory": outcomes["out of memory"] > 1,
            "interrupted": outcomes["interrupted"] > 1,
            "output_missing": outcomes["file missing"],
            "output_broken": outcomes["file empty"] + outcomes["file torn"],
        }
        return {reason for reason, happened in reasons.items() if happened}

    def check_executions(self, held: dict[str, Record]) -> None:
        runs: Counter[str] = Counter()
        runs_of: Counter[str] = Counter()
        for server in self.world.comfyuis.values():
            runs.update(server.runs)
            runs_of.update(server.runs_of)
        assert max(runs.values(), default=0) <= 1, "one attempt was executed twice"
        tokens = {record.token: id for id, record in held.items()}
        assert runs_of.keys() <= tokens.keys(), "something was executed that nobody promised"
        for token, count in runs_of.items():
            allowed = 1 + self.world.taken_over[token]
            for server in self.world.comfyuis.values():
                allowed += server.forgotten[token]
                allowed += sum(how in ("out of memory", "interrupted") for how in server.ended.get(token, ()))
            assert count <= allowed, f"{tokens[token]} was executed {count} times, {allowed} are explained"

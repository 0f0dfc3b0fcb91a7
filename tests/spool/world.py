"""A small world around the spool: the two folders, a ComfyUI that remembers what it ran, a bucket, and a little watcher
that follows the protocol step by step, with nothing in memory that a crash could not lose."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handoff import durable, state, timestamps
from handoff.decode import canonical, decode
from handoff.failures import Failure, Reason
from handoff.folders import Folders, work_folder
from handoff.job import Job, inbox_token, parse_job
from handoff.spool import publisher
from handoff.spool.drops import Claim, Drops
from handoff.spool.journal import Journal
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Seat
from handoff.spool.takeover import DeathWatch, clear_leftovers, finish_takeovers, take_over
from handoff.status import ComfyUIEntry, OutputEntry, StatusDocument, describe_failure
from tests.spool.actors import outside, step

PICTURE = "a.png"
LONG_AGO = time.time() - 3600
DAY = "2026-11-24"


@dataclass
class World:
    root: Path
    runs: Counter[str] = field(default_factory=Counter)
    """Prompt ids that ComfyUI executed."""
    tags: dict[str, str] = field(default_factory=dict)
    """Prompt id to token."""
    bucket: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What a test wants to remember of this world."""

    def __post_init__(self) -> None:
        (self.root / "input").mkdir(parents=True)
        (self.root / "output").mkdir()
        self.folders.make()

    @property
    def folders(self) -> Folders:
        return Folders(input=str(self.root / "input"), output=str(self.root / "output"))

    # people and adapters

    def drop(self, name: str, content: dict[str, Any] | bytes) -> None:
        data = content if isinstance(content, bytes) else canonical(content)
        Path(self.folders.input, name).write_bytes(data)

    def cancel(self, id: str) -> None:
        Path(self.folders.cancel_mark(id)).touch()

    def age(self) -> None:
        """As if an hour had passed."""
        for folder, _, files in os.walk(self.root):
            for name in (".", *files):
                os.utime(f"{folder}/{name}", (LONG_AGO, LONG_AGO), follow_symlinks=False)

    def sweep(self) -> None:
        """Clears up after adapters, as if a minute had passed since they wrote."""
        for entry in os.scandir(self.folders.tmp):
            os.utime(entry.path, (LONG_AGO, LONG_AGO))
        publisher.sweep(self.folders)

    # ComfyUI and the bucket

    def has(self, prompt_id: str) -> bool:
        step("look up", prompt_id)
        return prompt_id in self.runs

    def post(self, prompt_id: str, record: Record) -> None:
        step("POST", prompt_id)
        with outside():
            self.runs[prompt_id] += 1
            self.tags[prompt_id] = record.token
            folder = Path(self.folders.output, work_folder(record.token, record.attempt))
            folder.mkdir(exist_ok=True)
            (folder / PICTURE).write_bytes(prompt_id.encode())

    def put(self, key: str, data: bytes) -> None:
        step("PUT", key)
        if key.endswith("/status.json"):
            assert self.bucket.get(key, data) == data, f"two final statuses in the bucket: {key}"
        self.bucket[key] = data

    # what is there

    def reservations(self) -> dict[str, Record]:
        return {name: Record.read(f"{self.folders.ids}/{name}") for name in listed(self.folders.ids)}

    def done(self) -> dict[str, Record]:
        return {path.name: Record.read(str(path)) for path in Path(self.folders.done).glob("*/*")}

    def status(self, id: str) -> StatusDocument:
        return StatusDocument.read(self.folders.status(id))

    def rejected(self) -> dict[str, bytes]:
        return {name: Path(self.folders.rejected, name).read_bytes() for name in os.listdir(self.folders.rejected)}

    def visible(self) -> dict[str, bytes | None]:
        """All that anybody but its owner may see: the watchers' own folders and ComfyUI's work folders are left out."""
        found: dict[str, bytes | None] = {f"bucket/{key}": data for key, data in self.bucket.items()}
        for path in self.root.rglob("*"):
            parts = path.relative_to(self.root).parts
            if any(part.startswith(("w-", "new-", "from-", ".trial-")) or part == "work" for part in parts):
                continue
            found["/".join(parts)] = path.read_bytes() if path.is_file() else None
        return found

    def check_at_rest(self, *, jobs: int, rejected: dict[str, bytes] | None = None, runs: int = 1) -> None:
        """Everything is final, once, and nothing is left over. `runs`: how often ComfyUI may have executed one job."""
        held, done = self.reservations(), self.done()
        assert len(held) == jobs, f"{jobs} jobs expected: {sorted(held)}"
        assert held.keys() == done.keys()
        assert len({record.token for record in held.values()}) == jobs, "a token has two ids"
        for id, record in held.items():
            assert (record.id, record.attempt) == (id, 0)
            assert (done[id].token, done[id].sha256) == (record.token, record.sha256), f"{id} had two owners"
            status = self.status(id)
            assert status.done
            assert Path(self.folders.status(id)).read_bytes() == self.bucket[f"{id}/status.json"]
            names = sorted(os.listdir(self.folders.job(id)))
            assert names == sorted(["status.json", *(output.name for output in status.outputs)])
            for output in status.outputs:
                assert Path(self.folders.job(id), output.name).read_bytes() == self.bucket[output.key]
        assert max(self.runs.values(), default=0) <= 1, "one attempt was executed twice"
        assert max(Counter(self.tags.values()).values(), default=0) <= runs, "a job was executed too often"
        files = {name: data for name, data in self.rejected().items() if not name.endswith(".reason.json")}
        assert files == (rejected or {})
        assert {f"{name}.reason.json" for name in files} == self.rejected().keys() - files.keys()
        assert sorted(os.listdir(self.folders.input)) == [".handoff", "rejected", "uploads"]
        assert sorted(os.listdir(self.folders.spool)) == ["done", "ids", "inbox", "tmp"]
        assert os.listdir(self.folders.tmp) == os.listdir(self.folders.inbox) == []
        assert sorted(os.listdir(self.folders.output)) == sorted([".handoff", *held])
        assert os.listdir(self.folders.pens) == ["work"]


def listed(folder: str) -> list[str]:
    """Without what a watcher tries out at its start."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def record_of(id: str, body: dict[str, Any], *, token: str = "0" * 16) -> Record:
    """What an adapter publishes, planned already so that nothing but the spool is needed to run it."""
    job = parse_job(body, default_workflow="txt2img")
    return Record(
        token=token,
        id=id,
        sha256=job.sha256,
        received_at=timestamps.to_text(datetime(2026, 11, 24, 8, tzinfo=UTC)),
        body=job.body,
        job=Plan(graph={}, workflow="txt2img"),
    )


class Watcher:
    """`server`: two with the same name are predecessor and successor; others prove death by silence, here at once."""

    def __init__(self, world: World, server: str = "one") -> None:
        self.world = world
        self.seat = Seat(world.folders, server)
        self.drops = Drops(self.seat)
        self.journal = Journal(self.seat)

    def run(self) -> None:
        """Until nothing is left to do."""
        self.take_over_the_dead()
        self.world.sweep()
        self.take_in_all()
        self.work_all()
        self.clear_marks()
        self.seat.leave()

    def take_over_the_dead(self, *, after_the_lease: bool = False) -> None:
        finish_takeovers(self.seat)  # should one have been interrupted
        watch = DeathWatch(self.seat, lease_s=30)
        dead = watch.find_dead(0.0)
        if after_the_lease:
            dead = watch.find_dead(31.0)
        for wid in dead:
            take_over(self.seat, wid)

    def take_in_all(self) -> None:
        self.drops.publish_left()
        for left in self.drops.claims():
            self.take(left)
        for name in sorted(os.listdir(self.world.folders.input)):
            if name.endswith(".json") and (claim := self.drops.claim(name)) is not None:
                self.take(claim)

    def clear_marks(self) -> None:
        """Cancels that came too late."""
        for name in listed(self.world.folders.input):
            id, _, kind = name.partition(".")
            document = StatusDocument.find(self.world.folders.status(id)) if kind == "cancel" else None
            if document is not None and document.done:
                with suppress(FileNotFoundError):
                    os.unlink(self.world.folders.cancel_mark(id))

    def take(self, claim: Claim) -> None:
        try:
            job = parse_job(decode(durable.read_file(self.drops.path(claim), 1 << 20)), default_workflow="txt2img")
            self.drops.take_in(claim, id=job.id, sha256=job.sha256, make=lambda id: make_record(claim, job, id))
        except FileNotFoundError:
            with self.seat.power():
                raise
        except Failure as failure:
            self.drops.reject(claim, failure, "en")
        else:
            self.drops.settle([claim])

    def work_all(self) -> None:
        for left in self.journal.records():
            self.work(left)
        for name in listed(self.world.folders.inbox):
            token = inbox_token(name)
            assert token is not None
            record = self.journal.claim(name, token)
            if record is not None:
                self.work(record)

    def work(self, record: Record) -> None:
        """Section 6 of the protocol."""
        status = self.journal.status(record)
        if status is not None and status.done:
            self.conclude(record, status)
            return
        if status is None or (status.status, status.attempt) != ("saving", record.attempt):
            if record.attempt == 0 or not self.world.has(str(record.prompt_id)):
                if self.journal.is_cancelled(record.id):
                    failure = describe_failure(Failure(Reason.CANCELLED), "en", id=record.id)
                    cancelled = first_status(record).finish(state.Event.CANCELLED, timestamps.now(), error=failure)
                    self.decide(record, cancelled)
                    return
                record = self.send(record)
            status = self.save(record)
        for output in status.outputs:
            data = Path(self.world.folders.job(record.id), output.name).read_bytes()
            self.world.put(output.key, data)
        self.decide(record, status.finish(state.Event.MIRRORED, timestamps.now()))

    def send(self, record: Record) -> Record:
        assert record.job is not None
        record = record.next_attempt(server=self.seat.server, at=timestamps.to_text(timestamps.now()), plan=record.job)
        self.journal.write(record)
        self.journal.make_work_folder(record)
        self.world.post(str(record.prompt_id), record)
        running = first_status(record).follow(state.Event.SUBMITTED)
        self.journal.publish_status(running, record.token, durable_write=False)
        return record

    def save(self, record: Record) -> StatusDocument:
        source = f"{self.world.folders.output}/{work_folder(record.token, record.attempt)}/{PICTURE}"
        with self.seat.power(), durable.disk_errors(source):  # a successor may have cleared it away
            durable.sync_file(source)
            digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        self.journal.publish_output(source, record.id, PICTURE, record.token, sha256=digest)
        key = f"{record.id}/{record.attempt}/{PICTURE}"
        output = OutputEntry(name=PICTURE, kind="image", media_type="image/png", bytes=36, sha256=digest, key=key)
        status = first_status(record).follow(state.Event.SUBMITTED).follow(state.Event.GENERATED, outputs=[output])
        self.journal.publish_status(status, record.token, durable_write=True)
        return status

    def decide(self, record: Record, status: StatusDocument) -> None:
        if record.attempt == 0:
            with self.seat.power():
                durable.sync_folder(self.world.folders.ids)
                durable.sync_folder(self.seat.path)
        self.journal.publish_status(status, record.token, durable_write=True)
        self.conclude(record, status)

    def conclude(self, record: Record, status: StatusDocument) -> None:
        self.world.put(f"{record.id}/status.json", Path(self.world.folders.status(record.id)).read_bytes())
        assert status.done
        self.journal.finish(record, DAY)


def make_record(claim: Claim, job: Job, id: str) -> Record:
    return Record(
        token=claim.token,
        id=id,
        sha256=job.sha256,
        source=claim.name,
        received_at=timestamps.to_text(claim.received_at),
        body=job.body,
        job=Plan(graph={}, workflow=job.workflow),
    )


def first_status(record: Record) -> StatusDocument:
    return StatusDocument(
        id=record.id,
        created_at=record.received_at,
        attempt=record.attempt,
        comfyui=ComfyUIEntry(prompt_id=record.prompt_id),
    )


def run_watcher(world: World, server: str = "one") -> None:
    """A whole run, as a person would start it."""
    Watcher(world, server).run()


def recover(world: World) -> None:
    """What is left after kills is taken over and brought to its end; a minute later what they littered is gone."""
    run_watcher(world)
    world.age()
    last = Watcher(world)
    last.take_over_the_dead(after_the_lease=True)  # one that was killed while it left has no lease any more
    clear_leftovers(last.seat, thoroughly=True)
    last.run()


Make = Callable[[World], object]

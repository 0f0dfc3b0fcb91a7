"""Processes that all do something to one volume at the same moment."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

from handoff import timestamps
from handoff.failures import Failure
from handoff.folders import Folders
from handoff.job import parse_job
from handoff.spool import publisher
from handoff.spool.listing import find_record
from handoff.spool.publisher import make_retry
from handoff.spool.record import Record
from tests.e2e.jobs import Job, encode

Step = Callable[[Path, int], str]
"""Does its part on the volume below this folder, as contender number so and so; returns what came of it."""

COUNT = 8


class Contenders:
    """So many processes, made once, since it is their start that costs time."""

    def __init__(self) -> None:
        server = multiprocessing.get_context("forkserver")  # which imports once for all of them
        server.set_forkserver_preload([__name__])
        self.pool = ProcessPoolExecutor(COUNT, server, initializer=_meet, initargs=(server.Barrier(COUNT),))

    def contend(self, root: Path, steps: Sequence[Step]) -> list[str]:
        """Every step in a process of its own, all at once; what came of each."""
        assert len(steps) == COUNT
        return list(self.pool.map(_take_part, [root] * COUNT, range(COUNT), steps))


def _meet(gate: Barrier) -> None:
    _take_part.gate = gate  # type: ignore[attr-defined]  # a lock can only be inherited, not sent with the work


def _take_part(root: Path, number: int, step: Step) -> str:
    _take_part.gate.wait(60)  # type: ignore[attr-defined]
    return step(root, number)


def drop(root: Path, number: int, *, name: str, body: Job) -> str:
    staged = root / "staging" / f"contender-{number}"
    staged.write_bytes(encode(body))
    os.rename(staged, root / "input" / name)
    return "dropped"


def cancel(root: Path, _number: int, *, id: str, after_s: float = 0.0) -> str:
    time.sleep(after_s)
    (root / "input" / f"{id}.cancel").touch()
    return "marked"


def submit(root: Path, _number: int, *, id: str, body: Job) -> str:
    job = parse_job(body, default_workflow="txt2img")
    received = timestamps.to_text(timestamps.now())
    record = Record(token="", id=id, sha256=job.sha256, received_at=received, body=job.body)
    return _publish(root, record)


def retry(root: Path, _number: int, *, id: str) -> str:
    record = find_record(open_folders(root), id)
    assert record is not None
    return _publish(root, make_retry(record, received_at=timestamps.to_text(timestamps.now())))


def _publish(root: Path, record: Record) -> str:
    try:
        return publisher.publish(open_folders(root), record)
    except Failure as failure:
        return failure.reason


def open_folders(root: Path) -> Folders:
    return Folders(str(root / "input"), str(root / "output"))

"""A thousand long polls over HTTP: how soon they are answered, and what they cost the server."""

import asyncio
import json
import os
import resource
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from handoff.spool.record import Record
from tests.adapter.scene import Scene
from tests.figures import Note
from tests.servers.adapter import KEY, Adapter, start_adapter

POLLS = 1000
LATE_S = 2.0
"""50 ms is what is promised, and noted; a busy machine may take longer."""
IDLE_S = 6.0


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as many connections; and without flushes, since nothing here is about power."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


async def poll(adapter: Adapter, id: str, asked: "asyncio.Semaphore") -> tuple[dict[str, object], float]:
    """The document, and when it had come."""
    place = urlsplit(adapter.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    request = f"GET /v1/jobs/{id}?wait=110 HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    await writer.drain()
    asked.release()
    answer = await reader.read()
    at = time.monotonic()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer[:300]
    document: dict[str, object] = json.loads(body)
    return document, at


def cpu_s(adapter: Adapter) -> float:
    fields = Path(f"/proc/{adapter.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kb(adapter: Adapter) -> int:
    return int(Path(f"/proc/{adapter.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


@pytest.mark.parametrize("same", [False, True], ids=["a job each", "one job"])
def test_a_thousand_polls(tmp_path: Path, note: Note, *, same: bool) -> None:
    scene = Scene(tmp_path)
    records = [scene.submit(f"job-{number}", owner="shop") for number in range(1 if same else POLLS)]

    async def main(adapter: Adapter) -> None:
        with scene.watcher() as watcher:
            for record in records:
                watcher.run(record)
                watcher.save(record, {})
            asked = asyncio.Semaphore(0)
            assert adapter.get("/v1/jobs/job-0").status_code == 200
            before = memory_kb(adapter)
            polls = [asyncio.create_task(poll(adapter, records[n % len(records)].id, asked)) for n in range(POLLS)]
            for _ in polls:
                await asked.acquire()
            await asyncio.sleep(3)  # until the server has looked at each
            each_kb, used = (memory_kb(adapter) - before) / POLLS, cpu_s(adapter)
            await asyncio.sleep(IDLE_S)
            idle = (cpu_s(adapter) - used) / IDLE_S

            def finish(record: Record) -> float:
                watcher.finish(record)
                return time.monotonic()

            ended = {}
            for record in records:
                # the decision is announced inside; filing comes after it, so this is late rather than early
                began = time.monotonic()
                await asyncio.to_thread(finish, record)
                ended[record.id] = began
                await asyncio.sleep(0.005)
            late = []
            for task in polls:
                document, at = await task
                assert document["status"] == "succeeded"
                late.append(at - ended[str(document["id"])])
        note(polls=POLLS, wake_up_p50_ms=statistics.median(late) * 1000, wake_up_p99_ms=p99(late) * 1000)
        note(idle_cpu_share=idle, memory_each_kb=each_kb)
        assert p99(late) < LATE_S * (5 if same else 1)  # a thousand answers have to be written at once
        assert idle < 0.2
        assert each_kb < 500

    with start_adapter(tmp_path) as adapter:
        asyncio.run(main(adapter))

"""A volume on which jobs come about and change as they do when adapters and watchers work, by the code that these use."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handoff import timestamps
from handoff.decode import body_sha256
from handoff.folders import Folders
from handoff.spool.journal import Journal
from handoff.spool.listing import describe_waiting, find_record
from handoff.spool.publisher import publish
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.state import Event
from handoff.status import OutputEntry, StatusDocument
from handoff.stores.contract import Store
from handoff.stores.folder import FolderStore
from handoff.stores.s3 import S3Settings, S3Store
from tests.servers.rgw import S3Server

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100


class Scene:
    def __init__(self, root: Path) -> None:
        for name in ("input", "output"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.folders = Folders(input=str(root / "input"), output=str(root / "output"))
        self.folders.make()
        self._last = timestamps.now()
        """When the last job was accepted: no two at once, since chance would choose between them."""

    def submit(self, id: str, *, owner: str = "folder", workflow: str = "txt2img", priority: int = 0) -> Record:
        body = {"workflow": workflow, "params": {"prompt": id}}
        return self.publish(self.make_record(id, body, owner=owner, priority=priority))

    def make_record(self, id: str, body: dict[str, Any], *, owner: str = "folder", priority: int = 0) -> Record:
        self._last = max(timestamps.now(), self._last + timedelta(milliseconds=1))
        return Record(
            token="",
            id=id,
            sha256=body_sha256(body),
            owner=owner,
            received_at=timestamps.to_text(self._last),
            priority=priority,
            body=body,
        )

    def publish(self, record: Record) -> Record:
        assert publish(self.folders, record) == "new"
        found = find_record(self.folders, record.id)
        assert found is not None
        return found

    @contextmanager
    def watcher(self, server: str = "a server") -> Iterator["Watcher"]:
        seat = Seat(self.folders, server)
        try:
            yield Watcher(seat)
        finally:
            seat.lease.close()


class Watcher:
    """Publishes what a watcher publishes. `store` gets what the bucket would."""

    def __init__(self, seat: Seat, store: Store | None = None) -> None:
        self.seat = seat
        self.journal = Journal(seat)
        self.store = store
        self._records: dict[str, Record] = {}
        self._documents: dict[str, StatusDocument] = {}

    def claim(self, record: Record) -> None:
        """Out of the line; nothing is to be seen of it yet."""
        claimed = self.journal.claim(f"{record.rank}-{record.token}.json", record.token)
        assert claimed is not None
        self._records[record.id] = claimed
        self._documents[record.id] = describe_waiting(claimed)

    def adopt(self, dead: "Watcher") -> None:
        """What it knew of its jobs; their files were taken over."""
        self._records, self._documents = dead._records, dead._documents

    def run(self, record: Record) -> StatusDocument:
        if record.id not in self._records:
            self.claim(record)
        started_at = timestamps.to_text(timestamps.now())
        return self._publish(
            self._documents[record.id].follow(Event.SUBMITTED, attempt=1, started_at=started_at), record
        )

    def step(self, record: Record, progress: float) -> None:
        self._publish(self._documents[record.id].evolve(progress=progress), record)

    def save(self, record: Record, outputs: dict[str, tuple[bytes, str]]) -> StatusDocument:
        """By name: bytes and media type."""
        entries = []
        for name, (data, media_type) in outputs.items():
            sha256 = hashlib.sha256(data).hexdigest()
            source = f"{self.seat.pen}/source"
            with open(source, "wb") as file:
                file.write(data)
            self.journal.publish_output(source, record.id, name, record.token, sha256=sha256)
            os.unlink(source)
            kind = "image" if media_type.startswith("image/") else "file"
            entries.append(
                OutputEntry(
                    name=name,
                    kind=kind,
                    media_type=media_type,
                    bytes=len(data),
                    sha256=sha256,
                    key=f"jobs/{record.id}/{name}",
                )
            )
            if self.store is not None:
                self.store.put_bytes(f"{record.id}/{name}", data, media_type=media_type)
        saving = self._documents[record.id].follow(Event.GENERATED, outputs=entries, run_s=2.0)
        return self._publish(saving, record)

    def finish(self, record: Record) -> StatusDocument:
        final = self._documents[record.id].finish(Event.MIRRORED, timestamps.now())
        self._publish(final, record)
        self.journal.finish(self._records[record.id], timestamps.now().strftime("%Y-%m-%d"))
        return final

    def succeed(self, record: Record, outputs: dict[str, tuple[bytes, str]] | None = None) -> StatusDocument:
        self.run(record)
        self.save(record, {f"{record.id}.png": (PNG, "image/png")} if outputs is None else outputs)
        return self.finish(record)

    def _publish(self, document: StatusDocument, record: Record) -> StatusDocument:
        self._documents[record.id] = document
        self.journal.publish_status(document, record.token, durable_write=document.done)
        if self.store is not None:
            name = "status.json" if document.done else "progress.json"
            self.store.put_bytes(f"{document.id}/{name}", document.to_bytes(), media_type="application/json")
        return document


def touch(path: str, *, age_s: float) -> None:
    found = os.stat(path)
    os.utime(path, (found.st_atime - age_s, found.st_mtime - age_s))


def make_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    if kind == "folder":
        return FolderStore(folder / "bucket", "jobs")
    server: S3Server = request.getfixturevalue("s3_server")
    return S3Store(
        S3Settings(
            bucket=server.make_bucket(),
            endpoint_url=server.endpoint,
            prefix="jobs",
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
        )
    )

"""A reader that never rests: what does somebody see who looks at the folders and at the bucket at any moment?"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.e2e.place import S3Bucket
from tests.e2e.promises import FINAL

ORDER = {"queued": 0, "running": 1, "saving": 2} | dict.fromkeys(FINAL, 3)
FOLDERS = ("output/*", "input/rejected", "input/.handoff/inbox", "input/.handoff/ids", "input/.handoff/done/*")
REST_S, BUCKET_REST_S = 0.05, 0.5


class Reader:
    """Counts what must not be. Used as a context; `error` of a reading thread surfaces at its end."""

    def __init__(self, root: Path, bucket: S3Bucket) -> None:
        self.reads = 0
        self.torn: list[str] = []
        """Files and objects that are no whole JSON."""
        self.backwards: list[str] = []
        """Statuses that followed a later one."""
        self.requeued: list[str] = []
        """The one step back there is: ComfyUI lost a running job, and it waits for its next attempt."""
        self.changed: list[str] = []
        """Final statuses that changed."""
        self.incomplete: list[str] = []
        """Objects that a final status in the bucket names and that are not there."""
        self.final: set[str] = set()
        """Ids whose final status was seen on disk."""
        self._root = root
        self._bucket = bucket
        self._seen: dict[str, Any] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._finals: dict[str, bytes] = {}
        self._over = threading.Event()
        self._errors: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._read_folders, REST_S)),
            threading.Thread(target=self._repeat, args=(self._read_bucket, BUCKET_REST_S)),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self._errors == []

    def _repeat(self, read: Any, rest_s: float) -> None:
        try:
            while not self._over.is_set():
                read()
                time.sleep(rest_s)
        except Exception as error:
            self._errors.append(error)

    def _read_folders(self) -> None:
        for path in self._find_files():
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                about = os.fstat(file.fileno())
                mark = (about.st_ino, about.st_mtime_ns, about.st_size)
                if self._seen.get(path) != mark:
                    self._seen[path] = mark
                    self._judge(path, file.read())

    def _find_files(self) -> Iterator[str]:
        for pattern in FOLDERS:
            for folder in self._root.glob(pattern):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    for name in os.listdir(folder):
                        is_document = name.endswith(("status.json", "job.json", ".reason.json"))
                        if not name.startswith(".") and (is_document or ".handoff" in pattern):
                            yield f"{folder}/{name}"

    def _judge(self, place: str, data: bytes) -> None:
        self.reads += 1
        try:
            document = json.loads(data)
        except ValueError:
            self.torn.append(f"{place}: {data[:200]!r}")
            return
        if place.endswith("/status.json"):
            self._judge_status(place, data, document)

    def _judge_status(self, place: str, data: bytes, document: dict[str, Any]) -> None:
        now = (document["attempt"] or 0, ORDER[document["status"]])
        before = self._places.get(place, (0, 0))
        if place in self._finals:
            if self._finals[place] != data:
                self.changed.append(place)
        elif now[0] == before[0] and (before[1], now[1]) == (ORDER["running"], ORDER["queued"]):
            self.requeued.append(place)
        elif now < before:
            self.backwards.append(f"{place}: {before} then {now}")
        self._places[place] = now
        if document["done"]:
            self._finals[place] = data
            if place.startswith("/"):
                self.final.add(document["id"])

    def _read_bucket(self) -> None:
        pages = self._bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name)
        tags = {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}
        for key, tag in tags.items():
            if key.endswith(("/status.json", "/progress.json")) and self._seen.get(key) != tag:
                self._seen[key] = tag
                data = self._bucket.get(key) or b""
                self._judge(key, data)
                if key.endswith("/status.json"):
                    document = json.loads(data)
                    named = {output["key"] for output in document["outputs"]}
                    # listed before its status was read; what came between has to be asked for
                    self.incomplete += [name for name in named - tags.keys() if self._bucket.get(name) is None]

"""Which installation a bucket's prefix belongs to. Two that share a prefix would overwrite each other's jobs.

The installation's name is random and lies on its own volume, in `input/` and in `output/`; the marker `_site.json` in the bucket is written once.
"""

import json
import os
import secrets
from contextlib import suppress
from threading import Lock

from handoff import durable
from handoff.folders import Folders
from handoff.spool.seat import TRIAL
from handoff.stores.contract import Store

MARKER = "_site.json"
_LIMIT = 4096  # bytes


class ForeignSite(Exception):  # noqa: N818
    """The prefix is another installation's; the text names the remedy."""


class Site:
    """May be used from several threads."""

    def __init__(self, folders: Folders, store: Store) -> None:
        self._folders = folders
        self._store = store
        self._lock = Lock()
        self._is_ours = False

    def ensure(self) -> None:
        """Marks the prefix as ours, or finds our mark there; asks the store once. Raises ForeignSite, Unavailable, Transient."""
        with self._lock:
            if self._is_ours:
                return
            name = _find_name(self._folders)
            data = json.dumps({"schema": 1, "site": name}).encode()
            if not self._store.create(MARKER, data, media_type="application/json"):
                there = _read_name(self._store.get_bytes(MARKER, _LIMIT))
                if there != name:
                    raise ForeignSite(
                        f"{self._store.describe()} belongs to another installation ({there or 'unreadable'}), whose jobs"
                        f" could be overwritten. Set another HANDOFF_S3_PREFIX; or, if its volume is gone for good, delete {MARKER}"
                    )
            self._is_ours = True


def _find_name(folders: Folders) -> str:
    """The name that the first watcher of the volume gave it; a link lets exactly one win.

    It lies in both folders: who empties one of them has the same installation afterwards.
    """
    places = (folders.spool, folders.pens)
    known = next((name for name in map(_read_file, places) if name), secrets.token_hex(16))
    for folder in places:
        if not os.path.lexists(f"{folder}/site"):
            scratch = f"{folder}/{TRIAL}{secrets.token_hex(8)}"
            durable.write_file(scratch, f"{known}\n".encode())
            with suppress(FileExistsError), durable.disk_errors(folder):
                os.link(scratch, f"{folder}/site")
            os.unlink(scratch)
            durable.sync_folder(folder)
        known = _read_file(folder) or known
    return _read_file(folders.spool)


def _read_file(folder: str) -> str:
    try:
        return durable.read_file(f"{folder}/site", _LIMIT).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""


def _read_name(data: bytes | None) -> str | None:
    try:
        document = json.loads(data or b"")
    except ValueError:
        return None
    name = document.get("site") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None

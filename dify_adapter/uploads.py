"""Pictures that came with a request, in `input/uploads/<sha256>.<ext>`: verified, content-addressed, durable.

The watcher looks after the rest of what a picture parameter may be: names of files, for which it waits, and `s3://`.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from handoff import log
from handoff.durable import disk_errors, read_file
from handoff.failures import Permanent
from handoff.folders import Folders
from handoff.pictures import Limits, Picture, Pictures
from handoff.spool import listing

UNUSED_S = 24 * 3600.0
COLLECT_S = 3600.0
_NAME = r"[0-9a-f]{64}\.(?:png|jpg|webp|gif|bmp|tiff)"
_UPLOAD = re.compile(_NAME)
_NAMED = re.compile(_NAME.encode())
_ASIDE = ".unused-"
_LARGEST = 64 << 20


class Uploads:
    """Any number of threads and adapters may use it at once. Raises ValueError for an entry of `url_allow` that cannot be
    read.
    """

    def __init__(self, folders: Folders, *, url_allow: Sequence[str] = (), limits: Limits | None = None) -> None:
        self._folders = folders
        self._pictures = Pictures(
            Path(folders.input), Path(folders.tmp), limits=limits or Limits(), url_allow=url_allow
        )

    def keep(self, file: IO[bytes], label: str = "the uploaded file") -> Picture:
        """`label` is how messages call it. Raises Failure(BAD_PICTURE), Unavailable when the volume is full or gone."""
        return self._pictures.keep(file, label)

    def fetch(self, reference: str) -> Picture:
        """What an http(s) URL or a `data:` URL gives, now: Dify's file addresses expire after five minutes.

        Raises Failure: FORBIDDEN_URL, PICTURE_NOT_FETCHED, BAD_PICTURE; Unavailable.
        """
        return self._pictures.resolve(reference)

    def unpack(self, text: str) -> Picture:
        """Base64, with or without what makes a `data:` URL of it. Raises Failure(BAD_PICTURE), Unavailable."""
        data_url = text if text.lstrip()[:5].lower() == "data:" else f"data:image/any;base64,{text.strip()}"
        return self._pictures.resolve(data_url)

    def touch(self, name: str) -> bool:
        """Before a job that names `uploads/<sha256>.<ext>` is published: from now on it is young, and stays. False: it is
        not there.
        """
        upload = name.removeprefix("uploads/")
        if not _UPLOAD.fullmatch(upload):
            return False
        with disk_errors(upload):
            try:
                os.utime(self._path(upload), follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True

    # ── what nobody needs any more ──

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        """Collects now and every hour, until the block ends."""
        task = asyncio.create_task(self._collect_forever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _collect_forever(self) -> None:
        while True:
            try:
                removed = await asyncio.to_thread(self.collect)
                if removed:
                    log.get().info("uploads_removed", count=removed)
            except Exception as error:  # noqa: BLE001 - the volume has trouble, and an hour later none perhaps
                log.get().warning("uploads_not_removed", error=str(error))
            await asyncio.sleep(COLLECT_S)

    def collect(self) -> int:
        """Removes uploads that are older than a day and that no job names which waits or runs. Returns how many.

        A retry after that day finds its picture gone, and says so. Raises OSError, Unavailable.
        """
        before = time.time() - UNUSED_S
        old, left = self._list_old(before)
        if not old and not left:
            return 0
        needed = self._list_needed()
        for name in old - needed:
            with suppress(FileNotFoundError):
                os.rename(self._path(name), self._aside(name))
        # out of everybody's reach; now the last look, since one may have been named, touched or sent again just before
        needed |= self._list_needed()
        return sum(self._remove(name, before, needed) for name in old | left)

    def _list_old(self, before: float) -> tuple[set[str], set[str]]:
        """What has not been touched since then; and what a killed collector put aside."""
        old, left = set(), set()
        with os.scandir(self._folders.uploads) as entries:
            for entry in entries:
                name = entry.name.removeprefix(_ASIDE)
                if not _UPLOAD.fullmatch(name):
                    continue
                if name != entry.name:
                    left.add(name)
                    continue
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        old.add(name)
        return old, left

    def _list_needed(self) -> set[str]:
        """Whatever an unfinished job or a dropped file mentions, in whichever form and place."""
        needed: set[str] = set()
        for path in listing.list_unfinished(self._folders):
            with suppress(FileNotFoundError, Permanent):  # it moved on; or it is no file that could be a job
                needed.update(name.decode() for name in _NAMED.findall(read_file(path, _LARGEST)))
        return needed

    def _remove(self, name: str, before: float, needed: set[str]) -> bool:
        with suppress(FileNotFoundError):  # another adapter did it
            if name in needed or os.lstat(self._aside(name)).st_mtime >= before:
                os.rename(self._aside(name), self._path(name))
                return False
            os.unlink(self._aside(name))
            return True
        return False

    def _path(self, name: str) -> str:
        return f"{self._folders.uploads}/{name}"

    def _aside(self, name: str) -> str:
        return f"{self._folders.uploads}/{_ASIDE}{name}"

"""From the inbox to the final status: the record of each live job, and everything that readers see of it.

Only the seat's own folders are written to; what is to be seen leaves them by rename.
"""

import errno
import os
import shutil
import time
from contextlib import suppress

from handoff import durable, log
from handoff.documents import DamagedDocument, UnreadableDocument
from handoff.folders import FOLDER_MODE, work_folder
from handoff.job import inbox_name
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.spool.suspicion import acquit
from handoff.status import StatusDocument

FEED_BYTES = 1 << 20  # about ten thousand changes
WORK_KEPT_S = 24 * 3600.0  # what ComfyUI wrote for an attempt that nobody waits for any more


class Journal:
    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._folders = seat.folders
        self._left_marks: set[str] = set()
        """Ids of finished jobs whose cancel mark cannot be removed: each is named once."""
        self._flushed: set[str] = set()
        """Ids of live jobs whose folder is known to survive a power loss."""

    # waiting jobs

    def claim(self, name: str, token: str, *, known: Record | None = None) -> Record | None:
        """Takes a job out of the inbox. None: another watcher did. `known` is not read again, if it is this one.

        Raises Fenced, Unavailable or UnreadableDocument (of a newer version, or closed to us: either way it lies in the
        inbox as before), DamagedDocument (it stays in the seat).
        """
        waiting, path = f"{self._folders.inbox}/{name}", self._seat.record_path(token)
        with self._seat.power(), durable.disk_errors(self._folders.inbox):
            try:
                os.rename(waiting, path)
            except FileNotFoundError:
                if not self._seat.held():
                    raise
                return None
            if known is not None and known.token == token:
                return known
            try:
                return Record.read(path)
            except DamagedDocument:
                raise
            except (OSError, UnreadableDocument):
                # too many open files, for example: in the seat of a living watcher nobody would look for it
                with suppress(OSError):
                    os.rename(path, waiting)
                raise

    def release(self, record: Record) -> None:
        """Puts a job back that was never sent anywhere."""
        with self._seat.power(), durable.disk_errors(self._folders.inbox):
            os.rename(
                self._seat.record_path(record.token), f"{self._folders.inbox}/{inbox_name(record.rank, record.token)}"
            )
        acquit(self._seat, record.token)

    def records(self) -> list[Record]:
        """All live jobs of this seat: after a start and after a takeover. Damaged ones and newer ones are named and left alone.

        Raises Fenced, DiskUnavailable.
        """
        found = []
        with self._seat.power(), durable.disk_errors(self._seat.path):
            for name in sorted(os.listdir(self._seat.path)):
                if not name.startswith("r-"):
                    continue
                try:
                    record = Record.find(f"{self._seat.path}/{name}")
                except UnreadableDocument as error:
                    log.get().error("unreadable_record", error=str(error))
                    continue
                if record is not None:  # else it was filed meanwhile
                    found.append(record)
        return found

    def tokens(self) -> list[str]:
        """Of all records in this seat, also of those that cannot be read. Raises Fenced."""
        with self._seat.power():
            names = os.listdir(self._seat.path)
        return sorted(name.removeprefix("r-") for name in names if name.startswith("r-"))

    # the live job

    def write(self, record: Record) -> None:
        """Journals, durably, before the side effect that the record announces."""
        with self._seat.power():
            scratch = f"{self._seat.path}/t-{record.token}"
            durable.publish(record.to_bytes(), scratch, self._seat.record_path(record.token))
            with durable.disk_errors(self._folders.ids):
                durable.sync_folder(self._folders.ids)

    def make_work_folder(self, record: Record) -> str:
        """Where ComfyUI writes this attempt, relative to `output/`; made here so that its group may write to it."""
        folder = work_folder(record.token, record.attempt)
        path = f"{self._folders.output}/{folder}"
        with self._seat.power(), durable.disk_errors(path):
            _make_folder(path)
        return folder

    def is_cancelled(self, id: str) -> bool:
        return os.path.lexists(self._folders.cancel_mark(id))

    # what readers see

    def status(self, record: Record) -> StatusDocument | None:
        """What was published of this job. Raises UnreadableDocument."""
        return StatusDocument.find(self._folders.status(record.id))

    def publish_status(self, document: StatusDocument, token: str, *, durable_write: bool) -> None:
        """Replaces `status.json`. `running` and progress promise nothing and may do without the fsync."""
        self._publish(document.id, "status.json", document.to_bytes(), token, durable_write=durable_write)
        if durable_write and document.id not in self._flushed:  # also where a killed predecessor made the folder
            with durable.disk_errors(self._folders.output):
                durable.sync_folder(self._folders.output)
            self._flushed.add(document.id)
        self.announce(document.id)

    def secure_decision(self, record: Record) -> None:
        """Flushes a final status that was found: whoever published it may have been killed before its name was durable.

        Raises Fenced, DiskUnavailable.
        """
        own = (self._folders.job(record.id), self._folders.output, self._folders.ids, self._seat.path)
        with self._seat.power(), durable.disk_errors(self._folders.job(record.id)):
            for folder in own:
                durable.sync_folder(folder)

    def publish_job_document(self, id: str, data: bytes, token: str) -> None:
        self._publish(id, "job.json", data, token, durable_write=True, sync_folder=False)  # the final status does that

    def publish_output(self, source: str, id: str, name: str, token: str, *, sha256: str) -> None:
        """Gives a verified, flushed file its public name; may be done again at any time.

        The folder is not flushed: the status that names the output goes into the same folder, and is.
        """
        scratch = f"{self._seat.pen}/{token}-{name}"
        with self._seat.power(), durable.disk_errors(self._folders.job(id)):
            with suppress(FileNotFoundError):
                os.unlink(scratch)
            try:
                os.link(source, scratch, follow_symlinks=False)
            except PermissionError:  # fs.protected_hardlinks: it is another user's, whose group may not write it
                durable.copy_file(source, scratch, sha256=sha256)
            self._make_job_folder(id)
            os.rename(scratch, f"{self._folders.job(id)}/{name}")
            # between two names of one file a rename does nothing, and the first name stays
            with suppress(FileNotFoundError):
                os.unlink(scratch)

    def remove_mark(self, id: str) -> None:
        """Removes the wish to cancel a job that is over. One that cannot be removed is harmless, and named once."""
        mark = self._folders.cancel_mark(id)
        try:
            try:
                os.unlink(mark)
            except IsADirectoryError:
                os.rmdir(mark)
        except FileNotFoundError:
            pass
        except OSError as error:
            if id not in self._left_marks:
                self._left_marks.add(id)
                log.get().warning(
                    "mark_left", file=os.path.basename(mark), error=error.strerror, hint="remove it: its job is over"
                )
            return
        self._left_marks.discard(id)

    def announce(self, id: str) -> None:
        """Wakes readers: they tail the feed, and then read `status.json`.

        The feed begins anew when it has grown long, so a reader takes one that is shorter than it was for "look again".
        """
        with self._seat.power(), durable.disk_errors(self._seat.pen):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(f"{self._seat.pen}/feed", flags, 0o664)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
                # a link or a pipe that somebody put there; readers do without a hint
                os.unlink(f"{self._seat.pen}/feed")
                return
            try:
                if os.fstat(descriptor).st_size > FEED_BYTES:
                    os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{id}\n".encode())
            finally:
                os.close(descriptor)

    def finish(self, record: Record, day: str) -> None:
        """After the final status is in the bucket: clears up and files the record under its day."""
        self.remove_mark(record.id)
        for attempt in range(1, record.attempt + 1):
            _remove(f"{self._folders.output}/{work_folder(record.token, attempt)}")
        folder = f"{self._folders.done}/{day}"
        with self._seat.power(), durable.disk_errors(folder):
            _make_folder(folder)
            os.rename(self._seat.record_path(record.token), f"{folder}/{record.id}")
        self._flushed.discard(record.id)
        acquit(self._seat, record.token)

    def clear_work(self) -> None:
        """Removes work folders whose job is over. Old ones only, since another watcher's ComfyUI may still write there."""
        for name in os.listdir(self._folders.work):
            path = f"{self._folders.work}/{name}"
            token = name.partition("-")[0]
            with suppress(FileNotFoundError):
                if time.time() - os.stat(path, follow_symlinks=False).st_mtime < WORK_KEPT_S:
                    continue
                if not any(
                    os.path.lexists(f"{self._folders.spool}/{w}/r-{token}") for w in os.listdir(self._folders.spool)
                ):
                    _remove(path)

    def _publish(
        self, id: str, name: str, data: bytes, token: str, *, durable_write: bool, sync_folder: bool = True
    ) -> None:
        """The pen first: a watcher that was fenced off leaves nothing to be seen, not even an empty folder."""
        scratch = f"{self._seat.pen}/{token}-{name}"
        with self._seat.power():
            durable.write_file(scratch, data, durable=durable_write)
            self._make_job_folder(id)
            durable.replace(scratch, f"{self._folders.job(id)}/{name}", durable=durable_write and sync_folder)

    def _make_job_folder(self, id: str) -> None:
        path = self._folders.job(id)
        with durable.disk_errors(path):
            if _make_folder(path):  # retention, or a person, removed the one that was flushed
                self._flushed.discard(id)


def _make_folder(path: str) -> bool:
    """False: it is there. A link in its place is no folder of ours: it is removed, since whatever is renamed through it would
    lie elsewhere.
    """
    while True:
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.islink(path):
                return False
            _remove(path)
        else:
            os.chmod(path, FOLDER_MODE)
            return True


def _remove(path: str) -> None:
    """A folder with all that is in it; of a link the link alone."""
    if os.path.islink(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)

"""The write ritual, and reading files that strangers may have put there.

Publish = temporary name, fsync, rename, fsync of the folder. The temporary file lies in a folder that only the writer
uses, because whoever removes that folder thereby takes away the writer's power to publish (docs/protocol.md).

Full, read-only and failing disks surface as `DiskUnavailable`, foreign paths and what stands in the way as `NotPermitted`; a missing folder stays a `FileNotFoundError`, which the
caller reads as "I was fenced off".
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from handoff.failures import DiskUnavailable, NotPermitted, Permanent, Unavailable

_STUCK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR}


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turns what only an operator can mend into `DiskUnavailable` or `NotPermitted`: the step is tried again later."""
    try:
        yield
    except OSError as error:
        if error.errno in _FORBIDDEN:
            raise NotPermitted(f"may not write {error.filename or path}: {error.strerror}") from error
        if error.errno in _IN_THE_WAY:
            there = error.filename2 or error.filename or path
            raise NotPermitted(f"may not write {there}: {error.strerror}; move away what lies there") from error
        if error.errno in _STUCK:
            raise DiskUnavailable(f"cannot write {path}: {error.strerror}") from error
        raise


def write_file(path: str, data: bytes, *, durable: bool = True) -> None:
    """Writes a new file or replaces the writer's own unfinished one; after an error nothing is left of it.

    Raises DiskUnavailable, FileNotFoundError (the folder is gone).
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if durable:
                    os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.unlink(path)
            raise


def replace(temporary: str, target: str, *, durable: bool = True) -> None:
    """Renames, and makes the new name survive a power loss."""
    with disk_errors(target):
        os.rename(temporary, target)
        if durable:
            sync_folder(os.path.dirname(target))


def publish(data: bytes, temporary: str, target: str, *, durable: bool = True) -> None:
    """The whole ritual. Without `durable` readers still never see half a file; a power loss may bring back the one before."""
    write_file(temporary, data, durable=durable)
    try:
        replace(temporary, target, durable=durable)
    except DiskUnavailable:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def copy_file(source: str, target: str, *, sha256: str) -> None:
    """A new file with the same bytes, flushed. Raises Unavailable when they are not the ones that `sha256` names."""
    digest = hashlib.sha256()
    with (
        open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as reader,
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664), "wb") as writer,
    ):
        while part := reader.read(1 << 20):
            digest.update(part)
            writer.write(part)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != sha256:
        os.unlink(target)
        raise Unavailable(f"{source} changed while it was published")


def sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: str, limit: int) -> bytes:
    """The bytes of a regular file: never more than `limit` + 1, no pipe or device opened for waiting, and no link
    followed, neither the file nor its folder, since others may plant one on the volume.

    Raises Permanent for what is no regular file or is larger, and OSError.
    """
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        name = os.path.basename(path)
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Permanent(f"{path} is no regular file")
        data = bytearray()
        while len(data) <= limit and (part := os.read(descriptor, min(limit + 1 - len(data), 1 << 20))):
            data += part
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise Permanent(f"{path} is larger than {limit} bytes")
    return bytes(data)

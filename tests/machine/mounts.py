"""Mounts, processes of other users and settings of the kernel, for the time of a test."""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

import pytest

from tests.servers.debian import need
from tests.servers.watcher import ROOT

GROUP = 61_200


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """`mount ARGUMENTS FOLDER`; skips the test where nothing may be mounted."""
    with _mounted_by(folder, "mount", *arguments):
        yield


@contextlib.contextmanager
def bindfs(source: Path, folder: Path) -> Iterator[None]:
    """The same files through FUSE: no event tells here of what is written there."""
    need("bindfs", "fusermount", packages=["bindfs", "fuse3"])
    with _mounted_by(folder, "bindfs", str(source)):
        yield


@contextlib.contextmanager
def _mounted_by(folder: Path, *command: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run([*command, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def sysctl(name: str, value: int) -> Iterator[None]:
    """One process of the machine at a time; skips the test where the kernel's settings are read-only."""
    path = Path("/proc/sys", *name.split("."))
    with Path(tempfile.gettempdir(), "handoff-tests-sysctl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = path.read_text()
        try:
            path.write_text(str(value))
        except OSError as error:
            pytest.skip(f"{name}: {error}")
        try:
            yield
        finally:
            path.write_text(before)


def as_user(uid: int, *, umask: str = "002") -> Sequence[str]:
    """What stands before a command: another user of the common group, with these rights for new files."""
    need("setpriv", packages=["util-linux"])
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    who = (f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups")
    return *_opened_home(), "setpriv", *who, "--", "sh", "-c", f'umask {umask}; exec "$@"', "sh"


def _opened_home() -> Sequence[str]:
    """Python and the project may lie where others may not enter: the process then sees that folder empty but for them."""
    wanted = {path: above for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT) if (above := _closed_above(path))}
    if not wanted:
        return ()
    opened = list(enumerate(wanted, 3))
    lines = [f"exec {number}< {quote(str(path))}" for number, path in opened]
    lines += [f"mount -t tmpfs -o mode=755 none {quote(str(above))}" for above in set(wanted.values())]
    for number, path in sorted(opened, key=lambda entry: len(entry[1].parts)):
        lines.append(f"mkdir -p {quote(str(path))}")
        lines.append(f"mount --no-canonicalize --bind /proc/self/fd/{number} {quote(str(path))}")
        lines.append(f"exec {number}<&-")
    return "unshare", "--mount", "sh", "-c", " && ".join([*lines, 'exec "$@"']), "sh"


def _closed_above(path: Path) -> Path | None:
    """The outermost folder that others may not enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def share(*folders: Path) -> None:
    """Makes folders the common group's, as `chmod g+rwxs` on both sides of a volume does."""
    for folder in folders:
        os.chown(folder, -1, GROUP)
        folder.chmod(0o2775)

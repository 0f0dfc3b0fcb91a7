"""Programs of Debian that tests work with: fetched where they are missing, or named with the line to type."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

APT_S = 900


class NotInstalledError(Exception):
    """Programs are missing and cannot be installed here; the text says what to type."""


def install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Gets `packages` with apt-get unless all `programs` are on PATH. Raises NotInstalledError.

    Needs root, apt-get and Debian's archive. One process of a machine does it, the others wait for it.
    """
    if all(map(shutil.which, programs)):
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    by_hand = f"{', '.join(programs)} wanted; as root: apt-get update && {command}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotInstalledError(by_hand)
    with Path(tempfile.gettempdir(), "handoff-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(map(shutil.which, programs)):
            return
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for line in ("apt-get update", command):
            done = subprocess.run(
                line.split(), env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=APT_S
            )
            if done.returncode:
                raise NotInstalledError(f"{by_hand}\n{line} said:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    if missing := [program for program in programs if not shutil.which(program)]:
        raise NotInstalledError(f"{by_hand}\napt-get succeeded, yet not on PATH: {', '.join(missing)}")


def need(*programs: str, packages: Sequence[str] | None = None) -> None:
    """Skips the test that asks when the programs cannot be had; where CI is set it fails. Packages: the same names."""
    try:
        install(programs, packages or programs)
    except NotInstalledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))

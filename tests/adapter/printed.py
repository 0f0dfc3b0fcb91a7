"""Does what README.md ("http") or docs/dify.md ("dify") says, in a network that has only lo: the first argument says which,
the others are the lines as printed, each for a terminal of its own.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import requests

from tests.adapter.interpreter import Dify, load

ADDRESS = "http://127.0.0.1:8080"
LIMIT_S = 60
_SET_FLAGS, _UP = 0x8914, 0x1 | 0x40  # SIOCSIFFLAGS, IFF_UP and IFF_RUNNING


@contextlib.contextmanager
def typed(terminals: Sequence[str]) -> Iterator[None]:
    """All run until the block ends."""
    running = []
    try:
        for lines in terminals:
            running.append(subprocess.Popen(["sh", "-ec", lines], start_new_session=True))
            time.sleep(1)  # one after the other, as by hand
        yield
    finally:
        for terminal in running:
            os.killpg(terminal.pid, signal.SIGTERM)
        for terminal in running:
            terminal.wait(30)


def use_http(serve: str, *lines: str) -> None:
    with typed(["handoff simulator", "handoff watch", serve]):
        wait_until_ready()
        for line in lines:
            interpreter = [sys.executable, "-c"] if "import" in line else ["sh", "-ec"]
            subprocess.run([*interpreter, line], check=True, timeout=LIMIT_S)


def use_dify(*terminals: str) -> None:
    """The chatflow is downloaded from the page that step 3 opens, gets the key of step 1, and draws."""
    with typed(terminals):
        wait_until_ready()
        _, _, key = Path("keys.txt").read_text().strip().partition(":")
        page = requests.get(f"{ADDRESS}/", auth=("anything", key), timeout=LIMIT_S).text
        link = re.search(r'href="(/dify/[^"]+/chatflow\.yml)"', page)
        assert link
        assert "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=host.docker.internal" in page
        app = load(requests.get(ADDRESS + link[1], timeout=LIMIT_S).text)
        values = {entry["name"]: entry["value"] for entry in app["workflow"]["environment_variables"]}
        assert values["HANDOFF_URL"] == "http://host.docker.internal:8080"
        run = Dify(app, {"HANDOFF_KEY": key, "HANDOFF_URL": ADDRESS}).run(query="a lighthouse in the fog")
        assert run.error is None, run.error
        assert len(run.answers) == 2, run.answers
        Path("dify.png").write_bytes(run.files[0].data)


def wait_until_ready() -> None:
    """A watcher works, and the adapter answers."""
    end = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{ADDRESS}/readyz", timeout=10).ok:
                return
        assert time.monotonic() < end, "not ready"
        time.sleep(0.2)


def main(which: str, lines: Sequence[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interfaces:
        fcntl.ioctl(interfaces, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
    if which == "http":
        use_http(*lines)
    else:
        use_dify(*lines)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

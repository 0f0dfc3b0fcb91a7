"""The real S3 server of the tests leaves nothing running behind, and says why when it cannot run."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.servers.rgw import NOT_INSTALLED, PACKAGES, S3Server

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, "-m", "tests.servers.rgw"]
ONE_TEST = "def test_one(s3_server: object) -> None:\n    assert s3_server\n"


def environment(**changes: str) -> dict[str, str]:
    usual = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    return usual | {"PYTHONPATH": str(ROOT)} | changes


def daemons_of(folder: Path) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = Path("/proc", entry, "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder / "ceph.conf").encode() in words.split(b"\0"):
            found.append(int(entry))
    return found


def wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + 20
    while daemons_of(folder):
        assert time.monotonic() < end, "daemons still run"
        time.sleep(0.02)


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the test session that the server belongs to."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def start(folder: Path, session: subprocess.Popen[bytes]) -> tuple[subprocess.Popen[bytes], S3Server]:
    command = [*SCRIPT, "--folder", str(folder), "--while-pid", str(session.pid)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    while not (folder / "server.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process, S3Server(**json.loads((folder / "server.json").read_text()))


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("killed", ["session", "script"])
def test_no_daemon_outlives_a_killed_session_or_script(
    tmp_path: Path, session: subprocess.Popen[bytes], killed: str
) -> None:
    script, server = start(tmp_path, session)
    with script:
        assert requests.get(server.endpoint, timeout=5).status_code == 200
        assert requests.get(server.https_endpoint, timeout=5, verify=server.ca_bundle).status_code == 200
        assert len(daemons_of(tmp_path)) == 3
        (session if killed == "session" else script).kill()
        assert script.wait(20) == (0 if killed == "session" else -signal.SIGKILL)
    wait_until_gone(tmp_path)
    with pytest.raises(requests.ConnectionError):
        requests.get(server.endpoint, timeout=5)


@pytest.mark.usefixtures("s3_server")
def test_by_hand_it_prints_what_to_export_and_stops_at_ctrl_c() -> None:
    with subprocess.Popen(SCRIPT, env=environment(), stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout
        assert select.select([script.stdout], [], [], 60)[0]
        lines = [script.stdout.readline() for _ in range(6)]
        script.send_signal(signal.SIGINT)
        assert script.wait(20) == 0
    exported = [line.split("=")[0] for line in lines[:5]]
    assert "export AWS_SECRET_ACCESS_KEY" in exported
    assert "export HANDOFF_BUCKET" in exported
    assert "AWS_CA_BUNDLE" in lines[5]


@pytest.mark.usefixtures("s3_server")
def test_a_start_that_fails_shows_the_daemons_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "ceph-osd"
    broken.write_text("#!/bin/sh\necho 'no room for the journal' >&2\nexit 9\n")
    broken.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(SCRIPT, env=environment(PATH=path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ceph-osd ended with 9: no room for the journal" in done.stderr
    assert "--- mon.a.log" in done.stderr


def test_without_the_programs_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(SCRIPT, env=environment(PATH=str(tmp_path)), capture_output=True, text=True, timeout=60)
    assert done.returncode == NOT_INSTALLED
    assert f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}" in done.stderr


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_tests_without_the_server_are_skipped_but_fail_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_one.py").write_text(ONE_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [*SCRIPT[:2], "pytest", "-rs", "-p", "tests.servers.rgw", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, env=environment(PATH=str(tmp_path), CI=ci), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert outcome in done.stdout
    assert "apt-get install" in done.stdout


@pytest.mark.usefixtures("s3_server")
def test_all_workers_of_a_session_share_one_server(tmp_path: Path) -> None:
    note = f"    with open({str(tmp_path / 'seen')!r}, 'a') as file: file.write(s3_server.endpoint + '\\n')\n"
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(ONE_TEST + note)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [*SCRIPT[:2], "pytest", "-n", "2", "--dist", "each", "-p", "tests.servers.rgw", "-p", "no:cacheprovider"]
    base = tmp_path / "base"
    done = subprocess.run(
        [*command, f"--basetemp={base}", str(tmp_path)], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert "4 passed" in done.stdout
    endpoints = (tmp_path / "seen").read_text().split()
    assert len(endpoints) == 4
    assert len(set(endpoints)) == 1
    wait_until_gone(base / "rgw")

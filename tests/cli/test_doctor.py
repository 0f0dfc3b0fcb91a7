"""Every check of the doctor, made to fail by what it is about."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from handoff.settings import WatcherSettings
from handoff.site import Site
from handoff.spool import lease
from handoff.spool.seat import Seat
from handoff.stores.contract import CHECK_TEXT
from handoff.stores.opening import open_store
from handoff_cli import doctor
from handoff_cli.doctor import Finding, diagnose, guess_folders
from tests.servers.simulator import Simulator, start_simulator

SECRET = "a-secret-that-nobody-may-see"
CANVAS = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["1", 0]}},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "STUCK_S", 0.6)
    monkeypatch.setattr(doctor, "ANSWER_S", 1.0)
    for name in [name for name in os.environ if name.startswith(("HANDOFF_", "AWS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("comfyui")) as simulator:
        yield simulator
        # whatever the checks put there is gone again
        assert [name for name in os.listdir(simulator.output_dir) if name.startswith(".handoff-")] == []
        assert [name for name in os.listdir(simulator.input_dir) if name.startswith(".handoff-")] == []


@pytest.fixture
def site(comfyui: Simulator, tmp_path: Path) -> WatcherSettings:
    """An installation without fault, but for the watcher, which does not run."""
    comfyui.control(reset=True)
    settings = make_settings(comfyui, bucket_dir=tmp_path / "bucket")
    for path in (settings.input_dir, settings.output_dir):
        path.chmod(0o2775)
    (tmp_path / "bucket").mkdir()
    shutil.rmtree(settings.folders.spool, ignore_errors=True)
    shutil.rmtree(settings.folders.rejected, ignore_errors=True)
    settings.folders.make()
    return settings


def make_settings(comfyui: Simulator, **changes: Any) -> WatcherSettings:
    given = {
        "input_dir": comfyui.input_dir,
        "output_dir": comfyui.output_dir,
        "comfyui_url": comfyui.url,
        "workflows_dir": comfyui.base / "workflows",
        "bucket_dir": comfyui.base / "bucket",
        "watcher_name": "this one",
        **changes,
    }
    return WatcherSettings(**given)


def change(settings: WatcherSettings, **changes: Any) -> WatcherSettings:
    return WatcherSettings(**{**settings.model_dump(exclude_unset=True), **changes})


def run(check: doctor.Check, settings: WatcherSettings) -> list[Finding]:
    findings = list(check(settings))
    assert findings
    for finding in findings:
        assert finding.found
        assert bool(finding.remedy) is (finding.state != "ok"), finding
    return findings


def find(findings: list[Finding], name: str) -> Finding:
    found = [finding for finding in findings if finding.name == name]
    assert len(found) == 1, findings
    return found[0]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def list_all(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ── all together ──


def test_all_is_well(site: WatcherSettings) -> None:
    before = list_all(site.input_dir), list_all(site.output_dir)
    seat = Seat(site.folders, site.server)
    try:
        with beating(seat, {"comfyui": "up", "bucket": "ok", "waiting": 0}):
            findings = diagnose(site)
    finally:
        seat.leave()
    troubles = {finding.name: finding for finding in findings if finding.state != "ok"}
    assert troubles.keys() == {"simulated"}, [finding.found for finding in troubles.values()]
    assert troubles["simulated"].state == "warning"
    assert {finding.name for finding in findings} >= {
        "python", "imports", "settings", "input folder", "output folder", "modes", "rename and link", "inotify limits", "events",
        "disk", "strangers", "rejected", "watcher", "comfyui", "jobs route", "cancel route", "queue", "websocket",
        "shared input", "shared output", "ComfyUI's files", "workflows", "bucket", "clock",
    }  # fmt: skip
    assert (list_all(site.input_dir), list_all(site.output_dir)) == before
    assert list_all(site.bucket_dir) == [".unfinished", "jobs", "jobs/_check.txt"]


def test_nothing_is_made_where_nothing_is(comfyui: Simulator, tmp_path: Path) -> None:
    """Its owner would be whoever asked the doctor, and not the watcher's user."""
    folders = {name: tmp_path / name for name in ("input_dir", "output_dir")}
    for path in folders.values():
        path.mkdir()
    findings = diagnose(make_settings(comfyui, **folders, bucket_dir=tmp_path / "data/bucket"))
    assert find(findings, "rename and link").state == "ok"
    assert find(findings, "bucket").state == "ok"
    assert list_all(tmp_path) == ["input_dir", "output_dir"]


def test_a_check_that_hangs_is_a_finding(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(_: WatcherSettings) -> Iterator[Finding]:
        released.wait(30)
        yield from ()

    monkeypatch.setattr(doctor, "ALL_S", 0.5)
    monkeypatch.setattr(doctor, "CHECKS", {"python": doctor.check_python, "mount": hang})
    began = time.monotonic()
    findings = diagnose(site)
    released.set()
    assert time.monotonic() - began < 5
    assert [(finding.name, finding.state) for finding in findings] == [("python", "ok"), ("mount", "failed")]
    assert "no answer within" in findings[1].found


def test_a_check_that_breaks_is_a_finding(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: WatcherSettings) -> Iterator[Finding]:
        raise RuntimeError("https://name:word@host/path?signature=1")

    monkeypatch.setattr(doctor, "CHECKS", {"broken": fail, "python": doctor.check_python})
    findings = diagnose(site)
    assert [(finding.name, finding.state) for finding in findings] == [("broken", "failed"), ("python", "ok")]
    assert "word" not in findings[0].found
    assert "signature" not in findings[0].found


# ── this program ──


def test_a_python_that_is_too_old(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 90), (3, 99)))
    assert find(run(doctor.check_python, site), "python").state == "failed"


def test_another_distribution_with_our_names(
    site: WatcherSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "others/other_flows-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-flows\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("workflows\n")
    monkeypatch.syspath_prepend(str(tmp_path / "others"))
    finding = find(run(doctor.check_imports, site), "imports")
    assert finding.state == "failed"
    assert "workflows is also installed by other-flows" in finding.found
    assert "virtual environment" in finding.remedy


def test_settings_that_lead_nowhere(site: WatcherSettings) -> None:
    lost = change(site, default_workflow="txt3img", comfyui_restart="no-such-command --now")
    finding = find(run(doctor.check_settings, lost), "settings")
    assert finding.state == "warning"
    assert "HANDOFF_DEFAULT_WORKFLOW: there is no workflow txt3img" in finding.found
    assert "HANDOFF_COMFYUI_RESTART: there is no command no-such-command" in finding.found


# ── the folders ──


def test_a_folder_that_was_set_and_is_missing(site: WatcherSettings, tmp_path: Path) -> None:
    lost = change(site, input_dir=tmp_path / "lost")
    finding = find(run(doctor.check_folders, lost), "input folder")
    assert finding.state == "failed"
    assert "HANDOFF_INPUT_DIR" in finding.remedy
    findings = diagnose(lost)
    assert find(findings, "output folder").state == "ok"
    assert find(findings, "shared output").state == "ok"
    for name in ("rename and link", "events", "shared input", "strangers"):
        assert find(findings, name).state == "warning"
        assert "not tried" in find(findings, name).found


def test_default_folders_are_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    findings = run(doctor.check_folders, WatcherSettings())
    assert [finding.state for finding in findings] == ["warning", "warning"]
    assert "HANDOFF_OUTPUT_DIR" in findings[1].remedy
    assert list(tmp_path.iterdir()) == []


def test_folders_that_only_their_owner_may_write(site: WatcherSettings) -> None:
    site.output_dir.chmod(0o755)
    finding = find(run(doctor.check_modes, site), "modes")
    assert finding.state == "warning"
    assert f"{site.output_dir} is " in finding.found
    assert "0755" in finding.found
    assert finding.remedy.endswith(f"chmod g+rwxs {site.output_dir}")


@contextlib.contextmanager
def umask_of(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def mounted(folder: str) -> Iterator[None]:
    """An empty file system of its own over a folder; the test is skipped where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["ids", "inbox", "uploads", "rejected"])
def test_folders_that_span_two_mounts(site: WatcherSettings, name: str) -> None:
    with mounted(getattr(site.folders, name)):
        finding = find(run(doctor.check_rename_and_link, site), "rename and link")
    assert finding.state == "failed"
    assert "two mounts" in finding.found or "cross-device" in finding.found.lower()


def test_no_events(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """As on a network mount: armed, and never a hint."""

        def __init__(self, *_: object) -> None:
            pass

        def arm(self) -> None:
            return None

        def close(self) -> None:
            pass

    monkeypatch.setattr(doctor, "Hints", Deaf)
    monkeypatch.setattr(doctor, "EVENT_S", 0.1)
    finding = find(run(doctor.check_events, site), "events")
    assert finding.state == "warning"
    assert "HANDOFF_WATCH=polling" in finding.remedy


def test_no_inotify_instance_left(site: WatcherSettings) -> None:
    """In a process of its own that may open too few files: the kernel says EMFILE, as for the limit on instances."""
    code = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from handoff.settings import WatcherSettings\n"
        "from handoff_cli import doctor\n"
        "settings = WatcherSettings(input_dir=Path(sys.argv[1]), output_dir=Path(sys.argv[2]))\n"
        "lowest = os.dup(0); os.close(lowest)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, lowest + 2))\n"
        "first = next(iter(doctor.check_events(settings)))\n"
        "print(first.name, first.state, first.found, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site.input_dir), str(site.output_dir)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    name, state, found = done.stdout.strip().split("|")
    assert (name, state) == ("inotify limits", "warning"), done.stderr
    assert "max_user_instances" in found


def test_polling_needs_no_events(site: WatcherSettings) -> None:
    assert "not used" in find(run(doctor.check_events, change(site, watch="polling")), "events").found


def test_little_room(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_BYTES", 1 << 62)
    findings = run(doctor.check_disk, site)
    assert [finding.state for finding in findings] == ["warning"] * 3


def test_few_inodes(site: WatcherSettings) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nr_inodes=100,size=4g", "tmpfs", str(site.output_dir)], capture_output=True
    )
    if done.returncode:
        pytest.skip("cannot mount")
    try:
        findings = run(doctor.check_disk, site)
    finally:
        subprocess.run(["umount", str(site.output_dir)], check=True)
    assert [finding.state for finding in findings] == ["warning"]
    assert "inodes free" in findings[0].found


def test_strangers_and_rejected_files(site: WatcherSettings) -> None:
    stranger = site.input_dir / "wish.docx"
    stranger.write_bytes(b"")
    Path(site.folders.rejected, "a.json").write_bytes(b"{")
    Path(site.folders.rejected, "a.json.reason.json").write_bytes(b"{}")
    try:
        findings = run(doctor.check_input, site)
    finally:
        stranger.unlink()
    assert "1 in input/ that are no jobs: wish.docx" in find(findings, "strangers").found
    assert find(findings, "strangers").state == "warning"
    assert "1 files: a.json.reason.json" in find(findings, "rejected").found
    assert find(findings, "rejected").state == "warning"


# ── the watchers ──


@contextlib.contextmanager
def beating(seat: Seat, health: Mapping[str, Any]) -> Iterator[None]:
    """The seat's sign of life, as its worker would give it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            seat.beat(dict(health))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_no_watcher_ever(site: WatcherSettings) -> None:
    shutil.rmtree(site.folders.spool)
    finding = find(run(doctor.check_watchers, site), "watcher")
    assert finding.state == "warning"
    assert "handoff watch" in finding.remedy


def test_a_watcher_that_died(site: WatcherSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    dead = Path(site.folders.watcher("0123456789abcdef"))
    dead.mkdir()
    (dead / "r-token").write_bytes(b"{}")
    findings = run(doctor.check_watchers, site)
    assert find(findings, "watcher").state == "warning"
    assert "1 unfinished jobs" in find(findings, "dead watcher").found


def test_a_watcher_in_trouble_and_one_of_another_server(site: WatcherSettings) -> None:
    mine, other = Seat(site.folders, site.server), Seat(site.folders, "another one")
    try:
        with beating(mine, {"comfyui": "dead worker", "bucket": "ok"}), beating(other, {"comfyui": "up", "waiting": 3}):
            findings = run(doctor.check_watchers, site)
    finally:
        mine.leave()
        other.leave()
    assert find(findings, "watcher").state == "warning"
    assert "comfyui: dead worker" in find(findings, "watcher").found
    assert find(findings, "another watcher").state == "ok"
    assert "waiting 3" in find(findings, "another watcher").found


def test_paused(site: WatcherSettings) -> None:
    Path(site.folders.paused).write_bytes(b"")
    assert find(run(doctor.check_watchers, site), "paused").remedy == "Go on with: handoff resume"


# ── ComfyUI ──


def test_comfyui_is_away(site: WatcherSettings) -> None:
    findings = diagnose(change(site, comfyui_url=f"http://127.0.0.1:{closed_port()}"))
    assert find(findings, "comfyui").state == "failed"
    assert "HANDOFF_COMFYUI_URL" in find(findings, "comfyui").remedy
    assert find(findings, "websocket").state == "warning"
    for name in ("shared input", "shared output", "workflows"):
        assert "not tried" in find(findings, name).found
    assert find(findings, "rename and link").state == "ok"
    assert find(findings, "bucket").state == "ok"


def test_an_old_comfyui(site: WatcherSettings, comfyui: Simulator) -> None:
    comfyui.control(no_jobs_api=True)
    findings = run(doctor.check_comfyui, site)
    assert find(findings, "comfyui").state == "ok"
    assert find(findings, "jobs route").state == "warning"
    assert find(findings, "cancel route").state == "warning"


def test_a_dead_worker(tmp_path: Path) -> None:
    with start_simulator(tmp_path / "dead") as simulator:
        settings = make_settings(simulator)
        assert find(run(doctor.check_comfyui, settings), "queue").state == "ok"
        simulator.control(dead_worker=True)
        for _ in range(2):
            requests.post(f"{simulator.url}/prompt", json={"prompt": CANVAS}, timeout=10).raise_for_status()
        finding = find(run(doctor.check_comfyui, settings), "queue")
    assert finding.state == "failed"
    assert "Restart ComfyUI" in finding.remedy


@pytest.mark.parametrize("fault", ["refuse", "silent"])
def test_a_websocket_that_says_nothing(site: WatcherSettings, comfyui: Simulator, fault: str) -> None:
    comfyui.control(websocket=fault)
    finding = find(run(doctor.check_websocket, site), "websocket")
    assert finding.state == "warning"
    assert "websockets" in finding.remedy


def test_workflows_that_do_not_fit(site: WatcherSettings, comfyui: Simulator, tmp_path: Path) -> None:
    own = tmp_path / "workflows"
    own.mkdir()
    graph = {**CANVAS, "1": {"class_type": "NodeThatNobodyHas", "inputs": {}}}
    (own / "fancy.json").write_text(json.dumps(graph))
    (own / "fancy.toml").write_text('title = "Fancy"\n')
    (own / "torn.json").write_text("{")
    (own / "torn.toml").write_text('title = "Torn"\n')
    empty = comfyui.base / "models/checkpoints"
    empty.mkdir(parents=True)
    try:
        findings = run(doctor.check_workflows, change(site, workflows_dir=own))
    finally:
        empty.rmdir()
    assert "NodeThatNobodyHas" in find(findings, "workflow fancy").found
    assert find(findings, "workflow torn").state == "failed"
    assert "models/checkpoints" in find(findings, "workflow txt2img").found
    assert "canvas" in find(findings, "workflows").found
    assert "txt2img" not in find(findings, "workflows").found


def test_folders_of_another_comfyui(site: WatcherSettings, comfyui: Simulator, tmp_path: Path) -> None:
    other = tmp_path / "output"
    other.mkdir()
    findings = run(doctor.check_shared, change(site, output_dir=other))
    assert find(findings, "shared input").state == "ok"
    finding = find(findings, "shared output")
    assert finding.state == "failed"
    assert f"HANDOFF_OUTPUT_DIR={comfyui.output_dir}" in finding.remedy
    assert "ComfyUI's files" not in {finding.name for finding in findings}
    assert list(other.iterdir()) == []


@pytest.mark.parametrize(
    ("umask", "state", "found"),
    [
        (0o022, "warning", "a file that root wrote is copied, not linked: Operation not permitted"),
        (0o077, "failed", "a file that root wrote cannot be read: Permission denied"),
    ],
)
def test_files_that_comfyui_keeps_for_itself(umask: int, state: str, found: str) -> None:
    """A watcher of another user, where ComfyUI's umask shuts the group out: the kernel refuses the link, or even the look."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1":
        pytest.skip("this kernel links what is not one's own")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from handoff.settings import WatcherSettings\n"
        "from handoff_cli import doctor\n"
        "settings = WatcherSettings(input_dir=Path(sys.argv[1]), output_dir=Path(sys.argv[2]), comfyui_url=sys.argv[3])\n"
        "for finding in doctor.check_shared(settings): print(finding.name, finding.state, finding.found, sep='|')\n"
    )
    with tempfile.TemporaryDirectory() as folder, umask_of(umask), start_simulator(Path(folder)) as comfyui:
        for path in (folder, comfyui.input_dir, comfyui.output_dir):
            os.chmod(path, 0o2777)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code,
             str(comfyui.input_dir), str(comfyui.output_dir), comfyui.url],
            capture_output=True, text=True, timeout=30, cwd="/", env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
    if done.returncode and not done.stdout:
        pytest.skip(f"this Python cannot be run by another user: {done.stderr[-200:]}")
    findings = {name: (state, found) for name, state, found in (line.split("|") for line in done.stdout.splitlines())}
    assert findings["shared output"][0] == "ok", done.stdout + done.stderr
    assert findings["ComfyUI's files"] == (state, found)


# ── the bucket and the clock ──


@contextlib.contextmanager
def answering(answers: Mapping[str, tuple[int, bytes]], *, date: str | None = None) -> Iterator[str]:
    """A server that gives one answer per method; a put is confirmed by its ETag, as S3 does. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = answers.get(self.command, (404, b""))
            self.send_response_only(status)
            self.send_header("Date", date or formatdate(usegmt=True))
            if self.command == "PUT":
                self.send_header("ETag", f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_HEAD = do_POST = answer  # noqa: N815 - http.server looks for these names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def refusal(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET} is wrong</Message></Error>".encode()


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [(403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"), (404, "NoSuchBucket", "create the bucket pictures")],
)
def test_a_bucket_that_refuses(site: WatcherSettings, status: int, code: str, remedy: str) -> None:
    with answering({"PUT": (status, refusal(code))}) as endpoint:
        finding = find(run(doctor.check_bucket, change(site, bucket="pictures", s3_endpoint_url=endpoint)), "bucket")
    assert finding.state == "failed"
    assert remedy in finding.found
    if code == "SignatureDoesNotMatch":
        assert SECRET not in finding.found


@pytest.mark.usefixtures("_keys")
def test_a_bucket_that_is_away(site: WatcherSettings) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    finding = find(run(doctor.check_bucket, change(site, bucket="pictures", s3_endpoint_url=endpoint)), "bucket")
    assert finding.state == "failed"
    assert "HANDOFF_S3_ENDPOINT_URL" in finding.found


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("answer", "state"),
    [((200, CHECK_TEXT), "ok"), ((403, b""), "warning"), ((200, b"a page of something else"), "warning")],
)
def test_links(site: WatcherSettings, answer: tuple[int, bytes], state: str) -> None:
    with answering({"PUT": (200, b""), "GET": answer}) as endpoint:
        findings = run(doctor.check_bucket, change(site, bucket="pictures", s3_endpoint_url=endpoint))
    assert find(findings, "bucket").state == "ok"
    assert find(findings, "links").state == state
    assert "Signature" not in find(findings, "links").found


@pytest.mark.usefixtures("_keys")
def test_links_to_an_address_that_does_not_answer(site: WatcherSettings) -> None:
    public = f"http://127.0.0.1:{closed_port()}"
    with answering({"PUT": (200, b"")}) as endpoint:
        settings = change(site, bucket="pictures", s3_endpoint_url=endpoint, s3_public_endpoint_url=public)
        finding = find(run(doctor.check_bucket, settings), "links")
    assert finding.state == "warning"
    assert public in finding.found
    assert "Signature" not in finding.found
    assert "HANDOFF_S3_PUBLIC_ENDPOINT_URL" in finding.remedy


def test_a_bucket_folder_that_cannot_be_written(site: WatcherSettings, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_bytes(b"")
    finding = find(run(doctor.check_bucket, change(site, bucket_dir=file)), "bucket")
    assert finding.state == "failed"


def test_a_bucket_of_another_installation(site: WatcherSettings, tmp_path: Path) -> None:
    store = open_store(site)
    assert "bucket's owner" not in {finding.name for finding in run(doctor.check_bucket, site)}
    Site(site.folders, store).ensure()
    assert find(run(doctor.check_bucket, site), "bucket's owner").state == "ok"
    Path(site.folders.spool, "site").write_text("0123\n")
    assert find(run(doctor.check_bucket, site), "bucket's owner").state == "failed"
    fresh = change(site, input_dir=tmp_path)
    assert find(run(doctor.check_bucket, fresh), "bucket's owner").state == "warning"
    assert not Path(fresh.folders.spool).exists()


def test_a_clock_that_is_off(site: WatcherSettings) -> None:
    with answering({"GET": (200, b"{}")}, date=formatdate(time.time() - 3600, usegmt=True)) as url:
        finding = find(run(doctor.check_clock, change(site, comfyui_url=url)), "clock")
    assert finding.state == "warning"
    assert finding.found.startswith("ComfyUI differ from this machine: ComfyUI -3")


def test_no_clock_to_compare_with(site: WatcherSettings, tmp_path: Path) -> None:
    lost = change(site, comfyui_url=f"http://127.0.0.1:{closed_port()}", input_dir=tmp_path / "lost")
    assert "not tried" in find(run(doctor.check_clock, lost), "clock").found


# ── ComfyUI's folders ──


@pytest.mark.parametrize(
    ("kind", "argv", "folder_paths", "expected"),
    [
        ("output", ["main.py", "--output-directory", "/o", "--port", "1"], {}, ["/o"]),
        ("output", ["main.py", "--output-directory=/o"], {}, ["/o"]),
        ("input", ["main.py", "--base-directory", "/b", "--input-directory", "/i"], {}, ["/i", "/b/input"]),
        ("input", ["/app/main.py"], {}, ["/app/input"]),
        (
            "output",
            ["main.py"],
            {"checkpoints": ["/c/models/checkpoints", "/o/checkpoints"]},
            ["/c/output", "/o", "/output"],
        ),
        ("input", ["main.py"], {"checkpoints": ["/c/models/checkpoints", "/c/output/checkpoints"]}, ["/c/input"]),
        ("input", ["main.py", "--input-directory"], {}, []),
        ("input", [None, 5], {"checkpoints": [None, 5, "/x/other"]}, []),
        ("output", [], {"checkpoints": "nonsense"}, []),
    ],
)
def test_where_comfyuis_folders_may_be(
    kind: doctor.Kind, argv: list[Any], folder_paths: dict[str, Any], expected: list[str]
) -> None:
    assert guess_folders(kind, argv, folder_paths) == expected


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIMIT", 1000)
    with answering({"GET": (200, b"x" * 5_000_000)}) as url:
        assert 1000 < len(doctor.ask(url, "/").body) < 200_000

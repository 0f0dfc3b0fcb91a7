"""handoff_client.py, the one file that people copy: against the real adapter, and against one that misbehaves."""

import ast
import contextlib
import http.server
import io
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import handoff_client
from handoff_client import Handoff, JobFailed, Refused, StillRunning, Unreachable
from tests.adapter.conftest import Counter, Studio
from tests.e2e.jobs import graph
from tests.servers.adapter import KEY
from tests.servers.http_server import serving

GRAPHS = "hk_graphs_0123456789"
SMALL: dict[str, Any] = {"width": 64, "height": 64}


@pytest.fixture
def handoff(studio: Studio) -> Iterator[Handoff]:
    with Handoff(studio.adapter.url, KEY) as handoff:
        yield handoff


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr("handoff_client.time.sleep", pauses.append)
    return pauses


def test_submit_wait_save(handoff: Handoff, tmp_path: Path) -> None:
    job = handoff.submit("a lighthouse in the fog", **SMALL)
    assert handoff.wait(job, timeout=60)["ok"]
    (path,) = handoff.save(job, tmp_path / "pictures")
    with Image.open(path) as picture:
        assert picture.size == (64, 64)
    assert [entry.name for entry in (tmp_path / "pictures").iterdir()] == [path.name]


def test_the_example_at_its_top_runs_as_printed(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = (handoff_client.__doc__ or "").splitlines()
    source = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    source = source.replace("http://127.0.0.1:8080", studio.adapter.url).replace("…", KEY, 1)
    exec(compile(source, "example", "exec"), {})
    assert list((tmp_path / "pictures").glob("*.png"))


def test_the_same_id_and_content_is_one_job(handoff: Handoff) -> None:
    assert handoff.submit("one cat", id="one-cat", **SMALL) == handoff.submit("one cat", id="one-cat", **SMALL)
    with pytest.raises(Refused) as refused:
        handoff.submit("two cats", id="one-cat", **SMALL)
    assert (refused.value.status, refused.value.reason) == (409, "id_taken")
    assert refused.value.hint


def test_a_picture_goes_along(handoff: Handoff, tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), (255, 0, 0)).save(tmp_path / "red.png")
    job = handoff.submit(workflow="invert", images={"image": tmp_path / "red.png"})
    handoff.wait(job, timeout=60)
    (path,) = handoff.save(job, tmp_path)
    with Image.open(path) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 255, 255)


def test_bytes_of_a_picture_go_along(handoff: Handoff) -> None:
    file = io.BytesIO()
    Image.new("RGB", (24, 16)).save(file, "PNG")
    handoff.wait(handoff.submit(workflow="invert", images={"image": file.getvalue()}), timeout=60)


def test_a_graph(studio: Studio) -> None:
    with Handoff(studio.adapter.url, GRAPHS) as handoff:
        assert handoff.wait(handoff.submit(graph=graph(), priority=5), timeout=60)["priority"] == 5
        with pytest.raises(TypeError):
            handoff.submit("a text, too", graph=graph())


def test_a_wrong_parameter_says_which_and_why(handoff: Handoff) -> None:
    with pytest.raises(Refused) as refused:
        handoff.submit("a cat", width=100)
    assert refused.value.reason == "bad_parameter"
    assert "width is 100" in str(refused.value)


@pytest.mark.parametrize("key", [None, "hk_wrong_0123456789"])
def test_a_wrong_key_is_refused(studio: Studio, key: str | None) -> None:
    with Handoff(studio.adapter.url, key) as handoff, pytest.raises(Refused) as refused:
        handoff.status("any")
    assert refused.value.status == 401


def test_the_key_may_stand_in_the_address(studio: Studio) -> None:
    with Handoff(studio.adapter.url.replace("://", f"://shop:{KEY}@")) as handoff:
        assert handoff.wait(handoff.submit("a cat", **SMALL), timeout=60)["owner"] == "shop"


def test_a_line_of_netrc_does_not_take_the_place_of_the_key(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Handoff(studio.adapter.url, KEY) as handoff, pytest.raises(Refused) as refused:
        handoff.status("nobody-knows-it")
    assert refused.value.status == 404


def test_a_failure_tells_reason_and_hint(studio: Studio, handoff: Handoff) -> None:
    studio.house.simulator.control(node_exception=5)
    try:
        with pytest.raises(JobFailed) as failed:
            handoff.wait(handoff.submit("a broken one", **SMALL), timeout=60)
    finally:
        studio.house.simulator.control(reset=True)
    assert failed.value.reason == "node_error"
    assert failed.value.message in str(failed.value)
    assert failed.value.hint in str(failed.value)
    assert failed.value.document["status"] == "failed"


def test_a_wait_that_is_over_leaves_the_job_alone_and_it_can_be_cancelled(counter: Counter) -> None:
    with Handoff(counter.adapter.url, KEY) as handoff:
        job = handoff.submit("nobody draws it")
        with pytest.raises(StillRunning) as still:
            handoff.wait(job, timeout=0.2)
        assert still.value.document["status"] == "queued"
        assert handoff.cancel(job)["id"] == job


def test_a_cancelled_job_has_failed(studio: Studio, handoff: Handoff) -> None:
    studio.house.watcher.freeze()
    try:
        job = handoff.submit("not this one", **SMALL)
        handoff.cancel(job)
    finally:
        studio.house.watcher.thaw()
    with pytest.raises(JobFailed) as failed:
        handoff.wait(job, timeout=60)
    assert failed.value.reason == "cancelled"


def test_nobody_there_is_unreachable(no_pauses: list[float]) -> None:
    with Handoff("http://127.0.0.1:9") as handoff, pytest.raises(Unreachable) as unreachable:
        handoff.status("any")
    assert "ConnectionError" in str(unreachable.value)
    assert len(no_pauses) == 4


def test_a_lost_answer_is_asked_for_again_under_the_same_id(no_pauses: list[float]) -> None:
    def lose(number: int, handler: "Scripted") -> None:
        if number:
            handler.answer(202, {"id": "x"})

    with scripted(lose) as (url, asked), Handoff(url) as handoff:
        job = handoff.submit("a cat")
    assert asked == [f"PUT /v1/jobs/{job}"] * 2


def test_a_busy_server_says_how_long_to_wait(no_pauses: list[float]) -> None:
    def be_busy(number: int, handler: "Scripted") -> None:
        if number < 2:
            handler.answer(429 + 74 * number, {"detail": "busy"}, {"Retry-After": "7"})
        else:
            handler.answer(200, {"id": "x", "done": True, "ok": True})

    with scripted(be_busy) as (url, _), Handoff(url) as handoff:
        assert handoff.wait("x")["ok"]
    assert no_pauses == [7, 7]


def test_a_download_that_is_cut_off_begins_again_and_half_a_file_is_never_there(
    no_pauses: list[float], tmp_path: Path
) -> None:
    document = {"id": "x", "done": True, "ok": True, "outputs": [{"name": "x.png", "bytes": 6}]}

    def cut(number: int, handler: "Scripted") -> None:
        if number == 0:
            handler.answer(200, document)
        elif number == 1:
            handler.send(200, b"abc", {"Content-Length": "6"})
        else:
            assert not (tmp_path / "x.png").exists()
            handler.send(200, b"abcdef", {"Content-Length": "6"})

    with scripted(cut) as (url, asked), Handoff(url) as handoff:
        (path,) = handoff.save("x", tmp_path)
    assert path.read_bytes() == b"abcdef"
    assert len(asked) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_from_outside_leaves_the_folder_alone(tmp_path: Path) -> None:
    document = {"id": "x", "done": True, "ok": True, "outputs": [{"name": "../../x.png", "bytes": 3}]}

    def offer(number: int, handler: "Scripted") -> None:
        if number == 0:
            handler.answer(200, document)
        else:
            handler.send(200, b"abc", {"Content-Length": "3"})

    with scripted(offer) as (url, _), Handoff(url) as handoff:
        assert handoff.save("x", tmp_path / "pictures") == [tmp_path / "pictures" / "x.png"]


def test_an_answer_that_is_no_json_is_told_by_its_status() -> None:
    with (
        scripted(lambda number, handler: handler.send(404, b"<html>", {"Content-Length": "6"})) as (url, _),
        Handoff(url) as handoff,
        pytest.raises(Refused) as refused,
    ):
        handoff.status("x")
    assert str(refused.value) == "HTTP 404"


def test_it_needs_requests_and_nothing_else() -> None:
    tree = ast.parse(Path(handoff_client.__file__).read_text("utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names - set(sys.stdlib_module_names) == {"requests"}


class Scripted(http.server.BaseHTTPRequestHandler):
    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self.send(status, data, {"Content-Length": str(len(data)), **(headers or {})})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def scripted(act: Callable[[int, Scripted], None]) -> Iterator[tuple[str, list[str]]]:
    """A server that does what `act` says to the n-th request; and what it was asked."""
    asked: list[str] = []

    class Handler(Scripted):
        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(f"{self.command} {self.path}")
            act(len(asked) - 1, self)

        do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - the server's names

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, asked

"""The client of ComfyUI.

A contract suite runs against the simulator, a replay of recorded answers, and with COMFYUI_URL a real server; then the
two roads to an answer, what a misbehaving server makes of a submission, and the websocket.
"""

import base64
import io
import json
import os
import queue
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from urllib3.connection import HTTPConnection
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from handoff.failures import Failure, Reason, Transient, Unavailable
from handoff.graph import Graph
from handoff.settings import WatcherSettings
from tests.servers.simulator import Simulator, start_simulator
from tests.test_fetch import certify
from tests.watcher.recorded import CASES, DATA, refusals
from watcher import comfyui as module
from watcher import http_adapter
from watcher.capabilities import lacks, read_capabilities
from watcher.comfyui import ComfyUI, NotArrived, Unclear
from watcher.comfyui_events import ComfyUIEvents, Event, read_event
from watcher.prompts import Prompt, PromptState, Tag, failure_of

WEBSOCKET = json.loads((DATA / "websocket.json").read_text())
COMFYUI_URL = os.environ.get("COMFYUI_URL")


def picture(prefix: str = "contract", color: int = 0, **inputs: Any) -> Graph:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix, **inputs}},
    }


def new_id() -> str:
    return str(uuid.uuid4())


# --- the contract --------------------------------------------------------------------------------------------------


class Replay(BaseHTTPRequestHandler):
    """Answers as recorded in one case: each request with the next recorded answer to it, the last one for ever."""

    protocol_version = "HTTP/1.1"
    steps: list[dict[str, Any]]
    ids: dict[str, str]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path
        recorded_posts = [
            step for step in self.steps if step["request"]["method"] == "POST" and "json" in step["request"]
        ]
        if self.command == "POST" and path == "/prompt":
            self.ids[json.loads(body)["prompt_id"]] = recorded_posts[0]["request"]["json"]["prompt_id"]
        for given, recorded in self.ids.items():
            path = path.replace(given, recorded)
        found = [
            step for step in self.steps if (step["request"]["method"], step["request"]["path"]) == (self.command, path)
        ]
        if len(found) > 1:
            self.steps.remove(found[0])
        response: dict[str, Any] = found[0]["response"] if found else {"status": 404, "content_type": None, "text": ""}
        text = json.dumps(response["json"]) if "json" in response else response.get("text", "")
        for given, recorded in self.ids.items():
            text = text.replace(recorded, given)
        content = base64.b64decode(response["base64"]) if "base64" in response else text.encode()
        self.send_response(response["status"])
        if response["content_type"]:
            self.send_header("Content-Type", response["content_type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815  # the base class calls them so

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def replay(case: str) -> Iterator[ComfyUI]:
    steps = json.loads(json.dumps(CASES[case]["steps"]))
    handler = type("Case", (Replay,), {"steps": steps, "ids": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    comfyui = ComfyUI(f"http://127.0.0.1:{server.server_port}")
    try:
        yield comfyui
    finally:
        comfyui.close()
        server.shutdown()
        server.server_close()
        thread.join()


Serve = Callable[[str], ComfyUI]
"""A client of the server under test; a replay answers as in this recorded case."""


@pytest.fixture(scope="module")
def running_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("comfyui"), "--probe-nodes") as simulator:
        yield simulator


@pytest.fixture
def simulator(running_simulator: Simulator) -> Iterator[Simulator]:
    yield running_simulator
    counters = running_simulator.control(reset=True)
    assert counters["harmful_requests"] == 0


@pytest.fixture(params=["simulator", "replay", "real"])
def serving(request: pytest.FixtureRequest) -> Iterator[Serve]:
    with ExitStack() as stack:
        if request.param == "replay":
            yield lambda case: stack.enter_context(replay(case))
            return
        if request.param == "real":
            if COMFYUI_URL is None:
                pytest.skip("set COMFYUI_URL to run the contract against a real ComfyUI")
            url = COMFYUI_URL
        else:
            url = request.getfixturevalue("simulator").url
        client = ComfyUI(url)
        stack.callback(client.close)
        yield lambda _: client


def submit(comfyui: ComfyUI, graph: Graph) -> str:
    prompt_id = new_id()
    comfyui.submit(
        prompt_id, graph, client_id="contract", extra_data={"handoff": {"id": "a", "token": "b", "attempt": 1}}
    )
    return prompt_id


def wait_for(comfyui: ComfyUI, prompt_id: str) -> Prompt:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        prompt = comfyui.look_up(prompt_id)
        if prompt is not None and prompt.state.done:
            return prompt
        time.sleep(0.02)
    raise AssertionError(f"{prompt_id} did not end")


def test_contract_success(serving: Serve) -> None:
    comfyui = serving("01")
    prompt_id = submit(comfyui, picture(f"contract/{new_id()}/pic"))
    prompt = wait_for(comfyui, prompt_id)
    assert prompt.state is PromptState.SUCCEEDED
    assert prompt.id == prompt_id
    assert prompt.error is None
    assert prompt.started_ms is not None
    assert prompt.ended_ms is not None
    assert prompt.started_ms <= prompt.ended_ms
    file = prompt.outputs["2"]["images"][0]
    assert file["type"] == "output"
    copy = io.BytesIO()
    size = comfyui.view(file["filename"], file["subfolder"], "output", copy, 1 << 20)
    assert size == len(copy.getvalue())
    assert copy.getvalue().startswith(b"\x89PNG\r\n\x1a\n")
    too_large = io.BytesIO()
    with pytest.raises(Failure) as caught:
        comfyui.view(file["filename"], file["subfolder"], "output", too_large, 100)
    assert caught.value.reason is Reason.OUTPUT_BROKEN
    with pytest.raises(Failure) as caught:
        comfyui.view("no-such-file.png", "", "output", io.BytesIO(), 100)
    assert caught.value.reason is Reason.OUTPUT_MISSING


def test_contract_an_unknown_prompt_is_none(serving: Serve) -> None:
    assert serving("65").look_up("65000000-0000-4000-8000-00000000ffff") is None


def test_contract_an_unknown_class(serving: Serve) -> None:
    graph = {**picture(), "1": {"class_type": "NoSuchNode", "inputs": {}}}
    with pytest.raises(Failure) as caught:
        submit(serving("30"), graph)
    assert caught.value.reason is Reason.WORKFLOW_UNAVAILABLE
    assert caught.value.details == {"lacks": "the node class NoSuchNode"}
    assert caught.value.node is not None
    assert caught.value.node.id == "1"


def test_contract_a_missing_model(serving: Serve) -> None:
    model = CASES["37"]["steps"][0]["request"]["json"]["prompt"]
    graph = json.loads(json.dumps(model).replace("model.safetensors", "no-such-model.safetensors"))
    comfyui = serving("37")
    with pytest.raises(Failure) as caught:
        submit(comfyui, graph)
    assert caught.value.reason is Reason.WORKFLOW_UNAVAILABLE
    assert "CheckpointLoaderSimple.ckpt_name" in str(caught.value.details["lacks"])


def test_contract_a_value_out_of_its_limits(serving: Serve) -> None:
    graph = picture()
    graph["1"]["inputs"]["width"] = 0
    graph["1"]["_meta"] = {"title": "Blank canvas"}
    with pytest.raises(Failure) as caught:
        submit(serving("34"), graph)
    assert caught.value.reason is Reason.VALIDATION_FAILED
    assert caught.value.details["problem"] == "width of node 1 (Blank canvas) is 0, and the smallest allowed is 1"


def test_contract_half_an_acceptance_is_a_failure(serving: Serve) -> None:
    """ComfyUI would drop the failing output, run the other one and call it a success."""
    graph = CASES["47"]["steps"][0]["request"]["json"]["prompt"]
    with pytest.raises(Failure) as caught:
        submit(serving("47"), graph)
    assert caught.value.reason is Reason.VALIDATION_FAILED
    assert caught.value.details["problem"] == "node 3 (LoadImage): image - Invalid image file: nope.png"
    assert caught.value.node is not None
    assert caught.value.node.id == "3"


def test_half_an_acceptance_whose_answer_was_lost_is_found_out(simulator: Simulator) -> None:
    comfyui, graph = ComfyUI(simulator.url), CASES["47"]["steps"][0]["request"]["json"]["prompt"]
    prompt_id = new_id()
    with pytest.raises(Failure), patch.object(comfyui, "cancel"):  # as if nobody had read the answer
        comfyui.submit(prompt_id, graph, client_id="c", extra_data={})
    wait_for(comfyui, prompt_id)
    assert comfyui.find_dropped(prompt_id, graph) == ["4"]
    assert comfyui.find_dropped(prompt_id, {"2": graph["2"]}) == []
    assert comfyui.find_dropped(new_id(), graph) == []


@pytest.mark.parametrize("kept", ["4", {"2": 1}, {}, 7, None])
def test_a_list_of_outputs_in_another_form_tells_of_nothing_dropped(kept: Any) -> None:
    history = http(200, {"p": {"prompt": [0, "p", {}, {}, kept]}})
    with answering(history, http(200, {"SaveImage": {"output_node": True}})) as url:
        assert ComfyUI(url).find_dropped("p", picture()) == []


def test_contract_a_node_that_fails(serving: Serve) -> None:
    comfyui = serving("50")
    graph = picture("../case50")
    prompt = wait_for(comfyui, submit(comfyui, graph))
    assert prompt.state is PromptState.FAILED
    failure = failure_of(prompt, graph)
    assert failure.reason is Reason.NODE_ERROR
    assert failure.node is not None
    assert (failure.node.id, failure.node.class_type) == ("2", "SaveImage")
    assert "outside the output folder" in str(failure.details["problem"])
    assert "\n" not in str(failure.details["problem"])


def test_contract_cancel_of_an_unknown_prompt(serving: Serve) -> None:
    assert serving("58").cancel("58000000-0000-4000-8000-00000000ffff") is False


# --- against the simulator alone: what a recording or a foreign server cannot be asked ----------------------------------


def sleep(seconds: float, color: int) -> Graph:
    graph = picture("sleep", color)
    graph["3"] = {
        "class_type": "ProbeSleep",
        "inputs": {"images": ["1", 0], "seconds": seconds, "preview": False, "tag": ""},
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def test_a_run_that_is_interrupted_and_one_that_waits(simulator: Simulator) -> None:
    comfyui = ComfyUI(simulator.url)
    running, waiting = submit(comfyui, sleep(30, 1)), submit(comfyui, picture(color=2))
    deadline = time.monotonic() + 10
    while (prompt := comfyui.look_up(running)) is None or prompt.state is not PromptState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held = comfyui.queue()
    assert (held.running, held.waiting) == ((running,), (waiting,))
    assert held.tags == dict.fromkeys((running, waiting), Tag(id="a", token="b", attempt=1))
    queued = comfyui.look_up(waiting)
    assert queued is not None
    assert queued.state is PromptState.WAITING
    assert comfyui.cancel(waiting) is True
    assert comfyui.look_up(waiting) is None
    assert comfyui.cancel(running) is True
    assert wait_for(comfyui, running).state is PromptState.INTERRUPTED
    assert comfyui.cancel(running) is False


def test_an_older_server_without_jobs(simulator: Simulator) -> None:
    simulator.control(no_jobs_api=True)
    comfyui = ComfyUI(simulator.url)
    first, second, third = (
        submit(comfyui, sleep(seconds, color)) for seconds, color in ((0.3, 11), (30, 12), (30, 13))
    )
    states = [prompt.state if (prompt := comfyui.look_up(prompt_id)) else None for prompt_id in (first, second)]
    assert states[1] is PromptState.WAITING
    assert comfyui.cancel(third) is True
    assert comfyui.look_up(third) is None
    assert wait_for(comfyui, first).state is PromptState.SUCCEEDED
    deadline = time.monotonic() + 10
    while second not in comfyui.queue().running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert comfyui.cancel(second) is True
    assert wait_for(comfyui, second).state is PromptState.INTERRUPTED
    assert comfyui.look_up(new_id()) is None
    assert comfyui.cancel(first) is False


def test_what_the_server_is(simulator: Simulator) -> None:
    comfyui = ComfyUI(simulator.url)
    found = read_capabilities(comfyui.stats(), comfyui.object_info())
    assert found.simulated is True
    assert lacks(picture(), found) == []
    info = comfyui.class_info("EmptyImage")
    assert info is not None
    assert info["input"]["required"]["width"][0] == "INT"
    assert comfyui.class_info("NoSuchNode") is None
    comfyui.free()


def test_probing_whether_folders_are_shared(simulator: Simulator) -> None:
    comfyui = ComfyUI(simulator.url)
    for folder, place in (("output", simulator.output_dir), ("input", simulator.input_dir)):
        os.makedirs(f"{place}/.handoff", exist_ok=True)
        Path(place, ".handoff", "probe-1").write_bytes(b"ours")
        assert comfyui.probe_shared(folder, ".handoff/probe-1", b"ours") is True  # type: ignore[arg-type]  # a literal in a loop
        assert comfyui.probe_shared(folder, ".handoff/probe-1", b"other") is False  # type: ignore[arg-type]
        assert comfyui.probe_shared(folder, ".handoff/probe-2", b"ours") is False  # type: ignore[arg-type]


def test_a_lost_reply_is_unclear_and_the_prompt_is_found(simulator: Simulator) -> None:
    simulator.control(lost_replies=1)
    comfyui = ComfyUI(simulator.url)
    prompt_id = new_id()
    with pytest.raises(Unclear):
        comfyui.submit(prompt_id, picture(), client_id="c", extra_data={})
    assert wait_for(comfyui, prompt_id).state is PromptState.SUCCEEDED


def test_a_prompt_whose_answer_never_comes_is_found_by_a_look_beside(simulator: Simulator) -> None:
    simulator.control(silent_replies=1)
    comfyui, prompt_id = ComfyUI(simulator.url), new_id()
    began = time.monotonic()
    with pytest.raises(Unclear, match="has the prompt"):
        comfyui.submit(prompt_id, picture(), client_id="c", extra_data={})
    assert time.monotonic() - began < module.SUBMIT_S / 4
    assert wait_for(comfyui, prompt_id).state is PromptState.SUCCEEDED


def test_a_look_beside_that_meets_a_bug_does_not_end_the_post(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(_: str) -> None:
        raise ZeroDivisionError

    simulator.control(delayed_posts=1, post_delay_s=1.5)
    comfyui = ComfyUI(simulator.url)
    monkeypatch.setattr(comfyui, "look_up", look_up)
    comfyui.submit(new_id(), picture(), client_id="c", extra_data={})


def test_an_answer_that_is_late_is_waited_for_while_looks_find_nothing(simulator: Simulator) -> None:
    before = simulator.control(delayed_posts=1, post_delay_s=2.5)["prompts_received"]
    with pytest.raises(Failure) as caught:
        submit(ComfyUI(simulator.url), CASES["47"]["steps"][0]["request"]["json"]["prompt"])
    assert caught.value.reason is Reason.VALIDATION_FAILED
    assert simulator.control()["prompts_received"] == before + 1


def test_eight_threads_share_one_client(simulator: Simulator) -> None:
    comfyui = ComfyUI(simulator.url)
    ended: queue.Queue[PromptState | Exception] = queue.Queue()

    def work(number: int) -> None:
        try:
            for k in range(5):
                ended.put(wait_for(comfyui, submit(comfyui, picture(color=10 * number + k))).state)
        except Exception as error:
            ended.put(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended.get_nowait() for _ in range(40)] == [PromptState.SUCCEEDED] * 40


# --- two roads to one answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "state"),
    [
        ("01", PromptState.SUCCEEDED),
        ("50", PromptState.FAILED),
        ("51", PromptState.FAILED),
        ("52", PromptState.FAILED),
        ("53", PromptState.FAILED),
        ("54", PromptState.INTERRUPTED),
        ("56", PromptState.INTERRUPTED),
    ],
)
def test_jobs_and_history_say_the_same(case: str, state: PromptState) -> None:
    """The two roads to a recorded prompt's end give one answer, so that an older server is no special case above here."""
    paths = [step["request"]["path"] for step in CASES[case]["steps"]]
    prompt_id = next(path for path in paths if path.startswith("/history/")).removeprefix("/history/")
    last: dict[str, Any] = {
        step["request"]["path"]: step["response"]["json"] for step in CASES[case]["steps"] if "json" in step["response"]
    }
    with answering(http(200, last[f"/api/jobs/{prompt_id}"])) as url:
        by_job = ComfyUI(url).look_up(prompt_id)
    empty_queue = http(200, {"queue_running": [], "queue_pending": []})
    with answering(
        http(404, "", "application/octet-stream"), empty_queue, http(200, last[f"/history/{prompt_id}"])
    ) as url:
        by_history = ComfyUI(url).look_up(prompt_id)
    assert by_job == by_history
    assert by_job is not None
    assert by_job.state is state
    assert by_job.started_ms is not None
    assert by_job.ended_ms is not None


def test_half_a_character_in_an_answer_does_not_reach_a_status_document() -> None:
    error = {"exception_message": "No such file: a\udce4.png \U0001f600", "node_id": "\ud800"}
    job = {
        "status": "failed",
        "execution_status": {"messages": [["execution_error", error]]},
        "outputs": {"\udfff": {"text": ["\ud800"]}},
    }
    with answering(http(200, job)) as url:
        prompt = ComfyUI(url).look_up("p")
    assert prompt is not None
    failure = failure_of(prompt, {})
    assert failure.details == {"problem": "No such file: a?.png \U0001f600"}
    assert failure.node is not None
    assert (failure.node.id, prompt.outputs) == ("?", {"?": {"text": ["?"]}})
    with answering(http(200, b'{"status": "\xed\xa0\x80"}')) as url, pytest.raises(Unclear):
        ComfyUI(url).look_up("p")


def test_a_poisoned_history_entry_is_read_by_the_older_road() -> None:
    """ComfyUI 0.33 answers 500 for a job whose extra_pnginfo is no object, while /history still works."""
    history = [
        step["response"]["json"] for step in CASES["01"]["steps"] if step["request"]["path"].startswith("/history")
    ][-1]
    prompt_id = next(iter(history))
    queued = http(
        200,
        {"queue_running": [], "queue_pending": [[1, "x"], "nonsense"[:0] or [], [2, prompt_id + "0", {}, None, []]]},
    )
    with answering(http(500, "Server got itself in trouble", "text/plain"), queued, http(200, history)) as url:
        prompt = ComfyUI(url).look_up(prompt_id)
    assert prompt is not None
    assert prompt.state is PromptState.SUCCEEDED


def test_a_state_of_a_newer_server_is_read_by_the_older_road() -> None:
    history = [
        step["response"]["json"] for step in CASES["01"]["steps"] if step["request"]["path"].startswith("/history")
    ][-1]
    prompt_id = next(iter(history))
    empty_queue = http(200, {"queue_running": [], "queue_pending": []})
    with answering(http(200, {"id": prompt_id, "status": "archived"}), empty_queue, http(200, history)) as url:
        prompt = ComfyUI(url).look_up(prompt_id)
    assert prompt is not None
    assert prompt.state is PromptState.SUCCEEDED


def test_an_unknown_prompt_in_the_words_of_a_newer_server_is_none_by_the_older_road() -> None:
    empty_queue = http(200, {"queue_running": [], "queue_pending": []})
    with answering(http(404, {"error": "Unknown job"}), empty_queue, http(200, {})) as url:
        assert ComfyUI(url).look_up(new_id()) is None


@pytest.mark.parametrize("odd", [None, 5, [], [5, {}], ["odd"], ["odd", None], {"type": "odd"}])
def test_one_odd_message_hides_no_outcome(odd: Any) -> None:
    status = {"status_str": "error", "messages": [odd, ["execution_error", {"exception_message": "why"}], odd]}
    job = {"status": "failed", "execution_status": status}
    with answering(http(200, job)) as url:
        by_job = ComfyUI(url).look_up("p")
    empty_queue = http(200, {"queue_running": [], "queue_pending": []})
    history = http(200, {"p": {"status": status}})
    with answering(http(404, "", "text/plain"), empty_queue, history) as url:
        by_history = ComfyUI(url).look_up("p")
    for prompt in (by_job, by_history):
        assert prompt is not None
        assert prompt.state is PromptState.FAILED
        assert failure_of(prompt, {}).details == {"problem": "why"}


@pytest.mark.parametrize(
    "extra", [{"extra_pnginfo": None}, {"extra_pnginfo": []}, {"extra_pnginfo": {"workflow": None}}]
)
def test_extra_data_that_would_break_the_jobs_list_is_not_sent(extra: dict[str, Any]) -> None:
    with pytest.raises(Failure) as caught:
        ComfyUI(closed_port()).submit(new_id(), picture(), client_id="c", extra_data=extra)
    assert caught.value.reason is Reason.BAD_GRAPH


@pytest.mark.parametrize(
    "graph", [{"1": {"class_type": "X"}}, {"1": {"class_type": "X", "inputs": {"a": float("nan")}}}, {}]
)
def test_a_harmful_graph_is_not_sent(graph: Any) -> None:
    with pytest.raises(Failure) as caught:
        ComfyUI(closed_port()).submit(new_id(), graph, client_id="c", extra_data={})
    assert caught.value.reason is Reason.BAD_GRAPH


# --- a misbehaving server -------------------------------------------------------------------------------------------

Behaviour = Callable[[socket.socket], None]


def http(
    status: int, content: Any, content_type: str = "application/json", *, length: int | None = None, more: str = ""
) -> Behaviour:
    body = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\nConnection: close\r\n{more}\r\n"

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head.encode() + body)

    return answer


def chunked(*parts: bytes, ends: bool = True) -> Behaviour:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(
            b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        for part in parts:
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if ends:
            connection.sendall(b"0\r\n\r\n")

    return answer


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < (int(lengths[0]) if lengths else 0):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def reset(connection: socket.socket) -> None:
    connection.recv(1)  # earlier it may still look refused to the client, and rightly: nothing was sent
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_and_reset(connection: socket.socket) -> None:
    read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_and_close(connection: socket.socket) -> None:
    read_request(connection)


def read_and_sleep(connection: socket.socket) -> None:
    read_request(connection)
    connection.recv(1)  # until the client has given up


def drip(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
    with suppress(OSError):
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.02)


def trickle(head: bytes, endless: bytes) -> Behaviour:
    """Says `head` at once, and then byte after byte without end, each long before a read times out."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        with suppress(OSError):
            for _ in range(200):
                connection.sendall(endless)
                time.sleep(0.02)

    return answer


def speak_no_http(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"SSH-2.0-OpenSSH\r\n")


@contextmanager
def answering(*behaviours: Behaviour) -> Iterator[str]:
    """A server that behaves so for one connection after the other, and like the last one from then on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()

        def run() -> None:
            left = list(behaviours)
            while True:
                connection, _ = listener.accept()
                with connection:
                    if stopped.is_set():
                        return
                    with suppress(OSError):
                        (left.pop(0) if len(left) > 1 else left[0])(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def try_to_submit(url: str) -> Exception:
    comfyui = ComfyUI(url)
    try:
        comfyui.submit(new_id(), picture(), client_id="c", extra_data={})
    except Exception as error:
        return error
    finally:
        comfyui.close()
    raise AssertionError("it was accepted")


def test_a_refused_connection_did_not_arrive() -> None:
    assert isinstance(try_to_submit(closed_port()), NotArrived)


def test_an_unknown_host_did_not_arrive() -> None:
    assert isinstance(try_to_submit("http://no-such-host.invalid:8188"), NotArrived)


def test_tls_where_there_is_none_did_not_arrive() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with answering(answer) as url:
        assert isinstance(try_to_submit(url.replace("http:", "https:")), NotArrived)


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (reset, None),
        (read_and_reset, None),
        (read_and_close, None),
        (speak_no_http, None),
        (http(500, "500 Internal Server Error\n\nServer got itself in trouble", "text/plain"), 500),
        (http(502, "<html>Bad Gateway", "text/html"), 502),
        (http(503, {"error": "starting"}), 503),
        (http(200, "<html>hello", "text/html"), 200),
        (http(200, [1]), 200),
        (http(200, {}), 200),
        (http(200, "[" * 100_000), 200),
        (http(200, {"prompt_id": "x"}, length=5000), None),
    ],
    ids=[
        "reset",
        "read, reset",
        "read, closed",
        "no http",
        "500",
        "502",
        "503",
        "html",
        "list",
        "no id",
        "deep",
        "cut short",
    ],
)
def test_what_may_have_arrived_is_unclear(behaviour: Behaviour, status: int | None) -> None:
    with answering(behaviour) as url:
        error = try_to_submit(url)
    assert isinstance(error, Unclear)
    assert error.status == status


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 407, 429])
def test_what_was_refused_unread_did_not_arrive(status: int) -> None:
    with answering(http(status, "no", "text/plain", more="Location: http://127.0.0.1:1/\r\n")) as url:
        error = try_to_submit(url)
    assert isinstance(error, NotArrived)
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_gateways_refusal_is_not_comfyuis(status: int) -> None:
    with answering(http(status, {"error": "unauthorized"})) as url:
        assert isinstance(try_to_submit(url), NotArrived)


def test_a_password_in_the_address_is_used_and_not_shown() -> None:
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 403 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with answering(answer) as url:
        error = try_to_submit(url.replace("http://", "http://me:hunter2@"))
    assert b"Authorization: Basic " + base64.b64encode(b"me:hunter2") in requests[0]
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@:8188",
        "http://me:hunter2@host:port",
        "http://me:hunter2@" + "x" * 70 + "..y",
        "http://me:hunter2@[::1",
        "http://me:hunter2@*",
        "ftp://me:hunter2@host",
    ],
)
def test_a_password_in_an_address_that_is_none_is_not_shown(url: str) -> None:
    with pytest.raises(NotArrived) as caught:
        ComfyUI(url).stats()
    assert "hunter2" not in str(caught.value)


def test_a_servers_name_holds_no_password() -> None:
    settings = WatcherSettings(comfyui_url="http://me:hunter2@host:8188", watcher_name=None)
    assert settings.server.endswith(" http://***@host:8188")


@pytest.mark.parametrize(
    "body",
    [
        [1],
        {"error": 5},
        {"error": {"type": 7, "api_key": "hunter2", "message": "see http://me:hunter2@host/"}},
        {"error": {"type": "x"}, "node_errors": {"1": {"errors": [{"type": 5, "received_value": "hunter2"}]}}},
        '{"error": ',
        "[" * 100_000,
        '{"error": ' + "[" * 900 + "]" * 900 + "}",
        b'{"error": [5, "\\ud800"]}',
        b"\xff",
    ],
)
def test_a_400_is_a_refusal_whatever_it_says(body: Any) -> None:
    with answering(http(400, body)) as url:
        error = try_to_submit(url)
    assert isinstance(error, Failure)
    assert error.reason is Reason.VALIDATION_FAILED
    problem = str(error.details["problem"])
    assert problem.startswith("it answered ")
    assert "hunter2" not in problem
    assert len(problem.encode()) <= 2500


def test_a_prompt_that_is_too_large_fails_for_good() -> None:
    with answering(http(413, "Maximum request body size 1 exceeded", "text/plain")) as url:
        error = try_to_submit(url)
    assert isinstance(error, Failure)
    assert error.reason is Reason.COMFYUI_ERROR


@pytest.mark.parametrize("behaviour", [read_and_sleep, drip], ids=["silent", "dripping"])
def test_a_slow_answer_is_unclear_and_ends_in_time(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBMIT_S", 0.2)
    monkeypatch.setattr(http_adapter, "WHOLE_S", 0.2)
    began = time.monotonic()
    with answering(behaviour) as url:
        assert isinstance(try_to_submit(url), Unclear)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (b"HTTP/1.1 ", b"2"),
        (b"HTTP/1.1 200 X\r\n", b"x"),
        (b"HTTP/1.1 200 X\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"x"),
    ],
    ids=["status", "one header", "many headers", "chunk size", "trailer"],
)
def test_every_part_of_an_answer_has_to_come_in_time(
    head: bytes, endless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_adapter, "WHOLE_S", 0.2)
    began = time.monotonic()
    with answering(trickle(head, endless)) as url:
        with pytest.raises(Unclear, match=r"timed out|too long"):
            ComfyUI(url).stats()
        assert time.monotonic() - began < 3


def test_tls_is_checked_and_timed_like_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certify(tmp_path, "127.0.0.1")

    def secured(behaviour: Behaviour) -> Behaviour:
        def answer(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as tls:
                behaviour(tls)

        return answer

    endless = trickle(b"HTTP/1.1 200 X\r\n", b"x: y\r\n")
    with answering(secured(drip), secured(http(200, {"system": {}})), secured(endless)) as url:
        comfyui = ComfyUI(url.replace("http:", "https:"))
        with pytest.raises(NotArrived, match="CERTIFICATE_VERIFY_FAILED"):
            comfyui.stats()
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(trusted))
        comfyui = ComfyUI(url.replace("http:", "https:"))
        assert comfyui.stats() == {"system": {}}
        monkeypatch.setattr(http_adapter, "WHOLE_S", 0.2)
        began = time.monotonic()
        with pytest.raises(Unclear, match=r"timed out|too long"):
            comfyui.stats()
        assert time.monotonic() - began < 3


def test_a_large_answer_has_a_second_for_each_mebibyte_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_adapter, "WHOLE_S", 0.1)
    monkeypatch.setattr(http_adapter, "SLOWEST", 1000)

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 4000\r\nConnection: close\r\n\r\n" + b"x" * 500)
        for _ in range(7):
            time.sleep(0.05)
            connection.sendall(b"x" * 500)

    copy = io.BytesIO()
    with answering(answer) as url:
        assert ComfyUI(url).view("x.png", "", "temp", copy, 1 << 20) == 4000


def test_a_connection_keeps_its_time_out_after_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request is sent with it: what was left for the last answer is not enough."""
    monkeypatch.setattr(http_adapter, "WHOLE_S", 0.4)
    timeouts: list[float | None] = []
    send = HTTPConnection.request

    def note(connection: Any, *args: Any, **kwargs: Any) -> None:
        timeouts.append(connection.sock.gettimeout() if connection.sock else None)
        send(connection, *args, **kwargs)

    monkeypatch.setattr(HTTPConnection, "request", note)

    def answer(connection: socket.socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{")
            time.sleep(0.1)
            connection.sendall(b"}")

    with answering(answer) as url:
        comfyui = ComfyUI(url)
        comfyui.stats()
        comfyui.stats()
        comfyui.close()
    assert timeouts == [None, module.READ_S]


@pytest.mark.timeout(10)
def test_a_redirect_is_not_even_read() -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 302 X\r\nLocation: /x\r\nContent-Length: 1000\r\n\r\n")
        connection.recv(1)  # until the client has gone

    with answering(answer) as url, pytest.raises(Unavailable, match="302"):
        ComfyUI(url).view("x.png", "", "temp", io.BytesIO(), 10)


def test_one_connection_serves_one_call_after_the_other() -> None:
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        while request := read_request(connection):
            requests.append(request)
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 19\r\n\r\n" + b'{"cancelled": false}'[:19])

    def refuse(connection: socket.socket) -> None:
        read_request(connection)

    with answering(answer, refuse) as url:
        comfyui = ComfyUI(url)
        for _ in range(2):
            with pytest.raises(Unclear):  # not JSON
                comfyui.stats()
        with pytest.raises(Unclear):
            comfyui.cancel("a")
        comfyui.close()
    assert [request.split(b"\r\n")[0] for request in requests] == [
        b"GET /system_stats HTTP/1.1",
        b"GET /system_stats HTTP/1.1",
        b"POST /api/jobs/a/cancel HTTP/1.1",
    ]
    assert requests[2].endswith(b"\r\n\r\n{}")
    assert all(b"Accept-Encoding: identity\r\n" in request for request in requests)


def test_an_answer_in_chunks_is_read_whole_or_not_at_all() -> None:
    with answering(chunked(b'{"system"', b": {}}")) as url:
        assert ComfyUI(url).stats() == {"system": {}}
    with answering(chunked(b"{}", ends=False)) as url, pytest.raises(Unclear):
        ComfyUI(url).stats()


def test_a_packed_answer_is_not_unpacked() -> None:
    with answering(http(200, "{}", more="Content-Encoding: gzip\r\n")) as url:
        assert ComfyUI(url).stats() == {}


def test_an_endless_answer_is_cut_off() -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * (1 << 20))

    with answering(answer) as url, pytest.raises(Unclear, match="more than 33554432 bytes"):
        ComfyUI(url).stats()


def answering_with(requests: list[bytes], *answers: Any) -> Behaviour:
    """Notes each request's first line, and answers 200 with one document after the other."""
    left = list(answers)

    def answer(connection: socket.socket) -> None:
        requests.append(read_request(connection).split(b"\r\n")[0])
        body = json.dumps(left.pop(0)).encode()
        connection.sendall(b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return answer


def test_what_was_half_accepted_is_taken_back() -> None:
    requests: list[bytes] = []
    graph, accepted, _ = refusals("47")[0]
    prompt_id = new_id()
    with (
        answering(answering_with(requests, {**accepted, "prompt_id": prompt_id}, {"cancelled": True})) as url,
        pytest.raises(Failure),
    ):
        ComfyUI(url).submit(prompt_id, graph, client_id="c", extra_data={})
    assert requests == [b"POST /prompt HTTP/1.1", f"POST /api/jobs/{prompt_id}/cancel HTTP/1.1".encode()]


def test_a_failing_cancel_does_not_hide_the_refusal() -> None:
    graph, accepted, status = refusals("47")[0]
    with answering(http(status, accepted), reset) as url, pytest.raises(Failure) as caught:
        ComfyUI(url).submit(new_id(), graph, client_id="c", extra_data={})
    assert caught.value.reason is Reason.VALIDATION_FAILED


def test_a_server_that_chooses_its_own_ids_is_told_apart() -> None:
    """A ComfyUI of before July 2025 ignores prompt_id: the prompt would never be found again, and be sent without end."""
    requests: list[bytes] = []
    accepted = {"prompt_id": "another", "number": 0, "node_errors": {}}
    with answering(answering_with(requests, accepted, {"cancelled": True})) as url:
        error = try_to_submit(url)
    assert isinstance(error, Unavailable)
    assert not isinstance(error, NotArrived)
    assert requests[1:] == [b"POST /api/jobs/another/cancel HTTP/1.1"]


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (http(500, "x", "text/plain"), Transient),
        (http(403, "x", "text/plain"), Unavailable),
        (http(404, {"error": "no backend"}), Unavailable),
        (http(404, ["Job not found"]), Unavailable),
        (http(404, "{"), Unavailable),
        (http(405, {"error": "no backend"}), Unavailable),
        (http(404, "<html>no backend", "text/html"), Unavailable),
        (http(200, {"status": "dreaming"}), Transient),
        (http(200, {"status": "completed", "outputs": []}), Transient),
        (http(200, "not json"), Transient),
        (read_and_close, Transient),
    ],
)
def test_a_look_up_without_a_clear_answer_is_never_none(behaviour: Behaviour, kind: type[Exception]) -> None:
    with answering(behaviour) as url, pytest.raises(kind):
        ComfyUI(url).look_up(new_id())


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", "null", '{"a": 1}', '{"a": {}}', "[" * 100_000], ids=repr)
def test_a_server_without_any_node_class_is_no_server(body: str) -> None:
    """Else every job would fail there, since it lacks what they need."""
    with answering(http(200, body)) as url, pytest.raises(Unclear):
        ComfyUI(url).object_info()


@pytest.mark.parametrize("history", [{"a": 1}, {"a": {}}, [], None, "nothing", {"error": "no backend"}])
def test_a_history_of_something_else_does_not_say_that_a_prompt_is_gone(history: Any) -> None:
    no_jobs, queue = http(404, "404: Not Found", "text/plain"), http(200, {"queue_running": [], "queue_pending": []})
    with answering(no_jobs, queue, http(200, history)) as url, pytest.raises(Unclear):
        ComfyUI(url).look_up(new_id())


def test_a_server_that_is_away_is_unavailable() -> None:
    comfyui = ComfyUI(closed_port())
    for call in (comfyui.stats, comfyui.queue, comfyui.free, lambda: comfyui.look_up("x"), lambda: comfyui.cancel("x")):
        with pytest.raises(Unavailable):
            call()


def test_no_proxy_and_no_cookie_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", closed_port())
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 200 X\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    with answering(answer) as url:
        comfyui = ComfyUI(url)
        comfyui.stats()
        comfyui.stats()
    assert len(requests) == 2
    assert not any(b"\ncookie" in request.lower() for request in requests)


def test_ids_and_names_cannot_change_the_path() -> None:
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        requests.append(read_request(connection).split(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    with answering(answer) as url:
        comfyui = ComfyUI(url)
        comfyui.class_info("../free?x=1#y")
        comfyui.view("a b&type=input", "ü/..", "temp", io.BytesIO(), 10)
    assert requests == [
        b"GET /object_info/..%2Ffree%3Fx%3D1%23y HTTP/1.1",
        b"GET /view?filename=a+b%26type%3Dinput&subfolder=%C3%BC%2F..&type=temp HTTP/1.1",
    ]


# --- the websocket --------------------------------------------------------------------------------------------------


def read_recorded(case: str) -> list[Event]:
    return [event for message in WEBSOCKET[case] if "json" in message and (event := read_event(message["json"]))]


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("01", ["started", "step", "step", "finished"]),
        ("51", ["started", "step", "step", "finished", "finished"]),
        ("54", ["started", "step", "step", "progress", "progress", "finished", "finished"]),
        ("92", ["started", "step", "step", *["progress"] * 5, "step", "finished"]),
    ],
)
def test_recorded_events(case: str, kinds: list[str]) -> None:
    events = read_recorded(case)
    assert [event.kind for event in events] == kinds
    assert len({event.prompt_id for event in events}) == 1
    steps = [(event.value, event.max, event.node) for event in events if event.kind == "progress"]
    assert steps == sorted(steps)


def test_a_step_after_a_reconnect_has_no_prompt() -> None:
    assert Event(kind="step", prompt_id=None, node="2") in read_recorded("94")


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"type": "progress"},
        {"type": "progress", "data": []},
        {"type": "progress", "data": {"value": "1", "max": 5}},
        {"type": "progress", "data": {"value": 1, "max": 0}},
        {"type": "progress", "data": {"value": -1, "max": 5}},
        {"type": "progress", "data": {"value": 10**400, "max": 10**400}},
        {"type": "progress", "data": {"value": float("nan"), "max": float("inf")}},
        {"type": "executing", "data": {"node": None}},
        {"type": "executing", "data": {"node": {}, "prompt_id": 5}},
        {"type": "executing", "data": {"node": "\ud800"}},
        {"type": "execution_start", "data": {"prompt_id": "x" * 201}},
        {"type": "execution_success", "data": {"prompt_id": "x"}},
        {"type": ["executing"], "data": {"node": "1"[:0]}},
        {"type": "crystools.monitor", "data": {"cpu": 5}},
    ],
)
def test_other_messages_are_no_events(document: Any) -> None:
    assert read_event(document) is None


def wait_until_closed(connection: ServerConnection) -> None:
    with suppress(TimeoutError, ConnectionClosed):
        connection.recv(timeout=10)


@contextmanager
def websocket_server(handle: Callable[[ServerConnection], None]) -> Iterator[str]:
    server: Server = serve(handle, "127.0.0.1", 0, close_timeout=1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def listening(url: str) -> Iterator[tuple[ComfyUIEvents, "queue.Queue[Event]"]]:
    events: queue.Queue[Event] = queue.Queue()
    listener = ComfyUIEvents(url, events.put)
    listener.start()
    try:
        yield listener, events
    finally:
        began = time.monotonic()
        listener.stop(by=time.monotonic() + 5)
        assert time.monotonic() - began < 3
        assert not listener._thread.is_alive()


def told(type_: str, **data: Any) -> str:
    return json.dumps({"type": type_, "data": data})


def test_events_come_through_and_rubbish_does_no_harm() -> None:
    def handle(connection: ServerConnection) -> None:
        connection.send(b"\0\0\0\1\0\0\0\2" + b"x" * 2_000_000)
        for message in (
            "",
            "not json",
            "[" * 50_000,
            "null",
            told("status", status={}),
            told("execution_start", prompt_id="p"),
        ):
            connection.send(message)
        wait_until_closed(connection)

    with websocket_server(handle) as url, listening(url) as (_, events):
        assert events.get(timeout=5).kind == "connected"
        assert events.get(timeout=5) == Event(kind="started", prompt_id="p")


def test_each_connection_has_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.comfyui_events.FIRST_DELAY_S", 0.05)
    paths: list[str] = []

    def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        if len(paths) < 3:
            connection.close_socket()  # as a killed server does
            return
        wait_until_closed(connection)

    with websocket_server(handle) as url, listening(url) as (listener, events):
        kinds = [events.get(timeout=5).kind for _ in range(5)]
        assert kinds == ["connected", "lost", "connected", "lost", "connected"]
        deadline = time.monotonic() + 5
        while (
            len(paths) < 3 and time.monotonic() < deadline
        ):  # the server begins to handle after the client is connected
            time.sleep(0.01)
        assert paths[-1] == f"/ws?clientId={listener.client_id}"
        assert len(set(paths)) == 3


def test_it_starts_before_the_server_and_stops_while_trying() -> None:
    with listening(closed_port()) as (_, events):
        time.sleep(0.1)
        assert events.empty()


def test_a_silent_socket_is_no_error_and_stop_is_quick() -> None:
    def handle(connection: ServerConnection) -> None:
        wait_until_closed(connection)

    with websocket_server(handle) as url, listening(url) as (_, events):
        assert events.get(timeout=5).kind == "connected"
        with pytest.raises(queue.Empty):
            events.get(timeout=0.3)


def test_a_server_without_websocket_is_only_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.comfyui_events.FIRST_DELAY_S", 0.02)
    with answering(http(404, "", "text/plain")) as url, listening(url) as (_, events):
        time.sleep(0.2)
        assert events.empty()


@pytest.fixture(params=["simulator", "real"])
def live_url(request: pytest.FixtureRequest) -> str:
    if request.param == "real" and COMFYUI_URL is None:
        pytest.skip("set COMFYUI_URL to run the contract against a real ComfyUI")
    return COMFYUI_URL or "" if request.param == "real" else str(request.getfixturevalue("simulator").url)


def test_contract_events_of_a_run(live_url: str) -> None:
    url = live_url
    comfyui = ComfyUI(url)
    with listening(url) as (listener, events):
        assert events.get(timeout=5).kind == "connected"
        prompt_id = new_id()
        color = uuid.uuid4().int % (1 << 24)  # never cached
        comfyui.submit(prompt_id, picture(color=color), client_id=listener.client_id, extra_data={})
        seen = [events.get(timeout=5)]
        while seen[-1].kind != "finished":
            seen.append(events.get(timeout=5))
        prompt = comfyui.look_up(prompt_id)
    assert seen[0] == Event(kind="started", prompt_id=prompt_id)
    assert {event.node for event in seen if event.kind == "step"} == {"1", "2"}
    assert prompt is not None
    assert prompt.state is PromptState.SUCCEEDED

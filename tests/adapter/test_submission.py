"""From a request to a record in the spool: forms of jobs, pictures, whose job it is."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from handoff.spool.record import Record
from tests.adapter.conftest import Counter, open_counter

GRAPHS = "hk_graphs_0123456789"
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def record(counter: Counter, id: str) -> Record:
    return Record.read(f"{counter.volume.spool}/ids/{id}")


def picture(color: int) -> bytes:
    data = BytesIO()
    Image.new("RGB", (16, 16), (color, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "a", "width": 64}, {"workflow": "txt2img", "params": {"prompt": "a", "width": 64}}),
        ({"graph": GRAPH, "priority": 3}, {"graph": GRAPH, "priority": 3}),
        (GRAPH, GRAPH),
        ({"prompt": GRAPH, "client_id": "x", "front": True}, {"prompt": GRAPH}),
        (
            {"workflow": "canvas", "set": {"1.color": 7}, "metadata": {"a": [1]}, "queue_timeout_s": "9"},
            {"workflow": "canvas", "params": {}, "set": {"1.color": 7}, "metadata": {"a": [1]}, "queue_timeout_s": 9},
        ),
    ],
)
def test_every_form_of_a_job_is_taken(counter: Counter, body: Any, expected: Any) -> None:
    answer = counter.adapter.post("/v1/jobs", json=body, key=GRAPHS)
    assert answer.status_code == 202, answer.text
    found = record(counter, answer.json()["id"])
    assert found.body == expected
    assert (found.owner, found.source, found.attempt, found.job) == ("artist", None, 0, None)
    assert found.received_uptime is not None


def test_a_graph_may_come_as_a_form(counter: Counter) -> None:
    answer = counter.adapter.put("/v1/jobs/graph-form", data={"graph": json.dumps(GRAPH)}, key=GRAPHS)
    assert answer.status_code == 202
    assert record(counter, "graph-form").body == {"graph": GRAPH}


def test_the_address_names_the_workflow(counter: Counter) -> None:
    post = counter.adapter.post
    assert post("/v1/workflows/canvas", json={"width": "7"}).status_code == 202
    assert post("/v1/workflows/canvas", json={}).status_code == 202
    assert post("/v1/workflows/canvas", json={"workflow": "txt2img", "prompt": "a"}).status_code == 422
    assert post("/v1/workflows/canvas", json={"graph": GRAPH}, key=GRAPHS).status_code == 422
    assert post("/v1/workflows/nothing", json={}).status_code == 404
    assert post("/v1/workflows/canvas", json={"prompt": "a"}).json()["reason"] == "unknown_parameter"


def test_pictures_come_as_files_data_urls_or_names(counter: Counter) -> None:
    data = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    assert counter.adapter.put("/v1/jobs/by-data", json={"workflow": "invert", "image": data}).status_code == 202
    name = record(counter, "by-data").body["params"]["image"]
    assert (counter.volume.input / name).read_bytes() == picture(1)
    assert counter.adapter.put("/v1/jobs/by-name", json={"workflow": "invert", "image": name}).status_code == 202
    assert record(counter, "by-name").sha256 == record(counter, "by-data").sha256
    late = counter.adapter.put("/v1/jobs/by-late-name", json={"workflow": "invert", "image": "comes-later.png"})
    assert late.status_code == 202, "the watcher waits for files that people copy afterwards"


class Files(ThreadingHTTPServer):
    """Stands for Dify's signed file addresses: good once, then expired."""

    daemon_threads = True
    expired = False
    asked = 0


@pytest.fixture
def files() -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            self.send_response(403 if server.expired else 200)
            self.end_headers()
            if not server.expired:
                self.wfile.write(picture(9))

        def log_message(self, *_: Any) -> None: ...

    server = Files(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_at_submission_and_a_repetition_needs_them_no_more(files: Files) -> None:
    base = f"http://127.0.0.1:{files.server_port}"
    with open_counter(url_allow=base) as counter:

        def put(id: str, signature: str, **more: Any) -> int:
            job = {"workflow": "invert", "image": f"{base}/files/a.png?sign={signature}", **more}
            return counter.adapter.put(f"/v1/jobs/{id}", json=job).status_code

        assert put("fetched", "1") == 202
        name = record(counter, "fetched").body["params"]["image"]
        assert (counter.volume.input / name).read_bytes() == picture(9)
        assert "sign" not in counter.volume.spool.joinpath("ids", "fetched").read_text()
        assert put("fetched", "2") == 200, "signed anew, the same picture"
        files.expired = True
        assert put("fetched", "2") == 200
        assert put("fetched", "2", priority=5) == 409
        assert put("other", "2") == 422
        assert files.asked >= 4


def test_what_a_form_calls_a_file_goes_to_a_picture_parameter_only(counter: Counter) -> None:
    answer = counter.adapter.post("/v1/jobs", files=[("prompt", ("a.txt", b"a cat"))])
    assert answer.status_code == 422
    graph = counter.adapter.post(
        "/v1/jobs", files=[("graph", (None, json.dumps(GRAPH))), ("image", ("a.png", picture(1)))], key=GRAPHS
    )
    assert (graph.status_code, graph.json()["reason"]) == (400, "bad_body")


def test_a_second_picture_fills_the_second_parameter(counter: Counter) -> None:
    workflows = counter.volume.root / "workflows"
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    (workflows / "pair.json").write_text(json.dumps(graph))
    (workflows / "pair.toml").write_text(
        '[parameters.image]\ntype = "image"\nto = "1.image"\n[parameters.image2]\ntype = "image"\nto = "2.image"\n'
    )
    answer = counter.adapter.put(
        "/v1/jobs/pair",
        files=[("workflow", (None, "pair")), ("image", ("a.png", picture(1))), ("image", ("b.png", picture(2)))],
    )
    assert answer.status_code == 202, answer.text
    params = record(counter, "pair").body["params"]
    assert (counter.volume.input / params["image"]).read_bytes() == picture(1)
    assert (counter.volume.input / params["image2"]).read_bytes() == picture(2)


def test_an_id_is_made_where_none_is_given(counter: Counter) -> None:
    first, second = (counter.adapter.post("/v1/jobs", json={"workflow": "canvas"}).json()["id"] for _ in range(2))
    assert first != second
    assert first.startswith("canvas-20")

"""The apps that Dify imports: they keep its rules, and run to a picture or to a sentence that says why not."""

import copy
import http.server
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from dify_adapter import flows
from handoff.settings import Settings
from tests.adapter.conftest import Counter, Studio
from tests.adapter.interpreter import Dify, File, load, render
from tests.cli.conftest import Place
from tests.e2e.conftest import open_house
from tests.e2e.volume import Volume, eventually
from tests.servers.adapter import KEY, Adapter, start_adapter
from tests.servers.http_server import serving

App = dict[str, Any]

WORKFLOW_S = 1200
STEPS = 120
_USED = re.compile(r"\{\{#([^#]+)#\}\}")
_OUTPUTS = {
    "http-request": {"body", "status_code", "headers", "files", "error_message", "error_type"},
    "iteration": {"output", "item", "index"},
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(params=flows.NAMES)
def shipped(request: pytest.FixtureRequest) -> App:
    return load(flows.read(request.param))


# ── what Dify's importer and editor want, and what a run needs ──


def find_problems(app: App) -> Iterator[str]:
    graph = app["workflow"]["graph"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    minor = tuple(map(int, app["version"].split(".")[:2]))
    if not (0, 3) <= minor <= (0, 6) or app.get("kind") != "app":
        yield "a version that some Dify in use does not take without asking"
    names = {entry["name"]: entry for entry in app["workflow"]["environment_variables"]}
    for name, entry in names.items():
        if entry["selector"] != ["env", name] or not isinstance(entry["value"], str) or not entry["value"]:
            yield f"the environment variable {name}"
    if names["HANDOFF_KEY"]["value_type"] != "secret":
        yield "the key is no secret"
    yield from _find_edge_problems(graph["edges"], nodes)
    for node in nodes.values():
        data = node["data"]
        if data["type"] in {"code", "template-transform", "llm", "tool"}:
            yield f"{node['id']} needs more than a fresh Dify has"
        if data["type"] == "http-request":
            yield from _find_request_problems(node)
        if data["type"] == "loop":
            yield from _find_loop_problems(node, nodes)
        for place in _find_references(data):
            if not _is_known(place, nodes, names, app):
                yield f"{node['id']} refers to {'.'.join(place)}, which is not there"


def _find_edge_problems(edges: list[App], nodes: dict[str, App]) -> Iterator[str]:
    reached = {edge["target"] for edge in edges} | {
        node["data"]["start_node_id"] for node in nodes.values() if "start_node_id" in node["data"]
    }
    for id, node in nodes.items():
        kind = node["data"]["type"]
        handles = {edge["sourceHandle"] for edge in edges if edge["source"] == id}
        if id not in reached and kind != "start":
            yield f"{id} is reached by nobody"
        wanted = {"source"}
        if kind == "if-else":
            wanted = {case["case_id"] for case in node["data"]["cases"]} | {"false"}
        elif node["data"].get("error_strategy") == "fail-branch":
            wanted = {"source", "fail-branch"}
        is_last = kind in {"answer", "end"} or "parentId" in node
        if handles != wanted and not (is_last and handles <= wanted):
            yield f"{id} is left by {handles}, not by {wanted}"
    for edge in edges:
        source, target = nodes[edge["source"]], nodes[edge["target"]]
        if source.get("parentId") != target.get("parentId"):
            yield f"{edge['id']} leaves a loop"
        if (edge["data"]["sourceType"], edge["data"]["targetType"]) != (source["data"]["type"], target["data"]["type"]):
            yield f"{edge['id']} names other types"


def _find_request_problems(node: App) -> Iterator[str]:
    id, data = node["id"], node["data"]
    retry, timeout = data["retry_config"], data["timeout"]
    if not (retry["retry_enabled"] and 1 <= retry["max_retries"] <= 10 and 100 <= retry["retry_interval"] <= 5000):
        yield f"{id}: a retry beyond the editor's limits"
    if (timeout["connect"], timeout["read"]) != (10, 60):
        yield f"{id}: timeouts"
    if "wait:" in data["params"] and "wait:25" not in data["params"].splitlines():
        yield f"{id}: a wait that the proxy may cut"
    if data["method"] not in {"get", "put", "post"} or data["body"]["type"] not in {
        "none",
        "x-www-form-urlencoded",
        "form-data",
    }:
        yield f"{id}: a body in which a text must be escaped"
    to_handoff = "HANDOFF_URL" in data["url"]
    key = data["authorization"]
    if to_handoff != (key["type"] == "api-key") or (to_handoff and key["config"]["api_key"] != "{{#env.HANDOFF_KEY#}}"):
        yield f"{id}: the key goes elsewhere"
    catches = data.get("error_strategy") == "fail-branch"
    if to_handoff and "errors:200" not in data["params"].splitlines() and not catches:
        yield f"{id}: an error whose text nobody sees"


def _find_loop_problems(node: App, nodes: dict[str, App]) -> Iterator[str]:
    id, data = node["id"], node["data"]
    inside = [child["data"] for child in nodes.values() if child.get("parentId") == id]
    if data["loop_count"] * sum(child["type"] != "loop-start" for child in inside) > STEPS:
        yield f"{id}: too many steps"
    if any("file" in variable["var_type"] for variable in data["loop_variables"]):
        yield f"{id}: a loop variable that holds files"
    if any(condition["variable_selector"][0] != id for condition in data["break_conditions"]):
        yield f"{id}: a condition on a node inside, which the editor calls invalid"
    for child in inside:
        if child["type"] == "assigner" and child["version"] != "2":
            yield f"{id}: an assigner of the old version"
        if child["type"] == "http-request":
            held = 25 if "wait:25" in child["params"] else 0
            pauses = child["retry_config"]["max_retries"] * child["retry_config"]["retry_interval"] / 1000
            if data["loop_count"] * (held or pauses) >= WORKFLOW_S:
                yield f"{id}: it may outlast Dify's own limit"
            if child.get("error_strategy") != "default-value":
                yield f"{id}: an error inside ends the whole run"


def _find_references(value: Any) -> Iterator[tuple[str, ...]]:
    match value:
        case str():
            yield from (tuple(match.split(".")) for match in _USED.findall(value))
        case dict():
            for key, inner in value.items():
                if key in {"variable_selector", "value_selector", "iterator_selector", "output_selector", "file"}:
                    yield tuple(inner)
                else:
                    yield from _find_references(inner)
        case list():
            for inner in value:
                yield from _find_references(inner)


def _is_known(place: tuple[str, ...], nodes: dict[str, App], names: dict[str, App], app: App) -> bool:
    head, *rest = place
    if len(rest) != 1:
        return False
    if head == "env":
        return rest[0] in names
    if head == "sys":
        return rest[0] == "workflow_run_id" or (rest[0] == "query" and app["app"]["mode"] == "advanced-chat")
    if head not in nodes:
        return False
    data = nodes[head]["data"]
    if data["type"] == "start":
        return rest[0] in {variable["variable"] for variable in data["variables"]}
    if data["type"] == "loop":
        return rest[0] in {variable["label"] for variable in data["loop_variables"]}
    return rest[0] in _OUTPUTS.get(data["type"], set())


def test_it_keeps_what_dify_wants(shipped: App) -> None:
    assert list(find_problems(shipped)) == []


def test_every_flow_is_checked_here() -> None:
    files = {path.stem for path in (Path(flows.__file__).parent / "dify").iterdir()}
    assert files == set(flows.NAMES)


def test_a_chatflow_answers_and_a_workflow_ends(shipped: App) -> None:
    kinds = {node["data"]["type"] for node in shipped["workflow"]["graph"]["nodes"]}
    assert ("answer" in kinds) == (shipped["app"]["mode"] == "advanced-chat")
    assert ("end" in kinds) == (shipped["app"]["mode"] == "workflow")


def test_each_end_has_one_output_since_dify_previews_no_second(shipped: App) -> None:
    ends = [node["data"] for node in shipped["workflow"]["graph"]["nodes"] if node["data"]["type"] == "end"]
    assert all(len(end["outputs"]) == 1 for end in ends)


def _node(app: App, id: str) -> App:
    data: App = next(node["data"] for node in app["workflow"]["graph"]["nodes"] if node["id"] == id)
    return data


PLANTED: list[Callable[[App], object]] = [
    lambda app: app.update(version="0.9.0"),
    lambda app: app["workflow"]["environment_variables"][1].update(value_type="string"),
    lambda app: app["workflow"]["graph"]["edges"].pop(),
    lambda app: _node(app, "poll").update(params="wait:100\nformat:text\nerrors:200"),
    lambda app: _node(app, "poll").pop("error_strategy"),
    lambda app: _node(app, "submit").update(params="format:text", error_strategy=None),
    lambda app: _node(app, "submit")["timeout"].update(read=600),
    lambda app: _node(app, "submit")["body"].update(type="json"),
    lambda app: _node(app, "submit")["retry_config"].update(max_retries=20),
    lambda app: _node(app, "submit")["authorization"]["config"].update(api_key="hk_real"),
    lambda app: _node(app, "wait").update(loop_count=100),
    lambda app: _node(app, "wait")["break_conditions"][0].update(variable_selector=["poll", "body"]),
    lambda app: _node(app, "remember").update(version="1"),
    lambda app: _node(app, "picture").update(answer="{{#downlaod.files#}}"),
    lambda app: _node(app, "picture").update(type="code"),
]


@pytest.mark.parametrize("plant", PLANTED, ids=range(len(PLANTED)))
def test_the_checker_finds_a_planted_fault(plant: Callable[[App], object]) -> None:
    app = copy.deepcopy(load(flows.read("chatflow")))
    plant(app)
    assert list(find_problems(app)) != []


# ── the interpreter's own rules ──


def test_a_missing_variable_is_rendered_as_its_own_name() -> None:
    assert render("{{#start.seed#}}, {{#sys.query#}}", {("sys", "query"): "a cat"}) == "start.seed, a cat"


def test_an_unquoted_version_is_refused_by_the_importer() -> None:
    with pytest.raises(ValueError, match="in quotes"):
        load(flows.read("chatflow").replace('version: "0.3.1"', "version: 0.3"))


# ── what is filled in ──


def test_the_address_is_filled_in_and_the_key_never_is() -> None:
    app = load(flows.fill(flows.read("chatflow"), address="https://draw.example:8443/path"))
    values = {entry["name"]: entry["value"] for entry in app["workflow"]["environment_variables"]}
    assert values == {"HANDOFF_URL": "https://draw.example:8443/path", "HANDOFF_KEY": "PUT-YOUR-HANDOFF-KEY-HERE"}


def test_no_key_asked_for_is_a_key_all_the_same_since_dify_fails_on_an_empty_one() -> None:
    app = load(flows.fill(flows.read("chatflow"), address="http://handoff:8080", asks_for_key=False))
    assert app["workflow"]["environment_variables"][1]["value"]


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"bucket": "b"}, "https://b.s3.amazonaws.com/jobs"),
        ({"bucket": "b", "s3_endpoint_url": "http://minio:9000/"}, "http://minio:9000/b/jobs"),
        (
            {"bucket": "b", "s3_endpoint_url": "http://minio:9000", "s3_public_endpoint_url": "https://s3.example"},
            "https://s3.example/b/jobs",
        ),
    ],
)
def test_the_bucket_as_its_readers_reach_it(settings: dict[str, str], url: str | None) -> None:
    assert flows.find_bucket_url(Settings(_env_file=None, **settings)) == url  # type: ignore[arg-type]


# ── run ──


def import_flow(adapter: Adapter, name: str, *, patience: float = 0.02, **environment: str) -> Dify:
    """As a flow builder does: downloads it, and fills in the key."""
    answer = adapter.get(f"/dify/{name}.yml")
    assert answer.ok, answer.text
    return Dify(load(answer.text), {"HANDOFF_KEY": KEY, **environment}, patience=patience)


def size_of(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        return image.size


def upload(width: int = 96, height: int = 64) -> File:
    """A picture that somebody gave to Dify."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return File("holiday.png", "image/png", file.getvalue())


def test_the_chatflow_says_where_the_job_stands_and_shows_the_picture(studio: Studio) -> None:
    run = import_flow(studio.adapter, "chatflow").run(query='a "quoted" cat\nin two lines, 一只猫 🐈')
    assert run.error is None
    assert len(run.answers) == 2
    assert run.answers[0].strip()
    (picture,) = run.files
    assert picture.mime_type == "image/png"
    assert size_of(picture.data) == (512, 512)
    assert run.answers[1].startswith("![")
    status = studio.adapter.get(f"/v1/jobs/{run.id}").json()
    assert (status["status"], status["workflow"]) == ("succeeded", "txt2img")


def test_the_workflow_gives_as_many_pictures_as_were_asked_for(studio: Studio) -> None:
    inputs = {"prompt": "a lighthouse", "width": 128, "height": 64, "pictures": "3"}
    run = import_flow(studio.adapter, "workflow").run(inputs)
    assert run.error is None
    assert [size_of(picture.data) for picture in run.outputs["pictures"]] == [(128, 64)] * 3


def test_a_picture_that_cannot_be_read_fails_the_run_aloud(studio: Studio) -> None:
    flow = import_flow(studio.adapter, "workflow")
    inputs = {"prompt": "a lighthouse", "width": 64, "height": 64, "pictures": "2"}
    first = flow.run(inputs)
    assert len(first.outputs["pictures"]) == 2
    name = studio.adapter.get(f"/v1/jobs/{first.id}").json()["outputs"][1]["name"]
    (studio.volume.output / first.id / name).write_bytes(b"another file by now")
    again = flow.run(inputs, id=first.id)
    assert again.outputs == {}
    assert "503" in str(again.error)


def test_a_refused_job_says_why(studio: Studio) -> None:
    run = import_flow(studio.adapter, "workflow").run({"prompt": "a lighthouse", "width": 100})
    assert run.error is None
    assert set(run.outputs) == {"error"}
    assert "width" in run.outputs["error"]
    assert "steps of 8" in run.outputs["error"]


def test_a_wrong_key_says_so_where_dify_would_hide_it(studio: Studio) -> None:
    run = import_flow(studio.adapter, "chatflow", HANDOFF_KEY="hk_wrong").run(query="a cat")
    assert run.error is None
    assert "key" in run.answer.lower()


def test_a_job_that_fails_at_comfyui_says_why(studio: Studio) -> None:
    studio.house.simulator.control(out_of_memory=10)
    try:
        run = import_flow(studio.adapter, "workflow").run({"prompt": "a lighthouse"})
    finally:
        studio.house.simulator.control(reset=True)
    assert run.error is None
    assert "memory" in run.outputs["error"]


def test_a_dify_file_is_drawn_anew(studio: Studio) -> None:
    run = import_flow(studio.adapter, "picture-to-picture").run({"image": upload(), "prompt": "in the rain"})
    assert run.error is None, run.error
    (picture,) = run.outputs["picture"]
    assert isinstance(picture, File)
    assert picture.mime_type == "image/png"


def test_the_same_run_twice_is_one_job(studio: Studio) -> None:
    flow = import_flow(studio.adapter, "picture-to-picture")
    inputs = {"image": upload(40, 40), "prompt": "in the snow"}
    first = flow.run(inputs)
    again = flow.run(inputs, id=first.id)
    assert first.outputs["picture"][0].data == again.outputs["picture"][0].data


def test_nobody_there_is_told_and_not_waited_for(shipped: App) -> None:
    environment = {"HANDOFF_URL": "http://127.0.0.1:9", "HANDOFF_KEY": "any"}
    inputs = {"prompt": "a cat", "image": upload()}
    kinds = {variable["variable"] for variable in _node(shipped, "start")["variables"]}
    run = Dify(shipped, environment, patience=0.0).run(
        {name: value for name, value in inputs.items() if name in kinds}, query="a cat"
    )
    assert run.error is None
    assert "Reached maximum retries" in (run.answer or run.outputs["error"])


def test_an_adapter_that_goes_and_comes_back_is_asked_again() -> None:
    with open_house() as house, start_adapter(house.volume.root) as first:
        flow = import_flow(first, "chatflow", patience=0.05)
        _node(flow.app, "wait").update(loop_count=1000)  # patience is short here, and this machine may be slow
        port = int(first.url.rpartition(":")[2])
        house.simulator.pause()
        thread = threading.Thread(target=lambda: flow.run(query="a cat"))
        thread.start()
        try:
            eventually(lambda: flow.runs and "poll" in flow.runs[0].nodes, "it waits for the picture")
            first.kill()
            eventually(lambda: "poll" in flow.runs[0].caught, "it finds nobody")
            second = start_adapter(house.volume.root, port=port)
        finally:
            house.simulator.resume()
        with second:
            thread.join(60)
    (run,) = flow.runs
    assert run.error is None
    assert len(run.files) == 1


def test_the_bucket_alone_tells_of_the_end(studio: Studio) -> None:
    with serve_bucket(studio.house.volume) as (url, asked):
        flow = import_flow(studio.adapter, "bucket-polling", BUCKET_URL=f"{url}/jobs")
        run = flow.run({"prompt": "a lighthouse"})
    assert run.error is None, run.error
    (picture,) = run.outputs["picture"]
    assert size_of(picture.data) == (512, 512)
    assert any(path.endswith("status.json") for path in asked)
    assert "tell" not in run.nodes


def test_a_failure_in_the_bucket_says_why(studio: Studio) -> None:
    studio.house.simulator.control(out_of_memory=10)
    try:
        with serve_bucket(studio.house.volume) as (url, _):
            run = import_flow(studio.adapter, "bucket-polling", BUCKET_URL=f"{url}/jobs").run(
                {"prompt": "a lighthouse"}
            )
    finally:
        studio.house.simulator.control(reset=True)
    assert "memory" in run.outputs["error"]


@contextmanager
def serve_bucket(volume: Volume) -> Iterator[tuple[str, list[str]]]:
    """A bucket that everybody may read, and what was asked of it."""
    asked: list[str] = []

    class Bucket(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            assert "Authorization" not in self.headers
            data = volume.bucket.get(self.path.lstrip("/"))
            self.send_response(404 if data is None else 200)
            kind = "image/png" if self.path.endswith(".png") else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Bucket) as url:
        yield url, asked


def test_a_picture_that_is_too_large_for_dify_is_a_link(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.adapter.interpreter.MAX_BINARY", 100)
    run = import_flow(studio.adapter, "chatflow").run(query="a cat")
    assert run.caught == ["download"]
    link = re.fullmatch(r"!\[.+\]\((http\S+)\)", run.answers[1])
    assert link
    assert size_of(requests.get(link[1], timeout=30).content) == (512, 512)


def test_a_wait_that_was_not_long_enough_says_where_the_job_stands(counter: Counter) -> None:
    flow = import_flow(counter.adapter, "chatflow")
    _node(flow.app, "wait").update(loop_count=2)
    _node(flow.app, "poll").update(params="wait:0.1\nformat:text\nerrors:200")
    run = flow.run(query="nobody draws it")
    assert run.error is None
    assert run.nodes.count("poll") == 2
    assert run.answers[1].startswith("Queued")


def test_without_errors_200_a_wrong_key_is_at_least_not_called_a_blocked_address(counter: Counter) -> None:
    flow = import_flow(counter.adapter, "chatflow", HANDOFF_KEY="hk_wrong")
    _node(flow.app, "submit").update(params="")
    run = flow.run(query="x")
    assert run.error is None
    assert "status code 400" in run.answer


def test_a_node_that_is_run_alone_is_told_to_run_with_the_whole_flow(counter: Counter) -> None:
    """What Dify sends then: the names of the variables in the place of their values."""
    answer = counter.adapter.put(
        "/v1/jobs/sys.workflow_run_id?format=markdown&errors=200", data={"prompt": "sys.query", "workflow": "txt2img"}
    )
    assert answer.status_code == 200
    assert "whole flow" in answer.text


# ── handoff dify export ──


@pytest.mark.parametrize("name", flows.NAMES)
def test_the_command_line_prints_the_same_flow(place: Place, name: str) -> None:
    ran = place.call("dify", "export", name, "--url", "http://handoff.example:8080/", api_keys=f"shop:{KEY}").expect(0)
    assert ran.out == flows.fill(flows.read(name), address="http://handoff.example:8080")
    assert ran.err == ""


def test_the_command_line_prints_the_openapi_document(place: Place) -> None:
    document = place.call("dify", "export", "openapi", dify_url="http://handoff:8080").expect(0).json
    assert document["servers"] == [{"url": "http://handoff:8080"}]
    assert "/v1/workflows/txt2img" in document["paths"]


def test_an_address_that_dify_hardly_reaches_is_told(place: Place) -> None:
    assert "HANDOFF_DIFY_URL" in place.call("dify", "export", "chatflow").expect(0).err


@pytest.mark.parametrize("arguments", [["chatflwo"], ["chatflow", "--url", "handoff:8080"]])
def test_what_cannot_be_exported_is_a_mistake_of_the_command_line(place: Place, arguments: list[str]) -> None:
    ran = place.call("dify", "export", *arguments).expect(2)
    assert "chatflow" in ran.err or "http://" in ran.err
    assert ran.out == ""

"""What is refused, and how it is told: problem documents, and status documents for Dify."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_adapter import answers
from dify_adapter.limits import Limits
from dify_adapter.refusal import STATUS, Refused
from handoff.failures import Failure, Reason
from handoff.folders import Folders
from handoff.status import StatusDocument
from tests.adapter.conftest import Counter, open_counter
from tests.conftest import SOAK
from tests.machine.mounts import mounted

CANVAS = {"workflow": "canvas", "params": {"width": 64, "height": 48, "color": 255}}
GRAPHS = "hk_graphs_0123456789"

ERRORS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no key": ("GET", "/v1/jobs/x", {"key": None}, 401, "unauthorized"),
    "wrong key": ("PUT", "/v1/jobs/x", {"key": "wrong", "json": CANVAS}, 401, "unauthorized"),
    "not allowed": (
        "POST",
        "/v1/jobs",
        {"json": {"graph": {"1": {"class_type": "X", "inputs": {}}}}},
        403,
        "forbidden",
    ),
    "no such job": ("GET", "/v1/jobs/nobody", {}, 404, "unknown_id"),
    "no such path": ("GET", "/v2/jobs", {}, 404, "not_found"),
    "no such method": ("DELETE", "/v1/jobs/x", {}, 405, "method_not_allowed"),
    "no such workflow": ("POST", "/v1/jobs", {"json": {"workflow": "canvsa"}}, 404, "unknown_workflow"),
    "bad value": ("POST", "/v1/jobs", {"json": {"workflow": "canvas", "width": "wide"}}, 422, "bad_parameter"),
    "missing value": ("POST", "/v1/jobs", {"json": {"workflow": "txt2img"}}, 422, "missing_parameter"),
    "single node": ("PUT", "/v1/jobs/sys.workflow_run_id", {"json": CANVAS}, 422, "unreplaced_variable"),
    "single node, poll": ("GET", "/v1/jobs/start.id", {}, 422, "unreplaced_variable"),
    "bad id": ("PUT", "/v1/jobs/Poster", {"json": CANVAS}, 422, "bad_field"),
    "long id": ("GET", f"/v1/jobs/{'x' * 65}", {}, 422, "bad_field"),
    "bad wait": ("GET", "/v1/jobs/x?wait=soon", {}, 422, "bad_field"),
    "bad format": ("GET", "/v1/jobs/x?format=html", {}, 422, "bad_field"),
    "bad limit": ("GET", "/v1/jobs?limit=0", {}, 422, "bad_field"),
    "bad status": ("GET", "/v1/jobs?status=done", {}, 422, "bad_field"),
    "bad cursor": ("GET", "/v1/jobs?cursor=-1", {}, 422, "bad_field"),
    "bad graph": ("POST", "/v1/jobs", {"json": {"graph": {"1": {}}}, "key": GRAPHS}, 422, "bad_graph"),
    "broken body": (
        "POST",
        "/v1/jobs",
        {"data": b"{", "headers": {"Content-Type": "application/json"}},
        400,
        "bad_body",
    ),
    "forbidden picture": (
        "POST",
        "/v1/jobs",
        {"json": {"workflow": "invert", "image": "http://127.0.0.1:1/a.png"}},
        422,
        "forbidden_url",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_a_problem_document(counter: Counter, case: str) -> None:
    method, path, options, status, reason = ERRORS[case]
    answer = counter.adapter.ask(method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["reason"] == reason
    assert problem["type"] == f"urn:handoff:{reason}"
    assert problem["detail"]
    assert problem["hint"]
    assert problem["errors"][0]["message"] == problem["detail"]


@pytest.mark.parametrize("case", ERRORS)
def test_for_dify_an_error_is_a_status_document(counter: Counter, case: str) -> None:
    method, path, options, status, reason = ERRORS[case]
    path += ("&" if "?" in path else "?") + "errors=200"
    answer = counter.adapter.ask(method, path, **options)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    said = answer.json()
    assert set(said) == {
        *StatusDocument(id="x", created_at="2026-11-24T08:00:00Z").model_dump(by_alias=True),
        "http_status",
        "queue_position",
        "eta_s",
    }
    assert (said["status"], said["done"], said["ok"], said["http_status"]) == ("rejected", True, False, status)
    assert said["error"]["reason"] == reason
    assert '"ok":false' in answer.text
    if case != "bad format":
        assert counter.adapter.ask(method, f"{path}&format=text", **options).text == "rejected"
        sentence = counter.adapter.ask(method, f"{path}&format=markdown&lang=zh", **options)
        assert sentence.status_code == 200
        assert any("\u4e00" <= letter <= "\u9fff" for letter in sentence.text)


def test_all_mistakes_are_told_at_once_with_their_fields(counter: Counter) -> None:
    answer = counter.adapter.post("/v1/jobs", data={"prompt": "a", "width": "65", "hieght": "8", "cfg": "99"})
    found = {entry["field"]: entry["reason"] for entry in answer.json()["errors"]}
    assert found == {"hieght": "unknown_parameter", "width": "bad_parameter", "cfg": "bad_parameter"}
    rejected = counter.adapter.post("/v1/jobs?errors=200", data={"prompt": "a", "width": "65", "hieght": "8"}).json()
    assert "width" in rejected["error"]["message"]
    assert "height" in rejected["error"]["hint"]


def test_a_single_node_run_gets_the_sentence_that_helps(counter: Counter) -> None:
    answer = counter.adapter.put("/v1/jobs/sys.workflow_run_id?errors=200&format=markdown", json=CANVAS)
    assert "Run the whole flow, not this node alone" in answer.text


def test_nothing_refused_leaves_a_job(counter: Counter) -> None:
    before = set(os.listdir(counter.volume.spool / "ids"))
    for method, path, options, _, _ in ERRORS.values():
        counter.adapter.ask(method, path, **options)
    assert set(os.listdir(counter.volume.spool / "ids")) == before
    assert os.listdir(counter.volume.spool / "tmp") == []


def test_answers_carry_headers_for_browsers(counter: Counter) -> None:
    for path in ("/livez", "/v1/jobs", "/v1/jobs/nobody", "/nothing"):
        headers = counter.adapter.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Cache-Control"] == "no-store"
        assert "Content-Disposition" not in headers
        assert "Access-Control-Allow-Origin" not in headers, "no page of another site reads this"
        assert "server" not in headers


def test_pages_that_were_named_may_ask() -> None:
    page = {"Origin": "https://flows.example.com"}
    with open_counter(cors_origins=page["Origin"]) as counter:
        answer = counter.adapter.get("/v1/jobs", headers=page)
        assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
        other = counter.adapter.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_a_mistake_of_the_program_is_a_500_whose_words_are_in_the_log_alone() -> None:
    with open_counter(module="tests.adapter.planted break_down") as counter:
        answer = counter.adapter.put("/v1/jobs/x", json=CANVAS)
        assert (answer.status_code, answer.json()["reason"]) == (500, "internal_error")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "secret" not in answer.text
        dify = counter.adapter.put("/v1/jobs/x?errors=200", json=CANVAS)
        assert (dify.status_code, dify.json()["error"]["reason"]) == (200, "internal_error")
        assert counter.adapter.get("/v1/jobs").status_code == 200
        line = counter.adapter.wait_for("bug")
        assert "/a/secret/path" in line["exception"]


WORDS = st.sampled_from(
    ["x", "first", "..", "%00", "%ff", "é", "a" * 300, "sys.workflow_run_id", "1", "canvas", "openapi.json"]
)
PATHS = st.one_of(
    st.lists(WORDS, min_size=1, max_size=4).map("/".join).map("/".__add__),
    st.builds(
        "{0}{1}{2}".format,
        st.sampled_from(
            ["/v1/jobs/", "/v1/workflows/", "/v1/jobs/x/outputs/", "/p/s/x/", "/dify/", "/v1/uploads", "/prompt"]
        ),
        WORDS,
        st.sampled_from(["", "/cancel", "/retry", "/", "/outputs/1"]),
    ),
)
QUERIES = st.dictionaries(
    st.sampled_from(["format", "lang", "errors", "limit", "cursor", "status", "workflow"]),
    st.sampled_from(["", "200", "json", "markdown", "zh", "-1", "9" * 30, "\x00", "queued", "é"]),
    max_size=3,
)
TYPES = st.sampled_from(
    ["application/json", "multipart/form-data; boundary=b", "application/x-www-form-urlencoded", "a/b", "", ";;=", "é"]
)
BODIES = st.binary(max_size=200) | st.sampled_from(
    [
        b"{}",
        b'{"prompt": {}}',
        b'{"prompt": "a", "seed": 1e999}',
        b'{"prompt": "\\ud800"}',
        b"prompt=a",
        b"a=%zz",
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\nContent-Disposition: form-data; name*=utf-8''%ff\r\n\r\nx\r\n--b--\r\n",
        b"[" * 5000,
    ]
)


@settings(max_examples=3000 if SOAK else 150)
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS"]),
    path=PATHS,
    query=QUERIES,
    kind=TYPES,
    body=BODIES,
)
def test_nothing_that_is_sent_is_a_fault_of_the_server(
    counter: Counter, method: str, path: str, query: dict[str, str], kind: str, body: bytes
) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = counter.adapter.ask(method, path, key=GRAPHS, params=query, data=body, headers=headers)
    assert answer.status_code < 500 or path.startswith("/readyz"), answer.text
    if answer.headers.get("Content-Type") == "application/problem+json" and method != "HEAD":
        assert answer.json()["reason"] in set(Reason)


# limits


def test_one_owner_s_requests_are_limited() -> None:
    with open_counter(requests_per_key=3) as counter, ThreadPoolExecutor(3) as pool:
        polls = [pool.submit(counter.adapter.get, "/v1/jobs/none?wait=4") for _ in range(3)]
        time.sleep(1.5)
        refused = counter.adapter.get("/v1/jobs")
        assert (refused.status_code, refused.json()["reason"]) == (429, "too_many_requests")
        assert refused.headers["Retry-After"] == "1"
        assert counter.adapter.get("/v1/jobs", key=GRAPHS).status_code == 200, "others are not kept waiting"
        assert {poll.result().status_code for poll in polls} == {404}
        assert counter.adapter.get("/v1/jobs").status_code == 200


def test_one_owner_s_jobs_are_limited() -> None:
    with open_counter(jobs_per_key=3) as counter:
        for number in range(3):
            assert counter.adapter.put(f"/v1/jobs/mine-{number}", json=CANVAS).status_code == 202
        refused = counter.adapter.put("/v1/jobs/mine-3", json=CANVAS)
        assert (refused.status_code, refused.json()["reason"]) == (429, "too_many_jobs")
        assert int(refused.headers["Retry-After"]) > 0
        assert counter.adapter.put("/v1/jobs/theirs", json=CANVAS, key=GRAPHS).status_code == 202
        assert counter.adapter.put("/v1/jobs/mine-0", json=CANVAS).status_code == 200, "a repetition is no new job"


def test_a_place_is_given_back_whatever_happens() -> None:
    limits = Limits(Folders("/nowhere", "/nowhere"), requests=1, jobs=1)
    for _ in range(3):
        with pytest.raises(KeyError), limits.request("a"):
            raise KeyError
    with limits.request("a"), pytest.raises(Refused), limits.request("a"):
        pass


# the volume


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)


def test_a_full_volume_is_a_503_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=3m", "tmpfs"), open_counter(input_dir=disk) as counter:
        assert counter.adapter.put("/v1/jobs/before", json=CANVAS).status_code == 202
        filler = disk / "filler"
        fill(filler)
        refused = counter.adapter.put("/v1/jobs/full", json=CANVAS)
        assert (refused.status_code, refused.json()["reason"]) == (503, "unavailable")
        assert refused.headers["Retry-After"] == "5"
        assert refused.json()["retryable"]
        assert str(disk) not in refused.text
        assert counter.adapter.get("/v1/jobs/before?format=text").text == "queued"
        assert counter.adapter.get("/readyz").status_code == 503
        filler.unlink()
        assert counter.adapter.put("/v1/jobs/full", json=CANVAS).status_code == 202
        assert counter.adapter.put("/v1/jobs/before", json=CANVAS).status_code == 200


def test_a_volume_that_is_gone_is_a_503() -> None:
    with open_counter() as counter:
        assert counter.adapter.put("/v1/jobs/before", json=CANVAS).status_code == 202
        os.rename(counter.volume.input, counter.volume.root / "away")
        for answer in (counter.adapter.put("/v1/jobs/x", json=CANVAS), counter.adapter.get("/v1/jobs/before")):
            assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable"), answer.text
        poll = counter.adapter.get("/v1/jobs/before?errors=200")
        assert (poll.status_code, poll.json()["error"]["retryable"]) == (200, True)
        picture = counter.adapter.get("/v1/jobs/before/outputs/1?errors=200")
        assert picture.status_code == 503, "a picture that may be there is not told as one that is not"
        os.rename(counter.volume.root / "away", counter.volume.input)
        assert counter.adapter.put("/v1/jobs/x", json=CANVAS).status_code == 202


# pure


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_told(reason: Reason) -> None:
    refused = Refused(Failure(reason))
    assert refused.status == STATUS.get(reason, 422)
    for language in ("en", "zh"):
        assert json.loads(answers.dump(answers.to_problem(refused, refused.status, language)))["reason"] == reason
        assert answers.to_rejection(refused, None, 422, language)["error"]["reason"] == reason

"""Bodies as Dify and others send them: the same fields, whatever the form, and every text to the last byte."""

import json
import string
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dify_adapter import bodies
from handoff.decode import JsonObject, body_sha256
from handoff.failures import Failure, Reason
from handoff.job import RESERVED
from tests.adapter.conftest import Counter
from tests.conftest import SOAK
from workflows.catalogue import Catalogue, find_problems

CATALOGUE = Catalogue(None)
TXT2IMG = CATALOGUE.get("txt2img")
IMG2IMG = CATALOGUE.get("img2img")

NASTY = 'say "hi"\n\t\\ \r\n 一只猫 🐈\u200d⬛ {"steps": 999} \', x", "steps": 999, "y": "z &=%20+#'
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(lambda name: name not in RESERVED)


def job(fields: dict[str, Any], template: Any = TXT2IMG) -> dict[str, Any]:
    return bodies.make_job(fields, id=None, template=template, default_workflow="txt2img").body


def test_texts_become_what_their_parameters_are() -> None:
    fields = bodies.make_fields(
        [
            ("prompt", "a cat"),
            ("width", "768"),
            ("cfg", "6.5"),
            ("seed", "-1"),
            ("priority", "10"),
            ("run_timeout_s", "1.5"),
        ]
    )
    assert job(fields) == {
        "workflow": "txt2img",
        "params": {"prompt": "a cat", "width": 768, "cfg": 6.5, "seed": -1},
        "priority": 10,
        "run_timeout_s": 1.5,
    }
    assert job(json.loads(json.dumps(fields))) == job(fields), "numbers as strings in JSON, too"


def test_a_whole_number_may_have_a_fraction_of_zeros() -> None:
    whole: JsonObject = {"workflow": "txt2img", "params": {"prompt": "a", "width": 512, "seed": 7}, "priority": 5}
    ways: list[JsonObject] = [
        bodies.make_fields([("prompt", "a"), ("width", "512.0"), ("seed", "7."), ("priority", "5.0")]),
        {"prompt": "a", "width": 512.0, "seed": 7.0, "priority": "5"},
    ]
    for fields in ways:
        assert bodies.make_job(fields, id=None, template=TXT2IMG, default_workflow="txt2img").sha256 == body_sha256(
            whole
        )
    assert job({"prompt": "a", "width": "512.5", "cfg": "7"})["params"] == {"prompt": "a", "width": "512.5", "cfg": 7.0}
    for junk in ("inf", "nan", "1e999", "soon"):
        with pytest.raises(Failure):
            job(bodies.make_fields([("prompt", "a"), ("priority", junk)]))


def test_flat_and_structured_fields_are_the_same_job() -> None:
    flat = {"workflow": "txt2img", "prompt": "a", "width": 64}
    assert job(flat) == job({"workflow": "txt2img", "params": {"prompt": "a", "width": "64"}})
    assert job(flat) == job({"prompt": "a", "params": {"width": 64}})
    with pytest.raises(Failure) as raised:
        job({"prompt": "a", "params": {"prompt": "b"}})
    assert raised.value.reason is Reason.DUPLICATE_KEY


def test_what_was_left_empty_was_not_given() -> None:
    empty = {
        "prompt": "a",
        "width": "",
        "negative": "",
        "priority": "",
        "metadata": "",
        "seed": None,
        "id": "",
        "set": None,
    }
    assert job(empty) == {"workflow": "txt2img", "params": {"prompt": "a"}}
    assert job(bodies.make_fields([(name, value or "") for name, value in empty.items()])) == job({"prompt": "a"})


def test_structures_in_forms_are_json() -> None:
    fields = bodies.make_fields(
        [
            ("prompt", '{"not": "read"}'),
            ("metadata", '{"run": 7}'),
            ("set", '{"6.text": "x"}'),
            ("params", '{"width": 64}'),
        ]
    )
    assert job(fields) == {
        "workflow": "txt2img",
        "params": {"prompt": '{"not": "read"}', "width": 64},
        "metadata": {"run": 7},
        "set": {"6.text": "x"},
    }
    with pytest.raises(Failure) as raised:
        bodies.make_fields([("metadata", "{run: 7}")])
    assert raised.value.reason is Reason.BAD_FIELD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "start.seed"),
        ("width", "1718012345678.width"),
        ("prompt", "1718012345678.text"),
        ("prompt", "start.query"),
        ("prompt", "llm.prompt"),
        ("prompt", "{{#1718012345678.text#}}"),
        ("prompt", "sys.query"),
        ("image", "start.picture"),
        ("checkpoint", "env.MODEL"),
        ("checkpoint", "conversation.model"),
        ("priority", "start.priority"),
        ("workflow", "start.workflow"),
        ("id", "sys.workflow_run_id"),
        ("metadata", "start.metadata"),
    ],
)
def test_a_variable_s_name_in_place_of_its_value_is_refused(name: str, value: str) -> None:
    template = IMG2IMG if name == "image" else TXT2IMG
    with pytest.raises(Failure) as raised:
        job(bodies.make_fields([("prompt", "a"), (name, value)] if name != "prompt" else [(name, value)]), template)
    assert raised.value.reason is Reason.UNREPLACED_VARIABLE
    assert raised.value.details["value"] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "a sign that says start.now in the rain"),
        ("prompt", "{{#start.query#}} is a template"),
        ("prompt", "example.com"),
        ("prompt", "Mr. Fox"),
        ("prompt", "3.14"),
        ("prompt", "1718012345.678"),
        ("prompt", "sys.exit()"),
        ("image", "start.png"),
        ("image", "1718012345678.jpg"),
        ("checkpoint", "v1-5-pruned.safetensors"),
        ("seed", "1718012345678"),
        ("cfg", "7.5"),
    ],
)
def test_what_only_looks_a_little_like_one_is_taken(name: str, value: str) -> None:
    fields = {"prompt": "a", name: value}
    params = job(fields, IMG2IMG if name == "image" else TXT2IMG)["params"]
    assert str(params[name]) == value


@given(prompt=TEXTS)
@example(NASTY)
@example("\ufeff")
@example("\r")
def test_a_prompt_is_the_same_in_json_and_in_a_form(prompt: str) -> None:
    try:
        bodies.check_replaced("prompt", prompt, TXT2IMG.parameters["prompt"])
    except Failure:
        return
    for fields in (
        bodies.read_json(json.dumps({"prompt": prompt}).encode()),
        bodies.read_json(json.dumps({"prompt": prompt}, ensure_ascii=False).encode()),
        bodies.make_fields(bodies.read_urlencoded(urlencode({"prompt": prompt}).encode())),
    ):
        assert job(fields)["params"] == {"prompt": prompt}


@given(data=st.binary())
@example(b"a=%ff")
@example(b"a=\xff")
@example(b"&&==&")
def test_any_bytes_are_a_form_or_a_failure(data: bytes) -> None:
    with suppress(Failure):
        bodies.make_fields(bodies.read_urlencoded(data))


@given(st.dictionaries(NAMES, TEXTS, max_size=6))
def test_forms_keep_every_text(fields: dict[str, str]) -> None:
    assert bodies.make_fields(bodies.read_urlencoded(urlencode(fields).encode())) == fields
    raw = "&".join(f"{name}={value}" for name, value in fields.items() if not set(value) & set("&=%+;#"))
    read = dict(bodies.read_urlencoded(raw.encode()))
    assert all(fields[name] == value for name, value in read.items()), "UTF-8 that was not escaped"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
    | st.sampled_from(["", "start.seed", "512.0", "-1", "1e400", "{}", "uploads/x.png", "canvas", "txt2img"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
FIELDS = st.dictionaries(
    st.sampled_from([*sorted(RESERVED), *TXT2IMG.parameters, "image", "x", "1"]), VALUES, max_size=5
)


@settings(max_examples=5000 if SOAK else 300)
@given(fields=FIELDS)
@example({"prompt": "a", "cfg": "1e400"})
def test_whatever_is_sent_is_a_job_or_a_failure(fields: JsonObject) -> None:
    with suppress(Failure):
        template = None
        if not bodies.is_graph(fields):
            template = CATALOGUE.get(bodies.find_workflow(fields, "txt2img"))
        made = bodies.make_job(fields, id=None, template=template, default_workflow="txt2img")
        if not find_problems(made, CATALOGUE):
            again = bodies.make_job(made.body, id=None, template=template, default_workflow="txt2img")
            assert again.sha256 == made.sha256


def test_a_repeated_file_part_fills_numbered_parameters() -> None:
    assert bodies.name_files(["image", "image", "image"], []) == ["image", "image2", "image3"]
    assert bodies.name_files(["image", "mask", "image"], ["image"]) == ["image2", "mask", "image3"]


# over HTTP: what lies in the spool is what was sent


def stored(counter: Counter, id: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((counter.volume.spool / "ids" / id).read_bytes())["body"]
    return body


_numbers = iter(range(10**9))


@settings(max_examples=500 if SOAK else 25)
@given(prompt=TEXTS)
@example(NASTY)
@example("--boundary\r\n\r\n--\r\n")
def test_every_body_type_delivers_a_prompt_byte_for_byte(counter: Counter, prompt: str) -> None:
    try:
        bodies.check_replaced("prompt", prompt, TXT2IMG.parameters["prompt"])
    except Failure:
        return
    number = next(_numbers)
    ways: dict[str, dict[str, Any]] = {
        "json": {"json": {"prompt": prompt}},
        "utf8": {
            "data": json.dumps({"prompt": prompt}, ensure_ascii=False).encode(),
            "headers": {"Content-Type": "application/json; charset=utf-8"},
        },
        "form": {"data": {"prompt": prompt}},
        "multipart": {"files": {"prompt": (None, prompt.encode()), "__multipart_placeholder__": ("", b"")}},
        "untyped": {"data": json.dumps({"prompt": prompt}).encode(), "headers": {"Content-Type": ""}},
    }
    for way, sent in ways.items():
        id = f"bytes-{number}-{way}"
        answer = counter.adapter.put(f"/v1/jobs/{id}", **sent)
        assert answer.status_code == 202, answer.text
        assert stored(counter, id)["params"] == {"prompt": prompt}


def test_curl_s_form_header_on_json_does_no_harm(counter: Counter) -> None:
    answer = counter.adapter.put(
        "/v1/jobs/curl",
        data=b' {"prompt": "a=b&c"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 202
    assert stored(counter, "curl")["params"] == {"prompt": "a=b&c"}


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32), (200, 10, 10)).save(path)
    return path.read_bytes()


def test_multipart_files_become_uploads(counter: Counter, picture: bytes) -> None:
    answer = counter.adapter.put(
        "/v1/jobs/with-file",
        files=[("workflow", (None, "invert")), ("image", ("cat.png", picture, "image/png"))],
    )
    assert answer.status_code == 202, answer.text
    name = stored(counter, "with-file")["params"]["image"]
    assert (counter.volume.input / name).read_bytes() == picture
    again = counter.adapter.put(
        "/v1/jobs/with-file", files=[("workflow", (None, "invert")), ("image", ("other-name.png", picture))]
    )
    assert again.status_code == 200, "the same bytes are the same job"


def test_a_file_field_that_was_left_empty_was_not_given(counter: Counter) -> None:
    answer = counter.adapter.put(
        "/v1/jobs/no-file", files=[("workflow", (None, "invert")), ("image", ("", b"", "application/octet-stream"))]
    )
    assert (answer.status_code, answer.json()["reason"]) == (422, "missing_parameter")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("workflow", (None, "invert")), ("image", ("cat.png", b"no picture at all"))], "bad_picture"),
        ([("workflow", (None, "canvas")), ("width", ("w.png", b"1"))], "bad_parameter"),
        ([("workflow", (None, "canvas")), ("imgae", ("w.png", b"1"))], "unknown_parameter"),
        ([("workflow", (None, b"\xff\xfe"))], "bad_encoding"),
        ([("prompt", (None, "a")), ("prompt", (None, "b"))], "duplicate_key"),
    ],
)
def test_files_and_parts_that_fit_nowhere_are_told(counter: Counter, files: Any, reason: str) -> None:
    answer = counter.adapter.post("/v1/jobs", files=files)
    assert (answer.status_code, answer.json()["reason"]) == (422, reason)


@pytest.mark.parametrize(
    ("content_type", "data", "status", "reason"),
    [
        ("application/json", b"[1]", 400, "bad_body"),
        ("application/json", b'{"prompt": ', 400, "bad_body"),
        ("application/json", b'{"prompt": "a", "prompt": "b"}', 422, "duplicate_key"),
        ("application/json", b'{"prompt": "a" "b"}', 422, "not_json"),
        ("application/json", b"", 422, "missing_parameter"),
        ("multipart/form-data", b"x", 400, "bad_body"),
        ("multipart/form-data; boundary=x", b"nothing", 400, "bad_body"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat',
            400,
            "bad_body",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
            400,
            "bad_body",
        ),
        ("image/png", b"\x89PNG", 415, "bad_body"),
        ("application/x-www-form-urlencoded", b"prompt=%ff", 422, "bad_encoding"),
        ("application/x-www-form-urlencoded", b"a&" * 2000, 400, "bad_body"),
    ],
)
def test_bodies_that_cannot_be_read_are_told(
    counter: Counter, content_type: str, data: bytes, status: int, reason: str
) -> None:
    answer = counter.adapter.post("/v1/jobs", data=data, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text


def test_what_is_too_large_is_refused_before_it_is_read(counter: Counter) -> None:
    huge = counter.adapter.post("/v1/jobs", data=b"x" * (5 << 20), headers={"Content-Type": "application/json"})
    assert (huge.status_code, huge.json()["reason"]) == (413, "too_large")
    announced = requests.Request(
        "POST", f"{counter.adapter.url}/v1/jobs", headers={"Authorization": "Bearer x"}
    ).prepare()
    announced.headers["Content-Length"] = str(1 << 40)
    answer = requests.Session().send(announced, timeout=20)
    assert answer.status_code == 401, "who has no key learns nothing else"
    key = counter.adapter.key
    announced.headers["Authorization"] = f"Bearer {key}"
    answer = requests.Session().send(announced, timeout=20)
    assert answer.status_code == 413
    assert counter.adapter.get("/livez").status_code == 200

"""Every form of a job file, in every encoding, and what `set` does to it."""

import codecs
import json
from typing import Any

import pytest

from tests.e2e.conftest import House
from tests.e2e.jobs import canvas, encode, graph
from tests.e2e.volume import Status

SHORT = {"prompt": "A futuristic cityscape", "width": 96, "height": 64}
FORMS: dict[str, Any] = {
    "named": {"workflow": "txt2img", "params": {"prompt": "A futuristic cityscape", "width": 96, "height": 64}},
    "short": SHORT,
    "short-named": {"workflow": "txt2img", **SHORT},
    "graph": {"graph": graph(), "priority": 10},
    "export": graph(),
    "saved-body": {
        "prompt": graph(),
        "client_id": "5f2d0b8a0c6f4f1b9d3c2a1e0f9b8d7c",
        "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}},
    },
}


def job_document(house: House, status: Status) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((house.volume.output / status["id"] / "job.json").read_bytes())
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_picture(house: House, form: str) -> None:
    name = f"form-{form}.json"
    house.volume.drop(name, FORMS[form])
    (status,) = house.volume.succeed(name)
    is_named = form in ("named", "short", "short-named")
    assert status["workflow"] == ("txt2img" if is_named else None)
    (output,) = status["outputs"]
    assert (output["width"], output["height"]) == ((96, 64) if is_named else (32, 24))
    assert output["media_type"] == "image/png"
    assert output["name"].startswith(status["id"])
    assert status["priority"] == (10 if form == "graph" else 0)
    document = job_document(house, status)
    if is_named:
        assert document["params"]["prompt"] == "A futuristic cityscape"
        assert document["params"]["seed"] >= 0
        assert document["graph"]["6"]["inputs"]["text"] == "A futuristic cityscape"
    house.check()


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("utf8-bom.json", "utf-8-sig"),
        ("utf16-le.json", "utf-16-le"),
        ("utf16-be.json", "utf-16-be"),
    ],
)
def test_what_windows_writes(house: House, name: str, encoding: str) -> None:
    text = encode(canvas(metadata={"标题": "一只猫 🐈"})).decode()
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    house.volume.drop(name, mark + text.replace("\n", "\r\n").encode(encoding))
    (status,) = house.volume.succeed(name)
    assert status["metadata"] == {"标题": "一只猫 🐈"}
    house.check()


def test_a_chinese_file_name_is_kept_as_the_source(house: House) -> None:
    house.volume.drop("海报 一.json", canvas())
    (status,) = house.volume.succeed("海报 一.json")
    assert status["id"].startswith("job-")
    house.check()


def test_set_overrides_by_id_title_and_class(house: House) -> None:
    house.volume.drop(
        "set.json", {"graph": graph(), "set": {"1.width": 48, "Paper.height": 40, "EmptyImage.batch_size": 2}}
    )
    (status,) = house.volume.succeed("set.json")
    assert [(output["width"], output["height"]) for output in status["outputs"]] == [(48, 40), (48, 40)]
    inputs = job_document(house, status)["graph"]["1"]["inputs"]
    assert (inputs["width"], inputs["height"], inputs["batch_size"]) == (48, 40, 2)
    house.check()


def test_a_seed_of_minus_one_is_drawn(house: House) -> None:
    house.volume.drop("seed.json", {**SHORT, "seed": -1, "set": {"KSampler.steps": 3}})
    (status,) = house.volume.succeed("seed.json")
    document = job_document(house, status)
    assert document["params"]["seed"] >= 0
    assert document["graph"]["3"]["inputs"]["seed"] == document["params"]["seed"]
    assert document["graph"]["3"]["inputs"]["steps"] == 3
    house.check()


def test_the_same_id_with_the_same_body_is_the_same_job(house: House) -> None:
    job = canvas(id="order-4711", metadata={"order": 4711})
    house.volume.drop("first.json", job)
    (before,) = house.volume.succeed("first.json")
    assert before["id"] == "order-4711"
    again = {name: job[name] for name in reversed(job)}
    house.volume.replays.add("again.json")
    house.volume.drop("again.json", again)
    house.watcher.wait_for("replay", id="order-4711")
    house.check()
    assert house.volume.status("order-4711") == before


def test_the_same_id_with_another_body_is_rejected_and_the_job_untouched(house: House) -> None:
    house.volume.drop("taken-1.json", canvas(id="poster-1"))
    (before,) = house.volume.succeed("taken-1.json")
    house.volume.drop("taken-2.json", canvas(id="poster-1"))
    reason = house.volume.reason("taken-2.json")
    assert reason["reason"] == "id_taken"
    assert "poster-1" in reason["message"]
    house.check()
    assert house.volume.status("poster-1") == before


def test_a_rejected_file_uses_up_no_id(house: House) -> None:
    job = canvas(id="poster-2")
    house.volume.drop("wrong.json", {**job, "params": {**job["params"], "width": 0}})
    assert house.volume.reason("wrong.json")["reason"] == "bad_parameter"
    house.volume.drop("right.json", job)
    (status,) = house.volume.succeed("right.json")
    assert status["id"] == "poster-2"
    house.check()

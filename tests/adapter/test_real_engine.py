"""The shipped flows in Dify's own engine, where one is at hand: GRAPHON_PYTHON names a Python in which graphon is installed."""

import base64
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.adapter.conftest import Studio
from tests.adapter.test_flows import serve_bucket, upload
from tests.servers.adapter import KEY

PYTHON = os.environ.get("GRAPHON_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="GRAPHON_PYTHON is not set: pip install graphon, Python 3.12")


def run(studio: Studio, name: str, *, key: str = KEY, replace: tuple[str, str] = ("", ""), **asked: Any) -> Any:
    assert PYTHON is not None
    flow = studio.adapter.get(f"/dify/{name}.yml").text.replace("PUT-YOUR-HANDOFF-KEY-HERE", key)
    ran = subprocess.run(
        [PYTHON, str(Path(__file__).with_name("real_engine.py"))],
        input=json.dumps({"flow": flow.replace(*replace) if replace[0] else flow, "id": str(uuid.uuid4()), **asked}),
        capture_output=True,
        text=True,
        timeout=110,
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_chatflow_shows_the_picture(studio: Studio) -> None:
    found = run(studio, "chatflow", query='a "quoted" cat\nin two lines, 一只猫 🐈')
    assert found["error"] is None
    assert len(found["answers"]) == 2
    assert found["answers"][1].startswith("![")


def test_the_workflow_gives_three_pictures(studio: Studio) -> None:
    inputs = {"prompt": "a lighthouse", "negative": "", "width": 128, "height": 64, "seed": -1, "pictures": "3"}
    found = run(studio, "workflow", inputs=inputs)
    assert found["error"] is None
    assert [kind for kind, _ in found["outputs"]["pictures"]] == ["image/png"] * 3


def test_a_refusal_and_a_wrong_key_say_why(studio: Studio) -> None:
    inputs = {"prompt": "x", "negative": "", "width": 100, "height": 64, "seed": -1, "pictures": "1"}
    assert "steps of 8" in run(studio, "workflow", inputs=inputs)["outputs"]["error"]
    assert "key" in run(studio, "chatflow", key="hk_wrong", query="x")["answers"][0]


def test_a_picture_goes_in_and_comes_out(studio: Studio) -> None:
    picture = base64.b64encode(upload().data).decode()
    inputs = {"prompt": "in the rain", "denoise": 0.5}
    found = run(studio, "picture-to-picture", inputs=inputs, picture=picture)
    assert found["error"] is None
    ((kind, size),) = found["outputs"]["picture"]
    assert kind == "image/png"
    assert size > 0


def test_the_bucket_is_asked(studio: Studio) -> None:
    with serve_bucket(studio.volume) as (url, asked):
        replace = ("http://bucket:9000/pictures/jobs", f"{url}/jobs")
        found = run(studio, "bucket-polling", replace=replace, inputs={"prompt": "a lighthouse"})
    assert found["error"] is None
    assert [kind for kind, _ in found["outputs"]["picture"]] == ["image/png"]
    assert any(path.endswith("status.json") for path in asked)


def test_nobody_there_is_told(studio: Studio) -> None:
    found = run(studio, "chatflow", replace=(studio.adapter.url, "http://127.0.0.1:9"), query="x")
    assert found["error"] is None
    assert "Connection refused" in found["answers"][0]

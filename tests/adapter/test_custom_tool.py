"""The OpenAPI document as Dify's custom tools use it: imported as its parser does, called as its tool does."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.adapter.conftest import Counter, Studio
from tests.conftest import SOAK
from tests.servers.adapter import KEY, Adapter

READ_S = 60
_CASTS = {"integer": int, "number": float, "string": str}


@dataclass(frozen=True)
class Tool:
    """One operation. What the importer passes over is not here: path-level parameters, references, other content types."""

    url: str
    method: str
    operation: dict[str, Any]

    def call(self, given: Mapping[str, Any]) -> requests.Response:
        """An older Dify, which sends null for what is neither given nor has a default."""
        url, query = self.url, {}
        for parameter in self.operation["parameters"]:
            value = given.get(parameter["name"], parameter["schema"].get("default", ""))
            if parameter["in"] == "path":
                url = url.replace(f"{{{parameter['name']}}}", str(value))
            elif value != "":
                query[parameter["name"]] = value
        body = None
        if "requestBody" in self.operation:
            schema = self.operation["requestBody"]["content"]["application/json"]["schema"]
            body = json.dumps(
                {
                    name: _cast(said, given[name]) if name in given else said.get("default")
                    for name, said in schema["properties"].items()
                }
            )
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        return requests.request(self.method, url, params=query, data=body, headers=headers, timeout=READ_S)

    @property
    def body(self) -> dict[str, Any]:
        schema: dict[str, Any] = self.operation["requestBody"]["content"]["application/json"]["schema"]
        return schema


def _cast(said: dict[str, Any], value: Any) -> Any:
    """What a model gives is text now and then; what cannot be cast is sent as it is."""
    try:
        return _CASTS[said["type"]](value)
    except (TypeError, ValueError, OverflowError):
        return value


def import_tools(adapter: Adapter) -> dict[str, Tool]:
    document = adapter.get("/dify/openapi.json").json()
    server = document["servers"][0]["url"]
    return {
        operation["operationId"]: Tool(server + path, method.upper(), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_one_call_gives_the_picture(studio: Studio) -> None:
    document = (
        import_tools(studio.adapter)["txt2img"].call({"prompt": "a lighthouse", "width": "64", "height": 64}).json()
    )
    assert (document["ok"], document["status"]) == (True, "succeeded")
    link = document["markdown"].partition("](")[2].rstrip(")")
    picture = requests.get(link, timeout=30)
    assert picture.headers["Content-Type"] == "image/png"


def test_a_job_is_followed_and_cancelled(counter: Counter) -> None:
    tools = import_tools(counter.adapter)
    job = tools["txt2img"].call({"prompt": "nobody draws it", "wait": 0}).json()
    assert (job["done"], job["status"]) == (False, "queued")
    begun = time.monotonic()
    seen = tools["getJob"].call({"id": job["id"], "wait": 1}).json()
    assert time.monotonic() - begun >= 1
    assert seen["id"] == job["id"]
    assert tools["cancelJob"].call({"id": job["id"]}).json()["id"] == job["id"]


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("txt2img", {"prompt": "x", "width": 100}, "width is 100"),
        ("txt2img", {"prompt": "x", "sampler": "oiler"}, "euler"),
        ("getJob", {"id": "nobody-knows-it", "wait": 0}, "nobody-knows-it"),
        ("img2img", {"prompt": "x", "image": "http://127.0.0.1:9/x.png"}, "127.0.0.1"),
    ],
)
def test_a_mistake_is_an_answer_that_an_agent_reads(
    counter: Counter, tool: str, given: dict[str, Any], said: str
) -> None:
    answer = import_tools(counter.adapter)[tool].call(given)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["ok"]) == ("rejected", False)
    assert said in json.dumps(answer.json()["error"])


_anything = some.one_of(
    some.text(max_size=40), some.integers(), some.floats(), some.booleans(), some.none(), some.lists(some.integers())
)


@settings(max_examples=1000 if SOAK else 60)
@given(data=some.data())
def test_whatever_a_model_makes_up_is_answered_and_breaks_nothing(counter: Counter, data: some.DataObject) -> None:
    tools = import_tools(counter.adapter)
    tool = tools[data.draw(some.sampled_from(sorted(tools)))]
    names = [parameter["name"] for parameter in tool.operation["parameters"] if parameter["name"] != "errors"]
    if "requestBody" in tool.operation:
        names += tool.body["properties"]
    given = data.draw(some.dictionaries(some.sampled_from(names), _anything, max_size=4)) | {"wait": 0}
    if "id" in names:
        given["id"] = data.draw(some.text("aB1-_ ä", min_size=1, max_size=80))  # the tool quotes no slash
    answer = tool.call(given)
    assert answer.status_code in {200, 202}, answer.text
    assert answer.json()["status"] in {"queued", "rejected"}

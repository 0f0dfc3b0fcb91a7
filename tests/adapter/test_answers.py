"""How jobs are told, without a server."""

import json
from typing import Any

import pytest
from fastapi.routing import APIRoute

from dify_adapter import answers, reference
from dify_adapter.app import ROUTERS
from dify_adapter.asked import LONGEST_WAIT_S, read_asked
from handoff.messages import Language
from handoff.spool.record import Tombstone
from handoff.spool.sight import Sight
from handoff.state import Status
from handoff.status import ErrorEntry, OutputEntry, StatusDocument, TextEntry

TOMBSTONE = Tombstone(token="0" * 16, sha256="0" * 64, status="succeeded", finished_at="2026-11-24T08:00:00.000Z")


def link(id: str, name: str) -> str:
    return f"http://h/p/s/{id}/{name}"


def output(name: str, kind: Any = "image") -> OutputEntry:
    return OutputEntry(
        name=name, kind=kind, media_type="image/png", bytes=1, sha256="0" * 64, key=f"jobs/x/{name}", url="http://old"
    )


def sight(status: str = "queued", position: int | None = None, eta_s: float | None = None, **fields: Any) -> Sight:
    word = Status(status)
    document = StatusDocument(
        id="x",
        created_at="2026-11-24T08:00:00.000Z",
        status=word,
        done=word.done,
        ok=word is Status.SUCCEEDED,
        **fields,
    )
    return Sight(document=document, position=position, eta_s=eta_s)


ERROR = ErrorEntry(reason="node_error", message="A node failed.", hint="Look.", retryable=True)


@pytest.mark.parametrize(
    ("seen", "english", "chinese"),
    [
        (sight(), "Queued.", "排队中。"),
        (sight(position=3), "Queued, number 3 in line.", "排队中，第 3 位。"),
        (sight(position=3, eta_s=40.2), "Queued, number 3 in line, about 40 s.", "排队中，第 3 位，大约还需 40 秒。"),
        (
            sight(position=1, eta_s=600),
            "Queued, number 1 in line, about 10 min.",
            "排队中，第 1 位，大约还需 10 分钟。",
        ),
        (sight("running", progress=0.45), "Drawing: 45%.", "绘制中：45%。"),
        (sight("running", eta_s=0.1), "Drawing: 0%, about 1 s left.", "绘制中：0%，大约还需 1 秒。"),
        (sight("saving"), "Drawn; being saved.", "已完成绘制，正在保存。"),
        (sight("succeeded"), "Done.", "已完成。"),
        (sight("failed", error=ERROR), "A node failed. Look.", "A node failed. Look."),
        (
            Sight(document=TOMBSTONE),
            "Over since 2026-11-24T08:00:00.000Z (succeeded); its files were removed.",
            "已于 2026-11-24T08:00:00.000Z 结束（succeeded）；文件已被清理。",
        ),
    ],
)
def test_every_state_can_be_printed(seen: Sight, english: str, chinese: str) -> None:
    assert answers.to_markdown(seen, "en", link) == english
    assert answers.to_markdown(seen, "zh", link) == chinese
    assert answers.to_text(seen) == seen.document.status


def test_results_stand_on_lines_of_their_own_with_links_made_now() -> None:
    done = sight(
        "succeeded",
        outputs=[output("x.png"), output("x-2.png"), output("x.mp4", "video")],
        texts=[TextEntry(node="7", text="a cat")],
    )
    assert answers.to_markdown(done, "en", link).split("\n\n") == [
        "![x.png](http://h/p/s/x/x.png)",
        "![x-2.png](http://h/p/s/x/x-2.png)",
        "[x.mp4](http://h/p/s/x/x.mp4)",
        "a cat",
    ]
    document = answers.to_document(done, "x", link)
    assert document["url"] == "http://h/p/s/x/x.png"
    assert document["markdown"] == "![x.png](http://h/p/s/x/x.png)\n![x-2.png](http://h/p/s/x/x-2.png)"
    assert [entry["url"] for entry in document["outputs"]] == [
        link("x", entry["name"]) for entry in document["outputs"]
    ]


def test_every_key_is_always_there() -> None:
    keys = set(answers.to_document(sight(), "x", link))
    assert (
        set(StatusDocument(id="x", created_at="2026-11-24T08:00:00Z").model_dump(by_alias=True))
        | {"queue_position", "eta_s"}
        == keys
    )
    removed = answers.to_document(Sight(document=TOMBSTONE), "x", link)
    assert set(removed) == keys | {"removed"}
    assert (removed["id"], removed["done"], removed["ok"], removed["created_at"]) == ("x", True, True, None)


def test_an_answer_stays_below_what_dify_takes() -> None:
    texts = [TextEntry(node=str(number), text="猫" * 21_000) for number in range(64)]
    metadata = {"note": "n" * 16_000}
    outputs = [output(f"x-{number}.png") for number in range(200)]
    data = answers.dump(
        answers.to_document(sight("succeeded", texts=texts, metadata=metadata, outputs=outputs), "x", link)
    )
    assert len(data) < 1_000_000
    assert len(json.loads(data)["texts"]) == 64
    few = [TextEntry(node="1", text="猫" * 21_000)]
    assert answers.to_document(sight("succeeded", texts=few), "x", link)["texts"][0]["text"] == "猫" * 21_000


@pytest.mark.parametrize(
    ("query", "wait_s", "format", "language", "bad"),
    [
        ({}, 0, "json", "en", False),
        ({"wait": "25", "format": "text", "lang": "zh"}, 25, "text", "zh", False),
        ({"wait": "", "format": "", "lang": ""}, 0, "json", "en", False),
        ({"wait": "9999"}, LONGEST_WAIT_S, "json", "en", False),
        ({"wait": "inf"}, LONGEST_WAIT_S, "json", "en", False),
        ({"wait": "2.5", "lang": "zh-CN"}, 2.5, "json", "zh", False),
        ({"wait": "-1"}, 0, "json", "en", True),
        ({"wait": "nan"}, 0, "json", "en", True),
        ({"wait": "start.wait"}, 0, "json", "en", True),
        ({"format": "html"}, 0, "json", "en", True),
        ({"lang": "fr"}, 0, "json", "en", True),
    ],
)
def test_a_query_says_how_to_answer(
    query: dict[str, str], wait_s: float, format: str, language: Language, bad: bool
) -> None:
    asked = read_asked(query, "en")
    assert (asked.wait_s, asked.format, asked.language, asked.failure is not None) == (wait_s, format, language, bad)


def test_the_reference_names_every_call_there_is() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    calls = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert set(reference.CALLS) == calls
    assert "://" not in reference.render(), "it loads nothing from elsewhere"


def test_errors_are_answers_only_where_that_was_asked_for() -> None:
    assert read_asked({"errors": "200", "wait": "junk"}, "en").errors_as_200
    assert not read_asked({"errors": "1"}, "en").errors_as_200

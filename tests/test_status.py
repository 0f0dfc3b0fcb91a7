"""The status document: its keys are a promise to everybody who reads it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.documents import DamagedDocument, UnreadableDocument
from handoff.failures import RETRYABLE, Failure, Node, Reason
from handoff.state import Event, IllegalTransition, Status
from handoff.status import ComfyUIEntry, OutputEntry, StatusDocument, TextEntry, describe_failure, seconds_between

KEYS = [
    "schema", "id", "status", "done", "ok", "workflow", "attempt", "priority", "source", "owner", "retry_of", "metadata",
    "progress", "step",
    "created_at", "started_at", "finished_at", "queue_s", "run_s", "save_s", "gpu_s",
    "outputs", "texts", "url", "markdown", "error", "comfyui", "warnings",
]  # fmt: skip
OUTPUT_KEYS = ["name", "kind", "media_type", "bytes", "sha256", "width", "height", "key", "url"]
AT = datetime(2026, 11, 24, 8, 30, 15, 123999, UTC)


def new(**fields: Any) -> StatusDocument:
    return StatusDocument(**({"id": "cat", "created_at": "2026-11-24T08:30:00.000Z"} | fields))


def output(name: str, **fields: Any) -> OutputEntry:
    standard = {"kind": "image", "media_type": "image/png", "bytes": 3, "sha256": "00", "key": f"jobs/cat/{name}"}
    return OutputEntry(**({"name": name} | standard | fields))


def test_every_key_is_always_there() -> None:
    said = json.loads(new().to_bytes())
    assert sorted(said) == sorted(KEYS)
    assert (said["outputs"], said["texts"], said["warnings"], said["metadata"]) == ([], [], [], {})
    for key in ("workflow", "source", "retry_of", "step", "started_at", "finished_at", "url", "markdown", "error"):
        assert said[key] is None
    for key in ("queue_s", "run_s", "save_s", "gpu_s"):
        assert said[key] is None
    assert (said["schema"], said["status"], said["done"], said["ok"], said["owner"]) == (
        1,
        "queued",
        False,
        False,
        "folder",
    )
    assert said["comfyui"] == {"version": None, "prompt_id": None, "simulated": None}


def test_the_keys_of_its_parts() -> None:
    failure = Failure(Reason.NODE_ERROR, node=Node(id="3", class_type="KSampler", title="Sampler"), problem="x")
    document = new(
        outputs=[output("a.png")],
        texts=[TextEntry(node="9", text="x")],
        error=describe_failure(failure, "en", id="cat"),
    )
    said = json.loads(document.to_bytes())
    assert list(said["outputs"][0]) == OUTPUT_KEYS
    assert said["texts"] == [{"node": "9", "text": "x"}]
    assert sorted(said["error"]) == ["hint", "message", "node", "reason", "retryable"]
    assert said["error"]["node"] == {"id": "3", "class": "KSampler", "title": "Sampler"}


def test_it_is_one_line_of_utf8() -> None:
    data = new(source="海报.json", metadata={"a": "b\nc"}).to_bytes()
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1
    assert "海报.json".encode() in data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(metadata=st.dictionaries(st.text(), JSON, max_size=4), warnings=st.lists(st.text(), max_size=3))
def test_what_was_written_is_read_back_and_written_the_same(metadata: dict[str, Any], warnings: list[str]) -> None:
    document = new(metadata=metadata, warnings=warnings, outputs=[output("a.png", width=1, height=2)])
    data = document.to_bytes()
    again = StatusDocument.from_bytes(data, "x")
    assert again == document
    assert again.to_bytes() == data


def test_an_older_program_leaves_a_newer_document_alone(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(new().to_bytes().replace(b'"schema":1', b'"schema":2'))
    with pytest.raises(UnreadableDocument, match="newer version"):
        StatusDocument.read(str(path))


def test_a_key_of_a_newer_minor_version_is_not_in_the_way() -> None:
    said = json.loads(new().to_bytes()) | {"eta_s": 4}
    assert StatusDocument.from_bytes(json.dumps(said).encode(), "x") == new()


def test_following_keeps_done_and_ok_true_to_the_status() -> None:
    document = new()
    for event, status in ((Event.SUBMITTED, "running"), (Event.GENERATED, "saving"), (Event.MIRRORED, "succeeded")):
        document = document.follow(event)
        assert (document.status, document.done, document.ok) == (status, status == "succeeded", status == "succeeded")
    with pytest.raises(IllegalTransition):
        document.follow(Event.FAILED)


def test_a_success_knows_how_long_it_took() -> None:
    document = new(
        status=Status.SAVING, started_at="2026-11-24T08:30:10.000Z", run_s=3.0, step="VAEDecode", progress=0.7
    ).finish(Event.MIRRORED, AT)
    assert document.finished_at == "2026-11-24T08:30:15.123Z"
    assert (document.progress, document.step, document.save_s) == (1.0, None, 2.123)


def test_a_failure_keeps_its_progress_and_its_error() -> None:
    error = describe_failure(Failure(Reason.OUT_OF_MEMORY, problem="3 GiB"), "en", id="cat")
    document = new(status=Status.RUNNING, progress=0.4, step="x").finish(Event.FAILED, AT, error=error)
    assert (document.status, document.ok, document.done, document.progress, document.step) == (
        "failed", False, True, 0.4, None,
    )  # fmt: skip
    assert document.error is not None
    assert document.error.reason == "out_of_memory"


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    late = "2026-11-24T09:00:00.000Z"
    assert seconds_between(late, "2026-11-24T08:00:00.000Z") == 0.0
    assert seconds_between("2026-11-24T08:00:00.000Z", late) == 3600.0
    assert seconds_between(None, late) is None
    assert seconds_between(late, None) is None
    assert new(status=Status.SAVING, started_at=late).finish(Event.MIRRORED, AT).save_s == 0.0


def test_links_are_made_of_the_outputs() -> None:
    outputs = [
        output("a.txt", kind="text", url="http://x/a.txt"),
        output("a.png", url="http://x/a.png"),
        output("b.png"),
        output("c.png", url="http://x/c.png"),
    ]
    document = new(outputs=outputs).with_links()
    assert document.url == "http://x/a.txt"
    assert document.markdown == "![a.png](http://x/a.png)\n![c.png](http://x/c.png)"


def test_without_urls_there_are_no_links() -> None:
    document = new(outputs=[output("a.png")]).with_links()
    assert (document.url, document.markdown) == (None, None)
    assert (new().with_links().url, new().with_links().markdown) == (None, None)


@pytest.mark.parametrize("reason", Reason)
def test_a_failure_says_whether_trying_again_may_help(reason: Reason) -> None:
    entry = describe_failure(Failure(reason), "en", id="cat")
    assert entry.reason == reason.value
    assert entry.retryable is (reason in RETRYABLE)


def test_hints_name_the_job() -> None:
    assert "handoff retry cat" in describe_failure(Failure(Reason.CANCELLED), "en", id="cat").hint
    assert "handoff retry dog" in describe_failure(Failure(Reason.CANCELLED, id="dog"), "zh", id="cat").hint


def test_comfyui_is_named() -> None:
    said = json.loads(new(comfyui=ComfyUIEntry(version="0.33", prompt_id="p", simulated=True)).to_bytes())
    assert said["comfyui"] == {"version": "0.33", "prompt_id": "p", "simulated": True}


@pytest.mark.parametrize("field", ["created_at", "started_at", "finished_at"])
@pytest.mark.parametrize("value", ["../../../x", "", "2026-11-24", "9999-12-31T23:59:59-14:00"])
def test_what_is_no_time_makes_it_unreadable(field: str, value: str) -> None:
    """Others may write into `output/`, and a record is filed under the day of its end."""
    times = {"created_at": "2026-11-24T08:00:00.000Z", field: value}
    with pytest.raises(DamagedDocument, match=field):
        StatusDocument.from_bytes(json.dumps({"schema": 1, "id": "cat", **times}).encode(), "x")


@pytest.mark.parametrize(
    ("finished_at", "day"),
    [
        ("2026-11-24T08:30:15.123Z", "2026-11-24"),
        ("2026-11-24T00:30:00+02:00", "2026-11-23"),
        ("2026W482/10:00+00:00", "2026-11-24"),
        (None, "2026-11-24"),
    ],
)
def test_the_day_of_its_end_is_never_a_path(finished_at: str | None, day: str) -> None:
    assert new(finished_at=finished_at).day == day

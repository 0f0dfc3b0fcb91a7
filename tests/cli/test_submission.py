"""What `handoff submit` finds wrong before anything is published, and what it publishes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handoff.decode import body_sha256
from handoff.job import ID_LENGTH, is_id
from handoff.spool.listing import find_record
from handoff.spool.publisher import make_retry, retry_id
from handoff.spool.record import Plan, Record
from handoff_cli.exits import Exit, Stopped
from handoff_cli.local_pictures import find_local
from handoff_cli.submission import Request
from tests.cli.conftest import Place


def published(place: Place) -> list[str]:
    return os.listdir(place.folders.inbox) if Path(place.folders.inbox).is_dir() else []


class TestRefused:
    def test_all_problems_at_once_with_what_to_do(self, place: Place) -> None:
        ran = place.call(
            "submit", "txt2img", "-p", "promt=x", "-p", "width=765", "-p", "cfg=lots", "-p", "sampler=eulr"
        ).expect(2)
        for said in (
            "no parameter promt", "nearest known: prompt", "width is 765", "steps of 8", 'cfg is "lots"',
            'sampler is "eulr"', "euler", "needs prompt",
        ):  # fmt: skip
            assert said in ran.err
        assert not ran.out
        assert not published(place)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["txt2im"], "The nearest known: txt2img"),
            ([], "Which workflow?"),
            (["txt2img", "-p", "prompt"], "write NAME=VALUE"),
            (["txt2img", "-p", "prompt=x", "-p", "prompt=y"], "twice"),
            (["txt2img", "-p", "prompt=x", "--set", "6.txt=y"], "no input txt; the nearest: text"),
            (["txt2img", "-p", "prompt=x", "--set", "KSampler.seeed=1"], "seed"),
            (["txt2img", "-p", "prompt=x", "--id", "Big"], "upper-case"),
            (["txt2img", "-p", "prompt=x", "--priority", "101"], "from -100 to 100"),
            (["txt2img", "-p", "prompt=x", "--priority", "high"], "integer"),
            (["txt2img", "-p", "prompt=x", "--queue-timeout", "0"], "above 0"),
            (["txt2img", "-p", "prompt=x", "--run-timeout", "nan"], "no number of seconds"),
            (["txt2img", "-p", "prompt=x", "--metadata", "[1]"], "must be an object"),
            (["txt2img", "-p", "prompt=x", "--metadata", '{"a": '], "ends in the middle"),
            (["txt2img", "-p", "prompt=x", "--metadata", "{a}"], "Not valid JSON"),
            (["txt2img", "-p", b"prompt=\xff"], "not UTF-8"),
            (["txt2img", "--graph", "x.json"], "leave out WORKFLOW"),
            (["--graph", "nothing.json"], "nothing.json cannot be read"),
            (["--graph", "."], "no regular file"),
            (["invert", "-p", "image=./nothing.png"], "./nothing.png"),
        ],
    )
    def test_with_the_reason(self, place: Place, arguments: list[Any], said: str) -> None:
        texts = [os.fsdecode(argument) for argument in arguments]
        assert said in place.call("submit", *texts).expect(2).err
        assert not published(place)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "ends in the middle"),
            ('{"nodes": [], "links": [], "last_node_id": 1}', "Export (API)"),
            ('{"graph": {"1": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}}}}', "node 7"),
            ('{"workflow": "txt2img", "params": {"width": 3}}', "width is 3"),
            ('{"workflow": "nope", "params": {}}', "No workflow is named nope"),
            ('{"promt": "x"}', "The nearest known: prompt"),
            ('{"prompt": "x", "prompt": "y"}', "twice"),
        ],
    )
    def test_a_job_file(self, place: Place, content: str, said: str) -> None:
        (place.root / "job.json").write_text(content)
        assert said in place.call("submit", "--graph", "job.json").expect(2).err
        assert not published(place)

    def test_a_file_that_is_no_picture(self, place: Place) -> None:
        (place.root / "cat.png").write_text("not a picture")
        ran = place.call("submit", "invert", "-p", "image=cat.png").expect(2)
        assert "cat.png cannot be used as a picture" in ran.err
        assert "base64" not in ran.err
        assert not published(place)
        assert os.listdir(place.folders.uploads) == []
        assert not [name for name in os.listdir(place.folders.spool) if name.startswith("new-")]


class TestPublished:
    def test_typed_values_and_fields(self, place: Place) -> None:
        place.call(
            "submit", "txt2img", "-p", "prompt=7", "-p", "width=0x100", "-p", "cfg=6", "--set", "6.text=一只猫",
            "--set", "3.seed=-1", "--id", "typed", "--priority", -5, "--queue-timeout", 60, "--run-timeout", 1.5,
            "--metadata", '{"a": [1]}',
        ).expect(0)  # fmt: skip
        record = find_record(place.folders, "typed")
        assert record is not None
        assert record.body == {
            "workflow": "txt2img",
            "params": {"prompt": "7", "width": 256, "cfg": 6.0},
            "set": {"6.text": "一只猫", "3.seed": -1},
            "priority": -5,
            "queue_timeout_s": 60.0,
            "run_timeout_s": 1.5,
            "metadata": {"a": [1]},
        }
        assert (record.priority, record.owner, record.job) == (-5, "cli", None)
        assert record.sha256 == body_sha256(record.body)

    def test_the_same_id_and_content_is_one_job(self, place: Place) -> None:
        Image.new("RGB", (16, 16)).save(place.root / "cat.png")
        arguments = ("submit", "invert", "-p", f"image={place.root}/cat.png", "--id", "one")
        place.call(*arguments).expect(0)
        assert "known already" in place.call(*arguments).expect(0).err
        assert len(published(place)) == 1
        assert len(os.listdir(place.folders.uploads)) == 1

    def test_files_are_group_writable(self, place: Place) -> None:
        Image.new("RGB", (16, 16)).save(place.root / "cat.png")
        place.call("submit", "invert", "-p", "image=cat.png", "--id", "one").expect(0)
        (name,) = published(place)
        (picture,) = os.listdir(place.folders.uploads)
        for path in (Path(place.folders.inbox, name), Path(place.folders.uploads, picture)):
            assert path.stat().st_mode & 0o060 == 0o060, path

    def test_a_picture_named_in_the_input_folder_is_left_to_the_watcher(self, place: Place) -> None:
        place.call("submit", "invert", "-p", "image=later.png", "--id", "later").expect(0)
        record = find_record(place.folders, "later")
        assert record is not None
        assert record.body["params"] == {"image": "later.png"}

    def test_an_exported_graph_keeps_its_form_and_takes_fields(self, place: Place) -> None:
        graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
        (place.root / "graph.json").write_text(json.dumps(graph))
        place.call("submit", "--graph", "graph.json", "--id", "with-id").expect(0)
        bare = place.call("submit", "--graph", "graph.json").expect(0).out.strip()
        for id, body in ((bare, graph), ("with-id", {"graph": graph})):
            record = find_record(place.folders, id)
            assert record is not None
            assert (record.body, record.source) == (body, "graph.json")

    def test_json(self, place: Place) -> None:
        ran = place.call("submit", "txt2img", "-p", "prompt=x", "--json").expect(0)
        assert (ran.json["status"], ran.json["queue_position"]) == ("queued", 1)


class TestNames:
    @pytest.mark.parametrize(
        ("id", "again"),
        [
            ("poster", "poster-r1"),
            ("poster-r1", "poster-r2"),
            ("poster-r9", "poster-r10"),
            ("poster-r0", "poster-r0-r1"),
            ("x" * 64, "x" * 61 + "-r1"),
            ("x" * 61 + "-r9", "x" * 60 + "-r10"),
            ("r1", "r1-r1"),
        ],
    )
    def test_a_retry_has_a_fixed_id(self, id: str, again: str) -> None:
        assert retry_id(id) == again

    @given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True))
    def test_which_is_always_an_id_of_its_own(self, id: str) -> None:
        again = retry_id(id)
        assert is_id(again)
        assert len(again) <= ID_LENGTH
        assert again != id
        assert retry_id(again) != again

    def test_a_retry_keeps_body_and_plan(self) -> None:
        plan = Plan(workflow="txt2img", graph={"1": {"class_type": "X", "inputs": {"seed": 7}}})
        record = Record(
            token="a" * 16, id="poster", sha256="b" * 64, received_at="2026-11-24T12:00:00.000Z", priority=3,
            body={"prompt": "x"}, job=plan, attempt=4, prompt_id="p", server="s", owner="shop",
        )  # fmt: skip
        again = make_retry(record, received_at="2026-11-25T12:00:00.000Z")
        assert (again.id, again.retry_of, again.job, again.body) == ("poster-r1", "poster", plan, {"prompt": "x"})
        assert (again.attempt, again.prompt_id, again.server, again.tries) == (0, None, None, [])
        assert (again.owner, again.priority, again.sha256) == ("shop", 3, "b" * 64)


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("7", 7),
            ("-1", -1),
            ("0.5", 0.5),
            ("true", True),
            ('"7"', "7"),
            ("a cat", "a cat"),
            ("", ""),
            ("[1,2", "[1,2"),
        ],
    )
    def test_set(self, text: str, value: object) -> None:
        fields = Request(workflow="x", graph=None, overrides=[f"1.a={text}"]).fields
        assert fields == {"set": {"1.a": value}}
        assert isinstance(fields["set"], dict)
        assert type(fields["set"]["1.a"]) is type(value)

    def test_nothing_given(self) -> None:
        assert Request(workflow="x", graph=None).fields == {}

    def test_a_value_may_hold_the_sign(self) -> None:
        assert Request(workflow="x", graph=None, overrides=["1.a=b=c"]).fields == {"set": {"1.a": "b=c"}}

    def test_too_much(self) -> None:
        with pytest.raises(Stopped) as stopped:
            _ = Request(workflow="x", graph=None, queue_timeout_s=float("inf")).fields
        assert stopped.value.status is Exit.USAGE


class TestLocalPictures:
    @pytest.mark.parametrize(
        "reference",
        ["https://host/cat.png", "data:image/png;base64,AAAA", "s3://bucket/cat.png", "cat.png", "uploads/cat.png"],
    )
    def test_not_here(self, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert find_local(reference) is None

    @pytest.mark.parametrize("reference", ["cat.png", "./cat.png", "sub/cat.png"])
    def test_here(self, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sub").mkdir()
        (tmp_path / reference).write_text("")
        assert find_local(reference) == Path(reference)

    @pytest.mark.parametrize("reference", ["./cat.png", "sub/cat.png", "/nothing/cat.png", "~/no such cat.png"])
    def test_a_path_that_leads_nowhere(self, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Stopped, match="there is no such file here"):
            find_local(reference)

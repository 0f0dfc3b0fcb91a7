"""The five forms of a job, what each field takes, and the names that follow from a job."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handoff.decode import JsonObject, JsonValue, canonical, decode
from handoff.failures import Failure, Node, Reason
from handoff.job import (
    METADATA_BYTES,
    RESERVED,
    Job,
    apply_set,
    derive_id,
    inbox_name,
    inbox_token,
    is_id,
    open_seeds,
    parse_job,
    prompt_id,
    rank,
    submission_token,
)
from handoff.messages import render

GRAPH: JsonObject = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 8, "steps": 20, "model": ["4", 0], "positive": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog"}, "_meta": {"title": "Positive v1.5"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blur"}, "_meta": {"title": "Negative"}},
    "9": {"class_type": "SaveImageAdvanced", "inputs": {"format": "png", "format.bit_depth": "8-bit"}},
}
EDITOR: JsonObject = {"nodes": [{"id": 3, "type": "KSampler"}], "links": [], "last_node_id": 3, "version": 0.4}
NOON = datetime(2026, 11, 24, 8, 30, 15, 123456, tzinfo=UTC)


def job_of(value: JsonValue) -> Job:
    return parse_job(value, default_workflow="txt2img")


def refusal(value: JsonValue) -> Failure:
    with pytest.raises(Failure) as caught:
        job_of(value)
    return caught.value


def said_by(failure: Failure) -> str:
    text = render(failure, "en")
    return f"{text.message} {text.hint}"


# The five forms


def test_a_graph_with_fields() -> None:
    job = job_of({"graph": GRAPH, "priority": 10, "set": {"6.text": "猫"}, "id": "poster-1"})
    assert (job.id, job.workflow, job.graph, job.priority) == ("poster-1", None, GRAPH, 10)
    assert job.overrides == {"6.text": "猫"}
    assert job.body == {"graph": GRAPH, "priority": 10, "set": {"6.text": "猫"}}


def test_a_named_workflow() -> None:
    job = job_of({"workflow": "portrait", "params": {"prompt": "a city", "width": 768}, "metadata": {"order": 7}})
    assert (job.workflow, job.params, job.graph) == ("portrait", {"prompt": "a city", "width": 768}, None)
    assert job.metadata == {"order": 7}
    assert job_of({"workflow": "portrait"}).params == {}
    assert job_of({"params": {"width": 8}}).workflow == "txt2img"


def test_an_exported_graph_as_it_is() -> None:
    job = job_of(GRAPH)
    assert (job.graph, job.body, job.id, job.workflow) == (GRAPH, GRAPH, None, None)


@pytest.mark.parametrize("broken", [{}, {"inputs": {}}, None, 5, "text"])
def test_an_exported_graph_with_a_broken_node_is_still_a_graph(broken: JsonValue) -> None:
    assert job_of({**GRAPH, "5": broken}).graph == {**GRAPH, "5": broken}


def test_an_exported_graph_without_any_class_is_still_a_graph() -> None:
    assert job_of({"1": {"inputs": {}}}).graph == {"1": {"inputs": {}}}


def test_a_saved_post_body_loses_what_belongs_to_its_client() -> None:
    pnginfo: JsonObject = {"workflow": EDITOR, "note": "x"}
    job = job_of(
        {
            "prompt": GRAPH,
            "client_id": "c",
            "prompt_id": "p",
            "number": 3,
            "front": True,
            "partial_execution_targets": None,
            "extra_data": {"extra_pnginfo": pnginfo, "api_key_comfy_org": "SECRET", "auth_token_comfy_org": "SECRET"},
            "id": "mine",
            "priority": -5,
        }
    )
    assert (job.id, job.graph, job.priority, job.extra_data) == ("mine", GRAPH, -5, {"extra_pnginfo": pnginfo})
    assert job.body == {"prompt": GRAPH, "priority": -5, "extra_data": {"extra_pnginfo": pnginfo}}
    assert "SECRET" not in repr(job)


@pytest.mark.parametrize(
    "extra_data",
    [None, [], {}, {"extra_pnginfo": None}, {"extra_pnginfo": []}, {"extra_pnginfo": {"workflow": None}}],
)
def test_provenance_that_would_break_comfyui_is_left_out(extra_data: JsonValue) -> None:
    job = job_of({"prompt": GRAPH, "extra_data": extra_data})
    assert (job.extra_data, job.body) == ({}, {"prompt": GRAPH})


def test_the_short_form() -> None:
    job = job_of({"prompt": "a city", "width": 768, "priority": 1, "run_timeout_s": 60, "id": "a"})
    assert (job.workflow, job.params) == ("txt2img", {"prompt": "a city", "width": 768})
    assert (job.priority, job.run_timeout_s, job.queue_timeout_s) == (1, 60.0, None)
    assert job_of({"prompt": "a city", "workflow": "portrait"}).workflow == "portrait"


def test_a_parameter_that_looks_like_a_node_is_a_parameter() -> None:
    assert job_of({"prompt": "a city", "style": {"inputs": 1}}).params["style"] == {"inputs": 1}


def test_what_is_not_given_is_none() -> None:
    job = job_of({"prompt": "a city"})
    assert (job.id, job.priority, job.queue_timeout_s, job.run_timeout_s) == (None, None, None, None)
    assert (job.overrides, job.metadata, job.extra_data) == ({}, {}, {})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_reserved_name_becomes_a_parameter(name: str) -> None:
    body: JsonObject = {"prompt": "a city", name: 1}
    try:
        job = job_of(body)
    except Failure:
        return
    assert name not in job.params


# What is refused

NO_JOB: list[tuple[str, Any, Reason, str]] = [
    ("list", [GRAPH], Reason.NOT_A_JOB, "the file holds a list, not an object"),
    ("text", "a cat", Reason.NOT_A_JOB, 'the file holds the text "a cat"'),
    ("null", None, Reason.NOT_A_JOB, "the file holds null"),
    ("empty", {}, Reason.NOT_A_JOB, "the object is empty"),
    ("no form", {"priority": 5}, Reason.NOT_A_JOB, "none of the fields graph, workflow, params and prompt"),
    ("misspelt form", {"promt": "a cat"}, Reason.UNKNOWN_FIELD, "promt. The nearest known: prompt"),
    ("editor's file", EDITOR, Reason.UI_FORMAT, "Export (API)"),
    ("editor's file as graph", {"graph": EDITOR}, Reason.UI_FORMAT, "Export (API)"),
    ("editor's file as prompt", {"prompt": EDITOR}, Reason.UI_FORMAT, "Export (API)"),
    ("editor's file as workflow", {"workflow": EDITOR}, Reason.UI_FORMAT, "Export (API)"),
    ("field beside graph", {"graph": GRAPH, "priorty": 5}, Reason.UNKNOWN_FIELD, "priorty. The nearest known: priority"),
    ("field beside workflow", {"workflow": "a", "params": {}, "metdata": {}}, Reason.UNKNOWN_FIELD, "known: metadata"),
    ("parameter outside", {"workflow": "a", "params": {}, "width": 8}, Reason.UNKNOWN_FIELD, "params.width"),
    ("parameter without params", {"workflow": "a", "image": "a.png"}, Reason.UNKNOWN_FIELD, "params.image"),
    ("field beside saved body", {"prompt": GRAPH, "extra-data": {}}, Reason.UNKNOWN_FIELD, "known: extra_data"),
    ("long field", {"graph": GRAPH, "x" * 999: 1}, Reason.UNKNOWN_FIELD, "x" * 79 + "…"),
    ("graph and workflow", {"graph": GRAPH, "workflow": "a"}, Reason.BAD_FIELD, "workflow is wrong: it cannot stand beside graph"),
    ("saved body and workflow", {"prompt": GRAPH, "workflow": "a"}, Reason.BAD_FIELD, "prompt is wrong: a graph cannot stand beside"),
    ("field in exported graph", {**GRAPH, "priority": 5}, Reason.BAD_FIELD, "priority is wrong: an exported graph takes no job fields; put the graph into the field graph"),
    ("graph as text", {"graph": "{}"}, Reason.BAD_FIELD, 'graph is wrong: it must be an object and is the text "{}"'),
    ("graph as workflow", {"workflow": GRAPH}, Reason.BAD_FIELD, "it must be the name of a workflow and is an object; a graph goes into the field graph"),
    ("empty workflow", {"workflow": "", "params": {}}, Reason.BAD_FIELD, "1 to 100 characters, this one 0"),
    ("long workflow", {"workflow": "x" * 101}, Reason.BAD_FIELD, "1 to 100 characters, this one 101"),
    ("params as list", {"workflow": "a", "params": []}, Reason.BAD_FIELD, "params is wrong: it must be an object and is a list"),
    ("prompt as number", {"prompt": 5}, Reason.BAD_FIELD, "prompt is wrong: it must be a text, or a graph as an object, and is 5"),
    ("some outputs only", {"prompt": GRAPH, "partial_execution_targets": ["9"]}, Reason.BAD_FIELD, "always runs all its outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "reason", "said"), [row[1:] for row in NO_JOB], ids=[row[0] for row in NO_JOB])
def test_what_is_no_job_says_why(value: JsonValue, reason: Reason, said: str) -> None:
    failure = refusal(value)
    assert failure.reason is reason
    assert said in said_by(failure)


BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("id", "", "it is empty"),
    ("id", "a" * 65, "it has 65 characters, the limit is 64"),
    ("id", "Poster-1", "upper-case letters; write poster-1"),
    ("id", "my poster", "it contains ' '"),
    ("id", "../x", "it contains '.'"),
    ("id", "a\0", "it contains '\\x00'"),
    ("id", "a\n", "it contains '\\n'"),
    ("id", "猫", "it contains '\\u732b'"),
    ("id", "-a", "it begins with -"),
    ("id", 5, "it must be a text and is 5"),
    ("id", None, "it must be a text and is null"),
    ("priority", True, "a whole number from -100 to 100 and is true"),
    ("priority", "5", 'and is the text "5"'),
    ("priority", 5.0, "and is 5.0"),
    ("priority", 101, "from -100 to 100 and is 101"),
    ("priority", -101, "and is -101"),
    ("priority", None, "and is null"),
    ("queue_timeout_s", 0, "above 0, at most 2592000 (30 days), and is 0"),
    ("queue_timeout_s", -1.5, "and is -1.5"),
    ("run_timeout_s", 2592000.5, "and is 2592000.5"),
    ("run_timeout_s", 10**19, "and is 10000000000000000000"),
    ("run_timeout_s", True, "and is true"),
    ("run_timeout_s", "60", 'and is the text "60"'),
    ("run_timeout_s", [60], "and is a list"),
    ("metadata", "x", 'it must be an object and is the text "x"'),
    ("metadata", {"k": "猫" * 6000}, "it has 18008 bytes, the limit is 16384"),
    ("set", [["6.text", "x"]], "it must be an object and is a list"),
]


@pytest.mark.parametrize("form", [{"graph": GRAPH}, {"workflow": "a"}, {"prompt": GRAPH}, {"prompt": "a cat"}])
@pytest.mark.parametrize(("field", "value", "said"), BAD_FIELDS)
def test_a_bad_field_names_its_limit_in_every_form(form: JsonObject, field: str, value: Any, said: str) -> None:
    failure = refusal({**form, field: value})
    assert (failure.reason, failure.details["field"]) == (Reason.BAD_FIELD, field)
    assert said in said_by(failure)


def test_a_long_value_is_quoted_in_part() -> None:
    assert len(said_by(refusal({"prompt": "a", "priority": "9" * 10_000}))) < 300


def test_the_limits_themselves_are_taken() -> None:
    job = job_of({"prompt": "a", "id": "a" * 64, "priority": 100, "queue_timeout_s": 2592000, "run_timeout_s": 0.001})
    assert (job.priority, job.queue_timeout_s, job.run_timeout_s) == (100, 2592000.0, 0.001)
    assert isinstance(job.queue_timeout_s, float)
    padding = METADATA_BYTES - len(canonical({"k": ""}))
    assert job_of({"prompt": "a", "metadata": {"k": "x" * padding}}).metadata
    assert refusal({"prompt": "a", "metadata": {"k": "x" * (padding + 1)}}).reason is Reason.BAD_FIELD


# Body and hash

NAMES = st.sampled_from(
    [*sorted(RESERVED), "prompt", "client_id", "number", "extra_data", "extra_pnginfo", "class_type", "inputs", "nodes",
     "links", "width", "1", "2", "partial_execution_targets"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers(-150, 150) | st.floats(0, 9) | st.sampled_from(["a", "A", "a-1", ""])
LIKE_JOBS: st.SearchStrategy[JsonValue] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
FORMS: list[JsonObject] = [
    {"graph": GRAPH},
    {"workflow": "a", "params": {"x": 1}},
    {"prompt": GRAPH, "client_id": "c", "extra_data": {"extra_pnginfo": {}}},
    {"prompt": "a cat", "width": 1},
]
FIELDS: st.SearchStrategy[JsonObject] = st.fixed_dictionaries(
    {},
    optional={
        "id": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True),
        "priority": st.integers(-100, 100),
        "queue_timeout_s": st.integers(1, 2592000) | st.floats(0.001, 2592000),
        "run_timeout_s": st.integers(1, 2592000),
        "metadata": st.dictionaries(st.text("ab猫", max_size=3), st.integers(-(2**63), 2**63), max_size=3),
        "set": st.just({"6.text": "x"}),
    },
)


@given(LIKE_JOBS)
@example({"prompt": {"class_type": "a", "inputs": {}}, "2": {"class_type": "b"}})
def test_any_value_gives_a_job_or_a_failure(value: JsonValue) -> None:
    try:
        job = job_of(value)
    except Failure as failure:
        said_by(failure).encode()
    else:
        assert (job.workflow is None) != (job.graph is None)


@given(st.sampled_from(FORMS), FIELDS)
def test_a_body_gives_the_same_job_again_without_its_id(form: JsonObject, fields: JsonObject) -> None:
    job = job_of({**form, **fields})
    again = job_of(job.body)
    assert again.id is None
    assert {**vars(again), "id": job.id} == vars(job)
    assert again.sha256 == job.sha256


@given(st.sampled_from(FORMS), FIELDS)
def test_order_white_space_and_id_do_not_change_the_hash(form: JsonObject, fields: JsonObject) -> None:
    value: JsonObject = {**form, **fields}
    spelt_otherwise = decode(canonical({**dict(reversed(value.items())), "id": "other"}).replace(b'":', b'" :\n'))
    assert job_of(spelt_otherwise).sha256 == job_of(value).sha256


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a cat "},
        {"prompt": "a cat", "priority": 0},
        {"params": {"prompt": "a cat"}},
        {"prompt": "a cat", "n": 1},
    ],
)
def test_other_content_has_another_hash(other: JsonObject) -> None:
    assert job_of(other).sha256 != job_of({"prompt": "a cat"}).sha256


def test_another_client_has_the_same_hash() -> None:
    assert job_of({"prompt": GRAPH, "client_id": "a"}).sha256 == job_of({"prompt": GRAPH, "client_id": "b"}).sha256


# Names


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("poster.json", "poster"),
        ("海报.json", "job"),
        ("My Poster (2).json", "my-poster-2"),
        ("a.b_c.json", "a-b_c"),
        ("_-x-_.json", "x"),
        ("README", "readme"),
        (".json", "json"),
        ("bad\udcff.json", "bad"),
        ("x" * 250 + ".json", "x" * 44),
    ],
)
def test_an_id_is_found_by_the_name_of_its_file(source: str, stem: str) -> None:
    made = derive_id(source, NOON, "salt", 0)
    assert made.startswith(f"{stem}-20261124-083015-")
    assert len(made) == len(stem) + 20


@given(st.text(), st.datetimes(timezones=st.just(UTC)), st.text(), st.integers(0))
@example("x" * 300, NOON, "", 0)
def test_a_derived_id_is_an_id(source: str, time: datetime, salt: str, n: int) -> None:
    assert is_id(derive_id(source, time, salt.encode("utf-8", "ignore").decode(), n))


def test_a_derived_id_depends_on_salt_and_number_alone() -> None:
    made = [derive_id("a.json", NOON, salt, n) for salt in ("s", "t") for n in range(50)]
    assert len(set(made)) > 95
    assert derive_id("a.json", NOON, "s", 0) == made[0]


def test_an_id_is_in_utc() -> None:
    beijing = NOON.astimezone(timezone(timedelta(hours=8)))
    assert derive_id("a.json", beijing, "s", 0) == derive_id("a.json", NOON, "s", 0)
    with pytest.raises(ValueError, match="zone"):
        derive_id("a.json", NOON.replace(tzinfo=None), "s", 0)


@pytest.mark.parametrize(("text", "expected"), [("a", True), ("0_-", True), ("a" * 64, True), ("a" * 65, False),
    ("", False), ("A", False), ("-a", False), ("_a", False), ("a\n", False), ("ä", False), ("٣", False)])  # fmt: skip
def test_is_id(text: str, expected: bool) -> None:
    assert is_id(text) is expected


def test_tokens_and_prompt_ids_never_change_between_versions() -> None:
    token = submission_token("20261124T083015-00ff00ff00ff00ff", 0)
    assert token == "810c6f156fab4b75"
    assert prompt_id(token, 1) == "2363ecbf-e8c3-578f-8d12-5b9c3cf98d1d"


def test_tokens_and_prompt_ids_differ() -> None:
    tokens = [submission_token(t, line) for t in ("a", "b", "a\n1") for line in range(20)]
    assert len(set(tokens)) == 60
    assert all(len(token) == 16 and int(token, 16) >= 0 for token in tokens)
    prompts = [prompt_id(token, attempt) for token in tokens[:5] for attempt in range(1, 10)]
    assert len(set(prompts)) == 45
    assert all(str(UUID(prompt)) == prompt and UUID(prompt).version == 5 for prompt in prompts)


ZONES = st.sampled_from([UTC, timezone(timedelta(hours=8))])
TIMES = st.integers(0, 10**14).flatmap(
    lambda ms: ZONES.map((datetime(1000, 1, 3, tzinfo=UTC) + timedelta(milliseconds=ms)).astimezone)
)
PLACES = st.tuples(st.integers(-100, 100), TIMES)


@given(PLACES, PLACES)
@example((0, NOON), (1, NOON))
@example((0, NOON), (0, NOON + timedelta(seconds=1)))
def test_the_order_of_names_is_priority_then_time(one: tuple[int, datetime], other: tuple[int, datetime]) -> None:
    names = [inbox_name(rank(*place), "0123456789abcdef") for place in (one, other)]
    wanted = [(-priority, time) for priority, time in (one, other)]
    assert (names[0] < names[1], names[0] == names[1]) == (wanted[0] < wanted[1], wanted[0] == wanted[1])


def test_an_inbox_name_gives_its_token_back() -> None:
    name = inbox_name(rank(-10, NOON), "0123456789abcdef")
    assert name == "11020261124083015123-0123456789abcdef.json"
    assert inbox_token(name) == "0123456789abcdef"
    for foreign in ("", name + "~", "x" + name, name.upper(), name.replace("-", "_"), name + "\n", ".nfs001"):
        assert inbox_token(foreign) is None


# Overrides and seeds


@pytest.mark.parametrize(
    ("target", "node_id", "name"),
    [
        ("6.text", "6", "text"),
        ("Negative.text", "7", "text"),
        ("Positive v1.5.text", "6", "text"),
        ("KSampler.seed", "3", "seed"),
        ("9.format.bit_depth", "9", "format.bit_depth"),
        ("SaveImageAdvanced.format.bit_depth", "9", "format.bit_depth"),
        ("3.positive", "3", "positive"),
    ],
)
def test_set_finds_a_node_by_id_title_or_class(target: str, node_id: str, name: str) -> None:
    before = canonical(GRAPH)
    changed: Any = apply_set(GRAPH, {target: "new"})
    assert changed[node_id]["inputs"][name] == "new"
    changed[node_id]["inputs"][name] = decode(before)[node_id]["inputs"][name]  # type: ignore[call-overload,index]
    assert canonical(changed) == before == canonical(GRAPH)


def test_set_changes_several_inputs_at_once() -> None:
    changed: Any = apply_set(GRAPH, {"3.seed": -1, "3.steps": 4, "6.text": {"any": ["json"]}})
    assert changed["3"]["inputs"] == {"seed": -1, "steps": 4, "model": ["4", 0], "positive": ["6", 0]}
    assert changed["6"]["inputs"] == {"text": {"any": ["json"]}}


def test_an_id_goes_before_a_title_and_a_title_before_a_class() -> None:
    graph: JsonObject = {
        "1": {"class_type": "A", "inputs": {"x": 0}, "_meta": {"title": "2"}},
        "2": {"class_type": "B", "inputs": {"x": 0}, "_meta": {"title": "A"}},
    }
    changed: Any = apply_set(graph, {"2.x": 1})
    assert (changed["1"]["inputs"]["x"], changed["2"]["inputs"]["x"]) == (0, 1)
    changed = apply_set(graph, {"A.x": 1})
    assert (changed["1"]["inputs"]["x"], changed["2"]["inputs"]["x"]) == (0, 1)


def test_the_last_dot_counts_where_two_would_fit() -> None:
    graph: JsonObject = {
        "1": {"class_type": "A", "inputs": {"b.c": 0}, "_meta": {"title": "a"}},
        "2": {"class_type": "A", "inputs": {"c": 0}, "_meta": {"title": "a.b"}},
    }
    changed: Any = apply_set(graph, {"a.b.c": 1})
    assert (changed["1"]["inputs"]["b.c"], changed["2"]["inputs"]["c"]) == (0, 1)


@pytest.mark.parametrize(
    ("overrides", "said", "node"),
    [
        ({"6": "x"}, "set names 6: it names no input", None),
        ({"": "x"}, "it names no input", None),
        ({"Negativ.text": "x"}, "no node is called Negativ; the nearest: Negative", None),
        ({"77.text": "x"}, "no node is called 77; the nearest: 7", None),
        ({"CLIPTextEncode.text": "x"}, "2 nodes have the class CLIPTextEncode; use an id: 6, 7", None),
        ({"6.txt": "x"}, "node 6 (Positive v1.5) has no input txt; the nearest: text", Node(id="6", class_type="CLIPTextEncode", title="Positive v1.5")),
        ({"KSampler.sed": 1}, "node 3 (KSampler) has no input sed; the nearest: seed", Node(id="3", class_type="KSampler")),
        ({"9.format.bit": 1}, "node 9 (SaveImageAdvanced) has no input format.bit; the nearest: format.bit_depth", Node(id="9", class_type="SaveImageAdvanced")),
        ({"6.text": "x", "Positive v1.5.text": "y"}, "set names Positive v1.5.text: 6.text names the same input", None),
        ({"x" * 201: 1}, "it has 201 characters, the limit is 200", None),
    ],
)  # fmt: skip
def test_a_target_that_is_not_there_names_the_nearest(overrides: JsonObject, said: str, node: Node | None) -> None:
    with pytest.raises(Failure) as caught:
        apply_set(GRAPH, overrides)
    assert caught.value.reason is Reason.BAD_OVERRIDE
    assert said in said_by(caught.value)
    assert caught.value.node == node


def test_a_title_that_two_nodes_have_is_ambiguous() -> None:
    node: JsonObject = {"class_type": "A", "inputs": {"x": 0}, "_meta": {"title": "Same"}}
    with pytest.raises(Failure) as caught:
        apply_set({"1": node, "2": node}, {"Same.x": 1})
    assert "2 nodes have the title Same; use an id: 1, 2" in said_by(caught.value)


@given(st.dictionaries(st.sampled_from(["1", "2", "A"]), LIKE_JOBS, max_size=3), st.text("12A.x", max_size=6))
def test_set_on_any_object_changes_it_or_fails(graph: JsonObject, target: str) -> None:
    before = canonical(graph)
    try:
        apply_set(graph, {target: 1})
    except Failure as failure:
        said_by(failure).encode()
    assert canonical(graph) == before


def test_a_hostile_graph_costs_little() -> None:
    graph: JsonObject = {
        f"n{i}": {"class_type": "A" * 60, "inputs": {}, "_meta": {"title": f"t{i}" * 9}} for i in range(20_000)
    }
    with pytest.raises(Failure) as caught:
        apply_set(graph, {"t.9." * 50: 1})
    assert len(said_by(caught.value)) < 5000


def test_open_seeds_are_literal_minus_ones() -> None:
    graph: JsonObject = {
        "1": {"class_type": "KSampler", "inputs": {"seed": -1, "steps": -1}},
        "2": {"class_type": "KSamplerAdvanced", "inputs": {"noise_seed": -1, "seed": -1.0}},
        "3": {"class_type": "KSampler", "inputs": {"seed": ["1", 0]}},
        "4": {"class_type": "KSampler", "inputs": {"seed": "-1"}},
        "5": {"class_type": "KSampler", "inputs": {"seed": 0}},
        "6": {"class_type": "KSampler", "inputs": []},
        "7": None,
    }
    assert open_seeds(graph) == [("1", "seed"), ("2", "noise_seed")]
    assert open_seeds(apply_set(GRAPH, {"KSampler.seed": -1})) == [("3", "seed")]

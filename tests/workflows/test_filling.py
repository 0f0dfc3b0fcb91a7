import copy
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handoff.decode import JsonValue
from handoff.failures import Failure, Reason
from handoff.messages import render
from tests.workflows.samples import GRAPH, read
from workflows.filling import DRAWN_BELOW, Filled, OpenModel, Picture, coerce_text, fill, find_failures
from workflows.parameter import MAX_INTEGER, MAX_TEXT, Kind, Place

TEMPLATE = read()
GIVEN: dict[str, JsonValue] = {"prompt": "a cat", "image": "cat.png", "mask": "mask.png"}

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["fast", "-1", "8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def _draw() -> int:
    return 12345


def _fill(**params: JsonValue) -> Filled:
    return fill(TEMPLATE, {**GIVEN, **params}, draw_seed=_draw)


def _failure(**params: JsonValue) -> Failure:
    with pytest.raises(Failure) as caught:
        _fill(**params)
    assert "(" not in render(caught.value, "en").message.partition(": ")[0]  # every placeholder was filled
    return caught.value


def _same(one: Any, other: Any) -> bool:
    """The same JSON value in the same type, except that a whole float may become the integer."""
    return json.dumps(one) == json.dumps(other) or (isinstance(one, float) and type(other) is int and one == other)


def test_defaults_and_the_drawn_seed_are_resolved_and_put_in() -> None:
    filled = _fill()
    assert filled.params == {
        **GIVEN,
        "count": 4,
        "ratio": 0.3,
        "flag": False,
        "mode": "fast",
        "noise": 12345,
        "depth": 8,
    }
    inputs = filled.graph["4"]["inputs"]
    assert [inputs[name] for name in ("text", "count", "ratio", "flag", "mode", "seed", "format.depth")] == [
        "a cat",
        4,
        0.3,
        False,
        "fast",
        12345,
        8,
    ]
    assert filled.graph["5"]["inputs"] == {"text": "a cat", "seed": 12345}  # a parameter may go to several places


def test_pictures_are_listed_as_the_job_gave_them() -> None:
    assert _fill(image="https://example.org/a.png").pictures == (
        Picture(
            parameter="image",
            place=Place(node="1", input="image"),
            reference="https://example.org/a.png",
            is_mask=False,
        ),
        Picture(parameter="mask", place=Place(node="2", input="image"), reference="mask.png", is_mask=True),
    )


def test_a_model_that_is_not_given_stays_open_and_is_no_parameter_yet() -> None:
    filled = _fill()
    place = Place(node="3", input="ckpt_name")
    assert filled.models == (
        OpenModel(parameter="model", place=place, class_type="CheckpointLoaderSimple", folder="checkpoints"),
    )
    assert "model" not in filled.params
    given_one = _fill(model="xl.safetensors")
    assert given_one.models == ()
    assert given_one.graph["3"]["inputs"]["ckpt_name"] == given_one.params["model"] == "xl.safetensors"


@pytest.mark.parametrize(("seed", "used"), [(-1, 12345), (-1.0, 12345), (0, 0), (7.0, 7), (MAX_INTEGER, MAX_INTEGER)])
def test_minus_one_draws_a_seed(seed: float, used: int) -> None:
    filled = _fill(noise=seed)
    assert filled.params["noise"] == filled.graph["4"]["inputs"]["seed"] == used
    assert type(filled.params["noise"]) is int


def test_a_drawn_seed_keeps_below_the_nodes_own_limit() -> None:
    template = read('[parameters.noise]\ntype = "seed"\nto = "4.seed"\nmaximum = 9')
    assert fill(template, {}, draw_seed=lambda: DRAWN_BELOW - 1).params == {"noise": (DRAWN_BELOW - 1) % 10}
    assert fill(template, {}, draw_seed=lambda: 9).params == {"noise": 9}


def test_a_fixed_default_seed_is_not_drawn_unless_asked() -> None:
    template = read('[parameters.noise]\ntype = "seed"\nto = "4.seed"\ndefault = 42')
    assert fill(template, {}, draw_seed=_draw).params == {"noise": 42}
    assert fill(template, {"noise": -1}, draw_seed=_draw).params == {"noise": 12345}


@given(st.sampled_from(sorted(TEMPLATE.parameters)), JSON_VALUES)
@example("count", True)
@example("count", 4.0)
@example("ratio", 10**400)
@example("ratio", 1)
@example("ratio", 1e308)
@example("noise", 2**64)
@example("image", "\udc80")
def test_a_value_lands_unchanged_at_its_places_or_is_refused(name: str, value: JsonValue) -> None:
    failures = find_failures(TEMPLATE, {**GIVEN, name: value})
    if failures:
        assert [(failure.reason, failure.details["parameter"]) for failure in failures] == [
            (Reason.BAD_PARAMETER, name)
        ]
        render(failures[0], "en").message.encode()
        assert str(_failure(**{name: value})) == str(failures[0])
        return
    filled = _fill(**{name: value})
    parameter = TEMPLATE.parameters[name]
    assert parameter.kind is not Kind.BOOL or isinstance(value, bool)
    assert parameter.kind is Kind.BOOL or not isinstance(value, bool)
    if not (parameter.kind is Kind.SEED and value == -1):
        for place in parameter.to:
            assert _same(value, filled.graph[place.node]["inputs"][place.input])
        assert _same(value, filled.params[name])
    json.dumps(filled.graph, allow_nan=False).encode()


@given(st.text(max_size=60).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)))
@example('"}, "9": {"class_type": "Evil"}\n\\u0022 {prompt} %s ${x} 猫 👩‍👩‍👧 \0\r\n')
@example('{"4": {"inputs": {}}}')
@example("x" * MAX_TEXT)
def test_a_prompt_is_only_ever_a_text(prompt: str) -> None:
    filled = _fill(prompt=prompt)
    sent = json.loads(json.dumps(filled.graph))
    expected = copy.deepcopy(_fill().graph)
    expected["4"]["inputs"]["text"] = expected["5"]["inputs"]["text"] = prompt
    assert sent == expected


def test_nothing_but_the_places_changes_and_the_template_stays_as_it_was() -> None:
    template = read()
    filled = fill(template, GIVEN, draw_seed=_draw)
    places = {(place.node, place.input) for parameter in template.parameters.values() for place in parameter.to}
    for node, content in GRAPH.items():
        assert {**content, "inputs": {}} == {**filled.graph[node], "inputs": {}}
        for name, value in content["inputs"].items():
            assert (node, name) in places or filled.graph[node]["inputs"][name] == value
        assert list(content["inputs"]) == list(filled.graph[node]["inputs"])
    filled.graph["4"]["inputs"]["image"][0] = "changed"
    filled.graph["4"]["_meta"]["title"] = "changed"
    assert template.graph == GRAPH


@given(st.integers(2, 100).filter(lambda count: count % 2 == 0), st.integers(1, 20), st.integers(-1, MAX_INTEGER))
def test_filling_again_with_the_resolved_parameters_gives_the_same(count: int, tenths: int, seed: int) -> None:
    filled = _fill(count=count, ratio=tenths / 10, noise=seed)
    again = fill(TEMPLATE, filled.params, draw_seed=lambda: pytest.fail("nothing is left to draw"))
    assert again == filled


@pytest.mark.parametrize(
    ("name", "value", "shown", "problem"),
    [
        ("prompt", 5, "5", "a text is wanted"),
        ("prompt", None, "null", "a text is wanted"),
        ("prompt", ["a"], '["a"]', "a text is wanted"),
        ("prompt", "x" * (MAX_TEXT + 1), '"' + "x" * 78 + "…", "100001 characters, the most is 100000"),
        ("prompt", "a\ud83d", '"a\N{REPLACEMENT CHARACTER}"', "half a character (a lone UTF-16 surrogate) is in it"),
        ("count", "4", '"4"', "a whole number is wanted"),
        ("count", True, "true", "a whole number is wanted"),
        ("count", 4.5, "4.5", "a whole number is wanted"),
        ("count", math.nan, "NaN", "a finite number is wanted"),
        ("count", -math.inf, "-Infinity", "a finite number is wanted"),
        ("count", 0, "0", "the least is 2"),
        ("count", 102, "102", "the most is 100"),
        ("count", 5, "5", "it goes in steps of 2 from 2"),
        ("depth", 2**64, str(2**64), "the most is 18446744073709551615"),
        ("depth", -(2**63) - 1, str(-(2**63) - 1), "the least is -9223372036854775808"),
        ("ratio", "0.3", '"0.3"', "a number is wanted"),
        ("ratio", 0.35, "0.35", "it goes in steps of 0.1 from 0.1"),
        ("ratio", 3, "3", "the most is 2"),
        ("flag", 0, "0", "true or false is wanted"),
        ("flag", "true", '"true"', "true or false is wanted"),
        ("mode", "carefull", '"carefull"', "none of its 2 choices; the nearest: careful"),
        ("mode", None, "null", "none of its 2 choices; the nearest: careful, fast"),
        ("noise", -2, "-2", "the least is -1"),
        ("noise", 2**64, str(2**64), "the most is 18446744073709551615"),
        ("image", "", "a text of 0 characters", "it is empty"),
        ("image", {"url": "x"}, '{"url": "x"}', "a text is wanted"),
        ("image", "https://me:secret@host/\ud800", "a text of 24 characters", "half a character (a lone UTF-16 surrogate) is in it"),
        ("model", "", '""', "it is empty"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_reason(name: str, value: JsonValue, shown: str, problem: str) -> None:
    failure = _failure(**{name: value})
    assert failure.reason is Reason.BAD_PARAMETER
    assert failure.details == {"workflow": "all", "parameter": name, "value": shown, "problem": problem}


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7, 1, 1.0, 1.1, 2])
def test_steps_are_counted_as_people_write_numbers(ratio: float) -> None:
    assert _fill(ratio=ratio).params["ratio"] == ratio


def test_a_picture_may_be_a_whole_job_file_long() -> None:
    reference = "data:image/png;base64," + "A" * 3_000_000
    assert _fill(image=reference).pictures[0].reference == reference


def test_an_unknown_parameter_names_the_nearest() -> None:
    failure = _failure(promt="a cat")
    assert failure.reason is Reason.UNKNOWN_PARAMETER
    assert failure.details == {"workflow": "all", "parameter": "promt", "nearest": "prompt"}


def test_a_missing_parameter_says_what_it_is_for() -> None:
    with pytest.raises(Failure) as caught:
        fill(TEMPLATE, {"image": "a.png", "mask": "b.png"}, draw_seed=_draw)
    assert caught.value.reason is Reason.MISSING_PARAMETER
    assert caught.value.details == {"workflow": "all", "parameter": "prompt", "help": "What it shows."}
    with pytest.raises(Failure) as caught:
        fill(TEMPLATE, {"prompt": "x", "mask": "b.png"}, draw_seed=_draw)
    assert caught.value.details["help"] == "a value of the type image"


def test_every_failure_is_found_the_misspelt_name_first() -> None:
    found = find_failures(TEMPLATE, {"count": 0, "promt": "x", "flag": 1})
    assert [(failure.reason, failure.details["parameter"]) for failure in found] == [
        (Reason.UNKNOWN_PARAMETER, "promt"),
        (Reason.BAD_PARAMETER, "count"),
        (Reason.BAD_PARAMETER, "flag"),
        (Reason.MISSING_PARAMETER, "prompt"),
        (Reason.MISSING_PARAMETER, "image"),
        (Reason.MISSING_PARAMETER, "mask"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("prompt", " 5 ", " 5 "),
        ("prompt", "", ""),
        ("count", "8", 8),
        ("count", " +08 ", 8),
        ("count", "0x10", 16),
        ("depth", "-0Xff", -255),
        ("noise", "-1", -1),
        ("noise", "18446744073709551615", MAX_INTEGER),
        ("ratio", "0.3", 0.3),
        ("ratio", "1", 1.0),
        ("ratio", ".2e0", 0.2),
        ("flag", "yes", True),
        ("flag", "OFF", False),
        ("flag", "0", False),
        ("mode", "careful", "careful"),
        ("image", "cat.png", "cat.png"),
        ("model", "xl.safetensors", "xl.safetensors"),
    ],
)
def test_text_becomes_a_typed_value(name: str, text: str, value: JsonValue) -> None:
    coerced = coerce_text(TEMPLATE, name, text)
    assert coerced == value
    assert type(coerced) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("count", "eight"),
        ("count", ""),
        ("count", "8.0"),
        ("count", "1_0"),
        ("count", "९"),
        ("count", "9" * 5000),
        ("count", "3"),
        ("ratio", "nan"),
        ("ratio", "0,3"),
        ("ratio", "1e999"),
        ("flag", "maybe"),
        ("mode", "slow"),
        ("image", ""),
    ],
)
def test_text_that_means_no_value_is_refused_like_one(name: str, text: str) -> None:
    with pytest.raises(Failure) as caught:
        coerce_text(TEMPLATE, name, text)
    assert caught.value.reason is Reason.BAD_PARAMETER
    assert caught.value.details["parameter"] == name


def test_text_for_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(Failure) as caught:
        coerce_text(TEMPLATE, "cuont" + "t" * 5000, "5")
    assert caught.value.reason is Reason.UNKNOWN_PARAMETER
    assert len(str(caught.value.details["parameter"])) == 80


@given(st.sampled_from(sorted(TEMPLATE.parameters)), st.text(max_size=12))
def test_what_text_becomes_can_be_filled_in(name: str, text: str) -> None:
    try:
        value = coerce_text(TEMPLATE, name, text)
    except Failure:
        return
    assert _fill(**{name: value}).params[name] == (12345 if value == -1 and name == "noise" else value)

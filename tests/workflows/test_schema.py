"""No validator is at hand: the few keywords that the schema uses are checked here, so that schema and `fill` must agree."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handoff.decode import JsonValue
from tests.workflows.samples import read
from workflows.catalogue import Catalogue
from workflows.filling import find_failures
from workflows.parameter import MAX_INTEGER, MIN_INTEGER
from workflows.schema import json_schema

TEMPLATE = read()
SCHEMA = json_schema(TEMPLATE)


def _is_type(value: Any, name: str) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "number": is_number,
        "integer": is_number and value == int(value),
    }[name]


def _is_valid(value: Any, schema: dict[str, Any]) -> bool:
    rules: dict[str, Callable[[Any], bool]] = {
        "type": lambda wanted: _is_type(value, wanted),
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "multipleOf": lambda step: value % step == 0,
        "enum": lambda choices: value in choices,
        "minLength": lambda least: len(value) >= least,
        "maxLength": lambda most: len(value) <= most,
    }
    assert set(schema) - set(rules) <= {"description", "default"}
    return all(rule(schema[key]) for key, rule in rules.items() if key in schema)


def test_the_schema_says_what_a_reader_needs() -> None:
    assert (SCHEMA["title"], SCHEMA["type"], SCHEMA["additionalProperties"]) == ("All", "object", False)
    assert SCHEMA["required"] == ["prompt", "image", "mask"]
    assert SCHEMA["properties"] == {
        "prompt": {"type": "string", "description": "What it shows.", "maxLength": 100000},
        "count": {"type": "integer", "description": "", "default": 4, "minimum": 2, "maximum": 100, "multipleOf": 2},
        "ratio": {"type": "number", "description": "", "default": 0.3, "minimum": 0.1, "maximum": 2},
        "flag": {"type": "boolean", "description": "", "default": False},
        "mode": {"type": "string", "description": "", "default": "fast", "enum": ["fast", "careful"]},
        "noise": {"type": "integer", "description": "", "default": -1, "minimum": -1, "maximum": MAX_INTEGER},
        "depth": {
            "type": "integer",
            "description": "",
            "default": 8,
            "minimum": MIN_INTEGER,
            "maximum": MAX_INTEGER,
        },
        "image": {"type": "string", "description": "", "minLength": 1, "maxLength": 4194304},
        "mask": {"type": "string", "description": "", "minLength": 1, "maxLength": 4194304},
        "model": {"type": "string", "description": "", "minLength": 1, "maxLength": 100000},
    }
    assert json_schema(TEMPLATE, "zh")["properties"]["prompt"]["description"] == "内容。"


def test_a_step_that_counts_from_elsewhere_is_left_out_rather_than_said_wrongly() -> None:
    template = read('[parameters.x]\ntype = "int"\nto = "4.count"\nminimum = 3\nstep = 2')
    assert "multipleOf" not in json_schema(template)["properties"]["x"]


@given(
    st.sampled_from([name for name in TEMPLATE.parameters if name != "ratio"]),
    st.none()
    | st.booleans()
    | st.integers(-5, 120)
    | st.integers(MIN_INTEGER * 2, MAX_INTEGER * 2)
    | st.floats(-200, 200)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.sampled_from(["fast", "careful"])
    | st.lists(st.integers(), max_size=2),
)
@example("count", 4.0)
@example("count", 3)
def test_schema_and_filling_agree(name: str, value: JsonValue) -> None:
    failures = find_failures(TEMPLATE, {"prompt": "a", "image": "b", "mask": "c", name: value})
    assert _is_valid(value, SCHEMA["properties"][name]) == (not failures)


@pytest.mark.parametrize("name", ["canvas", "img2img", "invert", "txt2img"])
def test_the_shipped_ones_have_a_schema_whose_defaults_fit(name: str) -> None:
    schema = json.loads(json.dumps(json_schema(Catalogue(None).get(name))))
    assert schema["properties"]
    for described in schema["properties"].values():
        assert described["description"]
        assert "default" not in described or _is_valid(described["default"], described)

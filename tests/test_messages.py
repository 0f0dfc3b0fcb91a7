"""The texts: complete in both languages, and filled by everybody who raises a failure."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.failures import Failure, Reason
from handoff.messages import FAILURES, WARNINGS, Language, nearest, render, warn

ROOT = Path(__file__).parents[1]
PACKAGES = ("handoff", "watcher", "workflows", "dify_adapter", "handoff_cli")
LANGUAGES: tuple[Language, ...] = ("en", "zh")
ADDED_LATER: dict[str, set[str]] = {"TRUNCATED": {"seconds"}}
"""Details that somebody else knows: for how long a file did not change, the intake. A job's `id` is filled in by describe_failure."""


def placeholders(*templates: str) -> set[str]:
    return {name for template in templates for _, name, _, _ in Formatter().parse(template) if name is not None}


def of(reason: Reason, language: Language) -> set[str]:
    text = FAILURES[reason][language]
    return placeholders(text.message, text.hint)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_message_and_a_hint_in_both_languages(reason: Reason) -> None:
    assert set(FAILURES[reason]) == set(LANGUAGES)
    for language in LANGUAGES:
        text = FAILURES[reason][language]
        assert text.message
        assert text.hint
    assert of(reason, "en") == of(reason, "zh")
    assert all(name.isidentifier() for name in of(reason, "en")), "values are put in by name, never interpreted"


def test_nothing_is_translated_that_cannot_happen() -> None:
    assert set(FAILURES) == set(Reason)


@pytest.mark.parametrize("key", WARNINGS)
def test_every_warning_is_there_in_both_languages(key: str) -> None:
    assert set(WARNINGS[key]) == set(LANGUAGES)
    assert placeholders(WARNINGS[key]["en"]) == placeholders(WARNINGS[key]["zh"])


DETAILS = st.dictionaries(
    st.sampled_from(sorted({name for reason in Reason for name in of(reason, "en")})),
    st.text() | st.integers() | st.floats() | st.sampled_from(["{id}", "{0}", "{x.__class__}", "}{", "%s"]),
)


@given(reason=st.sampled_from(Reason), details=DETAILS, language=st.sampled_from(LANGUAGES))
def test_rendering_never_fails_and_never_interprets(
    reason: Reason, details: dict[str, str | float], language: Language
) -> None:
    text = render(Failure(reason, node=None, **details), language)
    for name in of(reason, language):
        assert str(details.get(name, f"({name})")) in text.message + "\n" + text.hint


@pytest.mark.parametrize("reason", Reason)
def test_with_all_details_nothing_is_left_open(reason: Reason) -> None:
    for language in LANGUAGES:
        text = render(Failure(reason, node=None, **dict.fromkeys(of(reason, language), "X")), language)
        said = text.message + text.hint
        assert not any(f"({name})" in said for name in of(reason, language))
        assert "{{" not in said
        assert said.count("X") >= len(of(reason, language))


# who raises


@dataclass(frozen=True)
class Raised:
    where: str
    name: str
    details: frozenset[str]
    complete: bool
    """False: more details come from a mapping."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_bytes())


def failures() -> list[Raised]:
    found = []
    for path, tree in trees():
        for call in ast.walk(tree):
            match call:
                case ast.Call(
                    func=ast.Name("Failure"),
                    args=[ast.Attribute(value=ast.Name("Reason"), attr=name)],
                    keywords=keywords,
                ):
                    details = frozenset(keyword.arg for keyword in keywords if keyword.arg is not None)
                    where = f"{path.relative_to(ROOT)}:{call.lineno}"
                    found.append(Raised(where, name, details - {"node"}, None not in {word.arg for word in keywords}))
    return found


RAISED = failures()


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: f"{raised.where} {raised.name}")
def test_whoever_raises_a_failure_fills_its_texts(raised: Raised) -> None:
    wanted = of(Reason[raised.name], "en") - {"id"} - ADDED_LATER.get(raised.name, set())
    if raised.complete:
        assert wanted <= raised.details, f"{raised.where} leaves {wanted - raised.details} open"
    assert raised.details <= of(Reason[raised.name], "en") | {"id"}, f"{raised.where} says more than the text shows"


def test_the_search_finds_what_it_should() -> None:
    assert len(RAISED) > 40
    assert {raised.name for raised in RAISED} >= {
        "TRUNCATED",
        "ID_TAKEN",
        "LOST",
        "OUTPUT_MISSING",
        "UNKNOWN_PARAMETER",
    }


def test_every_reason_is_raised_somewhere() -> None:
    names = {
        node.attr
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    unused = {reason.name for reason in Reason} - names
    assert not unused


def test_whoever_warns_fills_the_text() -> None:
    warned = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.Tuple(elts=[ast.Constant(value=str(key)), ast.Dict(keys=names)]) if key in WARNINGS:
                    details = {name.value for name in names if isinstance(name, ast.Constant)}
                case ast.Call(func=ast.Attribute(attr="warn"), args=[ast.Constant(value=str(key)), _]):
                    details = {word.arg for word in node.keywords}
                case ast.keyword(arg="warning", value=ast.Constant(value=str(key))):
                    details = {"attempt"}  # the worker says which
                case _:
                    continue
            warned.add(key)
            assert placeholders(WARNINGS[key]["en"]) == details, f"{path.name}: {key}"
    assert warned == set(WARNINGS)


def test_a_warning_is_one_line() -> None:
    assert warn("resubmitted", "en", attempt=2) == "Attempt 2 was lost by ComfyUI; it was sent again."
    with pytest.raises(KeyError):
        warn("nothing", "en")


def test_the_nearest_name() -> None:
    assert nearest("promt", ["width", "prompt", "steps"]) == "prompt"
    assert nearest("xyz", ["b", "a"]) == "a, b"
    assert nearest("x", []) == "-"
    assert nearest("zzz", [str(number) for number in range(100)]).count(",") == 29

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.job import RESERVED
from tests.workflows.samples import GRAPH, PARAMETERS, problems, read
from workflows.parameter import Kind, Place
from workflows.template import Broken, Template, hash_files, parse


def test_a_template_holds_what_both_files_say() -> None:
    template = read()
    assert (template.name, template.title["en"], template.title["zh"]) == ("all", "All", "全部")
    assert template.description == {
        "en": "One of each type.",
        "zh": "One of each type.",
    }  # one language serves for both
    assert template.graph == GRAPH
    assert {parameter.kind for parameter in template.parameters.values()} == set(Kind)
    prompt = template.parameters["prompt"]
    assert prompt.to == (Place(node="4", input="text"), Place(node="5", input="text"))
    assert prompt.help == {"en": "What it shows.", "zh": "内容。"}
    assert template.parameters["depth"].to == (Place(node="4", input="format.depth"),)  # an input's name may hold dots
    required = {name for name, parameter in template.parameters.items() if parameter.required}
    assert required == {"prompt", "image", "mask"}


def test_a_template_without_title_is_called_by_its_name() -> None:
    assert read("").title == {"en": "all", "zh": "all"}


def test_a_byte_order_mark_is_no_problem() -> None:
    entry = parse("all", b"\xef\xbb\xbf" + json.dumps(GRAPH).encode(), b"\xef\xbb\xbf" + PARAMETERS.encode())
    assert isinstance(entry, Template)


def test_the_hash_depends_on_every_byte_of_both_files() -> None:
    hashes = {hash_files(*files) for files in [(b"ab", b""), (b"a", b"b"), (b"", b"ab"), (b"ab", b" "), (b"ab ", b"")]}
    assert len(hashes) == 5
    graph, parameters = json.dumps(GRAPH).encode(), PARAMETERS.encode()
    assert read().sha256 == hash_files(graph, parameters)


ONE = '[parameters.x]\ntype = "int"\nto = "4.count"\n'


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("title = 5", "all.toml: title is no text"),
        ('titel = "x"', "all.toml: unknown key titel, the nearest known: title, title_zh"),
        ("parameters = 5", "parameters is no table"),
        ("[parameters]\nx = 5", "parameters.x: a table with type and to is wanted"),
        ("title = ", "all.toml: Invalid value"),
        pytest.param("a = " + "1" * 5_000, "all.toml: Exceeds the limit", id="an endless integer"),
        pytest.param("a = " + "[" * 50_000, "all.toml: ", id="nested too deeply"),
        (ONE.replace("[parameters.x]", "[parameters.Width]"), "parameters.Width: the name is not of the form"),
        (ONE.replace("[parameters.x]", "[parameters.seed-2]"), "parameters.seed-2: the name is not of the form"),
        (ONE.replace("[parameters.x]", f"[parameters.{'a' * 41}]"), "the name is not of the form"),
        (ONE.replace('"int"', '"integer"'), "parameters.x: type is integer, wanted is one of string, int"),
        (ONE.replace('type = "int"', ""), "parameters.x: type is missing"),
        (ONE.replace('"int"', "[]"), "parameters.x: type is [], wanted is one of"),
        (ONE.replace('to = "4.count"', ""), "parameters.x: to is wanted"),
        (ONE.replace('"4.count"', "[]"), "parameters.x: to is wanted"),
        (ONE.replace('"4.count"', "[4]"), "parameters.x: to is wanted"),
        (ONE.replace("4.count", "44.count"), "to 44.count: the graph has no node 44, the nearest: 4"),
        (ONE.replace("4.count", "4.counts"), "to 4.counts: the node has no input counts, the nearest: count"),
        (ONE.replace("4.count", "4"), "to 4: the node has no input "),
        (ONE.replace("4.count", "4.image"), "to 4.image: another node is linked to this input"),
        (ONE.replace('"4.count"', '["4.count", "4.count"]'), "to 4.count: it stands there twice"),
        (ONE + ONE.replace(".x]", ".y]"), "parameters.y: 4.count belongs to x already"),
        (ONE + "help = 5", "parameters.x: help is no text"),
        (ONE + "minimun = 5", "parameters.x: unknown key minimun, the nearest known: minimum"),
        (ONE + 'choices = ["a"]', "parameters.x: choices does not belong to the type int"),
        (ONE + 'default = "5"', 'parameters.x: default is "5": a whole number is wanted'),
        (ONE + "default = 2026-11-24", "parameters.x: default is a date: a whole number is wanted"),
        (ONE + "default = true", "parameters.x: default is true: a whole number is wanted"),
        (ONE + "default = 1\nminimum = 2", "parameters.x: default is 1: the least is 2"),
        (ONE + "default = 3\nmaximum = 2", "parameters.x: default is 3: the most is 2"),
        (ONE + "default = 3\nstep = 2", "parameters.x: default is 3: it goes in steps of 2 from 0"),
        (ONE + "minimum = 3\nmaximum = 2", "parameters.x: minimum 3 is above maximum 2"),
        (ONE + "minimum = 0.5", "parameters.x: minimum is 0.5: a whole number is wanted"),
        (ONE + "maximum = nan", "parameters.x: maximum is NaN: a finite number is wanted"),
        (ONE + "step = 0", "parameters.x: step is 0: it must be above 0"),
        (ONE + "step = -8\ndefault = 8", "parameters.x: step is -8: it must be above 0"),
        (ONE.replace("int", "float") + "default = inf", "parameters.x: default is Infinity: a finite number is wanted"),
        (ONE.replace("int", "bool") + "default = 1", "parameters.x: default is 1: true or false is wanted"),
        (ONE.replace("int", "string") + "default = 1", "parameters.x: default is 1: a text is wanted"),
        (ONE.replace("int", "seed") + "default = -2", "parameters.x: default is -2: the least is -1"),
        (ONE.replace("int", "seed") + "minimum = 5", "parameters.x: minimum does not belong to the type seed"),
        (ONE.replace("int", "image") + 'default = "a.png"', "parameters.x: default does not belong to the type image"),
        (ONE.replace("int", "mask") + 'default = "a.png"', "parameters.x: default does not belong to the type mask"),
        (ONE.replace("int", "model"), "parameters.x: folder is wanted"),
        (ONE.replace("int", "model") + 'folder = "c"\ndefault = ""', 'parameters.x: default is "": it is empty'),
        (ONE.replace("int", "enum"), "parameters.x: choices is wanted"),
        (ONE.replace("int", "enum") + "choices = []", "parameters.x: choices is wanted"),
        (ONE.replace("int", "enum") + "choices = [1]", "parameters.x: choices is wanted"),
        (ONE.replace("int", "enum") + 'choices = ["a", "a"]', "parameters.x: choices: one stands there twice"),
        (
            ONE.replace("int", "enum") + 'choices = ["fast"]\ndefault = "fsat"',
            "none of its 1 choices; the nearest: fast",
        ),
    ],
)
def test_one_mistake_in_the_parameters_is_one_problem(parameters: str, said: str) -> None:
    found = problems(parameters)
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_field_of_every_job_is_no_parameter(name: str) -> None:
    assert problems(ONE.replace("[parameters.x]", f"[parameters.{name}]")) == (
        f"parameters.{name}: the name is reserved: it is a field of every job",
    )


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ([], "all.json: a graph is wanted"),
        ({}, "all.json: a graph is wanted"),
        ("text", "all.json: a graph is wanted"),
        ({"nodes": [], "links": [], "version": 0.4}, "Export (API)"),
        ({"1": 5}, "all.json: 1 is no node"),
        ({"1": {"class_type": "SaveImage"}}, "all.json: 1 is no node"),
        ({"1": {"inputs": {}}}, "all.json: 1 is no node"),
        ({"1": {"class_type": "X", "inputs": []}}, "all.json: 1 is no node"),
        ({"prompt": GRAPH}, "all.json: prompt is no node"),
        ({"1": {"class_type": "X", "inputs": {"a": ["2", 0]}}}, "1.a is linked to the node 2, which is not there"),
    ],
)
def test_a_graph_that_cannot_be_sent_is_one_problem(graph: Any, said: str) -> None:
    found = problems("", graph)
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"1": {"class_type": "Sa', "all.json: it ends in the middle; is it still being written?"),
        (b"", "all.json: it ends in the middle; is it still being written?"),
        (b'{"1": }', "all.json: Not valid JSON"),
        (b'{"1": NaN}', "all.json: NaN is not a number"),
        (b'{"1": {}, "1": {}}', "all.json: The key 1 stands twice"),
        (b'{"1": "\xff"}', "all.json: Not UTF-8 text"),
        (b"[" * 5000 + b"]" * 5000, "all.json: Nested too deeply"),
    ],
)
def test_what_is_no_json_is_said_as_for_a_job(data: bytes, said: str) -> None:
    entry = parse("all", data, ONE.encode())  # the parameter's place cannot be judged: that is no problem of its own
    assert isinstance(entry, Broken)
    assert len(entry.problems) == 1
    assert entry.problems[0].startswith(said)


@pytest.mark.parametrize("name", ["", "Flux", "a b", "../x", "-x", "a" * 65, "图"])
def test_a_name_that_cannot_stand_in_a_job_is_a_problem(name: str) -> None:
    assert "rename both files" in problems(name=name)[0]


def test_every_problem_is_listed_not_only_the_first() -> None:
    found = problems('titel = "x"\n' + ONE + "step = 0\n" + ONE.replace(".x]", ".Y]").replace("4.count", "9.count"))
    assert len(found) == 4
    assert ["titel" in found[0], "step" in found[1], "Y: the name" in found[2], "no node 9" in found[3]] == [True] * 4


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_anything(graph: bytes, parameters: bytes) -> None:
    assert isinstance(parse("all", graph, parameters), Template | Broken)


@given(st.integers(0, len(PARAMETERS.encode()) - 1), st.binary(max_size=6))
def test_no_damage_to_the_parameters_raises_anything(at: int, damage: bytes) -> None:
    data = PARAMETERS.encode()
    entry = parse("all", json.dumps(GRAPH).encode(), data[:at] + damage + data[at + len(damage) :])
    assert isinstance(entry, Template | Broken)
    if isinstance(entry, Broken):
        assert all(entry.problems)

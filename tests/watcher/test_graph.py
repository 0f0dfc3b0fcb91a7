"""What is refused before it is sent, how prefixes are rewritten, and what is masked."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff.failures import Failure, Node, Reason
from handoff.graph import MAX_NODES, check_graph, is_link
from handoff.masking import mask_urls, mask_value
from handoff.messages import warn
from watcher.graph import attempt_graph, clean_graph, denied, make_label, masked_graph, node_order

WORK = ".handoff/work/0123456789abcdef-1"


def empty(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0, **inputs}}


def save(link: Any, prefix: Any = "pic", **more: Any) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": prefix}, **more}


GOOD = {"1": empty(), "2": save(["1", 0])}


def test_a_good_graph_passes_and_is_not_changed() -> None:
    graph = copy.deepcopy(GOOD)
    check_graph(graph)
    assert graph == GOOD


@pytest.mark.parametrize(
    ("graph", "problem", "node"),
    [
        (None, "not an object", None),
        ([], "not an object", None),
        ("text", "not an object", None),
        ({}, "no nodes", None),
        ({1: empty()}, "is not a text", None),
        ({"": empty()}, "is not a text", None),
        ({"1": None}, "is not an object", "1"),
        ({"1": []}, "is not an object", "1"),
        ({"1": {"inputs": {}}}, "no class_type", "1"),
        ({"1": {"class_type": None, "inputs": {}}}, "no class_type", "1"),
        ({"1": {"class_type": "", "inputs": {}}}, "no class_type", "1"),
        # 200, and then the worker thread dies (ComfyUI 0.33), as long as no output needs the node
        ({**GOOD, "9": {"class_type": "EmptyImage"}}, "no inputs", "9"),
        ({**GOOD, "9": {"class_type": "EmptyImage", "inputs": None}}, "no inputs", "9"),
        ({**GOOD, "9": {"class_type": "EmptyImage", "inputs": []}}, "no inputs", "9"),
        ({"1": empty(), "2": save([1, 0])}, 'write ["1", 0]', "2"),
        ({"1": empty(), "2": save(["7", 0])}, "node 7, which does not exist", "2"),
        ({"1": empty(), "2": save(["1", -1])}, "slot -1", "2"),
        ({"1": empty(), "2": save(["1", "0"])}, "slot '0'", "2"),
        ({"1": empty(), "2": save(["1", 0.5])}, "slot 0.5", "2"),
        ({"1": empty(), "2": save(["1", True])}, "slot True", "2"),
        ({"1": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}}, "circle: 1 → 1", "1"),
        (
            {
                "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
                "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
                "3": save(["1", 0]),
            },
            "circle: 1 → 2 → 1",
            "1",
        ),
    ],
)
def test_what_is_never_sent(graph: Any, problem: str, node: str | None) -> None:
    with pytest.raises(Failure) as caught:
        check_graph(graph)
    assert caught.value.reason is Reason.BAD_GRAPH
    assert problem in str(caught.value.details["problem"])
    assert (caught.value.node and caught.value.node.id) == node


def test_the_editors_own_format_is_named_as_such() -> None:
    with pytest.raises(Failure) as caught:
        check_graph({"last_node_id": 3, "nodes": [{"id": 1, "type": "EmptyImage"}], "links": []})
    assert caught.value.reason is Reason.UI_FORMAT


@pytest.mark.parametrize(
    "value", [[], [1], [512, 512], ["a", "b"], [[0, 1], [2, 3]], ["1"], [1.5, 2], {"__value__": ["9", 0]}, None]
)
def test_lists_that_are_no_links_are_left_to_comfyui(value: Any) -> None:
    check_graph({"1": empty(points=value), "2": save(["1", 0])})


def test_the_number_of_nodes_is_bounded() -> None:
    check_graph({str(n): empty() for n in range(MAX_NODES)})
    with pytest.raises(Failure):
        check_graph({str(n): empty() for n in range(MAX_NODES + 1)})


def test_a_long_chain_and_a_long_circle_need_no_recursion() -> None:
    chain: dict[str, Any] = {"0": empty()}
    for n in range(1, MAX_NODES):
        chain[str(n)] = {"class_type": "ImageInvert", "inputs": {"image": [str(n - 1), 0]}}
    check_graph(chain)
    chain["0"] = {"class_type": "ImageInvert", "inputs": {"image": [str(MAX_NODES - 1), 0]}}
    with pytest.raises(Failure) as caught:
        check_graph(chain)
    assert len(str(caught.value.details["problem"])) < 500


def test_a_diamond_is_no_circle() -> None:
    check_graph(
        {
            "1": empty(),
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
            "4": save(["3", 0]),
        }
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.floats(allow_nan=False)
    | st.sampled_from(["1", "2", "3", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["1", "2", "3", "class_type", "inputs", "_meta"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_either_refused_or_safe(graph: Any) -> None:
    try:
        check_graph(graph)
    except Failure:
        return
    cleaned = clean_graph(graph)
    for node in cleaned.values():
        assert isinstance(node["class_type"], str)
        assert isinstance(node["inputs"], dict)
        for value in node["inputs"].values():
            if is_link(value):
                assert value[0] in cleaned
                assert isinstance(value[1], int)
                assert value[1] >= 0


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1))
def test_circles_are_found_exactly(edges: dict[str, list[str]]) -> None:
    graph: dict[str, Any] = {
        name: {"class_type": "X", "inputs": {f"i{k}": [to, 0] for k, to in enumerate(targets) if to in edges}}
        for name, targets in edges.items()
    }
    left = {name: {value[0] for value in node["inputs"].values()} for name, node in graph.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    if left:
        with pytest.raises(Failure):
            check_graph(graph)
    else:
        check_graph(graph)


def test_only_what_comfyui_reads_is_passed_on() -> None:
    graph: dict[str, Any] = {
        "1": {**empty(), "_meta": {"title": "Blank", "secret": 1}, "is_changed": ["x"], "pos": [1, 2]},
        "2": {**save(["1", 0]), "_meta": None},
    }
    assert clean_graph(graph) == {"1": {**empty(), "_meta": {"title": "Blank"}}, "2": save(["1", 0])}


@pytest.mark.parametrize(
    ("prefix", "label"),
    [
        ("ComfyUI", "ComfyUI"),
        ("2026/%date:yyyy/MM/dd%/poster", "poster"),
        ("poster_%width%x%height%_%batch_num%", "poster_x"),
        ("my picture (final)", "my-picture-final"),
        ("..", "output"),
        ("a/../..", "output"),
        ("a..b", "a-b"),
        ("folder\\name", "name"),
        ("海报", "output"),
        ("", "output"),
        ("dir/", "output"),
        ("x" * 300, "x" * 40),
        ("\n\0*?", "output"),
        (None, "output"),
        (5, "output"),
        (["3", 0], "output"),
    ],
)
def test_labels(prefix: Any, label: str) -> None:
    assert make_label(prefix) == label


@given(st.text())
def test_labels_are_always_safe(prefix: str) -> None:
    label = make_label(prefix)
    assert 1 <= len(label) <= 40
    assert all(char.isascii() and (char.isalnum() or char in "-_") for char in label)
    assert label == make_label(label)


def test_prefixes_lead_into_the_attempts_folder_and_never_collide() -> None:
    graph: dict[str, Any] = {
        "10": save(["1", 0], "out"),
        "2": save(["1", 0], "some/where/out"),
        "3": save(["1", 0], "OUT"),
        "4": save(["1", 0], ["5", 0]),
        "1": empty(),
        "5": {"class_type": "PrimitiveString", "inputs": {"value": "../evil"}},
    }
    before = copy.deepcopy(graph)
    prepared, labels, warnings = attempt_graph(graph, WORK)
    assert graph == before
    assert {node: prepared[node]["inputs"]["filename_prefix"] for node in labels} == {
        "2": f"{WORK}/out",
        "3": f"{WORK}/2/OUT",
        "10": f"{WORK}/3/out",
        "4": f"{WORK}/output",
    }
    assert labels == {"2": "out", "3": "OUT", "10": "out", "4": "output"}
    assert warnings == [("prefix_replaced", {"node": "4"})]
    assert all("4" in warn(key, language, **details) for key, details in warnings for language in ("en", "zh"))


def test_nodes_without_a_prefix_are_left_alone() -> None:
    prepared, labels, warnings = attempt_graph({"1": empty()}, WORK)
    assert (prepared, labels, warnings) == ({"1": empty()}, {}, [])


@given(st.lists(st.text(max_size=20), max_size=8))
def test_every_prefix_is_below_the_folder_and_unique(prefixes: list[str]) -> None:
    graph = {str(n): save(["x", 0], prefix) for n, prefix in enumerate(prefixes)}
    prepared, labels, _ = attempt_graph(graph, WORK)
    written = [prepared[node]["inputs"]["filename_prefix"] for node in labels]
    assert len({prefix.casefold() for prefix in written}) == len(prefixes)
    assert all(prefix.startswith(f"{WORK}/") and ".." not in prefix for prefix in written)
    assert attempt_graph(graph, WORK)[0] == prepared


def test_a_denied_class_is_found() -> None:
    graph = {"1": empty(), "2": {"class_type": "RunShell", "inputs": {}, "_meta": {"title": "Innocent"}}}
    assert denied(graph, {"RunShell"}) == Node(id="2", class_type="RunShell", title="Innocent")
    assert denied(graph, {"Other"}) is None


def test_nodes_are_ordered_as_people_count() -> None:
    assert sorted(["10", "2", "b", "5:10", "5", "5:2", "٣", "1" * 30], key=node_order) == [
        "2",
        "5",
        "5:2",
        "5:10",
        "10",
        "1" * 30,
        "b",
        "٣",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "API-Key",
        "hf_token",
        "token",
        "password",
        "user_password",
        "secret",
        "Authorization",
        "aws_secret_access_key",
    ],
)
def test_secrets_are_masked(name: str) -> None:
    graph: dict[str, Any] = {
        "1": {
            "class_type": "Upload",
            "inputs": {name: "hunter2", "nested": {name: "hunter2"}, "list": [{name: "hunter2"}]},
        }
    }
    assert "hunter2" not in str(masked_graph(graph))
    assert graph["1"]["inputs"][name] == "hunter2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 77),
        ("token", ["4", 0]),
        ("text", "a secret garden"),
        ("seed", 5),
        ("keyframes", "1"),
        ("password", ""),
    ],
)
def test_other_values_are_kept(name: str, value: Any) -> None:
    assert mask_value(name, value) == value


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:p@ss@host/a/b.png?sig=1#frag", "https://***@host/a/b.png?***"),
        ("see http://host/x and ftp://me@host/y.", "see http://host/x and ftp://***@host/y."),
        ("https://host/a#access_token=1", "https://host/a#***"),
        ("a cat: no address", "a cat: no address"),
    ],
)
def test_urls_lose_what_may_be_secret(text: str, masked: str) -> None:
    assert mask_urls(text) == masked


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["a." * 1_000_000, "a://" * 500_000, "http://" + "x@" * 500_000, "a:" * 1_000_000])
def test_masking_takes_linear_time(text: str) -> None:
    assert len(mask_urls(text)) <= len(text) + 10

"""From a job to its plan: with the shipped templates, real pictures and no ComfyUI."""

import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handoff.failures import Failure, Reason
from handoff.job import Job, parse_job
from handoff.messages import Language
from handoff.pictures import NotYet, Picture, Pictures
from handoff.spool.record import OpenModel, Plan
from watcher.capabilities import Capabilities
from watcher.planning import LIGHT_BYTES, PICTURES, SEEDS_BELOW, MustFetch, Planner, settle_models
from workflows.catalogue import Catalogue

GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}, "_meta": {"title": "Picture"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("input/uploads", "scratch"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def planner(folders: Path) -> Planner:
    return make_planner(folders)


def make_planner(folders: Path, *, allow_graphs: bool = True, node_deny: tuple[str, ...] = ()) -> Planner:
    return Planner(
        catalogue=Catalogue(None),
        pictures=Pictures(folders / "input", folders / "scratch"),
        language="en",
        allow_graphs=allow_graphs,
        node_deny=node_deny,
    )


def job(**body: Any) -> Job:
    return parse_job(body, default_workflow="txt2img")


def draw(path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 80).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def reason(planner: Planner, asked: Job) -> Reason:
    with pytest.raises(Failure) as caught:
        planner.plan(asked, may_fetch=False)
    return caught.value.reason


def test_a_template_is_filled(planner: Planner) -> None:
    plan = planner.plan(job(prompt="a cat", width=640, metadata={"a": 1}, queue_timeout_s=9), may_fetch=False)
    assert plan.workflow == "txt2img"
    assert plan.workflow_sha256
    assert (plan.params["prompt"], plan.params["width"]) == ("a cat", 640)
    assert 0 <= plan.params["seed"] < SEEDS_BELOW
    assert "a cat" in json.dumps(plan.graph)
    assert plan.params["seed"] in [node["inputs"].get("seed") for node in plan.graph.values()]
    assert (plan.metadata, plan.queue_timeout_s, plan.run_timeout_s) == ({"a": 1}, 9.0, None)


def test_every_plan_draws_a_seed_of_its_own_unless_one_is_given(planner: Planner) -> None:
    seeds = {planner.plan(job(prompt="a cat"), may_fetch=False).params["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert planner.plan(job(prompt="a cat", seed=7), may_fetch=False).params["seed"] == 7


def test_open_seeds_of_a_graph_are_drawn(planner: Planner) -> None:
    graph = {
        "1": {"class_type": "KSampler", "inputs": {"seed": -1}},
        "2": {"class_type": "KSampler", "inputs": {"seed": 5}},
    }
    plan = planner.plan(job(graph=graph), may_fetch=False)
    assert 0 <= plan.graph["1"]["inputs"]["seed"] < SEEDS_BELOW
    assert plan.graph["2"]["inputs"]["seed"] == 5


def test_overrides_come_after_the_template(planner: Planner) -> None:
    plan = planner.plan(job(prompt="a cat", set={"KSampler.seed": 3}), may_fetch=False)
    assert [node["inputs"]["seed"] for node in plan.graph.values() if "seed" in node["inputs"]] == [3]


def test_what_cannot_be_planned_has_its_reason(planner: Planner, folders: Path) -> None:
    assert reason(planner, job(workflow="txt2imgg", params={"prompt": "x"})) is Reason.UNKNOWN_WORKFLOW
    assert reason(planner, job(prompt="x", widht=5)) is Reason.UNKNOWN_PARAMETER
    assert reason(planner, job(prompt="x", width="wide")) is Reason.BAD_PARAMETER
    assert reason(planner, job(prompt="x", set={"nothing.seed": 5})) is Reason.BAD_OVERRIDE
    assert reason(make_planner(folders, allow_graphs=False), job(graph=GRAPH)) is Reason.GRAPHS_NOT_ALLOWED


def test_a_denied_node_is_refused_however_it_comes(folders: Path) -> None:
    planner = make_planner(folders, node_deny=("ImageInvert",))
    draw(folders / "input" / "cat.png")
    with pytest.raises(Failure) as caught:
        planner.plan(job(graph=GRAPH), may_fetch=False)
    assert caught.value.reason is Reason.NODE_DENIED
    assert caught.value.details["class_type"] == "ImageInvert"
    assert caught.value.node is not None
    assert caught.value.node.id == "2"


def test_the_picture_of_a_graph_is_waited_for_and_kept(planner: Planner, folders: Path) -> None:
    with pytest.raises(NotYet) as caught:
        planner.plan(job(graph=GRAPH), may_fetch=False)
    assert caught.value.failure(60.0).reason is Reason.MISSING_PICTURE
    draw(folders / "input" / "cat.png")
    name = planner.plan(job(graph=GRAPH), may_fetch=False).graph["1"]["inputs"]["image"]
    assert name.startswith("uploads/")
    assert (folders / "input" / name).read_bytes() == (folders / "input" / "cat.png").read_bytes()


def test_planning_leaves_the_job_as_it_was_submitted(planner: Planner, folders: Path) -> None:
    """Its body is kept for retries, and its hash says whether another one is the same job."""
    draw(folders / "input" / "cat.png")
    asked = job(graph=copy.deepcopy(GRAPH), set={"Picture.image": "cat.png"})
    before, sha256 = copy.deepcopy(asked.body), asked.sha256
    planner.plan(asked, may_fetch=False)
    assert asked.body == before
    assert asked.sha256 == sha256
    plain = job(graph=copy.deepcopy(GRAPH))
    planner.plan(plain, may_fetch=False)
    assert plain.body == {"graph": GRAPH}


@pytest.mark.parametrize(
    "name", ["clipspace/cat.png [temp]", "cat.png [temp]", "cat.png [output]", "picture.xyz", "sub/cat.png"]
)
def test_a_graph_may_name_what_only_comfyui_can_read(planner: Planner, folders: Path, name: str) -> None:
    (folders / "input" / "picture.xyz").write_bytes(b"what only a custom node can read")
    graph = copy.deepcopy(GRAPH)
    graph["1"]["inputs"]["image"] = name
    assert planner.plan(job(graph=graph), may_fetch=False).graph["1"]["inputs"]["image"] == name


@pytest.mark.parametrize("url", ["http://example.com/a.png", "https://example.com/a.png", "s3://bucket/a.png"])
def test_a_picture_from_elsewhere_is_fetched_where_that_does_no_harm(planner: Planner, url: str) -> None:
    asked = job(workflow="img2img", params={"prompt": "x", "image": url})
    with pytest.raises(MustFetch):
        planner.plan(asked, may_fetch=False)
    with pytest.raises(Failure) as caught:
        planner.plan(asked, may_fetch=True)
    assert caught.value.reason is Reason.FORBIDDEN_URL


class CountedPictures(Pictures):
    """Remembers what it was asked to copy; what is to be fetched counts as fetched."""

    def __init__(self, folders: Path) -> None:
        super().__init__(folders / "input", folders / "scratch")
        self.copied: list[str] = []

    def resolve(self, reference: str) -> Picture:
        self.copied.append(reference)
        if "://" in reference:
            return Picture(name="uploads/far.png", sha256="", media_type="image/png", width=1, height=1)
        return super().resolve(reference)


@pytest.fixture
def counted(folders: Path) -> CountedPictures:
    return CountedPictures(folders)


def counting(pictures: CountedPictures) -> Planner:
    return Planner(catalogue=Catalogue(None), pictures=pictures, language="en", allow_graphs=True, node_deny=())


def loading(*names: str) -> dict[str, Any]:
    return {str(n): {"class_type": "LoadImage", "inputs": {"image": name}} for n, name in enumerate(names)}


def test_a_picture_is_copied_once_however_many_nodes_load_it(counted: CountedPictures, folders: Path) -> None:
    draw(folders / "input" / "cat.png")
    graph = loading(*["cat.png", "cat.png [input]"] * 500)
    plan = counting(counted).plan(job(graph=graph), may_fetch=False)
    assert counted.copied == ["cat.png"]
    names = {node["inputs"]["image"] for node in plan.graph.values()}
    assert len(names) == 1
    assert names.pop().startswith("uploads/")


def test_nothing_is_copied_while_a_picture_is_missing(counted: CountedPictures, folders: Path) -> None:
    for number in range(20):
        draw(folders / "input" / f"{number}.png")
    asked = job(graph=loading(*(f"{number}.png" for number in range(20)), "late.png"))
    for may_fetch in (False, True):
        with pytest.raises(NotYet, match=r"late\.png"):
            counting(counted).plan(asked, may_fetch=may_fetch)
    assert counted.copied == []
    draw(folders / "input" / "late.png")
    counting(counted).plan(asked, may_fetch=True)
    assert len(counted.copied) == 21


def test_nothing_is_fetched_while_a_named_picture_is_missing(counted: CountedPictures, folders: Path) -> None:
    (folders / "two.json").write_text(json.dumps(loading("", "")))
    (folders / "two.toml").write_text(
        'title = "Two"\n[parameters.far]\ntype = "image"\nto = "0.image"\n[parameters.near]\ntype = "image"\nto = "1.image"\n'
    )
    planner = replace(counting(counted), catalogue=Catalogue(folders))
    asked = job(workflow="two", params={"far": "https://example.com/a.png", "near": "cat.png"})
    for may_fetch in (False, True):
        with pytest.raises(NotYet, match=r"cat\.png"):
            planner.plan(asked, may_fetch=may_fetch)
    assert counted.copied == []
    (folders / "input" / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(NotYet, match=r"cat\.png"):
        planner.plan(asked, may_fetch=True)
    assert counted.copied == ["cat.png"], "it is looked into before anything is fetched"
    draw(folders / "input" / "cat.png")
    with pytest.raises(MustFetch):
        planner.plan(asked, may_fetch=False)
    counted.copied.clear()
    plan = planner.plan(asked, may_fetch=True)
    assert counted.copied == ["cat.png", "https://example.com/a.png"]
    assert plan.graph["0"]["inputs"]["image"] == "uploads/far.png"


@pytest.mark.parametrize(("number", "heavy"), [(4, False), (5, True), (1, True)])
def test_what_takes_long_to_decode_is_done_where_that_does_no_harm(
    counted: CountedPictures, folders: Path, number: int, heavy: bool
) -> None:
    names = [f"{n}.png" for n in range(number)]
    for name in names:
        draw(folders / "input" / name)
    if number == 1:
        with (folders / "input" / "0.png").open("ab") as file:
            file.truncate(LIGHT_BYTES + 1)
    asked = job(graph=loading(*names))
    if heavy:
        with pytest.raises(MustFetch):
            counting(counted).plan(asked, may_fetch=False)
        assert counted.copied == []
    counting(counted).plan(asked, may_fetch=heavy)
    assert counted.copied == names


def test_a_graph_with_very_many_pictures_is_refused_unread(counted: CountedPictures) -> None:
    asked = job(graph=loading(*(f"{number}.png" for number in range(PICTURES + 1))))
    assert reason(counting(counted), asked) is Reason.BAD_GRAPH
    assert counted.copied == []


# models


def capabilities(**models: tuple[str, ...]) -> Capabilities:
    places = {name.replace("__", "."): names for name, names in models.items()}
    return Capabilities(version="0.33", devices=(), simulated=True, classes=frozenset(), models=places)


def open_plan(*places: str) -> Plan:
    models = [
        OpenModel(parameter="model", node=str(n), input="ckpt_name", class_type=place, folder="checkpoints")
        for n, place in enumerate(places)
    ]
    graph = {str(n): {"class_type": place, "inputs": {"ckpt_name": ""}} for n, place in enumerate(places)}
    return Plan(graph=graph, open_models=models)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_only_model_is_taken_with_a_warning(language: Language) -> None:
    before = open_plan("Loader", "Loader")
    plan = settle_models(before, capabilities(Loader__ckpt_name=("a.safetensors",)), language)
    assert [node["inputs"]["ckpt_name"] for node in plan.graph.values()] == ["a.safetensors"] * 2
    assert plan.params == {"model": "a.safetensors"}
    assert len(plan.warnings) == 1
    assert "a.safetensors" in plan.warnings[0]
    assert plan.open_models == []
    assert before.graph["0"]["inputs"]["ckpt_name"] == "", "the plan before is as it was"
    assert settle_models(plan, capabilities(), language) is plan


@pytest.mark.parametrize(
    ("offered", "found"), [((), "none"), (("a", "b"), "2 of them: a, b"), (tuple("abc" * 20), "60 of them")]
)
def test_none_or_several_are_a_question_for_people(offered: tuple[str, ...], found: str) -> None:
    with pytest.raises(Failure) as caught:
        settle_models(open_plan("Loader"), capabilities(Loader__ckpt_name=offered), "en")
    assert caught.value.reason is Reason.MODEL_NOT_CHOSEN
    assert str(caught.value.details["found"]).startswith(found)
    assert len(str(caught.value.details["found"])) < 200


def test_a_model_must_fit_all_its_places() -> None:
    offers = capabilities(Loader__ckpt_name=("a", "b"), Other__ckpt_name=("b", "c"))
    plan = settle_models(open_plan("Loader", "Other"), offers, "en")
    assert plan.params == {"model": "b"}

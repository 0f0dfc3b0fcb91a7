"""From what ComfyUI lists to what is proven: every kind of output that was recorded, and listings that lie."""

import base64
import errno
import io
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handoff.failures import Failure, Reason, Unavailable
from handoff.graph import Graph
from handoff.messages import warn
from tests.servers.simulator import Simulator, start_simulator
from tests.watcher.recorded import LISTINGS
from watcher.collector import MAX_TEXTS, TEXT_LIMIT, Collected, collect, listed, name_outputs
from watcher.comfyui import ComfyUI
from watcher.graph import attempt_graph
from watcher.prompts import Prompt, PromptState

WORK = ".handoff/work/0123456789abcdef-1"
AWAY = ComfyUI("http://127.0.0.1:9")  # nobody is asked, except for previews


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "output" / WORK).mkdir(parents=True)
    return tmp_path / "output"


def put(output: Path, path: str, data: bytes) -> Path:
    file = output / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def prompt_with(outputs: dict[str, Any]) -> Prompt:
    return Prompt(id="p", state=PromptState.SUCCEEDED, outputs=outputs)


def images(*names: str, subfolder: str = WORK, type_: str = "output") -> dict[str, Any]:
    return {"images": [{"filename": name, "subfolder": subfolder, "type": type_} for name in names]}


def gather(
    output: Path,
    outputs: dict[str, Any],
    *,
    graph: Graph | None = None,
    labels: dict[str, str] | None = None,
    **more: Any,
) -> Collected:
    given: dict[str, Any] = {
        "job_id": "job-1",
        "output": str(output),
        "work": WORK,
        "labels": labels or {},
        "started": time.time(),
        "comfyui": AWAY,
    }
    return collect(prompt_with(outputs), graph or {}, **{**given, **more})


def failing(output: Path, outputs: dict[str, Any], **more: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        gather(output, outputs, **more)
    return caught.value


# --- every kind that was recorded -----------------------------------------------------------------------------------


def moved(outputs: Any) -> Any:
    """The recorded listing as it would be had the prefixes been rewritten."""
    return json.loads(json.dumps(outputs).replace('"subfolder": ""', f'"subfolder": "{WORK}"'))


@pytest.mark.parametrize(
    ("case", "number", "expected"),
    [
        ("01", 0, [("job-1.png", "image", "image/png", 64, 64)]),
        ("05", 0, [("job-1-a.png", "image", "image/png", 64, 64), ("job-1-b.png", "image", "image/png", 32, 48)]),
        ("06", 0, [("job-1.png", "image", "image/png", 64, 64)]),  # one file, listed by two nodes
        ("06", 1, [("job-1-a.png", "image", "image/png", 64, 64), ("job-1-b.png", "image", "image/png", 64, 64)]),
        ("07", 0, [(f"job-1-{n}.png", "image", "image/png", 64, 64) for n in (1, 2, 3)]),
        ("07", 1, [(f"job-1-{n}.png", "image", "image/png", 64, 64) for n in (1, 2, 3)]),
        ("09", 0, [("job-1.webp", "image", "image/webp", 64, 64)]),
        ("10", 0, [("job-1.webm", "video", "video/webm", None, None)]),
        ("11", 0, [("job-1.mp4", "video", "video/mp4", None, None)]),
        (
            "12",
            0,
            [("job-1-a.flac", "audio", "audio/flac", None, None), ("job-1-c.mp3", "audio", "audio/mpeg", None, None)],
        ),
        ("13", 0, [("job-1.md", "text", "text/markdown", None, None)]),
        ("14", 0, []),
        ("15", 0, [("job-1.latent", "latent", "application/octet-stream", None, None)]),
        ("16", 1, [("job-1.png", "image", "image/png", 64, 64)]),  # the preview beside it is none
        ("18", 0, [("job-1-1.png", "image", "image/png", 16, 16), ("job-1-2.png", "image", "image/png", 16, 16)]),
        ("18", 1, [("job-1.png", "image", "image/png", 16, 16)]),
    ],
)
def test_recorded_outputs(case: str, number: int, expected: list[Any], output: Path) -> None:
    for name, data in LISTINGS[case]["files"].items():
        put(output, f"{WORK}/{name}", base64.b64decode(data))
    put(output, f"{WORK}/case12_00001.flac", b"fLaC\0\0\0\x22" + bytes(40))
    found = LISTINGS[case]["prompts"][number]
    collected = gather(output, moved(found["outputs"]), graph=found["graph"], labels={"2": "a", "4": "b", "3": "c"})
    assert [(made.name, made.kind, made.media_type, made.width, made.height) for made in collected.outputs] == expected
    assert collected.warnings == []
    for made in collected.outputs:
        data = Path(made.source).read_bytes()
        assert (made.bytes, made.sha256) == (len(data), sha256(data).hexdigest())


def test_recorded_texts(output: Path) -> None:
    put(output, f"{WORK}/case13_00001.md", "hello\nsecond line ü".encode())
    with_file = gather(output, moved(LISTINGS["13"]["prompts"][0]["outputs"]))
    assert [(text.node, text.text) for text in with_file.texts] == [("2", "hello\nsecond line ü")]
    alone = gather(output, LISTINGS["14"]["prompts"][0]["outputs"])
    assert ([text.text for text in alone.texts], alone.outputs) == (["hello any"], [])


def test_nothing_at_all_is_a_failure(output: Path) -> None:
    assert failing(output, LISTINGS["17"]["prompts"][0]["outputs"]).reason is Reason.NO_OUTPUTS
    assert (
        failing(output, {"1": {"images": [], "animated": [True]}, "2": {"result": ["3d/tri.glb", None]}}).reason
        is Reason.NO_OUTPUTS
    )


# --- the listing ----------------------------------------------------------------------------------------------------


def test_every_key_is_looked_through_and_nodes_are_counted_as_people_do() -> None:
    listing = listed(
        {
            "10": {"3d": [{"filename": "m.glb", "subfolder": "", "type": "output"}], "result": ["x.glb", None]},
            "2": {
                "gifs": [{"filename": "v.mp4", "subfolder": "s", "type": "output", "frame_rate": 8}],
                "a_images": [{"filename": "t.png", "type": "temp"}],
            },
            "3": {
                "images": [
                    {"filename": "old-node.png"},
                    {"filename": 5},
                    {"filename": ""},
                    {"filename": "in.png", "type": "input"},
                    None,
                    7,
                ]
            },
            "4": None,
            "5": {"images": {"filename": "x"}, "text": "no list", "string": ["no text"]},
        }
    )
    assert [(file.node, file.path) for file in listing.files] == [
        ("2", "s/v.mp4"),
        ("3", "old-node.png"),
        ("10", "m.glb"),
    ]
    assert [file.path for file in listing.previews] == ["t.png"]
    assert listing.texts == []


def test_texts_are_bounded() -> None:
    listing = listed({"7": {"text": ["ü" * TEXT_LIMIT, *["x"] * 100]}})
    assert len(listing.texts) == MAX_TEXTS
    assert len(listing.texts[0].text.encode()) <= TEXT_LIMIT
    assert [warn(key, "en", **details) for key, details in listing.warnings] == [
        "The text of node 7 was cut after 65536 bytes.",
        "Of the texts only the first 64 were kept; 37 more were left out.",
    ]


def test_a_node_that_cannot_be_named_leaves_a_warning() -> None:
    listing = listed({"1": images("a.png"), "x" * 201: images("b.png"), "y" * 300: {"text": ["x"]}, "z" * 201: None})
    assert [file.filename for file in listing.files] == ["a.png"]
    assert [warn(key, "en", **details) for key, details in listing.warnings] == [
        "The outputs of 2 node(s) were left out: an id may have 200 characters at most."
    ]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["a.png", "../x", "/x", "output", "temp", "\0", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["filename", "subfolder", "type", "images", "text", "1"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["1", "2", "10", "x:1"]), json_values, max_size=4))
def test_any_listing_can_be_read(outputs: dict[str, Any]) -> None:
    listing = listed(outputs)
    for file in (*listing.files, *listing.previews):
        assert isinstance(file.path, str)
        file.shown.encode()
    for text in listing.texts:
        text.model_dump_json()


marks = st.tuples(
    st.sampled_from(["a", "A", "a-1", "a-2", "output", "b_c"]),
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from(["png", "txt", "json"]),
)


@given(st.sampled_from(["job", "status", "a-1", "0_"]), st.lists(marks, max_size=12))
def test_names_are_unique_and_safe(job_id: str, marked: list[tuple[str, str, str]]) -> None:
    names = name_outputs(job_id, marked)
    assert len(names) == len(marked)
    assert len({name.casefold() for name in names} | {"status.json", "job.json", "progress.json"}) == len(names) + 3
    for name, (_, _, extension) in zip(names, marked, strict=True):
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*(-[A-Za-z0-9_-]+)?\.[a-z0-9]+", name)
        assert name.endswith(f".{extension}")
    assert names == name_outputs(job_id, marked)


def test_labels_and_numbers_only_where_they_are_needed() -> None:
    assert name_outputs("j", [("out", "1", "png")]) == ["j.png"]
    assert name_outputs("j", [("out", "1", "png"), ("out", "1", "png")]) == ["j-1.png", "j-2.png"]
    assert name_outputs("j", [("a", "1", "png"), ("b", "2", "png"), ("b", "2", "txt")]) == [
        "j-a.png",
        "j-b-1.png",
        "j-b-2.txt",
    ]
    assert name_outputs("j", [("out", "1", "png"), ("out", "2", "png")]) == ["j-out-1.png", "j-out-2.png"]
    assert name_outputs("status", [("out", "1", "json")]) == ["status-1.json"]


# --- listings that lie ----------------------------------------------------------------------------------------------


def make_fifo(place: Path) -> None:
    os.mkfifo(place)


def make_link(place: Path) -> None:
    place.symlink_to("/etc/hostname")


def make_dangling_link(place: Path) -> None:
    place.symlink_to("nowhere")


def make_socket(place: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.name)
    finally:
        os.chdir(here)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [make_fifo, make_link, make_dangling_link, make_socket, Path.mkdir])
def test_only_regular_files_are_read(make: Callable[[Path], None], output: Path) -> None:
    make(output / WORK / "x.png")
    failure = failing(
        output,
        {"2": images("x.png")},
        graph={"2": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "Save"}}},
    )
    assert failure.reason is Reason.OUTPUT_BROKEN
    assert failure.node is not None
    assert (failure.node.id, failure.node.class_type, failure.node.title) == ("2", "SaveImage", "Save")


@pytest.mark.parametrize(
    ("subfolder", "filename"),
    [
        ("", "../secret.png"),
        ("..", "secret.png"),
        (f"{WORK}/../../../..", "secret.png"),
        (WORK, "../../../../secret.png"),
        ("/", "secret.png"),
        ("", "/etc/hostname"),
        ("{outside}", "secret.png"),
        (WORK, "a\0.png"),
        (WORK, "\ud800.png"),
        ("", "."),
        ("..", ".."),
        (WORK, "x" * 300 + ".png"),
        ("link", "secret.png"),
        (f"{WORK}/link", "secret.png"),
        (".handoff/work/ffffffffffffffff-1", "other.png"),
    ],
)
def test_hostile_names_are_refused(subfolder: str, filename: str, output: Path) -> None:
    outside = put(output.parent, "secret.png", png())
    put(output, ".handoff/work/ffffffffffffffff-1/other.png", png())
    (output / "link").symlink_to(outside.parent)
    (output / WORK / "link").symlink_to(outside.parent)
    failure = failing(output, {"2": images(filename, subfolder=subfolder.replace("{outside}", str(outside.parent)))})
    assert failure.reason is Reason.OUTPUT_BROKEN
    str(failure.details["file"]).encode()


def test_a_file_that_is_not_there(output: Path) -> None:
    assert failing(output, {"2": images("gone.png")}).reason is Reason.OUTPUT_MISSING
    assert failing(output, {"2": images("gone.png", subfolder="no/such/folder")}).reason is Reason.OUTPUT_MISSING


def test_an_output_folder_that_is_away_is_no_failure_of_the_job(output: Path) -> None:
    with pytest.raises(Unavailable):
        gather(output / "unmounted", {"2": images("x.png")})


def test_a_disk_that_fails_is_no_failure_of_the_job(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    put(output, f"{WORK}/x.png", png())
    monkeypatch.setattr("watcher.collector.examine", fail)
    with pytest.raises(Unavailable, match=r"x\.png .*Stale file handle"):
        gather(output, {"2": images("x.png")})


def test_a_file_elsewhere_is_taken_when_it_is_new(output: Path) -> None:
    put(output, "mine/x.png", png())
    collected = gather(output, {"2": images("x.png", subfolder="mine")})
    assert [made.source for made in collected.outputs] == [f"{output}/mine/x.png"]
    assert [warn(key, "en", **details) for key, details in collected.warnings] == [
        "mine/x.png was saved outside this job's own folder by a node that chooses its own place."
    ]


def test_a_file_elsewhere_is_refused_when_it_is_older(output: Path) -> None:
    file = put(output, "mine/x.png", png())
    os.utime(file, (time.time(), time.time() - 10))
    assert failing(output, {"2": images("x.png", subfolder="mine")}).reason is Reason.OUTPUT_BROKEN


def test_every_output_is_flushed_to_the_disk(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    files = [put(output, f"{WORK}/{n}.png", png()) for n in range(3)]
    gather(output, {"2": images(*(file.name for file in files))})
    assert flushed == [file.stat().st_ino for file in files]


# --- from a graph to its outputs, over a server ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def running_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with start_simulator(tmp_path_factory.mktemp("comfyui")) as simulator:
        yield simulator


@pytest.fixture
def simulator(running_simulator: Simulator) -> Iterator[Simulator]:
    yield running_simulator
    running_simulator.control(reset=True)


def run(simulator: Simulator, graph: Graph) -> Collected:
    work = f".handoff/work/{uuid.uuid4().hex[:16]}-1"
    prepared, labels, _ = attempt_graph(graph, work)
    comfyui, prompt_id, started = ComfyUI(simulator.url), str(uuid.uuid4()), time.time()
    try:
        comfyui.submit(prompt_id, prepared, client_id="c", extra_data={})
        while (prompt := comfyui.look_up(prompt_id)) is None or not prompt.state.done:
            assert time.time() < started + 10
            time.sleep(0.01)
        output = str(simulator.output_dir)
        return collect(
            prompt, prepared, job_id="j", output=output, work=work, labels=labels, started=started, comfyui=comfyui
        )
    finally:
        comfyui.close()


def saving(*prefixes: str, class_type: str = "SaveImage", size: int = 32, batch: int = 1) -> Graph:
    color = uuid.uuid4().int % (1 << 24)
    graph: Graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": batch, "color": color},
        }
    }
    for number, prefix in enumerate(prefixes, 2):
        inputs = {"images": ["1", 0], **({"filename_prefix": prefix} if class_type == "SaveImage" else {})}
        graph[str(number)] = {"class_type": class_type, "inputs": inputs}
    return graph


def test_a_whole_run(simulator: Simulator) -> None:
    collected = run(simulator, saving("ComfyUI", batch=2))
    assert [(made.name, made.width, made.height) for made in collected.outputs] == [
        ("j-1.png", 32, 32),
        ("j-2.png", 32, 32),
    ]
    assert collected.warnings == []


def test_two_nodes_with_one_prefix_keep_their_own_files(simulator: Simulator) -> None:
    collected = run(simulator, saving("x/out", "out", "%date%/other"))
    assert [(made.name, made.node) for made in collected.outputs] == [
        ("j-out-1.png", "2"),
        ("j-out-2.png", "3"),
        ("j-other.png", "4"),
    ]
    assert len({made.source for made in collected.outputs}) == 3


def test_previews_alone_are_fetched_at_once(simulator: Simulator) -> None:
    collected = run(simulator, saving("", class_type="PreviewImage", batch=2))
    assert [made.name for made in collected.outputs] == ["j-1.png", "j-2.png"]
    assert [key for key, _ in collected.warnings] == ["previews"]
    for made in collected.outputs:
        assert ".handoff/work/" in made.source
        assert sha256(Path(made.source).read_bytes()).hexdigest() == made.sha256


def test_the_same_graph_twice_has_files_of_its_own(simulator: Simulator) -> None:
    graph = saving("same")
    first, second = run(simulator, graph), run(simulator, graph)
    assert first.outputs[0].source != second.outputs[0].source
    assert second.warnings == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", Reason.OUTPUT_MISSING),
        ("empty", Reason.OUTPUT_BROKEN),
        ("truncated", Reason.OUTPUT_BROKEN),
        ("symlink", Reason.OUTPUT_BROKEN),
        ("traversal", Reason.OUTPUT_BROKEN),
    ],
)
def test_a_success_that_is_none(fault: str, reason: Reason, simulator: Simulator) -> None:
    simulator.control(outputs=[fault])
    with pytest.raises(Failure) as caught:
        run(simulator, saving("x"))
    assert caught.value.reason is reason
    assert caught.value.node is not None
    assert caught.value.node.class_type == "SaveImage"


def test_a_preview_is_not_written_through_a_link(simulator: Simulator, output: Path) -> None:
    (output / WORK).rmdir()
    (output / WORK).symlink_to(output.parent)
    comfyui = ComfyUI(simulator.url)
    with pytest.raises(Unavailable):
        gather(output, {"2": images("x.png", subfolder="", type_="temp")}, comfyui=comfyui)
    assert [place.name for place in output.parent.iterdir()] == ["output"]
    comfyui.close()


@pytest.mark.parametrize("link", [".handoff", ".handoff/work"])
def test_no_folder_is_made_behind_a_link(link: str, output: Path) -> None:
    outside = output.parent / "outside"
    outside.mkdir()
    shutil.rmtree(output / link)
    (output / link).symlink_to(outside)
    with pytest.raises(Unavailable):
        gather(output, {"2": images("x.png", subfolder="", type_="temp")})
    assert list(outside.iterdir()) == []


def test_the_folder_of_a_preview_is_made(simulator: Simulator, output: Path) -> None:
    shutil.rmtree(output / ".handoff")
    comfyui = ComfyUI(simulator.url)
    failure = failing(output, {"2": images("gone.png", subfolder="", type_="temp")}, comfyui=comfyui)
    assert failure.reason is Reason.OUTPUT_MISSING
    assert (output / WORK).is_dir()
    comfyui.close()


def test_a_preview_that_is_gone(simulator: Simulator, output: Path) -> None:
    comfyui = ComfyUI(simulator.url)
    failure = failing(
        output, {"2": images("ComfyUI_temp_gone_00001_.png", subfolder="", type_="temp")}, comfyui=comfyui
    )
    assert failure.reason is Reason.OUTPUT_MISSING
    assert failure.node is not None
    comfyui.close()


def test_what_could_not_be_flushed_is_written_again_before_the_next_try(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next fsync would succeed without the pages that were lost."""
    file = put(output, f"{WORK}/a.png", png())
    os.utime(file, (1, 1))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        gather(output, {"9": images("a.png")})
    assert file.stat().st_mtime > 1
    assert file.read_bytes() == png()

"""Whatever almost-right input comes, only the failures that are documented come out, and soon."""

import io
import json
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handoff.decode import canonical, decode
from handoff.documents import UnreadableDocument
from handoff.failures import Failure
from handoff.fetch import judge_url, shown
from handoff.graph import Graph, check_graph
from handoff.job import apply_set, open_seeds, parse_job
from handoff.masking import mask_value
from handoff.messages import render
from handoff.pictures import Limits, _DecodeError, _measure
from handoff.spool.record import Record, Tombstone
from handoff.status import StatusDocument, describe_failure
from tests.conftest import SOAK
from tests.figures import Note
from tests.hostile.corpus import read_corpus
from tests.hostile.mutation import Mutator
from tests.watcher.recorded import CASES, LISTINGS
from tests.workflows.samples import OBJECT_INFO
from watcher.capabilities import Capabilities, choices, lacks, read_capabilities
from watcher.collector import listed, name_outputs
from watcher.comfyui import Unclear, _validate
from watcher.comfyui_events import read_event
from watcher.graph import attempt_graph, clean_graph, denied, hide_secrets, masked_graph
from watcher.media import Broken, examine
from watcher.prompts import HistoryEntry, JobAnswer, QueueAnswer, failure_of
from watcher.refusals import PromptAnswer, read_refusal, read_unknown_refusal
from workflows.catalogue import Catalogue
from workflows.filling import fill
from workflows.template import Template, parse

CASES_EACH = 20_000 if SOAK else 300
SLOW_S = 2.0
GROWTH_MIB = 400
NOW = "2026-11-24T08:00:00.000Z"
WORK = ".handoff/work/0123456789abcdef-1"
SMALL = 20_000  # bytes of a file that is worth changing

CORPUS = [case.data for case in read_corpus() if len(case.data) < SMALL]
TEMPLATES = [template for template in Catalogue(None).list() if isinstance(template, Template)]


def jobs() -> list[Any]:
    found = []
    for data in CORPUS:
        try:
            found.append(decode(data))
        except Failure:
            continue
    return found


JOBS = jobs()
GRAPHS: list[Any] = [template.graph for template in TEMPLATES] + [
    job["graph"] for job in JOBS if isinstance(job, dict) and isinstance(job.get("graph"), dict) and job["graph"]
]
GRAPH: Graph = clean_graph(TEMPLATES[0].graph)


def answers(path: str) -> list[Any]:
    """What ComfyUI answered to requests whose path begins like this."""
    steps = [step for case in CASES.values() for step in case["steps"]]
    return [
        step["response"]["json"]
        for step in steps
        if step["request"]["path"].startswith(path) and step["response"].get("json") is not None
    ]


PROMPT_ANSWERS = answers("/prompt")
ERROR = {
    "node_id": "1", "node_type": "KSampler", "exception_type": "ValueError", "exception_message": "bad\nworse",
    "traceback": ["x"], "current_inputs": {"a": [1]}, "timestamp": 1700000000000,
}  # fmt: skip
MESSAGES = [
    ["execution_start", {"timestamp": 1700000000000}], ["execution_cached", {"nodes": ["1"], "timestamp": 1700000000001}],
    ["execution_error", ERROR],
]  # fmt: skip
JOB_ANSWERS = [
    {"id": "x", "status": status, "outputs": listing, "execution_status": {"status_str": "error", "messages": MESSAGES}, "execution_error": ERROR}
    for status in ("completed", "failed", "cancelled", "pending")
    for listing in (list(LISTINGS.values()) if isinstance(LISTINGS, dict) else LISTINGS)[:4]
]  # fmt: skip
QUEUES = [{"queue_running": [[1, "a", GRAPH, {"handoff": {"id": "a", "token": "t", "attempt": 1}}, ["9"]]], "queue_pending": [[2, "b", {}, {}, []], [1.5, "c", {}, {}, []]]}]  # fmt: skip
EVENTS = [{"type": kind, "data": {"prompt_id": "x", "node": "1", "value": 1, "max": 20}} for kind in ("execution_start", "executing", "progress", "execution_error")]  # fmt: skip
STATS = [{"system": {"comfyui_version": "0.33", "simulated": True}, "devices": [{"name": "cuda:0", "type": "cuda", "vram_total": 1, "vram_free": 1}]}]  # fmt: skip

STATUS = {
    "schema": 1, "id": "a", "status": "succeeded", "done": True, "ok": True, "created_at": "2026-11-24T08:30:15.000Z",
    "outputs": [{"name": "a.png", "kind": "image", "media_type": "image/png", "bytes": 1, "sha256": "0", "key": "k", "width": 1, "height": 1, "url": None}],
    "error": {"reason": "lost", "message": "m", "hint": "h", "retryable": True, "node": {"id": "1", "class": "X", "title": None}}, "metadata": {}, "warnings": [],
}  # fmt: skip
RECORD = {
    "schema": 1, "token": "0123456789abcdef", "id": "a", "sha256": "0", "received_at": "2026-11-24T08:30:15.000Z", "body": {"prompt": "x"},
    "job": {"graph": GRAPH, "params": {}, "open_models": []}, "attempt": 1, "tries": [{"attempt": 1, "ended": "lost", "strike": True}],
}  # fmt: skip
TOMBSTONE = {"schema": 1, "token": "0123456789abcdef", "sha256": "0", "status": "failed", "finished_at": "2026-11-24T08:30:15.000Z"}  # fmt: skip


def draw_pictures() -> list[tuple[str, bytes]]:
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        image = Image.effect_noise((16, 16), 80).convert("RGB" if kind != "GIF" else "P")
        more = {"save_all": True, "append_images": [image] * 2} if kind in ("GIF", "WEBP", "TIFF") else {}
        image.save(file, kind, **more)
        found.append((f"x.{kind.lower()}", file.getvalue()))
    found += [
        ("x.txt", b"text"),
        ("x.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42\0\0\0\x08moov"),
        ("x.wav", b"RIFF\x04\0\0\0WAVE"),
    ]
    return found


PICTURES = draw_pictures()


def fuzz_decode(data: bytes) -> None:
    value = decode(data)
    assert decode(canonical(value)) == value


def fuzz_job(value: Any) -> None:
    job = parse_job(value, default_workflow="txt2img")
    again = parse_job(job.body, default_workflow="txt2img")
    assert (again.sha256, again.graph, again.params) == (job.sha256, job.graph, job.params)
    canonical(job.body)


def fuzz_graph(value: Any) -> None:
    before = json.dumps(value)
    check_graph(value)
    graph = clean_graph(value)
    open_seeds(graph)  # type: ignore[arg-type]
    denied(graph, ("X",))
    prepared, labels, _ = attempt_graph(graph, WORK)
    check_graph(prepared)
    prefixes = [node["inputs"]["filename_prefix"] for node in prepared.values() if "filename_prefix" in node["inputs"]]
    assert all(prefix.startswith(f"{WORK}/") and ".." not in prefix and "%" not in prefix for prefix in prefixes)
    assert len({prefix.casefold() for prefix in prefixes}) == len(prefixes) == len(labels)
    json.dumps(masked_graph(graph), allow_nan=False)
    hide_secrets("x", graph)
    lacks(graph, Capabilities(version="", devices=(), simulated=True, classes=frozenset(), models={}))
    assert json.dumps(value) == before


def fuzz_set(value: Any) -> None:
    graph = {"1": {"class_type": "A", "inputs": {"a.b": 1, "c": 2}, "_meta": {"title": "T.t"}}}
    overrides = {"1.c": value} if not isinstance(value, dict) else {str(key): inner for key, inner in value.items()}
    check_graph(apply_set(graph, overrides))  # type: ignore[arg-type]


def fuzz_parameters(value: Any) -> None:
    if isinstance(value, dict):
        for template in TEMPLATES:
            try:
                filled = fill(template, value, draw_seed=lambda: 5)
            except Failure:
                continue
            assert fill(template, filled.params, draw_seed=lambda: 6).graph == filled.graph
        fill(TEMPLATES[0], value, draw_seed=lambda: 5)


def fuzz_template(data: bytes) -> None:
    graph, _, table = data.partition(b"\n--\n")
    parse("x", graph, table)


def fuzz_listing(value: Any) -> None:
    if not isinstance(value, dict):
        return
    listing = listed(value)
    for file in (*listing.files, *listing.previews):
        assert len(file.shown) <= 200
    names = name_outputs("id", [("label", file.node, "png") for file in listing.files])
    assert len({name.casefold() for name in names}) == len(names)
    StatusDocument(id="a", created_at=NOW, texts=listing.texts).to_bytes()


def fuzz_job_answer(value: Any) -> None:
    prompt = _validate(value, "GET", JobAnswer).to_prompt("x")
    tell(failure_of(prompt, GRAPH))
    fuzz_listing(prompt.outputs)


def fuzz_history(value: Any) -> None:
    if isinstance(value, dict):
        value = {"outputs": value.get("outputs"), "status": value.get("execution_status")}
    tell(failure_of(_validate(value, "GET", HistoryEntry).to_prompt("x"), GRAPH))


def fuzz_queue(value: Any) -> None:
    _validate(value, "GET", QueueAnswer).to_queue()


def fuzz_refusal(value: Any) -> None:
    tell(read_refusal(_validate(value, "POST", PromptAnswer), GRAPH))


def fuzz_capabilities(value: Any) -> None:
    info = value if isinstance(value, dict) else {}
    found = read_capabilities(STATS[0], info)
    again = Capabilities.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    for class_type in list(info)[:3]:
        choices(found, class_type, "ckpt_name")


def fuzz_stats(value: Any) -> None:
    if isinstance(value, dict):
        json.dumps(read_capabilities(value, {}).to_json())


def fuzz_document(kind: type[StatusDocument | Record | Tombstone], data: bytes) -> None:
    document = kind.from_bytes(data, "x")
    if isinstance(document, Record):
        assert len(document.rank) == 20
    written = document.to_bytes()
    assert kind.from_bytes(written, "x").to_bytes() == written


def fuzz_media(picture: tuple[str, bytes]) -> None:
    name, data = picture
    examine(io.BytesIO(data), name, head=data[:64], tail=data[-64:], size=len(data))


def fuzz_picture(picture: tuple[str, bytes]) -> None:
    _measure(picture[1], Limits(pixels=1_000_000))


def fuzz_url(value: Any) -> None:
    text = f"http://{value}" if isinstance(value, str) else str(value)
    shown(text).encode()
    judge_url(text, ("example.com", "*.example.com"))


def fuzz_masking(value: Any) -> None:
    secret = "canary-canary"
    masked = mask_value("inputs", {"api_key": secret, "other": {"a": value, "token": [secret, {"a": secret}, value]}})
    assert secret not in json.dumps(masked)


def tell(failure: Failure) -> None:
    """A reason file, a status document and a log line can hold it."""
    render(failure, "zh").message.encode()
    assert all(len(str(detail)) <= 1000 for detail in failure.details.values())
    StatusDocument(id="a", created_at=NOW, error=describe_failure(failure, "en", id="a")).to_bytes()


Seed = Any


@dataclass(frozen=True)
class Target:
    run: Callable[[Any], object]
    seeds: Iterable[Seed]
    allowed: tuple[type[Exception], ...] = (Failure,)


def files(*documents: Any) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


WORKFLOWS = Path(__file__).parents[2] / "workflows"
TARGETS = {
    "decoder": Target(fuzz_decode, CORPUS),
    "job": Target(fuzz_job, JOBS),
    "graph": Target(fuzz_graph, GRAPHS),
    "set": Target(fuzz_set, [{"1.c": 5}, {"T.t.a.b": 5, "A.c": 6}]),
    "parameters": Target(
        fuzz_parameters,
        [{"prompt": "x", "width": 64, "seed": -1}, {"width": 8, "color": 5}, {"image": "a.png", "strength": 0.5}],
    ),
    "template": Target(
        fuzz_template,
        [
            path.read_bytes() + b"\n--\n" + path.with_suffix(".toml").read_bytes()
            for path in sorted(WORKFLOWS.glob("*.json"))
        ],
        (),
    ),
    "listing": Target(fuzz_listing, list(LISTINGS.values()) if isinstance(LISTINGS, dict) else LISTINGS, ()),
    "job_answer": Target(fuzz_job_answer, JOB_ANSWERS, (Unclear,)),
    "history": Target(fuzz_history, JOB_ANSWERS, (Unclear,)),
    "queue": Target(fuzz_queue, QUEUES, (Unclear,)),
    "refusal": Target(fuzz_refusal, PROMPT_ANSWERS, (Unclear,)),
    "unknown_refusal": Target(lambda value: tell(read_unknown_refusal(value)), PROMPT_ANSWERS, ()),
    "object_info": Target(fuzz_capabilities, [OBJECT_INFO], ()),
    "system_stats": Target(fuzz_stats, STATS, ()),
    "event": Target(read_event, EVENTS, ()),
    "status": Target(partial(fuzz_document, StatusDocument), files(STATUS), (UnreadableDocument,)),
    "record": Target(partial(fuzz_document, Record), files(RECORD), (UnreadableDocument,)),
    "tombstone": Target(partial(fuzz_document, Tombstone), files(TOMBSTONE), (UnreadableDocument,)),
    "media": Target(fuzz_media, PICTURES, (Broken,)),
    "picture": Target(fuzz_picture, PICTURES, (_DecodeError,)),
    "url": Target(fuzz_url, ["example.com/a.png?x", "me:pw@example.com", "[::1]:80/"]),
    "masking": Target(fuzz_masking, JOBS, ()),
}


def change(mutator: Mutator, seed: Seed) -> Seed:
    """Documents are broken by their values as often as by their bytes."""
    match seed:
        case bytes() if seed[:1] == b"{" and mutator.random.random() < 0.5:
            try:
                return json.dumps(mutator.value(json.loads(seed))).encode()
            except ValueError:
                return mutator.data(seed)
        case bytes():
            return mutator.data(seed)
        case (str() as name, bytes() as data):
            return name, mutator.data(data)
        case _:
            return mutator.value(seed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_failures_come_out(name: str, note: Note) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds)
    mutator = Mutator(sum(name.encode()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, slowest = 0, 0.0
    for number in range(CASES_EACH):
        case = change(mutator, seeds[number % len(seeds)])
        started = time.process_time()
        try:
            target.run(case)
        except target.allowed as failure:
            refused += 1
            if isinstance(failure, Failure):
                tell(failure)
        except Exception as error:
            raise AssertionError(f"case {number}: {repr(case)[:2000]}") from error
        slowest = max(slowest, time.process_time() - started)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    note(cases=CASES_EACH, refused=refused, slowest_ms=slowest * 1000, grown_by_mib=grown_mib)
    assert slowest < SLOW_S
    assert grown_mib < GROWTH_MIB


def test_a_soak_has_four_hundred_thousand_cases() -> None:
    assert len(TARGETS) * 20_000 >= 400_000

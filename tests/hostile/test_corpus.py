"""Every file of the corpus ends exactly as it says: in the parser alone, and in a house whose other jobs never notice."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from handoff.decode import decode
from handoff.failures import Failure
from handoff.job import parse_job
from handoff.pictures import NotYet, Pictures
from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.hostile.corpus import RUN, read_corpus
from tests.servers.simulator import Simulator
from watcher.planning import Planner
from workflows.catalogue import Catalogue

CORPUS = read_corpus()


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    root = tmp_path_factory.mktemp("planner")
    for name in ("input/uploads", "scratch"):
        (root / name).mkdir(parents=True)
    return Planner(
        catalogue=Catalogue(None),
        pictures=Pictures(root / "input", root / "scratch"),
        language="en",
        allow_graphs=True,
        node_deny=(),
    )


def judge(data: bytes, planner: Planner) -> str:
    """What becomes of a file as far as this process alone decides it."""
    try:
        planner.plan(parse_job(decode(data), default_workflow="txt2img"), may_fetch=True)
    except Failure as failure:
        return failure.reason
    except NotYet as missing:
        return missing.failure(60).reason
    return "taken"


def test_the_corpus_is_large_and_each_class_has_a_name() -> None:
    assert len(CORPUS) >= 600
    assert len({case.data for case in CORPUS}) >= 600
    assert min(Counter(case.kind for case in CORPUS).values()) >= 10


def test_the_parser_alone_judges_each_file_as_the_corpus_says(planner: Planner, note: Note) -> None:
    wrong, longest = {}, 0.0
    for case in CORPUS:
        data = case.data
        started = time.process_time()
        found = judge(data, planner)
        longest = max(longest, time.process_time() - started)
        if found != ("taken" if case.outcome in RUN else case.outcome):
            wrong[case.file_name] = (found, case.outcome)
    note(files=len(CORPUS), judged_wrongly=len(wrong), longest_ms=longest * 1000)
    assert wrong == {}
    assert longest < 5


def test_a_house_takes_the_whole_corpus_and_other_jobs_never_notice(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    watcher = watch(simulator, settle_s=1, picture_wait_s=1)
    watcher.wait_for("comfyui_up")
    idle_mib = memory_mib(watcher.process.pid)
    started = time.monotonic()
    honest = []
    for number, case in enumerate(CORPUS):
        volume.drop(case.file_name, case.data)
        if number % 50 == 0:
            honest.append(f"honest-{number}")
            volume.drop(f"honest-{number}.json", canvas(priority=100, id=f"honest-{number}"))
    eventually(lambda: not list(volume.input.glob("*.json")), "every file is taken in or rejected")
    taken = sum(case.outcome in RUN for case in CORPUS)
    eventually(lambda: len(watcher.find("job")) >= taken + len(honest), "every job ends")
    seconds = time.monotonic() - started
    assert {id: volume.jobs()[id]["status"] for id in honest} == dict.fromkeys(honest, "succeeded")
    found = outcomes(volume)
    wrong = {
        case.file_name: (found.get(case.file_name), case.outcome)
        for case in CORPUS
        if found.get(case.file_name) != (case.outcome, RUN.get(case.outcome, "rejected"))
    }
    grown_mib = memory_mib(watcher.process.pid) - idle_mib
    note(
        files=len(CORPUS), taken_as_jobs=taken, ended_wrongly=len(wrong), ms_per_file=seconds / len(CORPUS) * 1000,
        most_memory_mib=idle_mib + grown_mib, grown_by_mib=grown_mib,
    )  # fmt: skip
    assert wrong == {}
    assert grown_mib < 200
    check_promises(volume, simulator, watchers=(watcher,))


def outcomes(volume: Volume) -> dict[str, tuple[str, str]]:
    """By the name under which it was dropped: the reason or `succeeded`, and the final status."""
    found = {
        status["source"]: ("succeeded" if status["ok"] else status["error"]["reason"], status["status"])
        for status in volume.jobs().values()
        if status["done"]
    }
    for path in (volume.input / "rejected").glob("*.reason.json"):
        reason = json.loads(path.read_bytes())
        found[reason["file"]] = (reason["reason"], "rejected")
    return found


def memory_mib(pid: int) -> float:
    """The most that the process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

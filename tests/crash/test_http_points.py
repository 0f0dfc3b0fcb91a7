"""kill -9 of the watcher at every HTTP call of a job's life, to ComfyUI and to a real S3 server.

The points are counted, not guessed: a life of the house runs through two proxies, which write down each call. Then every
one of them is met three times.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest

from tests.conftest import SOAK
from tests.crash.life import House, check_nothing_is_left
from tests.crash.proxy import Moment, running_proxy
from tests.e2e.conftest import make_root, run_simulator
from tests.e2e.jobs import Job, canvas
from tests.e2e.place import S3Bucket
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.servers.rgw import S3Server
from tests.servers.watcher import Watcher, start_watcher

SHARES = 4
"""Tests into which the points are dealt, so that several processors can work on them."""
TRIES = 3  # how often a life is lived in which the call does not come
SETTINGS: dict[str, Any] = {"settle_s": 0.3, "scan_s": 0.5, "watcher_name": "one"}

_heights = itertools.count(2048, 8)


def large() -> Job:
    """Its output, 20 MB, goes into the bucket in parts."""
    nodes = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 2048, "height": next(_heights), "batch_size": 20}},
        "9": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "large"}},
    }
    return {"graph": nodes}


@dataclass(frozen=True)
class Case:
    peer: str
    point: str
    moment: Moment
    in_new_house: bool = False
    """Some calls are made but once: the very first one to the bucket."""


LATENT = ".latent"
GOOD = "/test-*/jobs/good-#-@"
SAMPLE = [
    Case("comfyui", "POST /prompt #1", "unanswered"),
    Case("comfyui", "POST /api/jobs/*/cancel #1", "before"),
    Case("bucket", f"PUT {GOOD}/good-#-@.latent?partNumber&uploadId #1", "answered"),
    Case("bucket", "PUT /test-*/jobs/sent-#/status.json #1", "unanswered"),
]


class Site:
    """A house whose watchers speak to both peers through proxies."""

    def __init__(self, s3: S3Server, stack: contextlib.ExitStack, module: str) -> None:
        self.s3 = s3
        self.module = module
        self.stack = stack
        self.bucket = S3Bucket(s3.client(), s3.make_bucket())
        stack.callback(self.bucket.client.close)
        volume = Volume.make(stack.enter_context(make_root()) / "volume", self.bucket)
        simulator = stack.enter_context(run_simulator(volume))
        self.proxies = {
            "comfyui": stack.enter_context(running_proxy(simulator.url)),
            "bucket": stack.enter_context(running_proxy(s3.endpoint)),
        }
        self.house = House(volume, simulator, self.start)
        self.calls: dict[str, list[str]] = {}
        """Of the watcher that was started last with a case."""
        self.incomplete: list[str] = []
        """Keys that a final status in the bucket named when a watcher was killed, and that were not there."""

    def start(self, case: Case | None = None) -> Watcher:
        started: list[Watcher] = []

        def kill() -> None:
            started[0].kill()
            self.incomplete += self._find_incomplete()

        for peer, proxy in self.proxies.items():
            if case is not None and case.peer == peer:
                proxy.begin(case.point, case.moment, kill)
            else:
                proxy.begin()
        if case is not None:
            self.calls = {peer: proxy.seen for peer, proxy in self.proxies.items()}
        settings = {**SETTINGS, **self.s3.environment(), "bucket": self.bucket.name, "module": self.module}
        settings["HANDOFF_S3_ENDPOINT_URL"] = self.proxies["bucket"].url
        started.append(start_watcher(self.house.volume.root, self.proxies["comfyui"].url, **settings))
        return self.stack.enter_context(started[0])

    def live(self, case: Case) -> bool:
        """Whether the watcher was killed. Another one has finished its jobs by then."""
        self.house.good = large if LATENT in case.point else canvas
        (was_killed,) = self.house.live({"case": case})
        assert self.incomplete == [], "a status in the bucket was incomplete"
        self.bucket.check_objects(self.house.volume)
        return was_killed

    def _find_incomplete(self) -> list[str]:
        keys = self.bucket.list_keys()
        named = set()
        for key in keys:
            if key.endswith("/status.json"):
                document = json.loads(self.bucket.get(key) or b"")
                named |= {output["key"] for output in document["outputs"]} | {f"jobs/{document['id']}/job.json"}
        return sorted(named - keys)


@contextlib.contextmanager
def open_site(s3: S3Server, module: str = "handoff_cli") -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(s3, stack, module)


def count_points(site: Site, point: str) -> list[tuple[str, str]]:
    """Every call of a whole life to ComfyUI and to the bucket. `point`: one that is never met; it chooses the good job."""
    assert not site.live(Case("comfyui", point, "before"))
    return [(peer, call) for peer, calls in site.calls.items() for call in calls]


@pytest.fixture(scope="module")
def cases(s3_server: S3Server) -> list[Case]:
    if not SOAK:
        return SAMPLE
    with open_site(s3_server) as site:
        first, later = count_points(site, LATENT), count_points(site, LATENT) + count_points(site, "")
    return [
        Case(peer, call, moment, in_new_house=(peer, call) not in later)
        for peer, call in dict.fromkeys(first + later)
        for moment in get_args(Moment)
    ]


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("share", range(SHARES if SOAK else 1))
def test_killed_at_every_call_to_comfyui_and_to_the_bucket(
    cases: list[Case], share: int, s3_server: S3Server, note: Note
) -> None:
    mine = cases[share::SHARES] if SOAK else cases
    with open_site(s3_server) as site:
        missed = {case for case in mine if not any(meet(site, case) for _ in range(TRIES))}
        check_nothing_is_left(site.house.volume, site.start)
        note(points=len(mine), kills=len(mine) - len(missed), not_met=len(missed), **site.house.count())
    assert len(missed) <= len(mine) // 20, missed


def meet(site: Site, case: Case) -> bool:
    """Whether the call came in this run: how often ComfyUI is asked for a job depends on the moment."""
    if case.in_new_house:
        with open_site(site.s3) as new:
            return meet(new, replace(case, in_new_house=False))
    try:
        return site.live(case)
    except Exception as error:
        error.add_note(f"killed at {case}")
        raise


@pytest.mark.skipif(not SOAK, reason="a control")
@pytest.mark.parametrize(
    ("fault", "case", "noticed"),
    [
        ("no_look_up_before_resubmitting", Case("comfyui", "POST /prompt #1", "answered"), "was executed 2 times"),
        (
            "status_before_objects",
            Case("bucket", f"POST {GOOD}/good-#-@.latent?uploads #1", "before"),
            "the bucket has no",
        ),
    ],
)
def test_a_mistake_is_noticed(s3_server: S3Server, fault: str, case: Case, noticed: str) -> None:
    with open_site(s3_server, f"tests.planted {fault}") as site, pytest.raises(AssertionError, match=noticed):
        meet(site, case)

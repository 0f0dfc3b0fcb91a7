"""What a power loss may take away: every call of a real watcher's life is written down, and the order of flushes audited."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, sleeping
from tests.e2e.promises import check_promises, remember_executions
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.planted import calls
from tests.planted.flushes import FOLDERS, RULES, Audit
from tests.servers.debian import need
from tests.servers.simulator import Simulator
from tests.servers.watcher import LIMIT_S, ROOT, Watcher

FLUSHES = {
    "nothing_flushed": {"the file", "its name"},
    "files_not_flushed": {"the file"},
    "folders_not_flushed": {"its name"},
    "final_status_not_flushed": {"the file", "its name"},
}
"""Planted mistakes that only this audit can find, and what it says of them that is not flushed."""


class House:
    """Two watchers, the second after a kill of the first, and a command line; every call of theirs is written down."""

    def __init__(self, volume: Volume, simulator: Simulator, start: StartWatcher, *wrap: str, **settings: Any) -> None:
        self.volume = volume
        self._simulator = simulator
        self._start = start
        self._wrap = wrap
        self._settings = {"settle_s": 0.3, **settings}

    def audit_all(self) -> Audit:
        first = self._watch(1)
        self._draw_one()
        self.volume.drop("gone.json", sleeping(60, id="gone"))
        self._wait_until_started("gone")
        (self.volume.input / "gone.cancel").touch()
        self.volume.finish("gone.json")
        self._submit("sent")
        eventually(lambda: (job := self.volume.status("sent")) and job["done"], "it is done")
        self.volume.drop("long.json", sleeping(1.0, id="long"))
        self._wait_until_started("long")
        first.kill()
        remember_executions(self.volume, self._simulator)
        self._simulator.restart()  # so that its heir sends something, too
        second = self._watch(2)
        second.wait_for("took_over")
        self.volume.succeed("long.json")
        check_promises(self.volume, self._simulator, allowed={"long.json": 2}, watchers=(first, second))
        assert second.terminate() == 0
        return self._audit(1, "submit", 2)

    def audit_one(self) -> Audit:
        """Enough to show that the audit can fail."""
        watcher = self._watch(1)
        self._draw_one()
        check_promises(self.volume, self._simulator, watchers=(watcher,))
        assert watcher.terminate() == 0
        return self._audit(1)

    def _audit(self, *parts: object) -> Audit:
        logs = [self._log(part) for part in parts]
        eventually(lambda: all(calls.is_over(log) for log in logs), "strace has written everything")
        audit = Audit(str(self.volume.root.resolve()), calls.read_calls(*logs))
        audit.run()
        return audit

    def _draw_one(self) -> None:
        self.volume.drop("good.json", canvas(id="good"))
        self.volume.drop("bad.json", b'{"hello": 1}')
        self.volume.succeed("good.json")
        self.volume.reason("bad.json")

    def _wait_until_started(self, id: str) -> None:
        eventually(lambda: (job := self.volume.status(id)) and job["started_at"], f"{id} runs")

    def _watch(self, number: int) -> Watcher:
        wrap = (*calls.wrap(self._log(number)), *self._wrap)
        watcher = self._start(self._simulator, wrap=wrap, **self._settings)
        watcher.wait_for("comfyui_up")
        return watcher

    def _submit(self, id: str) -> None:
        folders = {
            f"HANDOFF_{name.upper()}_DIR": str(self.volume.root / name) for name in ("input", "output", "workflows")
        }
        subprocess.run(
            [
                *calls.wrap(self._log("submit")),
                *self._wrap,
                sys.executable,
                "-m",
                "handoff_cli",
                "submit",
                "canvas",
                "--id",
                id,
            ],
            env={**os.environ, **folders, "PYTHONPATH": str(ROOT)},
            cwd=self.volume.root,
            check=True,
            capture_output=True,
            timeout=LIMIT_S,
        )

    def _log(self, part: object) -> Path:
        return self.volume.root / f"calls-{part}.log"


@pytest.fixture(autouse=True)
def strace() -> None:
    need("strace")


def test_whatever_is_relied_upon_was_flushed_before(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    audit = House(volume, simulator, watch).audit_all()
    assert not audit.findings, "\n".join(audit.findings)
    exempt = {rule.name for rule in RULES if rule.exempt}
    assert audit.seen.keys() == {rule.name for rule in RULES}, "a rule that nothing falls under proves nothing"
    relied_upon = {(rule.name, event) for rule in (*RULES, *FOLDERS) for event in rule.before}
    assert relied_upon - audit.met == set(), "an event that never came proves nothing"
    total = audit.seen.total()
    audited = sum(count for name, count in audit.seen.items() if name not in exempt)
    note(
        renames_and_links=total,
        audited=audited,
        exempt=total - audited,
        unknown=audit.seen["unknown"],
        fsyncs=audit.fsyncs,
        jobs=4,
    )


@pytest.mark.parametrize("fault", FLUSHES)
def test_control_a_planted_mistake_is_found(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note, fault: str
) -> None:
    audit = House(volume, simulator, watch, module=f"tests.planted {fault}").audit_one()
    assert {_what(finding) for finding in audit.findings} == FLUSHES[fault]
    note(findings=len(audit.findings), kinds=len({finding.partition(":")[0] for finding in audit.findings}))


def test_control_flushes_that_do_not_reach_the_kernel_are_found(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    need("eatmydata")
    audit = House(volume, simulator, watch, "eatmydata").audit_one()
    assert audit.fsyncs == 0
    relied_upon = {rule.name for rule in RULES if rule.flushed or rule.before}
    assert {finding.partition(":")[0] for finding in audit.findings} == (relied_upon & audit.seen.keys()) | {
        rule.name for rule in FOLDERS
    }
    assert {_what(finding) for finding in audit.findings} == FLUSHES["nothing_flushed"]
    note(findings=len(audit.findings))


def _what(finding: str) -> str:
    return finding.split(": ")[1].partition(" is not flushed")[0]

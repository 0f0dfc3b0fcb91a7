"""Which names are published, what must be on the disk before that, and what may happen only when they are there.

Every rename and link below the folders is told apart by a rule; one that no rule knows is a finding, too.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace

from tests.e2e.promises import FINAL
from tests.planted.calls import Call

TOKEN = "[0-9a-f]{16}"
_SEAT, _PEN = f"input/.handoff/w-{TOKEN}", f"output/.handoff/w-{TOKEN}"


@dataclass(frozen=True)
class Rule:
    """Of a rename or link from `source` to `target`. `key` is in both: what the job is known by there.

    `flushed`: the file is on the disk before it gets the name. `before`: events, of the same job, which need the name
    on the disk: the folder was flushed in between. `exempt` says why nothing need be.
    """

    name: str
    source: str
    target: str
    flushed: bool = True
    before: tuple[str, ...] = ()
    exempt: str = ""


RULES = (
    Rule("reservation", rf"{_SEAT}/b-(?P<token>{TOKEN})", r"input/\.handoff/ids/(?P<id>[\w-]+)", before=("POST", "settled", "decision")),
    Rule("into the inbox", rf"{_SEAT}/b-(?P<token>{TOKEN})", r"input/\.handoff/inbox/[\w-]+\.json", before=("settled",)),
    Rule("reservation by an adapter", rf"input/\.handoff/tmp/(?P<token>{TOKEN})", r"input/\.handoff/ids/(?P<id>[\w-]+)", before=("answer",)),
    Rule("into the inbox by an adapter", rf"input/\.handoff/tmp/(?P<token>{TOKEN})", r"input/\.handoff/inbox/[\w-]+\.json", before=("answer",)),
    Rule("journal", rf"{_SEAT}/t-(?P<token>{TOKEN})", rf"{_SEAT}/r-{TOKEN}", before=("POST",)),
    Rule("job made of a drop", rf"{_SEAT}/t-(?P<token>{TOKEN})", rf"{_SEAT}/b-{TOKEN}"),
    Rule("claim of a job", r"input/\.handoff/inbox/[\w-]+\.json", rf"{_SEAT}/r-(?P<token>{TOKEN})", before=("POST", "decision")),
    Rule("reason", rf"{_SEAT}/t-(?P<token>{TOKEN})", r"input/rejected/.+\.reason\.json", before=("end",)),
    Rule("final status", rf"{_PEN}/(?P<token>{TOKEN})-status\.json", r"output/(?P<id>[\w-]+)/status\.json", before=("bucket",)),
    Rule("job.json", rf"{_PEN}/(?P<token>{TOKEN})-job\.json", r"output/(?P<id>[\w-]+)/job\.json", before=("bucket",)),
    Rule("output, into the pen", rf"output/\.handoff/work/{TOKEN}-\d+/.+", rf"{_PEN}/(?P<token>{TOKEN})-.+"),
    Rule("output", rf"{_PEN}/(?P<token>{TOKEN})-.+", r"output/(?P<id>[\w-]+)/(?!status\.json|job\.json)[^/]+", before=("bucket",)),
    Rule("object in the bucket", r"bucket/\.unfinished/\w+", r"bucket/jobs/(?P<id>[\w-]+)/(?:attempt-\d+/)?(?!progress|status)[^/]+", before=("bucket",)),
    Rule("status in the bucket", r"bucket/\.unfinished/\w+", r"bucket/jobs/(?P<id>[\w-]+)/status\.json", before=("filed",)),
    Rule("filing", rf"{_SEAT}/r-(?P<token>{TOKEN})", r"input/\.handoff/done/[\d-]+/(?P<id>[\w-]+)"),
    Rule("the bucket's owner", r"bucket/\.unfinished/\w+", r"bucket/jobs/_site\.json", before=("end",)),
    Rule("the volume's name", rf"(input|output)/\.handoff/\.trial-{TOKEN}", r"(input|output)/\.handoff/site", before=("end",)),
    Rule("taken over", rf"{_SEAT}/from-{TOKEN}/(?P<kind>[bcr])-.+", rf"{_SEAT}/[bcr]-(?P<token>{TOKEN})?.*", flushed=False, before=("POST",)),
    Rule("takeover", _SEAT, rf"{_SEAT}/from-{TOKEN}", flushed=False, exempt="half done it is done again"),
    Rule("claim of a drop", r"input/[^/]+", rf"{_SEAT}/c-.+", flushed=False, exempt="the writer's own bytes, back in input/ after a power loss"),
    Rule("rejected", rf"{_SEAT}/c-.+", r"input/rejected/.+", flushed=False, before=("end",)),
    Rule("status on the way", rf"{_PEN}/{TOKEN}-status\.json", r"output/[\w-]+/status\.json", flushed=False, exempt="`running` promises nothing"),
    Rule("progress", r"bucket/\.unfinished/\w+", r"bucket/jobs/[\w-]+/progress\.json", flushed=False, exempt="a courtesy"),
    Rule("seat", rf"input/\.handoff/new-{TOKEN}", _SEAT, flushed=False, exempt="a watcher does not outlive a power loss"),
    Rule("what its ComfyUI can", rf"{_SEAT}/t-server", rf"{_SEAT}/server\.json", flushed=False, exempt="told anew by each watcher"),
    Rule("trial", r".*\.trial-\w+.*", r".*\.trial-\w+.*", flushed=False, exempt="thrown away"),
)  # fmt: skip

FOLDERS = (
    Rule("folder of a job", "", r"output/(?P<id>[\w-]+)", before=("bucket",)),
    Rule("folder in the bucket", "", r"bucket/jobs/(?P<id>[\w-]+)(?:/attempt-\d+)?", before=("bucket",)),
)
"""Made, not renamed. Whoever relies on what is in them relies on them."""


@dataclass(frozen=True)
class _File:
    """What was last written to it, and whether that is on the disk."""

    text: str = ""
    flushed: bool = False


@dataclass
class Audit:
    """`root` holds input/, output/ and bucket/."""

    root: str
    calls: list[Call]
    findings: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    met: set[tuple[str, str]] = field(default_factory=set)
    """Rule and event: that something relied on such a name, and it was looked whether it was flushed."""
    fsyncs: int = 0
    _files: dict[str, "_File"] = field(default_factory=dict)
    _decisions: set[int] = field(default_factory=set)
    _ids: dict[str, str] = field(default_factory=dict)
    """Token to id."""

    def run(self) -> None:
        moments = [(call.began, 0, call) for call in self.calls] + [(call.ended, 1, call) for call in self.calls]
        pending: list[tuple[Call, Rule, dict[str, str]]] = []
        for _, is_over, call in sorted(moments, key=lambda moment: moment[:2]):
            if is_over:
                self._note(call)
            elif call.name.startswith(("rename", "link")) and (paths := self._inside(call)):
                rule, keys = self._classify(paths)
                self.seen[rule.name if rule else "unknown"] += 1
                if rule is None:
                    self.findings.append(f"unknown: {call}")
                    continue
                if rule.flushed and not self._files.get(call.paths[0], _File()).flushed:
                    self.findings.append(f"{rule.name}: the file is not flushed: {call}")
                if rule.name == "final status":
                    self._decisions.add(call.began)
                if "token" in keys and "id" in keys:
                    self._ids[keys["token"]] = keys["id"]
                pending.append((call, rule, keys))
            elif call.name.startswith("mkdir"):
                pending += [
                    (call, rule, found.groupdict())
                    for rule in FOLDERS
                    if (found := re.fullmatch(rule.target, call.paths[0].removeprefix(f"{self.root}/")))
                ]
        for call, rule, keys in pending:
            for event in rule.before:
                self._check_name(call, rule, keys, event)

    def _inside(self, call: Call) -> tuple[str, str] | None:
        start = f"{self.root}/"
        if not all(path.startswith(start) for path in call.paths):
            return None
        source, target = (path.removeprefix(start) for path in call.paths)
        return source, target

    def _classify(self, paths: tuple[str, str]) -> tuple[Rule | None, dict[str, str]]:
        for rule in RULES:
            source, target = re.fullmatch(rule.source, paths[0]), re.fullmatch(rule.target, paths[1])
            if source is None or target is None:
                continue
            if rule.name == "final status" and self._status(f"{self.root}/{paths[0]}") not in {"saving", *FINAL}:
                continue
            keys = {name: value for name, value in {**source.groupdict(), **target.groupdict()}.items() if value}
            return rule, keys
        return None, {}

    def _status(self, path: str) -> str:
        found = re.search(r'"status":"(\w+)"', self._files.get(path, _File()).text.replace('\\"', '"'))
        return found[1] if found else ""

    def _note(self, call: Call) -> None:
        path = call.paths[0]
        match call.name:
            case "fsync" | "fdatasync":
                self._files[path] = replace(self._files.get(path, _File()), flushed=True)
                self.fsyncs += path.startswith(self.root)
            case "write" | "pwrite64":
                self._files[path] = _File(call.text)
            case "openat" | "creat" if call.makes:
                self._files[path] = _File()
            case "link" | "linkat":
                self._files[call.paths[1]] = self._files.get(path, _File())
            case "rename" | "renameat" | "renameat2":
                for old in [name for name in self._files if name == path or name.startswith(f"{path}/")]:
                    self._files[call.paths[1] + old.removeprefix(path)] = self._files.pop(old)

    def _check_name(self, call: Call, rule: Rule, keys: dict[str, str], event: str) -> None:
        folder = os.path.dirname(call.paths[-1])
        if event == "end":
            ends = [self.calls[-1].ended + 1]
        else:
            ends = [other.began for other in self.calls if other.began > call.ended and self._is(event, other, keys)]
        if not ends:
            return
        self.met.add((rule.name, event))
        flushed = [
            other
            for other in self.calls
            if other.name == "fsync" and other.paths[0] == folder and other.began > call.ended
        ]
        if not any(other.ended < ends[0] for other in flushed):
            self.findings.append(f"{rule.name}: its name is not flushed before {event}: {call}")

    def _is(self, event: str, call: Call, keys: dict[str, str]) -> bool:
        token = keys.get("token", "")
        id = keys.get("id") or self._ids.get(token, "")
        path = call.paths[-1].removeprefix(f"{self.root}/") if call.paths else ""
        renames = call.name.startswith("rename")
        match event:
            case "POST":
                return call.name == "sendto" and f'\\"token\\": \\"{token}\\"' in call.text
            case "settled":
                return call.name.startswith("unlink") and "/c-" in path
            case "decision":
                return call.began in self._decisions and path == f"output/{id}/status.json"
            case "bucket":
                return renames and path == f"bucket/jobs/{id}/status.json"
            case "filed":
                return renames and bool(re.fullmatch(rf"input/\.handoff/done/[\d-]+/{re.escape(id)}", path))
            case "answer":
                return call.name == "write" and call.text.startswith(id) and bool(id)
        raise AssertionError(event)

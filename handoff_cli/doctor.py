"""`handoff doctor`: what works and what does not on this machine, each found out by doing it, each with a remedy.

Every check stands alone and changes nothing that stays, except the bucket's `_check.txt`. All of them run at once; one
that hangs is a finding of its own. `handoff demo` finds ComfyUI's folders with the same trial.
"""

import grp
import importlib
import importlib.metadata
import json
import os
import pwd
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import requests
from urllib3.exceptions import HTTPError
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from handoff import durable
from handoff.failures import EdgeError, Unavailable
from handoff.folders import FOLDER_MODE, Folders
from handoff.hints import Hints
from handoff.masking import mask_urls
from handoff.settings import WatcherSettings, name_of
from handoff.site import MARKER, ForeignSite, Site
from handoff.spool import lease
from handoff.spool.seat import UnfitVolume, other_watchers, prove
from handoff.stores.contract import CHECK_KEY, CHECK_TEXT, Store
from handoff.stores.folder import FolderStore
from handoff.stores.opening import open_store
from watcher.comfyui import ComfyUI
from watcher.intake import is_stranger
from workflows.catalogue import Catalogue
from workflows.compatibility import check as check_template
from workflows.template import Broken

State = Literal["ok", "warning", "failed"]
Kind = Literal["input", "output"]

ALL_S = 10.0  # all checks together
ANSWER_S = 5.0
STUCK_S = 3.0  # something waits at ComfyUI and nothing runs
EVENT_S = 1.0
SKEW_S = 60.0
LOW_BYTES = 2 << 30
LOW_INODES = 10_000
PYTHONS = ((3, 11), (3, 13))  # as pyproject.toml's requires-python
IMPORTS = ("handoff", "watcher", "workflows", "handoff_cli", "comfyui_simulator")

_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`remedy` is a sentence that says what to do; empty where all is well."""

    name: str
    state: State
    found: str
    remedy: str = ""


Check = Callable[[WatcherSettings], Iterator[Finding]]


def diagnose(settings: WatcherSettings) -> list[Finding]:
    """Within about ten seconds, in a fixed order. Never raises: what a check stumbles over is its finding."""
    results: list[list[Finding]] = [[] for _ in CHECKS]
    threads = []
    for (name, check), result in zip(CHECKS.items(), results, strict=True):
        # daemons: one that hangs in a dead mount must not keep the program
        thread = threading.Thread(target=_run, args=(name, check, settings, result), daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + ALL_S
    findings: list[Finding] = []
    for name, thread, result in zip(CHECKS, threads, results, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        findings += list(result)
        if thread.is_alive():
            findings.append(
                Finding(
                    name=name,
                    state="failed",
                    found=f"no answer within {ALL_S:.0f} s",
                    remedy="See whether the volume, ComfyUI and the bucket answer at all.",
                )
            )
    return findings


def _run(name: str, check: Check, settings: WatcherSettings, result: list[Finding]) -> None:
    try:
        result.extend(check(settings))
    except (EdgeError, OSError) as error:
        result.append(_failed(name, mask_urls(str(error)), "See the text before this."))
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and the others go on
        result.append(_failed(name, f"the check itself broke: {mask_urls(repr(error))[:300]}", "Please report this."))


def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, state="ok", found=found)


def _warning(name: str, found: str, remedy: str) -> Finding:
    return Finding(name=name, state="warning", found=found, remedy=remedy)


def _failed(name: str, found: str, remedy: str) -> Finding:
    return Finding(name=name, state="failed", found=found, remedy=remedy)


# ── this program ──


def check_python(_: WatcherSettings) -> Iterator[Finding]:
    version = sys.version_info[:2]
    found = f"{sys.version.split()[0]} at {sys.executable}"
    lowest, highest = PYTHONS
    if lowest <= version <= highest:
        yield _ok("python", found)
    else:
        yield _failed("python", found, f"Install into Python {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}.")


def check_imports(_: WatcherSettings) -> Iterator[Finding]:
    """`workflows` and `watcher` are words that others use, too; the import that wins must be ours."""
    places = {name: Path(next(iter(importlib.import_module(name).__path__))).resolve() for name in IMPORTS}
    home = places["handoff"].parent
    strangers = [f"{name} comes from {place}" for name, place in places.items() if place.parent != home]
    owners = importlib.metadata.packages_distributions()
    ours = set(owners.get("handoff", ()))
    for name in IMPORTS:
        others = sorted(set(owners.get(name, ())) - ours)
        if others:
            strangers.append(f"{name} is also installed by {', '.join(others)}")
    if strangers:
        yield _failed(
            "imports",
            "; ".join(strangers),
            "Install handoff-comfyui into a virtual environment of its own: python3 -m venv.",
        )
    else:
        yield _ok("imports", f"all of {home}")


def check_settings(settings: WatcherSettings) -> Iterator[Finding]:
    """Values that are well-formed and still lead nowhere; wrong and unknown names end the program before this."""
    wrong = []
    if settings.default_workflow not in {entry.name for entry in Catalogue(settings.workflows_dir).list()}:
        wrong.append(f"{name_of('default_workflow')}: there is no workflow {settings.default_workflow}")
    words = shlex.split(settings.comfyui_restart or "")
    if words and shutil.which(words[0]) is None:
        wrong.append(f"{name_of('comfyui_restart')}: there is no command {words[0]}")
    if wrong:
        yield _warning("settings", "; ".join(wrong), "Correct it in .env or the environment; handoff config shows all.")
    else:
        yield _ok("settings", "what they name is there")


# ── the folders ──


def check_folders(settings: WatcherSettings) -> Iterator[Finding]:
    for kind in ("input", "output"):
        field = f"{kind}_dir"
        path = os.path.abspath(getattr(settings, field))
        name = f"{kind} folder"
        if not os.path.isdir(path):
            if field in settings.model_fields_set:
                remedy = f"Mount ComfyUI's {kind} folder there, or correct {name_of(field)}."
                yield _failed(name, f"{path} is no folder", remedy)
            else:
                remedy = f"Set {name_of(field)} to ComfyUI's {kind} folder; `handoff watch` makes the default one."
                yield _warning(name, f"{path} is not there yet", remedy)
            continue
        try:
            with _scratch(path) as scratch:
                durable.write_file(f"{scratch}/a", b"handoff")
                durable.sync_folder(scratch)
        except (EdgeError, OSError) as error:
            remedy = f"Give the user {_user(os.geteuid())} write permission there: chmod g+rwxs {path}"
            yield _failed(name, f"{path} cannot be written: {_reason(error)}", remedy)
        else:
            yield _ok(name, path)


def check_modes(settings: WatcherSettings) -> Iterator[Finding]:
    """ComfyUI, watcher and adapter may be different users of one group: that needs set-gid and group-writable folders."""
    folders = settings.folders
    paths = [folders.input, folders.output, *_subfolders(folders)]
    seen = {path: os.stat(path) for path in paths if os.path.isdir(path)}
    wanted = stat.S_ISGID | stat.S_IWGRP
    wrong = {path: status for path, status in seen.items() if status.st_mode & wanted != wanted}
    if wrong:
        told = [
            f"{path} is {_user(status.st_uid)}:{_group(status.st_gid)} {stat.S_IMODE(status.st_mode):04o}"
            for path, status in wrong.items()
        ]
        remedy = f"If ComfyUI or the adapter run as another user: chmod g+rwxs {' '.join(wrong)}"
        yield _warning("modes", "; ".join(told), remedy)
    elif seen:
        groups = sorted({_group(status.st_gid) for status in seen.values()})
        yield _ok("modes", f"{len(seen)} folders, set-gid and writable for {', '.join(groups)}")
    else:
        yield _not_tried("modes", "no folder is there yet")


def check_rename_and_link(settings: WatcherSettings) -> Iterator[Finding]:
    folders = settings.folders
    if missing := _missing(folders):
        yield _not_tried("rename and link", missing)
        return
    try:
        if all(map(os.path.isdir, _subfolders(folders))):
            prove(folders)
        else:  # nothing is made here for good: its owner would be whoever runs the doctor
            with _scratch(folders.input) as input, _scratch(folders.output) as output:
                inside = Folders(input=input, output=output)
                inside.make()
                prove(inside)
    except UnfitVolume as error:
        yield _failed("rename and link", str(error), "Do as the text says, then start `handoff watch` again.")
    else:
        yield _ok("rename and link", "rename moves and link refuses a taken name, in both folders")


def check_events(settings: WatcherSettings) -> Iterator[Finding]:
    folders = settings.folders
    if not os.path.isdir(folders.input):
        yield _not_tried("events", f"{folders.input} is not there")
        return
    watched = [path for path in (folders.input, folders.inbox, folders.spool) if os.path.isdir(path)]
    name = f".handoff-doctor-{secrets.token_hex(8)}"
    arrived = threading.Event()

    def hear(folder: str, heard: str) -> None:
        if folder == folders.input and heard == name:
            arrived.set()

    hints = Hints(watched, hear)
    try:
        why_not = hints.arm()
        limits = ", ".join(f"{limit} {_read_limit(limit)}" for limit in ("max_user_instances", "max_user_watches"))
        if why_not is None:
            yield _ok("inotify limits", limits)
        else:
            remedy = "Type sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288 on the host."
            yield _warning("inotify limits", f"{why_not} ({limits})", remedy)
        yield _judge_events(settings, folders.input, name, arrived)
    finally:
        hints.close()


def _judge_events(settings: WatcherSettings, folder: str, name: str, arrived: threading.Event) -> Finding:
    path = f"{folder}/{name}"
    rename = "import os, sys; open(sys.argv[1], 'x').close(); os.rename(sys.argv[1], sys.argv[2])"
    try:
        subprocess.run(
            [sys.executable, "-ISc", rename, f"{path}.tmp", path], check=True, timeout=ANSWER_S, capture_output=True
        )
        came = arrived.wait(EVENT_S)
    except subprocess.SubprocessError as error:
        return _failed(
            "events", f"another process cannot rename a file in {folder}: {error}", "See the folder's finding."
        )
    finally:
        for leftover in (path, f"{path}.tmp"):
            with suppress(FileNotFoundError):
                os.unlink(leftover)
    if settings.watch == "polling":
        return _ok("events", f"not used: {name_of('watch')} is polling")
    kind = _file_system(folder)
    if came:
        return _ok("events", f"another process's rename was heard ({kind}); what other machines do may not be")
    remedy = f"Nothing is lost: the watcher looks every second. {name_of('watch')}=polling stops the trials."
    return _warning("events", f"none within {EVENT_S:.0f} s ({kind})", remedy)


def check_disk(settings: WatcherSettings) -> Iterator[Finding]:
    places = {"input": settings.folders.input, "output": settings.folders.output}
    if settings.bucket is None:
        places["bucket"] = os.path.abspath(settings.bucket_dir)
    told: list[str] = []
    low: list[Finding] = []
    for kind, path in places.items():
        there = _existing(path)
        found = os.statvfs(there)
        free = f"{found.f_bavail * found.f_frsize / (1 << 30):.1f} GiB"
        told.append(f"{kind} {free}")
        if found.f_bavail * found.f_frsize < LOW_BYTES:
            low.append(_warning("disk", f"{free} free at {there}", "Make room; while it is full no job is taken."))
        if found.f_files and found.f_favail < LOW_INODES:
            remedy = "Remove old folders in output/ and in the bucket."
            low.append(_warning("disk", f"{found.f_favail} inodes free at {there}", remedy))
    yield from low or [_ok("disk", f"free: {', '.join(told)}")]


def check_input(settings: WatcherSettings) -> Iterator[Finding]:
    """What lies about in `input/` and waits for a person."""
    folders = settings.folders
    try:
        strangers = sorted(filter(is_stranger, os.listdir(folders.input)))
    except FileNotFoundError:
        yield _not_tried("strangers", f"{folders.input} is not there")
        return
    if strangers:
        remedy = f"A job's name ends in .json: rename what was meant as one, and move the rest out of {folders.input}."
        yield _warning("strangers", f"{len(strangers)} in input/ that are no jobs: {_list(strangers)}", remedy)
    else:
        yield _ok("strangers", "none in input/")
    names = os.listdir(folders.rejected) if os.path.isdir(folders.rejected) else []
    reasons = [name for name in names if name.endswith(".reason.json")]
    if reasons:
        remedy = f"Read {folders.rejected}/NAME.reason.json, mend and drop again what is still wanted, delete the rest."
        yield _warning("rejected", f"{len(reasons)} files: {_list(sorted(reasons))}", remedy)
    else:
        yield _ok("rejected", "none")


# ── the watchers ──


def check_watchers(settings: WatcherSettings) -> Iterator[Finding]:
    """Alive is whose lease changes while we look; its lock alone means nothing on another machine."""
    folders = settings.folders
    start = "Start one: handoff watch"
    if not os.path.isdir(folders.spool):
        yield _warning("watcher", f"none ever ran here ({folders.spool} is missing)", start)
        return
    wids = other_watchers(folders, "")
    first = {wid: lease.read(f"{folders.watcher(wid)}/lease") for wid in wids}
    alive: dict[str, lease.LeaseText] = {}
    deadline = time.monotonic() + 2 * lease.BEAT_S + 0.5
    while len(alive) < len(wids) and time.monotonic() < deadline:
        time.sleep(0.2)
        for wid in wids:
            before, now = first[wid], lease.read(f"{folders.watcher(wid)}/lease")
            if now is not None and (before is None or now.beat != before.beat):
                alive[wid] = now
    mine = [text for text in alive.values() if text.server == settings.server]
    if not mine:
        yield _warning("watcher", f"none is alive for {mask_urls(settings.server)}", start)
    for text in alive.values():
        yield _judge_watcher(text, mine=text.server == settings.server)
    for wid in sorted(set(wids) - set(alive)):
        path = folders.watcher(wid)
        with suppress(FileNotFoundError):
            jobs = sum(name.startswith(("r-", "c-")) for name in os.listdir(path))
            yield _warning(
                "dead watcher",
                f"{path} is left of one, with {jobs} unfinished jobs",
                f"A running watcher takes them over within {settings.lease_s:.0f} s. {start}",
            )
    if os.path.lexists(folders.paused):
        yield _warning("paused", "no watcher claims a job", "Go on with: handoff resume")


def _judge_watcher(text: lease.LeaseText, *, mine: bool) -> Finding:
    name = "watcher" if mine else "another watcher"
    who = f"{text.wid} for {mask_urls(text.server)}"
    fine = {"comfyui": "up", "bucket": "ok", "disk": "ok", "events": "ok"}
    trouble = [f"{key}: {text.health[key]}" for key, good in fine.items() if text.health.get(key, good) != good]
    counts = ", ".join(f"{key} {text.health[key]}" for key in ("waiting", "inside") if key in text.health)
    if trouble:
        return _warning(
            name, f"{who} reports {mask_urls('; '.join(trouble))}", "See the findings about it, and its log."
        )
    return _ok(name, f"{who} is alive ({counts})" if counts else f"{who} is alive")


# ── ComfyUI ──


def check_comfyui(settings: WatcherSettings) -> Iterator[Finding]:
    url = mask_urls(settings.comfyui_url)
    with closing(ComfyUI(settings.comfyui_url)) as comfyui:
        try:
            system = comfyui.stats().get("system")
        except EdgeError as error:
            yield _failed("comfyui", str(error), f"Start ComfyUI, or correct {name_of('comfyui_url')} (now {url}).")
            return
        version = str(system.get("comfyui_version", "of unknown version"))[:40] if isinstance(system, dict) else ""
        if not version:
            yield _failed("comfyui", f"{url} answers, but not as ComfyUI", f"Correct {name_of('comfyui_url')}.")
            return
        assert isinstance(system, dict)
        yield _ok("comfyui", f"{version} at {url}")
        if system.get("simulated"):
            yield _warning(
                "simulated", "its pictures are placeholders", f"Set {name_of('comfyui_url')} to a real ComfyUI."
            )
        yield from _check_routes(settings.comfyui_url)
        yield from _check_queue(comfyui)


def _check_routes(url: str) -> Iterator[Finding]:
    """Asked with an id that nobody has, so nothing happens."""
    path = f"/api/jobs/{uuid.uuid4()}"
    found = ask(url, path)
    if found.status == 404 and found.is_json:
        yield _ok("jobs route", "/api/jobs is there")
    else:
        yield _warning(
            "jobs route",
            f"GET /api/jobs/ID is answered {found.status}",
            "It works by queue and history; update ComfyUI to 0.6.",
        )
    cancelled = ask(url, f"{path}/cancel", method="POST")
    if cancelled.status == 200 and cancelled.is_json:
        yield _ok("cancel route", "/api/jobs/ID/cancel is there")
    else:
        yield _warning(
            "cancel route",
            f"POST /api/jobs/ID/cancel is answered {cancelled.status}",
            "Cancelling goes by queue and interrupt, which may come late; update ComfyUI.",
        )


def _check_queue(comfyui: ComfyUI) -> Iterator[Finding]:
    deadline = time.monotonic() + STUCK_S
    while True:
        queue = comfyui.queue()
        if queue.running or not queue.waiting:
            yield _ok("queue", f"{len(queue.running)} running, {len(queue.waiting)} waiting")
            return
        if time.monotonic() >= deadline:
            found = f"{len(queue.waiting)} wait and for {STUCK_S:.0f} s none runs: its worker thread is dead"
            yield _failed("queue", found, f"Restart ComfyUI; {name_of('comfyui_restart')} lets the watcher do it.")
            return
        time.sleep(0.25)


def check_websocket(settings: WatcherSettings) -> Iterator[Finding]:
    address = "ws" + settings.comfyui_url.removeprefix("http")
    remedy = (
        "Jobs still end, since look-ups decide, but progress is missing: let a proxy in between pass websockets on."
    )
    try:
        with connect(
            f"{address}/ws?clientId={uuid.uuid4().hex}", proxy=None, open_timeout=ANSWER_S, close_timeout=0.5
        ) as connection:
            document = json.loads(connection.recv(timeout=ANSWER_S))
    except (OSError, WebSocketException, ValueError) as error:
        yield _warning("websocket", f"no message: {_reason(error)}", remedy)
        return
    if isinstance(document, dict) and document.get("type") == "status":
        yield _ok("websocket", "it says status")
    else:
        yield _warning("websocket", "its first message is not ComfyUI's", remedy)


def check_workflows(settings: WatcherSettings) -> Iterator[Finding]:
    """Every template against the node classes and models that this ComfyUI has."""
    with closing(ComfyUI(settings.comfyui_url)) as comfyui:
        try:
            described: Mapping[str, Any] | None = comfyui.object_info()
        except EdgeError:
            described = None
    fitting: list[str] = []
    for entry in Catalogue(settings.workflows_dir).list():
        name = f"workflow {entry.name}"
        if isinstance(entry, Broken):
            yield _failed(name, "; ".join(entry.problems), f"Mend it: handoff workflows check {entry.name}")
        elif described is not None and (problems := check_template(entry, described)):
            yield _warning(
                name,
                "; ".join(problems[:3]),
                f"Install what it lacks into ComfyUI, or leave it unused: handoff workflows check {entry.name}",
            )
        else:
            fitting.append(entry.name)
    if described is None:
        yield _not_tried("workflows", f"ComfyUI does not tell its node classes; readable: {', '.join(fitting)}")
    elif fitting:
        yield _ok("workflows", f"{', '.join(fitting)} fit this ComfyUI")
    else:
        yield _failed("workflows", "none fits this ComfyUI", "See the findings before this.")


def check_shared(settings: WatcherSettings) -> Iterator[Finding]:
    """A file that we put into a folder must be what ComfyUI shows, and one that ComfyUI writes must be ours to link."""
    with closing(ComfyUI(settings.comfyui_url)) as comfyui:
        yield _judge_shared(comfyui, "input", settings.folders.input)
        output = _judge_shared(comfyui, "output", settings.folders.output)
    yield output
    if output.state == "ok":  # in another folder we could not clear away what ComfyUI writes
        yield _judge_written(settings)


def _judge_shared(comfyui: ComfyUI, kind: Kind, path: str) -> Finding:
    name = f"shared {kind}"
    if not os.path.isdir(path):
        return _not_tried(name, f"{path} is not there")
    try:
        if is_shared(comfyui, kind, path):
            return _ok(name, f"ComfyUI shows what lies in {path}")
        own = find_comfyui_folders(comfyui, kind, None)
    except EdgeError as error:
        return _not_tried(name, f"no trial was possible: {error}")
    except OSError as error:
        return _failed(name, f"no trial was possible in {path}: {error.strerror}", "See the folder's finding.")
    field = name_of(f"{kind}_dir")
    if own.path is not None:
        remedy = f"ComfyUI's is {own.path}: set {field}={own.path}"
    else:
        remedy = f"Mount one folder as ComfyUI's {kind} and here, and set {field} to it."
    return _failed(name, f"ComfyUI's {kind} folder is another one than {path}", remedy)


def _judge_written(settings: WatcherSettings) -> Finding:
    """Does what a job does: a folder of ours, a file of ComfyUI's in it, a link to that file."""
    name, output = "ComfyUI's files", settings.folders.output
    with _scratch(output) as scratch:
        form = {
            "type": (None, "output"),
            "subfolder": (None, os.path.basename(scratch)),
            "image": ("written.txt", b"handoff"),
        }
        try:
            answer = ask(settings.comfyui_url, "/upload/image", method="POST", form=form)
        except Unavailable as error:
            return _not_tried(name, str(error))
        if answer.status != 200:
            remedy = f"Give ComfyUI's user the group {_group(os.stat(scratch).st_gid)}, and chmod g+rwxs {output}"
            return _failed(name, f"ComfyUI cannot write into a folder made here (answer {answer.status})", remedy)
        written = f"{scratch}/written.txt"
        try:
            owner = _user(os.stat(written).st_uid)
            durable.sync_file(written)
        except FileNotFoundError:
            return _failed(name, "what ComfyUI wrote is not to be seen here", f"Mount {output} anew.")
        except OSError as error:
            remedy = "Run ComfyUI with umask 002 and both users in one group, or both as one user."
            return _failed(name, f"a file that {owner} wrote cannot be read: {error.strerror}", remedy)
        try:
            os.link(written, f"{scratch}/linked")
        except OSError as error:
            remedy = "To save the copy of each output: ComfyUI with umask 002 and both users in one group."
            return _warning(name, f"a file that {owner} wrote is copied, not linked: {error.strerror}", remedy)
    return _ok(name, f"written by {owner}, ours to read and to link")


# ── the bucket and the clock ──


def check_bucket(settings: WatcherSettings) -> Iterator[Finding]:
    root = Path(os.path.abspath(settings.bucket_dir))
    if settings.bucket is None and not root.exists():
        with _scratch(_existing(str(root))) as scratch:
            FolderStore(Path(scratch), settings.s3_prefix).check()
        yield _ok("bucket", f"folder {root}, which is not there yet and can be made")
        return
    store = open_store(settings)
    try:
        store.check()
    except EdgeError as error:
        yield _failed(
            "bucket", mask_urls(str(error)), f"Nothing can be published to {store.describe()} until that works."
        )
        return
    yield _ok("bucket", f"{store.describe()}: written")
    yield from _check_owner(settings.folders, store)
    url = store.url(CHECK_KEY, expires_s=60)
    if url is not None:
        yield _judge_link(url)


def _check_owner(folders: Folders, store: Store) -> Iterator[Finding]:
    """Whether the prefix is marked as another installation's. Marks nothing: that is for the first watcher."""
    if store.head(MARKER) is None:
        return
    if not os.path.lexists(f"{folders.spool}/site"):
        found = f"another installation marked {store.describe()}; {folders.input} never had a watcher"
        yield _warning(
            "bucket's owner", found, f"Set another {name_of('s3_prefix')}, or correct {name_of('input_dir')}."
        )
        return
    try:
        Site(folders, store).ensure()
    except ForeignSite as error:
        yield _failed("bucket's owner", str(error), "Do as the text says; no watcher starts before.")
    else:
        yield _ok("bucket's owner", "this installation")


def _judge_link(url: str) -> Finding:
    """Opens a signed link as a reader would. Its address is not shown: the signature is a key."""
    base, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    remedy = f"Set {name_of('s3_public_endpoint_url')} to the address at which readers reach the bucket."
    try:
        answer = ask(f"{base}://{host}", f"/{path}")
    except Unavailable as error:
        return _warning("links", f"a signed link cannot be opened from here: {mask_urls(str(error))}", remedy)
    if answer.status == 200 and answer.body == CHECK_TEXT:
        return _ok("links", f"a signed link opens at {base}://{host}")
    return _warning("links", f"a signed link at {base}://{host} is answered {answer.status}", remedy)


def check_clock(settings: WatcherSettings) -> Iterator[Finding]:
    remedy = "Synchronise the clocks: timedatectl set-ntp true"
    endpoint = settings.s3_endpoint_url or ("https://s3.amazonaws.com" if settings.bucket else None)
    skews = {}
    for name, url in (("ComfyUI", settings.comfyui_url), ("the bucket", endpoint)):
        if url is not None and (skew := _measure_skew(url)) is not None:
            skews[name] = skew
    with suppress(OSError), _scratch(settings.folders.input) as scratch:
        skews["the volume"] = os.stat(scratch).st_mtime - time.time()
    off = [name for name, skew in skews.items() if abs(skew) > SKEW_S]
    told = ", ".join(f"{name} {round(skew):+d} s" for name, skew in skews.items())
    if not skews:
        yield _not_tried("clock", "nobody is there to compare with")
    elif off:
        yield _warning("clock", f"{' and '.join(off)} differ from this machine: {told}", remedy)
    else:
        yield _ok("clock", f"against this machine: {told}")


def _measure_skew(url: str) -> float | None:
    """Seconds that the server's clock is ahead, to about a second, from the Date of any answer."""
    with suppress(Unavailable, ValueError, TypeError):
        date = ask(url, "/").date
        return None if date is None else parsedate_to_datetime(date).timestamp() - time.time()
    return None


# ── ComfyUI's folders ──


@dataclass(frozen=True, kw_only=True)
class FolderSearch:
    """`path`: the folder, proved, or None; then `tried` says what was looked at and why it is not it."""

    path: str | None
    tried: tuple[str, ...] = ()


def find_comfyui_folders(comfyui: ComfyUI, kind: Kind, given: str | None) -> FolderSearch:
    """ComfyUI's input or output folder as this machine knows it: `given`, or else what ComfyUI tells of itself.

    Raises EdgeError when ComfyUI cannot be asked.
    """
    tried: list[str] = []
    for path in [given] if given is not None else _guess(comfyui, kind):
        if not os.path.isdir(path):
            tried.append(f"{path} is not on this machine")
            continue
        try:
            if is_shared(comfyui, kind, path):
                return FolderSearch(path=path)
        except OSError as error:
            tried.append(f"{path} cannot be written ({error.strerror})")
        else:
            tried.append(f"{path} is not the one that ComfyUI shows")
    return FolderSearch(path=None, tried=tuple(tried))


def is_shared(comfyui: ComfyUI, kind: Kind, path: str) -> bool:
    """Whether ComfyUI's folder is this one: it must show a file that we put there. Raises OSError, EdgeError."""
    name = f".handoff-probe-{secrets.token_hex(8)}.txt"
    content = secrets.token_hex(16).encode()
    try:
        with open(f"{path}/{name}", "xb") as file:
            file.write(content)
        return comfyui.probe_shared(kind, name, content)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}/{name}")


def _guess(comfyui: ComfyUI, kind: Kind) -> list[str]:
    system = comfyui.stats().get("system")
    argv = system.get("argv") if isinstance(system, dict) else None
    answer = ask(comfyui.url, "/internal/folder_paths")
    told: Any = None
    with suppress(ValueError):
        told = json.loads(answer.body) if answer.status == 200 else None
    return guess_folders(kind, argv if isinstance(argv, list) else [], told if isinstance(told, dict) else {})


def guess_folders(kind: Kind, argv: list[Any], folder_paths: Mapping[str, Any]) -> list[str]:
    """Where it may be, the likeliest first. Pure but for relative paths, which are taken from the current folder.

    `folder_paths`: of each kind of model the folders; among those of "checkpoints" is `<output>/checkpoints`.
    """
    words = [word for word in argv if isinstance(word, str)]
    options: dict[str, str] = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        options[name] = value if equals else following
    guesses = [options.get(f"--{kind}-directory", "")]
    if base := options.get("--base-directory"):
        guesses.append(os.path.join(base, kind))
    listed = folder_paths.get("checkpoints")
    for path in listed if isinstance(listed, list) else []:
        # of the two usual entries, <base>/models/checkpoints and <output>/checkpoints, both name the base
        if isinstance(path, str) and os.path.basename(path) == "checkpoints":
            parent = os.path.dirname(path)
            is_models = os.path.basename(parent) == "models"
            guesses += [parent] if kind == "output" and not is_models else []
            guesses.append(os.path.join(os.path.dirname(parent), kind))
    if words and os.path.isabs(words[0]):
        guesses.append(os.path.join(os.path.dirname(words[0]), kind))
    return list(dict.fromkeys(os.path.abspath(guess) for guess in guesses if guess))


# ── small edges ──


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    is_json: bool
    date: str | None
    body: bytes


def ask(url: str, path: str, *, method: str = "GET", form: Mapping[str, Any] | None = None) -> Answer:
    """One short exchange; at most a megabyte of the answer is kept. Raises Unavailable."""
    call = f"{method} {mask_urls(url + path)}"
    try:
        with requests.Session() as session:
            session.trust_env = False
            with session.request(
                method, f"{url}{path}", files=form, timeout=(3, ANSWER_S), stream=True, allow_redirects=False
            ) as response:
                body = bytearray()
                for part in response.iter_content(1 << 16):
                    body += part
                    if len(body) > _LIMIT:
                        break
                return Answer(
                    status=response.status_code,
                    is_json=response.headers.get("Content-Type", "").startswith("application/json"),
                    date=response.headers.get("Date"),
                    body=bytes(body),
                )
    except (requests.RequestException, HTTPError) as error:
        raise Unavailable(f"{call}: {_reason(error)}") from error


@contextmanager
def _scratch(folder: str) -> Iterator[str]:
    """A folder of the doctor's own in another one, writable by its group; gone afterwards."""
    path = f"{folder}/.handoff-doctor-{secrets.token_hex(8)}"
    os.mkdir(path)
    try:
        os.chmod(path, FOLDER_MODE)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _not_tried(name: str, why: str) -> Finding:
    return _warning(name, f"not tried: {why}", "See the finding about that, then ask again.")


def _missing(folders: Folders) -> str:
    missing = [path for path in (folders.input, folders.output) if not os.path.isdir(path)]
    return f"{' and '.join(missing)} not there" if missing else ""


def _subfolders(folders: Folders) -> list[str]:
    """What a watcher makes at its first start."""
    below_input = [
        folders.uploads,
        folders.rejected,
        folders.spool,
        folders.inbox,
        folders.ids,
        folders.tmp,
        folders.done,
    ]
    return [*below_input, folders.pens, folders.work]


def _existing(path: str) -> str:
    """The folder itself, or the nearest one above it that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _read_limit(name: str) -> str:
    try:
        return Path("/proc/sys/fs/inotify", name).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _file_system(path: str) -> str:
    """The type of the file system that holds a folder, as the kernel calls it."""
    best, kind = "", "unknown file system"
    real = os.path.realpath(path)
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, point, found, *_ = line.split(" ")
            if len(point) >= len(best) and (point == "/" or f"{real}/".startswith(f"{point}/")):
                best, kind = point, found
    return kind


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _list(names: list[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1][:60] if not name.isprintable() else name[:60] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words."""
    while error.__cause__ is not None or (error.args and isinstance(error.args[0], BaseException)):
        error = error.__cause__ or error.args[0]
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return mask_urls(text)[:200]


CHECKS: Mapping[str, Check] = {
    "python": check_python,
    "imports": check_imports,
    "settings": check_settings,
    "folders": check_folders,
    "modes": check_modes,
    "rename and link": check_rename_and_link,
    "events": check_events,
    "disk": check_disk,
    "input": check_input,
    "watcher": check_watchers,
    "comfyui": check_comfyui,
    "websocket": check_websocket,
    "shared": check_shared,
    "workflows": check_workflows,
    "bucket": check_bucket,
    "clock": check_clock,
}

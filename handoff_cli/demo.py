"""`handoff demo`: three job files from `cp` to pictures, on a simulated ComfyUI or on a real one.

The simulator and the watcher are the real programs, as processes of their own that end with the demo. Everything it
makes stays in `data/demo-<n>/`; on a real ComfyUI the results also stay in its `output/`.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image, ImageDraw, ImageOps
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from handoff.documents import UnreadableDocument
from handoff.failures import EdgeError
from handoff.folders import Folders
from handoff.masking import mask_urls
from handoff.settings import PREFIX, SettingsError, WatcherSettings, load, name_of
from handoff.spool import lease
from handoff.spool.seat import UNFINISHED, other_watchers
from handoff.state import Status
from handoff.status import OutputEntry, StatusDocument
from handoff_cli.doctor import FolderSearch, find_comfyui_folders
from handoff_cli.exits import Exit
from handoff_cli.rendering import clean, show_status
from watcher.comfyui import ComfyUI
from watcher.intake import is_job_name

LIMIT_S = 60.0  # on the simulator
REAL_LIMIT_S = 300.0  # a real ComfyUI may have others' work in its queue
START_S = 20.0
END_S = 6.0  # until a program that was asked to end is killed
LOOK_S = 0.1
PROMPT_S = 1.2  # how long the simulator takes for a job, so that there is something to see


class _CannotRun(Exception):  # noqa: N818
    """The text tells what is missing and what to do."""

    def __init__(self, text: str, exit_status: Exit = Exit.JOB_FAILED) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class _Interrupted(Exception):  # noqa: N818
    """A signal asked the demo to end; only raised where nothing can be left half done."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A job file of the demo: what is in it, in a few words, and its JSON."""

    name: str
    about: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where the demo plays: `root` is its own folder; `folders` are ComfyUI's."""

    root: Path
    folders: Folders
    comfyui_url: str | None
    """None: a simulator is to be started."""

    @property
    def bucket(self) -> Path:
        return self.root / "bucket"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def watcher_log(self) -> Path:
        return self.root / "watcher.log"


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known of one job now. `trouble` is why it did not succeed, and what to do."""

    status: Status | None = None
    step: str = ""
    progress: float = 0.0
    document: StatusDocument | None = None
    trouble: str | None = None

    @property
    def word(self) -> Text:
        return Text("in input/", "dim") if self.status is None else show_status(self.status)

    @property
    def done(self) -> bool:
        return self.status is not None and self.status.done


def demo(comfyui_url: str | None) -> int:
    """Plays the demo and returns the exit status: 0 only when all three pictures are where the status says.

    3: the ComfyUI at `comfyui_url`, or its folders, cannot be reached from here. 128 + n: ended by signal n.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    signals = _Signals()
    try:
        stage = _set_up(comfyui_url)
        return _play(stage, console, signals)
    except _CannotRun as error:
        console.print(f"\n{error}")
        return error.exit_status
    except _Interrupted:
        console.print("\nEnded; nothing was left running.")
        return 128 + (signals.received or signal.SIGINT)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except OSError as error:
        console.print(f"\n{error.filename}: {error.strerror}. Is there room, and may you write there?")
        return Exit.JOB_FAILED


# ── the stage ──


def _set_up(comfyui_url: str | None) -> Stage:
    if comfyui_url is None:
        root = _make_root()
        folders = Folders(input=os.path.abspath(root / "input"), output=os.path.abspath(root / "output"))
        return Stage(root=root, folders=folders, comfyui_url=None)
    if not comfyui_url.startswith(("http://", "https://")):
        raise _CannotRun(f"{comfyui_url} is no address: write it as http://HOST:PORT", Exit.USAGE)
    folders = _find_folders(comfyui_url)
    _check_no_other_watcher(folders)
    _check_no_backlog(folders)
    return Stage(root=_make_root(), folders=folders, comfyui_url=comfyui_url)


def _make_root() -> Path:
    """`data/demo-<n>` in the current folder, the first that is not there."""
    number = 1
    while True:
        root = Path("data") / f"demo-{number}"
        try:
            root.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _CannotRun(
                f"Cannot make {root} here: {error.strerror}. Run the demo where you may write.", Exit.USAGE
            ) from error
        else:
            return root


def _find_folders(url: str) -> Folders:
    """The input and output folder of a running ComfyUI, proved by a file that it shows again."""
    shown = mask_urls(url)
    try:
        settings = load(WatcherSettings)
        comfyui = ComfyUI(url)
        try:
            found = {
                kind: find_comfyui_folders(comfyui, kind, _set_path(settings, f"{kind}_dir"))
                for kind in ("input", "output")
            }
        finally:
            comfyui.close()
    except SettingsError as error:
        raise _CannotRun(str(error), Exit.USAGE) from error
    except EdgeError as error:
        raise _CannotRun(
            f"ComfyUI at {shown} does not answer as it should: {error}\nIs it running, and is the address right?",
            Exit.UNREACHABLE,
        ) from error
    missing = [_tell_missing(kind, search) for kind, search in found.items() if search.path is None]
    if missing:
        raise _CannotRun(
            "\n".join([f"ComfyUI at {shown} is there, but the demo cannot reach its folders.", *missing]),
            Exit.UNREACHABLE,
        )
    return Folders(input=str(found["input"].path), output=str(found["output"].path))


def _set_path(settings: WatcherSettings, field: str) -> str | None:
    return os.path.abspath(getattr(settings, field)) if field in settings.model_fields_set else None


def _tell_missing(kind: str, search: FolderSearch) -> str:
    tried = "; ".join(search.tried) or "it does not tell where it is"
    return (
        f"  {kind}: {tried}.\n  Run this on ComfyUI's machine or where its {kind} folder is mounted, as a user who may"
        f" write there,\n  and set {name_of(f'{kind}_dir')} to it."
    )


def _check_no_other_watcher(folders: Folders) -> None:
    with suppress(FileNotFoundError):
        for wid in other_watchers(folders, ""):
            path = f"{folders.watcher(wid)}/lease"
            if lease.read(path) is not None and not lease.is_released(path):
                raise _CannotRun(
                    f"A watcher already works in {folders.input}: no demo is needed. Try"
                    " `handoff submit canvas --wait`, or stop it first.",
                    Exit.UNREACHABLE,
                )


def _check_no_backlog(folders: Folders) -> None:
    """The demo's watcher would take every job that waits here, and put its results into the demo's own bucket."""
    waiting = [name for name in os.listdir(folders.input) if is_job_name(name)]
    with suppress(FileNotFoundError):
        waiting += os.listdir(folders.inbox)
        for wid in other_watchers(folders, ""):
            waiting += [name for name in os.listdir(folders.watcher(wid)) if name.startswith(UNFINISHED)]
    if waiting:
        raise _CannotRun(
            f"{len(waiting)} jobs of somebody wait in {folders.input}: `{_name()} watch` runs them, and no demo is needed.",
            Exit.UNREACHABLE,
        )


# ── the play ──


def _play(stage: Stage, console: Console, signals: "_Signals") -> int:
    samples = _write_samples(stage)
    place = "a simulated ComfyUI" if stage.comfyui_url is None else f"ComfyUI at {mask_urls(stage.comfyui_url)}"
    console.print(f"Handoff demo: three jobs, from file to picture, on {place}.\n")
    with ExitStack() as running:
        running.enter_context(signals.held_back())
        url = stage.comfyui_url or _start_simulator(stage, running, signals)
        watcher = running.enter_context(_running(["watch"], stage, stage.watcher_log, comfyui_url=url))
        known = _list_known(stage.folders)
        console.print(f"$ cp {stage.jobs}/* {_shorten(Path(stage.folders.input))}/\n")
        _drop(stage, samples)
        views = _follow(stage, samples, known, watcher, console, signals)
        if stage.comfyui_url is not None:
            with suppress(FileNotFoundError):
                os.unlink(f"{stage.folders.input}/{_picture(samples)}")  # jobs have their own copy, in uploads/
    return _report(stage, samples, views, console)


def _start_simulator(stage: Stage, running: ExitStack, signals: "_Signals") -> str:
    """Its address. It takes a free port and prints it."""
    log = stage.root / "simulator.log"
    flags = ["--port", "0", "--base-directory", str(stage.root.absolute()), "--seconds-per-prompt", str(PROMPT_S)]
    process = running.enter_context(_running(["simulator", *flags], stage, log))
    deadline = time.monotonic() + START_S
    while True:
        head, _, rest = log.read_text(errors="replace").partition("ComfyUI simulator: ")
        if " " in rest:
            return rest.split()[0]
        if process.poll() is not None or time.monotonic() > deadline:
            raise _CannotRun(f"The simulator did not start:\n{_tail(head)}\nIts log: {log}")
        signals.pause(LOOK_S)


@contextmanager
def _running(
    arguments: list[str], stage: Stage, log: Path, *, comfyui_url: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """One of our programs, by this interpreter, in the demo's folder, where no `.env` of the user's is read."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            _command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=stage.root,
            env=_environment(stage, comfyui_url),
            start_new_session=True,  # Ctrl-C is the demo's to take
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "handoff_cli", *arguments]  # -P: the current folder's modules are not ours


def _environment(stage: Stage, comfyui_url: str | None) -> dict[str, str]:
    """None of the user's settings, which are about another installation, except the language."""
    language = name_of("language")
    environment = {name: value for name, value in os.environ.items() if name == language or not name.startswith(PREFIX)}
    settings = {
        "input_dir": stage.folders.input,
        "output_dir": stage.folders.output,
        "bucket_dir": str(stage.bucket.absolute()),
        "grace_s": "3",
        **({"comfyui_url": comfyui_url} if comfyui_url is not None else {}),
    }
    return environment | {name_of(field): value for field, value in settings.items()}


class _Signals:
    """While programs run a signal is only noted, so that none interrupts their start or their end."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number

    def pause(self, seconds: float) -> None:
        """Raises _Interrupted."""
        time.sleep(seconds)
        if self.received is not None:
            raise _Interrupted


# ── the jobs ──


def _choose_samples(*, real: bool) -> list[Sample]:
    """On a real ComfyUI only what needs no model, under names that nobody else uses."""
    prefix = "demo-" if real else ""
    named = Sample(
        name=f"{prefix}city.json",
        about="workflow txt2img",
        body={"workflow": "txt2img", "params": {"prompt": "A futuristic cityscape"}},
    )
    if real:
        named = Sample(
            name=f"{prefix}red.json",
            about="workflow canvas",
            body={"workflow": "canvas", "params": {"width": 640, "height": 360, "color": 0xC0392B}},
        )
    exported = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 640, "height": 360, "batch_size": 1, "color": 0x1F6F8B}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "sea", "images": ["1", 0]}},
    }
    return [
        named,
        Sample(name=f"{prefix}sea.json", about="an API export", body=exported),
        Sample(
            name=f"{prefix}sun.json",
            about="workflow invert",
            body={"workflow": "invert", "params": {"image": f"{prefix}sun.png"}},
        ),
    ]


def _write_samples(stage: Stage) -> list[Sample]:
    samples = _choose_samples(real=stage.comfyui_url is not None)
    stage.jobs.mkdir()
    for sample in samples:
        (stage.jobs / sample.name).write_text(json.dumps(sample.body, indent=2) + "\n", encoding="utf-8")
    _draw_sun().save(stage.jobs / _picture(samples))
    return samples


def _picture(samples: list[Sample]) -> str:
    name: str = samples[-1].body["params"]["image"]
    return name


def _draw_sun() -> Image.Image:
    sky = ImageOps.colorize(Image.linear_gradient("L").resize((640, 360)), "#14213d", "#f6ae2d")
    ImageDraw.Draw(sky).ellipse((250, 150, 390, 290), fill="#fff3c4")
    return sky


def _drop(stage: Stage, samples: list[Sample]) -> None:
    """As people do it: plain copies into `input/`."""
    for name in (_picture(samples), *(sample.name for sample in samples)):
        target = f"{stage.folders.input}/{name}"
        with suppress(FileNotFoundError):
            os.unlink(target)  # an earlier demo's; a link would be written through
        shutil.copyfile(stage.jobs / name, target)


# ── what is seen of them ──


def _follow(
    stage: Stage,
    samples: list[Sample],
    known: frozenset[str],
    watcher: subprocess.Popen[bytes],
    console: Console,
    signals: _Signals,
) -> list[View]:
    """Until all three are over, in the bucket too. Raises _CannotRun, _Interrupted."""
    deadline = time.monotonic() + (LIMIT_S if stage.comfyui_url is None else REAL_LIMIT_S)
    views = [View() for _ in samples]
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            before, views = views, [_look(stage, sample, known) for sample in samples]
            if live is not None:
                live.update(_table(samples, views), refresh=True)
            else:
                _print_changes(samples, before, views)
            if all(view.done for view in views):
                return views
            if watcher.poll() is not None:
                raise _CannotRun(
                    f"The watcher ended by itself:\n{_tail(stage.watcher_log.read_text())}\nIts log: {stage.watcher_log}"
                )
            if time.monotonic() > deadline:
                raise _CannotRun(f"Not all jobs ended in time. What the watcher did: {stage.watcher_log}")
            signals.pause(LOOK_S)


def _list_known(folders: Folders) -> frozenset[str]:
    """What lies where results will lie: an earlier demo's, or somebody else's."""
    rejected = os.listdir(folders.rejected) if os.path.isdir(folders.rejected) else []
    return frozenset([*os.listdir(folders.output), *rejected])


def _look(stage: Stage, sample: Sample, known: frozenset[str]) -> View:
    reason = _find_reason(stage.folders, sample, known)
    if reason is not None:
        return View(status=Status.REJECTED, trouble=reason)
    document = _find_document(stage.folders, sample, known)
    if document is None:
        return View()
    if document.error is not None:
        return View(status=document.status, trouble=f"{document.error.message} {document.error.hint}")
    in_bucket = (stage.bucket / "jobs" / document.id / "status.json").exists()
    status = Status.SAVING if document.done and not in_bucket else document.status
    return View(status=status, step=document.step or "", progress=document.progress, document=document)


def _find_reason(folders: Folders, sample: Sample, known: frozenset[str]) -> str | None:
    names = os.listdir(folders.rejected) if os.path.isdir(folders.rejected) else []
    for name in set(names) - known:
        if name.endswith(".reason.json"):
            reason = json.loads(Path(folders.rejected, name).read_bytes())
            if reason["file"] == sample.name:
                return f"{reason['message']} {reason['hint']}"
    return None


def _find_document(folders: Folders, sample: Sample, known: frozenset[str]) -> StatusDocument | None:
    """The job made of this file: its id begins with the file's name."""
    stem = sample.name.removesuffix(".json")
    for id in set(os.listdir(folders.output)) - known:
        if id.startswith(stem):
            with suppress(UnreadableDocument):
                document = StatusDocument.find(folders.status(id))
                if document is not None and document.source == sample.name:
                    return document
    return None


def _table(samples: list[Sample], views: list[View]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=13)
    table.add_column(width=16, style="dim")
    table.add_column(width=9)
    table.add_column(width=16)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for sample, view in zip(samples, views, strict=True):
        bar = ProgressBar(total=1.0, completed=view.progress)
        table.add_row(sample.name, sample.about, view.word, bar, Text(clean(view.step)))
    return table


def _print_changes(samples: list[Sample], before: list[View], views: list[View]) -> None:
    for sample, old, new in zip(samples, before, views, strict=True):
        if (old.status, old.step) != (new.status, new.step):
            step = f", {clean(new.step)}" if new.step else ""
            print(f"{sample.name}: {new.word}{step}, {new.progress:.0%}", flush=True)


# ── the end ──


def _report(stage: Stage, samples: list[Sample], views: list[View], console: Console) -> int:
    troubles: list[str] = []
    paths: list[str] = []
    for sample, view in zip(samples, views, strict=True):
        if view.document is None:
            troubles.append(f"{sample.name}: {view.word}. {view.trouble}")
            continue
        for output in view.document.outputs:
            for path in _copies(stage, view.document.id, output):
                problem = _find_problem(path, output)
                shown = _shorten(path)
                (paths if problem is None else troubles).append(shown if problem is None else f"{shown}: {problem}")
    if paths:
        console.print("\nThe pictures, in output/ and in the bucket, their sha256 as recorded:")
    for shown in paths:
        console.print(f"  {shown}")
    if troubles:
        console.print("\nThis went wrong:", style="red")
        for trouble in [*troubles, f"What the watcher did: {stage.watcher_log}"]:
            console.print(f"  {trouble}")
        return 1
    _explain(stage, console)
    return 0


def _copies(stage: Stage, id: str, output: OutputEntry) -> list[Path]:
    return [Path(stage.folders.job(id), output.name), stage.bucket / output.key]


def _find_problem(path: Path, output: OutputEntry) -> str | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        return str(error.strerror)
    if len(data) == output.bytes and hashlib.sha256(data).hexdigest() == output.sha256:
        return None
    return "its bytes are not those that the status records"


def _shorten(path: Path) -> str:
    """Relative where it lies below the current folder."""
    here = Path.cwd()
    absolute = path.absolute()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _name() -> str:
    """How this command can be typed here: in a fresh clone it is not on the PATH."""
    program = Path(sys.executable).with_name("handoff")
    is_at_hand = shutil.which("handoff") is not None or not program.is_relative_to(Path.cwd())
    return "handoff" if is_at_hand else shlex.quote(_shorten(program))


def _explain(stage: Stage, console: Console) -> None:
    said = [
        "",
        "The watcher took each file out of input/, had ComfyUI draw it once, checked what",
        "came out and published it; status.json beside each picture tells how it went.",
        "",
    ]
    if stage.comfyui_url is None:
        said += [
            f"Next: start `{_name()} simulator` and `{_name()} watch`, each in a terminal, then",
            f"  cp {stage.jobs}/city.json data/input/",
            f"A ComfyUI of your own: {_name()} demo --comfyui-url http://127.0.0.1:8188",
        ]
    else:
        settings = {
            "input_dir": stage.folders.input,
            "output_dir": stage.folders.output,
            "comfyui_url": mask_urls(stage.comfyui_url),
        }
        said += [
            f"{stage.folders.spool} stays: every watcher needs it.",
            f"Next: put these lines into .env, start `{_name()} watch`, and cp jobs into input/:",
            *(f"  {name_of(field)}={value}" for field, value in settings.items()),
        ]
    for line in said:
        console.print(line)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-5:])

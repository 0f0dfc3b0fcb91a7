"""`handoff watch`: seats a watcher, lets it work, and seats a new one when it was fenced off."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

from handoff.durable import disk_errors
from handoff.failures import EdgeError
from handoff.fetch import parse_allowed
from handoff.folders import Folders
from handoff.log import get as _log
from handoff.messages import nearest
from handoff.settings import SettingsError, WatcherSettings, make_folders, name_of
from handoff.site import ForeignSite
from handoff.spool.seat import Fenced, Seat, SecondWatcher, has_others
from handoff.spool.suspicion import pardon
from handoff.stores.contract import Store
from handoff.stores.opening import open_store
from watcher.decisions import backoff
from watcher.worker import Worker
from workflows.catalogue import Catalogue


def watch(settings: WatcherSettings) -> None:
    """Runs until SIGTERM or SIGINT: the first one stops within the grace time, a second one at once.

    Raises SettingsError, UnfitVolume, SecondWatcher, Unavailable at the start, ForeignSite when the bucket first answers:
    later a foreign volume is one that is not mounted just now, or was replaced, and is waited out.
    """
    os.umask(0o002)
    _check(settings)
    folders = make_folders(settings)
    store = open_store(settings)
    signals = _Signals()
    failures = 0
    first = True
    lost: tuple[Seat, Worker, str] | None = None
    while not signals.received.is_set():
        seat = _take_seat(settings, folders, signals, first=first)
        if signals.received.is_set():
            break
        if seat is None:
            failures += 1
            signals.sleep(backoff(failures))
            continue
        _announce(settings, seat, store)
        if lost is not None:
            _part_from(*lost, successor=seat)
            lost = None
        mount = _mount_of(folders)
        worker = signals.worker = Worker(settings, store, seat)
        if signals.received.is_set():  # between the seat and this line
            worker.stop()
        try:
            worker.run()
            failures = 0
        except Fenced:
            hint = "its folder is gone: another watcher took the jobs over, or it was removed; starting anew"
            _log().error("fenced", watcher=seat.wid, hint=hint)
            lost = seat, worker, mount
        except SecondWatcher:
            raise
        except (EdgeError, ForeignSite) as error:
            if first and isinstance(error, ForeignSite):
                raise
            failures += 1
            _log().error("starting_anew", error=str(error))
            signals.sleep(backoff(failures))
        except Exception:  # noqa: BLE001 - a mistake of this program may cost a moment, never a job: all that is known is on disk
            failures += 1
            _log().exception("bug", hint="starting anew; please report this")
            signals.sleep(backoff(failures))
        finally:
            pardon(seat)
            seat.leave()
            first = False
    _log().info("stopped")


def _part_from(seat: Seat, worker: Worker, mount: str, *, successor: Seat) -> None:
    """Known only now, since a volume may have been away. Where the old folder lies there again, its jobs are gone on with.

    `mount`: of `input/`, as it was.
    """
    if os.path.isdir(seat.path):
        return
    if _mount_of(seat.folders) != mount:  # it is away still, and what lies below its mount point can be written to
        hint = "another volume lies there now: what ComfyUI has goes on, and is found again when its own is back"
        _log().warning("other_volume", ids=worker.ids, hint=hint)
        return
    # beside the new run: a ComfyUI that hangs may not keep that from its signs of life
    threading.Thread(target=worker.abandon, name="abandon", daemon=True).start()
    if not has_others(successor) and (worker.ids or worker.waiting):
        _log().error(
            "removed", ids=worker.ids, waiting=worker.waiting, hint="deleted before they ended: drop them again"
        )


def _mount_of(folders: Folders) -> str:
    """The mount that `input/` lies on. Not its device: a folder that is mounted has the one of the folder below."""
    with suppress(OSError):
        descriptor = os.open(folders.input, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
                return next((line for line in file if line.startswith("mnt_id:")), "")
        finally:
            os.close(descriptor)
    return ""


def _check(settings: WatcherSettings) -> None:
    for entry in settings.url_allow:
        try:
            parse_allowed(entry)
        except ValueError as error:
            raise SettingsError(f"{name_of('url_allow')}: {error}") from None
    for entry in settings.s3_input_prefixes:
        if not entry.startswith("s3://"):
            raise SettingsError(f"{name_of('s3_input_prefixes')}: {entry} does not begin with s3://")
    known = [entry.name for entry in Catalogue(settings.workflows_dir).list()]
    if settings.default_workflow not in known:
        _log().warning(
            "no_default_workflow",
            workflow=settings.default_workflow,
            hint=f"HANDOFF_DEFAULT_WORKFLOW names none; the nearest: {nearest(settings.default_workflow, known)}",
        )


def _take_seat(settings: WatcherSettings, folders: Folders, signals: "_Signals", *, first: bool) -> Seat | None:
    """At the start whatever is wrong is the operator's to mend; later it may pass, like a volume that is remounted."""
    try:
        with disk_errors(folders.input):
            folders.make()
        return Seat(folders, settings.server, give_up=signals.received.is_set)
    except (EdgeError, OSError) as error:
        if first and not signals.received.is_set():
            raise
        _log().error("no_seat", error=str(error))
        return None


def _announce(settings: WatcherSettings, seat: Seat, store: Store) -> None:
    _log().info(
        "watching",
        watcher=seat.wid,
        input=seat.folders.input,
        output=seat.folders.output,
        comfyui=settings.comfyui_url,
        bucket=store.describe(),
        workflows=str(settings.workflows_dir),
        window=settings.window,
    )


class _Signals:
    def __init__(self) -> None:
        self.received = threading.Event()
        self.worker: Worker | None = None
        signal.signal(signal.SIGTERM, self._take)
        signal.signal(signal.SIGINT, self._take)

    def sleep(self, seconds: float) -> None:
        """Until the first signal at most. In steps: waiting for the event itself could meet the handler at its lock."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.received.is_set():
            time.sleep(0.1)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.received.is_set():
            os._exit(128 + number)
        self.received.set()
        if self.worker is not None:
            self.worker.stop()

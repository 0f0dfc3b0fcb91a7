"""`handoff watch`: seats a watcher, lets it work, and seats a new one when it was fenced off."""

import os
import signal
from types import FrameType

from handoff import log
from handoff.settings import WatcherSettings, make_folders
from handoff.spool.seat import Fenced, Seat
from handoff.stores.opening import open_store
from watcher.worker import Worker


def watch(settings: WatcherSettings) -> None:
    """Runs until SIGTERM or SIGINT: the first one stops within the grace time, a second one at once.

    Raises SettingsError, UnfitVolume, SecondWatcher, Unavailable before anything is touched.
    """
    os.umask(0o002)
    folders = make_folders(settings)
    store = open_store(settings)
    logger = log.get()
    signals = _Signals()
    while not signals.received:
        seat = Seat(folders, settings.server)
        logger.info(
            "watching",
            watcher=seat.wid,
            input=folders.input,
            output=folders.output,
            comfyui=settings.comfyui_url,
            bucket=store.describe(),
            workflows=str(settings.workflows_dir),
            window=settings.window,
        )
        worker = signals.worker = Worker(settings, store, seat)
        try:
            worker.run()
        except Fenced:
            logger.error("fenced", watcher=seat.wid, hint="another watcher took the jobs over; starting anew")
            worker.abandon()
        finally:
            seat.leave()
    logger.info("stopped")


class _Signals:
    def __init__(self) -> None:
        self.received = False
        self.worker: Worker | None = None
        signal.signal(signal.SIGTERM, self._take)
        signal.signal(signal.SIGINT, self._take)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = True
        if self.worker is not None:
            self.worker.stop()

"""One life of the server: queue, worker thread, node cache, counter. A restart throws it away and makes another."""

import sys
import threading
import time
import traceback
from typing import Any

from comfyui_simulator.catalogue import Catalogue
from comfyui_simulator.execution import Executor
from comfyui_simulator.faults import Counters, Faults, crash
from comfyui_simulator.folders import Folders
from comfyui_simulator.options import Options
from comfyui_simulator.prompt_queue import PromptQueue
from comfyui_simulator.sockets import Sockets


class Engine:
    def __init__(
        self, options: Options, folders: Folders, faults: Faults, counters: Counters, sockets: Sockets
    ) -> None:
        self.catalogue = Catalogue(folders, probe_nodes=options.probe_nodes)
        self.queue = PromptQueue(self._tell_status)
        self.next_number = 0
        self._stopped = False
        self._faults = faults
        self._sockets = sockets
        self._executor = Executor(
            folders=folders,
            catalogue=self.catalogue,
            faults=faults,
            counters=counters,
            events=sockets,
            seconds_per_prompt=options.seconds_per_prompt,
        )
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """The worker ends after the current node; what it still does goes nowhere."""
        self._stopped = True
        self.queue.close()
        self._executor.stop()

    @property
    def worker_is_alive(self) -> bool:
        return self._worker.is_alive()

    def queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def interrupt(self) -> None:
        """What runs ends at its next look; without effect on the prompt after it."""
        self._executor.interrupt.set()

    def cancel(self, prompt_id: str) -> bool:
        """Interrupts or dequeues; whether there was anything to do. A dead worker says True, too, and does nothing."""
        if self.queue.is_running(prompt_id):
            self.interrupt()
            return True
        was_waiting = self.queue.delete(prompt_id)
        if was_waiting:
            self._tell_status()  # once more than for a deletion by POST /queue: so does ComfyUI
        return was_waiting

    def _tell_status(self) -> None:
        self._sockets.send("status", {"status": self.queue_info()}, None)

    def _work(self) -> None:
        while True:
            try:
                taken = self.queue.take(lambda: self._faults.dead_worker)
                if taken is None:
                    return
                ticket, item = taken
                empty_cache, self.queue.free_memory = self.queue.free_memory, False
                outcome = self._executor.run(item, empty_cache=empty_cache)
            except Exception:  # noqa: BLE001  # ComfyUI's worker dies as well, and HTTP goes on
                if not self._stopped:
                    print("The worker thread has died; nothing will run any more.", file=sys.stderr)
                    traceback.print_exc()
                return
            if self._stopped:
                return
            if self._faults.crash == "saved":
                crash()
            time.sleep(self._faults.history_lag_s)
            self.queue.finish(ticket, outcome)
            client_id = item.extra_data.get("client_id")
            if client_id is not None:
                self._sockets.send("executing", {"node": None, "prompt_id": item.prompt_id}, client_id)

"""A headless Chromium that is steered over its debugging protocol, and tells of every error it shows."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.servers.debian import need
from tests.servers.watcher import LIMIT_S

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip

_ERRORS = {"Runtime.exceptionThrown", "Network.loadingFailed"}
_ADDRESS = re.compile(rb"DevTools listening on (ws://\S+)")


class Browser:
    """One tab. `errors` are what its console would show in red."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=LIMIT_S))
        if "method" in message:
            self._events.append(message)
            self._note_error(message["method"], message["params"])
        return message

    def _note_error(self, method: str, parameters: dict[str, Any]) -> None:
        if method in _ERRORS and not parameters.get("canceled"):
            self.errors.append(json.dumps(parameters))
        if method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        if method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "assert"}:
            self.errors.append(json.dumps(parameters["args"]))

    def open(self, url: str, headers: dict[str, str]) -> None:
        """With these headers for this page alone."""
        self.call("Network.setExtraHTTPHeaders", headers=headers)
        self._events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()
        self.call("Network.setExtraHTTPHeaders", headers={})

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def download(self, selector: str, folder: Path) -> Path:
        """Clicks on a link; the file that comes of it."""
        known = set(folder.iterdir())
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        end = time.monotonic() + LIMIT_S
        while not (new := [path for path in set(folder.iterdir()) - known if path.suffix != ".crdownload"]):
            assert time.monotonic() < end, f"no download by {selector}; {self.errors}"
            time.sleep(0.05)
        return new[0]


@contextlib.contextmanager
def open_browser(folder: Path, flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Its profile lies in `folder`. It is gone when the block ends."""
    need("chromium")
    log = folder / "chromium.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["chromium", *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        end = time.monotonic() + LIMIT_S
        while not (found := _ADDRESS.search(log.read_bytes())):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.05)
        with connect(found[1].decode(), max_size=None, proxy=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()

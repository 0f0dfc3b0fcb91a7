"""ComfyUI's websocket: hints that something happened. The truth is polled (`watcher.comfyui`), so nothing here is waited for.

A thread of its own always reads, since one client that does not blocks the events of all others (ComfyUI 0.33).
"""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

OPEN_S = 5.0
CLOSE_S = 0.5
PING_S = 20.0
PONG_S = 60.0  # a model that loads may hold ComfyUI's interpreter lock for many seconds
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 10.0
MAX_MESSAGE = 64 << 20  # bytes; SaveImageWebsocket sends whole pictures, and a larger message ends the connection


@dataclass(frozen=True, kw_only=True)
class Event:
    """`step`: a node begins. `progress`: `value` of `max` within a node. `finished`: the run is over, whatever came of it."""

    kind: Literal["connected", "lost", "started", "progress", "step", "finished"]
    prompt_id: str | None = None
    node: str | None = None
    value: float | None = None
    max: float | None = None


class ComfyUIEvents:
    """Calls `on_event` from its own thread, which must return at once and must not raise.

    `client_id` is what a prompt must carry to be told about. It is new for each connection: when a socket closes,
    ComfyUI forgets its id even if a newer socket has taken the id over. Prompts sent under an older one are polled.
    """

    def __init__(self, url: str, on_event: Callable[[Event], None]) -> None:
        self._url = "ws" + url.rstrip("/").removeprefix("http")
        self._on_event = on_event
        self._stopping = threading.Event()
        self._connection: ClientConnection | None = None
        self._client_id = uuid.uuid4().hex
        self._thread = threading.Thread(target=self._run, name="comfyui-events", daemon=True)

    @property
    def client_id(self) -> str:
        return self._client_id

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, by: float) -> None:
        """Closes the socket and waits for the thread until `by` (monotonic seconds)."""
        self._stopping.set()
        if (connection := self._connection) is not None:
            with suppress(OSError, WebSocketException):
                connection.close()
        if self._thread.is_alive():
            self._thread.join(max(0.0, by - time.monotonic()))

    def _run(self) -> None:
        delay = FIRST_DELAY_S
        while not self._stopping.is_set():
            with suppress(
                OSError, WebSocketException
            ):  # refused, no websocket there, cut off: all of it is just "lost"
                if self._listen():
                    delay = FIRST_DELAY_S
            self._stopping.wait(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LAST_DELAY_S)

    def _listen(self) -> bool:
        """One connection, from open to closed. True, since it was open at all; errors before that are raised."""
        client_id = uuid.uuid4().hex
        with connect(
            f"{self._url}/ws?clientId={client_id}",
            proxy=None,
            compression=None,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            max_size=MAX_MESSAGE,
        ) as connection:
            self._connection = connection
            self._client_id = client_id
            self._on_event(Event(kind="connected"))
            try:
                with suppress(WebSocketException, OSError):
                    while not self._stopping.is_set():
                        self._read(connection.recv())
            finally:
                self._connection = None
                self._on_event(Event(kind="lost"))
        return True

    def _read(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            return  # a preview picture
        try:
            document = json.loads(message)
        except (ValueError, RecursionError):
            return
        if event := read_event(document):
            self._on_event(event)


def read_event(document: Any) -> Event | None:
    """The event in one of ComfyUI's messages; None for all that nobody here needs. Pure."""
    if not isinstance(document, dict) or not isinstance(data := document.get("data"), dict):
        return None
    prompt_id, node = _text(data, "prompt_id"), _text(data, "node")
    match document.get("type"):
        case "execution_start" if prompt_id:
            return Event(kind="started", prompt_id=prompt_id)
        case "executing" if node:
            return Event(kind="step", prompt_id=prompt_id, node=node)
        case "executing" if prompt_id and data.get("node") is None:
            # Not at execution_success: that precedes the history entry in half of all cases.
            return Event(kind="finished", prompt_id=prompt_id)
        case "execution_error" | "execution_interrupted" if prompt_id:
            return Event(kind="finished", prompt_id=prompt_id, node=_text(data, "node_id"))
        case "progress" if (value := _number(data, "value")) is not None and (most := _number(data, "max")):
            return Event(kind="progress", prompt_id=prompt_id, node=node, value=value, max=most)
    return None


def _text(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else None


def _number(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12 else None
    )

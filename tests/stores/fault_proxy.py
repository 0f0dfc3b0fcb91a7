"""An HTTP proxy between a client and a real server that breaks chosen exchanges the way networks and servers do."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.servers.http_server import ask, send_head, serving


class Fault(Enum):
    LOSE_REPLY = auto()
    """The server does it; the client's connection is reset instead of the answer."""
    RESET_MID_BODY = auto()
    """The client's connection is reset after half of its body; the server hears nothing."""
    CUT_ANSWER = auto()
    """The answer's head promises all of the body, half of it comes."""
    BUSY = auto()
    """503 SlowDown; the server hears nothing."""
    THROTTLED = auto()
    """429; the server hears nothing."""
    DENIED = auto()
    """403 AccessDenied; the server hears nothing."""
    SKEWED = auto()
    """403, as to a client whose clock is off; the server hears nothing."""
    NO_BUCKET = auto()
    """404 NoSuchBucket; the server hears nothing."""
    NOT_IMPLEMENTED = auto()
    """501; the server hears nothing."""
    NO_CONDITIONS = auto()
    """501 to a put with a condition; else nothing is wrong."""
    HANG = auto()
    """No answer while `choose` says so; then the connection is reset."""
    NONSENSE = auto()
    """A web page instead of an answer."""


@dataclass(frozen=True)
class Answer:
    """What the client gets; the server hears nothing."""

    status: int
    body: bytes
    media_type: str = "application/json"


Choose = Callable[[str, str], Fault | Answer | None]
"""What a request meets, by its method and its path with query."""

_ERRORS = {
    Fault.BUSY: (503, "SlowDown"),
    Fault.THROTTLED: (429, "TooManyRequests"),
    Fault.DENIED: (403, "AccessDenied"),
    Fault.SKEWED: (403, "RequestTimeTooSkewed"),
    Fault.NO_BUCKET: (404, "NoSuchBucket"),
    Fault.NOT_IMPLEMENTED: (501, "NotImplemented"),
}


class FaultProxy:
    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.choose: Choose = lambda _method, _path: None
        self.seen: list[tuple[str, str]] = []
        self.closing = threading.Event()
        self.endpoint = ""

    def methods(self) -> list[str]:
        return [method for method, _ in self.seen]


@contextmanager
def running_proxy(upstream: str, port: int = 0) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    with serving(type("Handler", (_Handler,), {"proxy": proxy}), port) as proxy.endpoint:
        try:
            yield proxy
        finally:
            proxy.closing.set()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def _exchange(self) -> None:
        if self.proxy.closing.is_set():  # an open connection outlives the server
            self._reset()
            return
        self.proxy.seen.append((self.command, self.path))
        fault = self.proxy.choose(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is Fault.RESET_MID_BODY:
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault is Fault.NO_CONDITIONS:
            fault = Fault.NOT_IMPLEMENTED if "If-None-Match" in self.headers else None
        if isinstance(fault, Answer):
            self._answer(fault.status, fault.body, fault.media_type)
        elif fault in _ERRORS:
            status, code = _ERRORS[fault]
            self._answer(status, f"<Error><Code>{code}</Code><Message/></Error>".encode(), "application/xml")
        elif fault is Fault.NONSENSE:
            self._answer(404, b"<!doctype html><p>Nothing here", "text/html")
        elif fault is Fault.HANG:
            while not self.proxy.closing.wait(0.05) and self.proxy.choose(self.command, self.path) is Fault.HANG:
                pass
            self._reset()
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _exchange  # noqa: N815 - the names http.server calls

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        reply, data = ask(self, self.proxy.upstream, body)
        if fault is Fault.LOSE_REPLY:
            self._reset()
            return
        send_head(self, reply, data)
        if fault is Fault.CUT_ANSWER:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _answer(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        if self.connection.fileno() != -1:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

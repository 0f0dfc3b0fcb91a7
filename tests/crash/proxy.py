"""A proxy between a watcher and a peer that numbers the calls and does something at one of them."""

import contextlib
import http.client
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from tests.servers.http_server import ask, send_head, serving

Moment = Literal["before", "unanswered", "answered"]
"""Before the peer hears of it; when the peer did it and the answer has not come back; when the answer was passed on."""

VARIABLE = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}"), "*"),
    (re.compile(r"\d{8}-\d{6}(-\w+)?"), "@"),
    (re.compile(r"\d+"), "#"),
)


def describe(method: str, target: str) -> str:
    """Without what differs from run to run; of the query only the names."""
    url = urlsplit(target)
    path = url.path
    for pattern, replacement in VARIABLE:
        path = pattern.sub(replacement, path)
    names = sorted(name for name, _ in parse_qsl(url.query, keep_blank_values=True))
    return f"{method} {path}" + (f"?{'&'.join(names)}" if names else "")


class Proxy:
    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.url = ""
        self._lock = threading.Lock()
        self.begin()

    def begin(self, point: str = "", moment: Moment = "before", act: Callable[[], object] = lambda: None) -> None:
        """Counts from one again. `act` is called in the middle of the call `point`; the client's connection is cut then."""
        with self._lock:
            self._point, self._moment, self._act = point, moment, act
            self._counts: Counter[str] = Counter()
            self.seen: list[str] = []

    def meet(self, method: str, target: str) -> str:
        call = describe(method, target)
        with self._lock:
            self._counts[call] += 1
            self.seen.append(f"{call} #{self._counts[call]}")
            return self.seen[-1]

    def strikes(self, call: str, moment: Moment) -> bool:
        if (call, moment) != (self._point, self._moment):
            return False
        self._act()
        return True


@contextlib.contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    with serving(type("Handler", (_Handler,), {"proxy": proxy})) as proxy.url:
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _exchange(self) -> None:
        call = self.proxy.meet(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True  # unless it goes well
        # the client may be killed, here or by others, at any moment
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.proxy.strikes(call, "before"):
                return
            if self.headers.get("Upgrade", "").lower() == "websocket":
                self._tunnel(call)
                return
            reply, data = ask(self, self.proxy.upstream.netloc, body)
            if self.proxy.strikes(call, "unanswered"):
                return
            send_head(self, reply, data)
            self.wfile.write(data)
            self.close_connection = self.proxy.strikes(call, "answered")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _exchange  # noqa: N815 - the names http.server calls

    def _tunnel(self, call: str) -> None:
        """A websocket: the call is its opening; after it bytes go both ways until one side ends."""
        host, port = self.proxy.upstream.hostname, self.proxy.upstream.port
        with socket.create_connection((host, port)) as upstream:
            head = f"{self.requestline}\r\n{self.headers.as_string(unixfrom=False)}".replace("\r\n", "\n")
            upstream.sendall(head.replace("\n", "\r\n").encode("latin-1"))
            answer = b""
            while b"\r\n\r\n" not in answer and (part := upstream.recv(1 << 16)):
                answer += part
            if self.proxy.strikes(call, "unanswered"):
                return
            self.connection.sendall(answer)
            if self.proxy.strikes(call, "answered"):
                return
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client that is killed ends no connection
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

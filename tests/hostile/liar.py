"""A ComfyUI that lies: it passes everything on to an honest one and changes the answers about some jobs on their way back."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Lie = Callable[[dict[str, Any]], dict[str, Any]]
"""From the honest document about a job to the one that is told."""
Answer = Callable[[BaseHTTPRequestHandler], None]
"""Writes an answer of its own, headers and all."""


@dataclass
class Liar:
    url: str
    jobs: dict[str, Lie] = field(default_factory=dict)
    """By the job's id; told as soon as its prompt has ended."""
    paths: dict[str, Answer] = field(default_factory=dict)
    """By the beginning of the path."""
    received: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was posted for each job, by its id."""


@contextmanager
def lying(honest_url: str) -> Iterator[Liar]:
    host, port = honest_url.removeprefix("http://").split(":")
    ids: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            for beginning, answer in liar.paths.items():
                if self.path.startswith(beginning):
                    self.close_connection = True
                    answer(self)
                    return
            if self.path == "/prompt":
                posted = json.loads(body)
                id = posted["extra_data"]["handoff"]["id"]
                ids[posted["prompt_id"]] = id
                liar.received[id] = posted
            status, kind, data = self._ask(body)
            prompt = self.path.removeprefix("/api/jobs/")
            if status == 200 and (lie := liar.jobs.get(ids.get(prompt, ""))):
                document = json.loads(data)
                if document["status"] not in ("pending", "in_progress"):
                    data = json.dumps(lie(document)).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _ask(self, body: bytes) -> tuple[int, str, bytes]:
            if self.path.startswith("/ws"):
                return 404, "text/plain", b"no websocket here"
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            try:
                connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.headers.get("Content-Type", ""), answer.read()
            finally:
                connection.close()

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing to be said."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The other side is gone, as it should be when an answer never ends."""

    server = Server(("127.0.0.1", 0), Handler)
    liar = Liar(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""An HTTP server for the time of a test, and what a proxy needs: to ask the real server, and to give its answer back."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POLL_S = 0.02


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Its address. Requests that are still open at the end are left alone."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(handler: BaseHTTPRequestHandler, upstream: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    """The same request to `upstream` (host and port), and all of its answer."""
    connection = http.client.HTTPConnection(upstream)
    with closing(connection):
        connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
        reply = connection.getresponse()
        return reply, reply.read()


def send_head(handler: BaseHTTPRequestHandler, reply: http.client.HTTPResponse, data: bytes) -> None:
    """The head of an answer that has `data` as its body."""
    handler.send_response_only(reply.status, reply.reason)
    for name, value in reply.getheaders():
        if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
            handler.send_header(name, value)
    length = reply.getheader("Content-Length") if handler.command == "HEAD" else str(len(data))
    handler.send_header("Content-Length", length or "0")
    handler.end_headers()

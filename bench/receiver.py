"""A relay in front of ComfyUI that notes when a POST of a prompt arrives. It passes all bytes on, websockets included."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from urllib.parse import urlsplit


class Receiver:
    """`arrivals`: the monotonic time of each POST, taken before anything is passed on."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.arrivals: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(end)
                threading.Thread(target=self._relay, args=(client, server), daemon=True).start()
                threading.Thread(target=self._relay, args=(server, client), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if data.startswith(b"POST /prompt "):
                    self.arrivals.put(time.monotonic())
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in self._sockets:
            end.close()


@contextlib.contextmanager
def run_receiver(upstream: str) -> Iterator[Receiver]:
    receiver = Receiver(upstream)
    try:
        yield receiver
    finally:
        receiver.close()

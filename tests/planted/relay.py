"""Connections to a server that can be cut on the client's side, while the server goes on with what it has received."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)


@dataclass
class Relay:
    server: tuple[str, int]
    listener: socket.socket
    clients: list[socket.socket] = field(default_factory=list)
    servers: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def cut(self) -> None:
        """Every connection that is open now."""
        for client in self.clients:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.shutdown(socket.SHUT_RD)
                client.close()
        self.clients.clear()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server)
            self.clients.append(client)
            self.servers.append(server)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    host, port = urlsplit(url).netloc.split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        through = Relay((host, int(port)), listener)
        threading.Thread(target=through.accept, daemon=True).start()
        yield through
        listener.shutdown(socket.SHUT_RDWR)
    through.cut()
    for server in through.servers:
        server.close()

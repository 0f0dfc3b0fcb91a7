"""HTTP connections whose answers end in bounded time, from the first byte to the last, headers included.

A time-out of a socket counts anew with each byte; an answer that drips would hold a thread for ever. requests does the rest.
"""

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

WHOLE_S = 60.0  # from an answer's first byte to its last,
SLOWEST = 1 << 20  # and a second more for each so many bytes, since /view gives large files
READ_S = 30.0  # between two bytes, where the connection has no time-out of its own
CONNECTIONS = 16
BESIDE_S = 1.0  # between two looks beside an answer that does not come


class _Beside(threading.local):
    """What this thread does while it waits for its next answer."""

    look: Callable[[], None] | None = None


_beside = _Beside()


@contextmanager
def looking_beside(look: Callable[[], None]) -> Iterator[None]:
    """While this thread waits for the first byte of its next answer, `look` is called every BESIDE_S.

    It may make calls of its own. What it raises ends the wait, and closes the connection.
    """
    _beside.look = look
    try:
        yield
    finally:
        _beside.look = None


class _TimedReads(io.RawIOBase):
    """What the socket gives of one answer, from its first byte to its last in bounded time, headers included.

    The socket's own time-out counts anew with each byte.
    """

    def __init__(self, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._connection = connection
        self._raw = raw
        self._read_s = connection.gettimeout() or READ_S
        self._deadline: float | None = None
        self._look, _beside.look = _beside.look, None  # calls that it makes have no looks beside them

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is None:
            size = self._read_first(buffer)
            self._deadline = time.monotonic() + WHOLE_S
        elif (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError("the answer took too long")
        else:
            self._connection.settimeout(min(self._read_s, left))
            size = self._raw.readinto(buffer)
            self._connection.settimeout(self._read_s)  # the next request is sent with it
        self._deadline += (size or 0) / SLOWEST
        return size

    def _read_first(self, buffer: Any) -> int | None:
        if self._look is None:
            return self._raw.readinto(buffer)
        end = time.monotonic() + self._read_s
        self._connection.settimeout(min(BESIDE_S, self._read_s))
        while True:
            try:
                size = self._connection.recv_into(buffer)  # of the raw file, a time-out would be the last read
            except TimeoutError:
                if time.monotonic() >= end:
                    raise
                self._look()
            else:
                self._connection.settimeout(self._read_s)
                return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReads(sock, self.fp.detach()))


class _Connection(HTTPConnection):
    response_class = _TimedResponse


class _TlsConnection(HTTPSConnection):
    response_class = _TimedResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def open_adapter() -> HTTPAdapter:
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS, max_retries=0)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return adapter

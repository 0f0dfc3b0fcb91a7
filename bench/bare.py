"""What is left when nothing is promised: a client that posts prompts to ComfyUI and waits, with no disk and no bucket."""

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import requests
from websockets.sync.client import ClientConnection, connect

from bench.house import LIMIT_S, draw

_numbers = itertools.count(1 << 23)  # of its pictures; the jobs' begin at 0


class BareClient:
    """Each of its prompts saves into a folder of its own, as the watcher's do."""

    def __init__(self, url: str, connection: ClientConnection, client_id: str) -> None:
        self._url = url
        self._connection = connection
        self._client_id = client_id
        self._session = requests.Session()
        self._session.trust_env = False

    def post(self) -> str:
        """The id of the new prompt."""
        number, prompt_id = next(_numbers), str(uuid.uuid4())
        graph = draw(number, prefix=f"bare/{number}/picture")
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self._client_id}
        answer = self._session.post(f"{self._url}/prompt", json=body, timeout=30)
        answer.raise_for_status()
        return prompt_id

    def wait(self, prompt_id: str) -> float:
        """Listens until ComfyUI is done with it; returns the monotonic time."""
        while True:
            message = self._connection.recv(timeout=LIMIT_S)
            if isinstance(message, str) and _ends(json.loads(message), prompt_id):
                return time.monotonic()

    def close(self) -> None:
        self._session.close()


@contextlib.contextmanager
def open_client(url: str) -> Iterator[BareClient]:
    client_id = uuid.uuid4().hex
    address = f"ws{url.removeprefix('http')}/ws?clientId={client_id}"
    with connect(address, proxy=None, compression=None, ping_interval=None, max_queue=None) as connection:
        client = BareClient(url, connection, client_id)
        try:
            yield client
        finally:
            client.close()


def _ends(message: dict[str, Any], prompt_id: str) -> bool:
    data = message.get("data") or {}
    return message.get("type") == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id

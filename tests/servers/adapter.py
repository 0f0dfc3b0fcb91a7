"""Starts `handoff serve` as a process of its own, on a free port, and asks it over HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.servers.watcher import LIMIT_S, Watcher, start

KEY = "hk_0123456789abcdef"
KEYS = f"shop:{KEY}"


@dataclass
class Adapter(Watcher):
    """A running adapter. Used as a context it is gone when the block ends. Its log is read as a watcher's."""

    url: str = ""
    key: str | None = KEY
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, *, key: str | None = "", **options: Any) -> requests.Response:
        """With the first key, or `key`; None: without one. No proxy of the environment, no `.netrc`."""
        presented = self.key if key == "" else key
        headers = {"Authorization": f"Bearer {presented}"} if presented is not None else {}
        headers |= options.pop("headers", {})
        self.session.trust_env = False
        options.setdefault("timeout", LIMIT_S)
        return self.session.request(method, self.url + path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return self.ask("PUT", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.ask("POST", path, **options)

    def kill(self) -> None:
        self.session.close()
        super().kill()


def start_adapter(
    folder: Path, *, wrap: Sequence[str] = (), module: str = "handoff_cli", port: int = 0, **settings: Any
) -> Adapter:
    """`folder` holds input/, output/ and bucket/. `settings` are HANDOFF_* names in lower case, or whole upper-case names;
    `api_keys=None` leaves the keys out. Returns when it listens. Raises Stopped when it does not.
    """
    chosen = {"listen": f"127.0.0.1:{port}", "api_keys": KEYS, **settings}
    adapter = Adapter(*start(folder, "serve", wrap, module, chosen), key=KEY if chosen["api_keys"] else None)
    try:
        listen = adapter.wait_for("serving")["listen"]
        adapter.url = f"http://{listen}"
    except BaseException:
        adapter.kill()
        raise
    return adapter

"""`handoff serve`: the adapter as a process, until SIGTERM or Ctrl-C."""

import logging
import os
import socket
from types import FrameType

import uvicorn

from dify_adapter.app import make_app
from dify_adapter.desk import Desk
from handoff.failures import Unavailable
from handoff.log import get as _log
from handoff.settings import AdapterSettings, SettingsError, make_input_folders, name_of

GRACE_S = 10
_LOOPBACK = ("127.", "::1", "localhost")


def serve(settings: AdapterSettings) -> None:
    """The first signal answers everybody who waits, and stops; a second one stops at once. Raises SettingsError."""
    os.umask(0o002)
    _check(settings)
    make_input_folders(settings)
    with _bind(settings) as listener:
        host, port = listener.getsockname()[:2]
        settings = settings.model_copy(update={"listen": f"{f'[{host}]' if ':' in host else host}:{port}"})
        app = make_app(settings)
        desk: Desk = app.state.desk
        logging.getLogger("uvicorn.error").addHandler(_Log())
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,  # longer than a proxy keeps a connection that it is about to use again
            timeout_graceful_shutdown=GRACE_S,
            backlog=2048,
        )
        server = _Server(config, desk)
        server.run(sockets=[listener])
    if not server.started:
        raise Unavailable("the adapter did not start; its log says why")
    _log().info("stopped")


def _check(settings: AdapterSettings) -> None:
    has_keys = bool(settings.api_keys) or settings.api_keys_file is not None
    if not has_keys and not settings.allow_anonymous and not settings.host.startswith(_LOOPBACK):
        raise SettingsError(
            f"{name_of('listen')}: without keys the adapter listens on 127.0.0.1 only, and {settings.host} is open to"
            f" others. `handoff keys new NAME` makes a key for {name_of('api_keys')};"
            f" {name_of('allow_anonymous')}=yes lets everybody in"
        )


def _bind(settings: AdapterSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise SettingsError(f"{name_of('listen')}: cannot listen on {settings.listen}: {error.strerror}") from None
    return listener


def _announce(desk: Desk) -> None:
    settings = desk.settings
    _log().info(
        "serving",
        url=settings.base_url,
        listen=settings.listen,
        dify=settings.dify_url or settings.base_url,
        input=desk.folders.input,
        output=desk.folders.output if settings.status_source == "volume" else None,
        source=settings.status_source,
        names=[key.name for key in desk.keys.keys] or "everybody",
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _announce(self._desk)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In place of uvicorn's, which ends the process by the same signal again: a wished stop is no failure."""
        del frame
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True
        if self.started:
            self._desk.changes.release()


class _Log(logging.Handler):
    """What uvicorn has to say, in our log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        _log().log(record.levelno, "http_server", text=record.getMessage(), exc_info=record.exc_info)

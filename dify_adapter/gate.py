"""What every request passes: the limit of its body, which counts before anything is parsed, headers for browsers, and
the metrics.
"""

import time
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dify_adapter.desk import AtDesk, Desk
from dify_adapter.metrics import Metrics
from dify_adapter.refusal import Refused
from dify_adapter.responses import answer_refusal
from handoff.decode import excerpt
from handoff.failures import Failure, Reason
from handoff.log import get as _log

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""For answers that do not say otherwise themselves."""


class Gate:
    def __init__(self, app: ASGIApp, *, body_limit: int, metrics: Metrics) -> None:
        self._app = app
        self._limit = body_limit
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        taken = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
        counted = 0
        began = time.monotonic()
        has_begun = False

        async def receive_some() -> Message:
            nonlocal counted
            if taken > self._limit:
                raise Failure(Reason.TOO_LARGE, bytes=taken, limit=self._limit)
            message = await receive()
            counted += len(message.get("body", b""))
            if counted > self._limit:
                raise Failure(Reason.TOO_LARGE, bytes=counted, limit=self._limit)
            return message

        async def send_some(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                self._metrics.count(scope, message["status"], time.monotonic() - began)
            await send(message)

        try:
            await self._app(scope, receive_some, send_some)
        except ClientDisconnect:
            return
        except Exception as error:  # a mistake of this program costs one answer
            _log().exception("bug", method=scope["method"], path=scope["path"], hint="please report this")
            if has_begun:
                raise
            failure = Failure(Reason.INTERNAL_ERROR, problem=type(error).__name__)
            await answer_refusal(Request(scope), Refused(failure))(scope, receive, send_some)


def check_origin(request: Request, desk: AtDesk) -> None:
    """Without keys a browser is the only guard, so pages of other sites may not reach what listens on loopback.

    Raises Failure. Names without a dot are nobody's on the Internet: they are compose services and localhost.
    """
    if not desk.keys.is_open:
        return
    host = request.url.hostname or ""
    if not desk.settings.allow_anonymous and not _is_ours(host, desk):
        raise Failure(
            Reason.FORBIDDEN, problem=f"{excerpt(host)} is not this server's name; HANDOFF_PUBLIC_URL sets it"
        )
    origin = request.headers.get("origin")
    if origin is None or request.method in ("GET", "HEAD", "OPTIONS") or origin in desk.settings.cors_origins:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise Failure(
            Reason.FORBIDDEN, problem="a page of another site asked; HANDOFF_CORS_ORIGINS lists those that may"
        )


def _is_ours(host: str, desk: Desk) -> bool:
    known = {urlsplit(url).hostname for url in (desk.settings.public_url, desk.settings.dify_url) if url}
    return "." not in host or host in known | {"host.docker.internal"} or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

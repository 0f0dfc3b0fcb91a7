"""The websocket side: who is connected under which id, and the one loop that sends everything to everybody in order.

The traps are ComfyUI's: a client that does not read holds back all others' events, and of two sockets with one id the
newer is forgotten when the older closes.
"""

import asyncio
import json
import struct
import uuid
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from comfyui_simulator import pictures
from comfyui_simulator.faults import Counters, Faults
from comfyui_simulator.pictures import Picture

MAX_BODY_BYTES = 104857600

FEATURES = {
    "supports_preview_metadata": True,
    "supports_model_type_tags": True,
    "max_upload_size": MAX_BODY_BYTES,
    "extension": {"manager": {"supports_v4": True}},
    "node_replacements": True,
    "assets": False,
}

_PREVIEW_IMAGE, _PREVIEW_WITH_METADATA = 1, 4
_JPEG, _PNG = 1, 2


@dataclass(frozen=True, kw_only=True)
class _Message:
    client_id: str | None
    text: str | None = None
    binary: bytes = b""


class Sockets:
    """The `send…` methods may be called from any thread. After `stop` nothing is sent any more."""

    def __init__(self, faults: Faults, counters: Counters) -> None:
        self._faults = faults
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._open: dict[web.WebSocketResponse, web.Request] = {}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._understands_metadata: set[str] = set()
        self._client_id: str | None = None
        self._node_id: str | None = None
        self._stopped = False
        self._publisher = self._loop.create_task(self._publish_forever())

    def open_count(self) -> int:
        return len(self._open)

    def begin(self, client_id: str | None) -> None:
        """A prompt of this client starts."""
        self._client_id = client_id
        self._node_id = None

    def set_node(self, node_id: str | None) -> None:
        self._node_id = node_id

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        # Encoded at once, in the caller's thread: the data may change before the loop sends it.
        self._post(_Message(client_id=client_id, text=json.dumps({"type": kind, "data": data})))

    def send_preview(self, picture: Picture, node_id: str, prompt_id: str, client_id: str | None) -> bool:
        """Sends the preview with metadata if the client has asked for them; otherwise does nothing and says False."""
        if client_id is None or client_id not in self._understands_metadata:
            return False
        metadata = {
            "node_id": node_id, "prompt_id": prompt_id, "display_node_id": node_id, "parent_node_id": None,
            "real_node_id": node_id, "image_type": "image/jpeg",
        }  # fmt: skip
        text = json.dumps(metadata).encode()
        head = struct.pack(">II", _PREVIEW_WITH_METADATA, len(text)) + text
        self._post(_Message(client_id=client_id, binary=head + pictures.encode(picture, "JPEG", quality=95)))
        return True

    def send_plain_preview(self, picture: Picture, client_id: str | None) -> None:
        head = struct.pack(">II", _PREVIEW_IMAGE, _JPEG)
        self._post(_Message(client_id=client_id, binary=head + pictures.encode(picture, "JPEG", quality=95)))

    def send_png(self, content: bytes, client_id: str | None) -> None:
        self._post(_Message(client_id=client_id, binary=struct.pack(">II", _PREVIEW_IMAGE, _PNG) + content))

    def _post(self, message: _Message) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, message)

    async def _publish_forever(self) -> None:
        while True:
            message = await self._outbox.get()
            if self._faults.websocket == "silent":
                continue
            if message.client_id is None:
                receivers = list(self._sockets.values())
            else:
                socket = self._sockets.get(message.client_id)
                receivers = [socket] if socket is not None else []
            for receiver in receivers:
                await _deliver(receiver, message)

    async def serve(self, request: web.Request, queue_info: dict[str, Any]) -> web.WebSocketResponse:
        """One connection, until it ends."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._counters.websockets_opened += 1
        sid = request.rel_url.query.get("clientId", "") or uuid.uuid4().hex
        self._open[socket] = request
        self._sockets[sid] = socket
        self._understands_metadata.discard(sid)
        try:
            if self._faults.websocket != "silent":
                await socket.send_json({"type": "status", "data": {"status": queue_info, "sid": sid}})
                if sid == self._client_id and self._node_id is not None:
                    await socket.send_json({"type": "executing", "data": {"node": self._node_id}})
            first = True
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    if first:
                        await self._shake_hands(socket, sid, message.data)
                    first = False
        finally:
            del self._open[socket]
            self._sockets.pop(sid, None)
        return socket

    async def _shake_hands(self, socket: web.WebSocketResponse, sid: str, text: str) -> None:
        try:
            message = json.loads(text)
            if message["type"] != "feature_flags":
                return
            wants_metadata = bool(message["data"].get("supports_preview_metadata"))
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if wants_metadata:
            self._understands_metadata.add(sid)
        if self._faults.websocket != "silent":
            await socket.send_json({"type": "feature_flags", "data": FEATURES})

    def stop(self) -> None:
        """Cuts all connections, without a closing handshake: a client that does not read would make it wait."""
        self._stopped = True
        self._publisher.cancel()
        for request in self._open.values():
            if request.transport is not None:
                request.transport.abort()


async def _deliver(socket: web.WebSocketResponse, message: _Message) -> None:
    try:
        if message.text is not None:
            await socket.send_str(message.text)
        else:
            await socket.send_bytes(message.binary)
    except ConnectionError:
        pass

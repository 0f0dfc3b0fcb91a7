"""The simulator's own routes: what it has counted, and misbehaviour on demand."""

import json
from typing import Any

from aiohttp import web

from comfyui_simulator.server_state import STATE, State

PREFIX = "/simulator"
_ACTIONS = ("restart", "clear_history", "reset")


def add_control_routes(app: web.Application) -> None:
    app.router.add_get(PREFIX, get_counters)
    app.router.add_post(f"{PREFIX}/faults", post_faults)


async def get_counters(request: web.Request) -> web.StreamResponse:
    return web.json_response(_describe(request.app[STATE]))


def _describe(state: State) -> dict[str, Any]:
    counters = state.counters
    return {
        "prompts_received": counters.prompts_received,
        "prompts_accepted": counters.prompts_accepted,
        "executions": counters.executions,
        "executions_by_tag": counters.executions_by_tag,
        "harmful_requests": len(counters.harmful_requests),
        "harm": counters.harmful_requests,
        "requests": counters.requests,
        "websockets_open": state.sockets.open_count(),
        "websockets_opened": counters.websockets_opened,
        "restarts": counters.restarts,
        "worker_alive": state.engine.worker_is_alive,
        "faults": state.faults.show(),
    }


async def post_faults(request: web.Request) -> web.StreamResponse:
    """Sets the keys that are given, does the actions that are given as true, and answers what `GET /simulator` does."""
    state = request.app[STATE]
    try:
        wanted = await request.json()
        if not isinstance(wanted, dict):
            raise ValueError("the body must be an object")  # noqa: TRY004  # it is an answer to a client
        state.faults.change({key: value for key, value in wanted.items() if key not in _ACTIONS})
    except (ValueError, json.JSONDecodeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    if wanted.get("reset"):
        state.faults.reset()
    if wanted.get("clear_history"):
        state.engine.queue.forget_all()
    if wanted.get("restart"):
        state.restart()
    state.engine.queue.wake()
    return web.json_response(_describe(state))

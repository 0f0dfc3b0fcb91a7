"""The HTTP routes of queue, history, jobs and description. Files are in file_routes, the simulator's own in control."""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from comfyui_simulator import jobs
from comfyui_simulator.faults import crash
from comfyui_simulator.folders import MODEL_FOLDERS
from comfyui_simulator.prompt_queue import Item
from comfyui_simulator.server_state import STATE, State
from comfyui_simulator.sockets import FEATURES
from comfyui_simulator.validation import make_error, validate

COMFYUI_VERSION = "0.33.0"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SENSITIVE = ("auth_token_comfy_org", "api_key_comfy_org")


def add_routes(app: web.Application) -> None:
    """Every route exists with and without /api, except the jobs', which have only /api."""
    for path, get, post in (
        ("/prompt", get_prompt, post_prompt),
        ("/queue", get_queue, post_queue),
        ("/history", get_history, post_history),
        ("/history/{prompt_id}", get_history_entry, None),
        ("/interrupt", None, post_interrupt),
        ("/free", None, post_free),
        ("/system_stats", get_system_stats, None),
        ("/features", get_features, None),
        ("/object_info", get_object_info, None),
        ("/object_info/{name}", get_object_info_of, None),
        ("/models", get_models, None),
        ("/models/{folder}", get_models_of, None),
        ("/embeddings", get_embeddings, None),
        ("/ws", get_websocket, None),
    ):
        for prefix in ("", "/api"):
            if get is not None:
                app.router.add_get(prefix + path, get)
            if post is not None:
                app.router.add_post(prefix + path, post)
    app.router.add_get("/api/jobs", get_jobs)
    app.router.add_post("/api/jobs/cancel", post_cancel_many)
    app.router.add_get("/api/jobs/{job_id}", get_job)
    app.router.add_post("/api/jobs/{job_id}/cancel", post_cancel)
    app.router.add_get("/api/assets", get_assets)


async def get_prompt(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[STATE].engine.queue_info())


async def post_prompt(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    state.counters.prompts_received += 1
    body = await request.json()
    faults = state.faults
    if faults.crash == "post":
        crash()
    if faults.strikes("delayed_posts"):
        await asyncio.sleep(faults.post_delay_s)
    answer = _submit(state, body, request.headers.get("Comfy-Usage-Source"))
    if answer.status == web.HTTPOk.status_code:
        state.counters.prompts_accepted += 1
        if faults.strikes("lost_replies"):
            assert request.transport is not None
            request.transport.abort()
        if faults.strikes("silent_replies"):
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # as server.py does
                await asyncio.sleep(0.05)
            return answer
        if faults.strikes("errors_after_queue"):
            raise RuntimeError("an error after the prompt was queued, as asked for")
    return answer


def _submit(state: State, body: Any, usage_source: str | None) -> web.Response:
    engine = state.engine
    # The counter moves on for requests that are refused afterwards, too.
    if "number" in body:
        number: float = float(body["number"])
    else:
        number = -engine.next_number if _wants_front(body) else engine.next_number
        engine.next_number += 1
    if "prompt" not in body:
        return _refuse(make_error("no_prompt", "No prompt provided", "No prompt provided"), {})
    prompt_id = body.get("prompt_id")
    if prompt_id is None:
        prompt_id = str(uuid.uuid4())
    elif not _is_canonical_uuid(prompt_id):
        details = "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
        return _refuse(make_error("invalid_prompt_id", "prompt_id must be a valid UUID", details), {})
    graph = body["prompt"]
    verdict = validate(graph, body.get("partial_execution_targets"), engine.catalogue, state.folders)
    extra_data = body.get("extra_data", {})
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    if usage_source is not None:
        extra_data["comfy_usage_source"] = usage_source
    if verdict.error is not None:
        return _refuse(verdict.error, verdict.node_errors)
    for name in _SENSITIVE:
        extra_data.pop(name, None)
    extra_data["create_time"] = int(time.time() * 1000)
    item = Item(number, prompt_id, graph, extra_data, verdict.outputs)
    _note_harm(state, item)
    engine.queue.put(item)
    return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})


def _wants_front(body: Any) -> bool:
    """A body that is a list gets as far as "No prompt provided"."""
    return isinstance(body, dict) and bool(body.get("front"))


def _refuse(error: dict[str, Any], node_errors: dict[str, Any]) -> web.Response:
    return web.json_response({"error": error, "node_errors": node_errors}, status=400)


def _is_canonical_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _note_harm(state: State, item: Item) -> None:
    """Tells of requests that damage a real server. The damage itself comes by itself, but for the exit of the process."""
    note = state.counters.note_harm
    if lacking := [node_id for node_id, node in item.graph.items() if "inputs" not in node]:
        note(f"prompt {item.prompt_id}: nodes {lacking} have no inputs; the worker thread dies")
    if state.engine.queue.has_twin(item.number, item.prompt_id):
        note(
            f"prompt {item.prompt_id}: twice in the queue with number {item.number}; an error although queued, or a dead worker"
        )
    try:
        jobs.workflow_id(item.extra_data)
    except AttributeError:
        note(
            f"prompt {item.prompt_id}: extra_pnginfo or its workflow is no object; GET /api/jobs answers 500 from now on"
        )
    if isinstance(item.extra_data.get("client_id"), (list, dict)):
        note(f"prompt {item.prompt_id}: client_id is no string; the process exits")
        asyncio.get_running_loop().call_later(0.05, crash)


async def get_queue(request: web.Request) -> web.StreamResponse:
    running, pending = request.app[STATE].engine.queue.snapshot()
    return web.json_response({"queue_running": running, "queue_pending": pending})


async def post_queue(request: web.Request) -> web.StreamResponse:
    queue = request.app[STATE].engine.queue
    body = await _read_optional_json(request)
    if body.get("clear"):
        queue.clear()
    for prompt_id in body.get("delete", []):
        queue.delete(prompt_id)
    return web.Response(status=200)


async def _read_optional_json(request: web.Request) -> Any:
    return await request.json() if await request.read() else {}


async def get_history(request: web.Request) -> web.StreamResponse:
    query = request.rel_url.query
    max_items = int(query["max_items"]) if "max_items" in query else None
    offset = int(query["offset"]) if "offset" in query else -1
    return web.json_response(request.app[STATE].engine.queue.history(max_items=max_items, offset=offset))


async def get_history_entry(request: web.Request) -> web.StreamResponse:
    prompt_id = request.match_info["prompt_id"]
    entry = request.app[STATE].engine.queue.history_entry(prompt_id)
    return web.json_response({} if entry is None else {prompt_id: entry})


async def post_history(request: web.Request) -> web.StreamResponse:
    queue = request.app[STATE].engine.queue
    body = await request.json()
    if body.get("clear"):
        queue.forget_all()
    for prompt_id in body.get("delete", []):
        queue.forget(prompt_id)
    return web.Response(status=200)


async def post_interrupt(request: web.Request) -> web.StreamResponse:
    engine = request.app[STATE].engine
    try:
        body = await request.json()
    except json.JSONDecodeError:
        body = {}
    prompt_id = body.get("prompt_id")
    if not prompt_id or engine.queue.is_running(prompt_id):
        engine.interrupt()
    return web.Response(status=200)


async def post_free(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if body.get("free_memory"):
        request.app[STATE].engine.queue.free_memory = True
    return web.Response(status=200)


async def get_jobs(request: web.Request) -> web.StreamResponse:
    queue = request.app[STATE].engine.queue
    # Queue before history: a job that ends in between is seen twice rather than never.
    running, pending = queue.snapshot()
    try:
        return web.json_response(jobs.list_jobs(request.rel_url.query, running, pending, queue.history()))
    except jobs.BadQueryError as error:
        return web.json_response({"error": str(error)}, status=400)


async def get_job(request: web.Request) -> web.StreamResponse:
    queue = request.app[STATE].engine.queue
    job_id = request.match_info["job_id"]
    if waiting := queue.find(job_id):
        return web.json_response(jobs.describe_waiting(*waiting))
    entry = queue.history_entry(job_id)
    if entry is None:
        return web.json_response({"error": "Job not found"}, status=404)
    return web.json_response(jobs.describe_ended(job_id, entry, detailed=True))


async def post_cancel(request: web.Request) -> web.StreamResponse:
    return web.json_response({"cancelled": request.app[STATE].engine.cancel(request.match_info["job_id"])})


async def post_cancel_many(request: web.Request) -> web.StreamResponse:
    try:
        body = await request.json()
    except json.JSONDecodeError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    if wrong := [job_id for job_id in job_ids if not _is_canonical_uuid(job_id)]:
        return web.json_response({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}, status=400)
    engine = request.app[STATE].engine
    return web.json_response({"cancelled": True in [engine.cancel(job_id) for job_id in job_ids]})


async def get_system_stats(request: web.Request) -> web.StreamResponse:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    system = {
        "os": sys.platform,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": f"{COMFYUI_VERSION}+simulator",
        "python_version": sys.version,
        "embedded_python": False,
        "argv": list(request.app[STATE].options.argv),
        "simulated": True,
    }
    device = {
        "name": "cpu", "type": "cpu", "index": None, "vram_total": total, "vram_free": free,
        "torch_vram_total": total, "torch_vram_free": free,
    }  # fmt: skip
    return web.json_response({"system": system, "devices": [device]})


async def get_features(_: web.Request) -> web.StreamResponse:
    return web.json_response(FEATURES)


async def get_object_info(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[STATE].engine.catalogue.describe_all())


async def get_object_info_of(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    catalogue = request.app[STATE].engine.catalogue
    return web.json_response({name: catalogue.describe(name)} if name in catalogue else {})


async def get_models(_: web.Request) -> web.StreamResponse:
    return web.json_response(MODEL_FOLDERS)


async def get_models_of(request: web.Request) -> web.StreamResponse:
    try:
        return web.json_response(request.app[STATE].folders.list_models(request.match_info["folder"]))
    except KeyError:
        return web.Response(status=404)


async def get_embeddings(request: web.Request) -> web.StreamResponse:
    names = request.app[STATE].folders.list_models("embeddings")
    return web.json_response([os.path.splitext(name)[0] for name in names])


async def get_assets(_: web.Request) -> web.StreamResponse:
    message = "Assets system is disabled. Start the server with --enable-assets to use this feature."
    return web.json_response({"error": {"code": "SERVICE_DISABLED", "message": message, "details": {}}}, status=503)


async def get_websocket(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    if state.faults.websocket == "refuse":
        return web.Response(status=503)
    return await state.sockets.serve(request, state.engine.queue_info())

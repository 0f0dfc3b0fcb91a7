"""Puts the parts together into an application, and serves it until it is told to stop."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from comfyui_simulator import control
from comfyui_simulator.control import add_control_routes
from comfyui_simulator.file_routes import add_file_routes
from comfyui_simulator.folders import Folders
from comfyui_simulator.options import Options
from comfyui_simulator.routes import Handler, add_routes
from comfyui_simulator.server_state import STATE, State
from comfyui_simulator.sockets import MAX_BODY_BYTES


@web.middleware
async def refuse_foreign_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """ComfyUI's check of browser headers: they make a request from another page fail, and nothing else."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin:
        here, there = urlsplit(f"//{host}"), urlsplit(origin)
        if there.hostname and here.hostname and _is_loopback(here.hostname):
            same = here.hostname == there.hostname and (there.port is None or there.port == here.port)
            if not same:
                return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@web.middleware
async def count_and_misbehave(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path.startswith(control.PREFIX):
        return await handler(request)
    state = request.app[STATE]
    resource = request.match_info.route.resource
    state.counters.requests[f"{request.method} {resource.canonical if resource is not None else request.path}"] += 1
    while state.faults.hang:  # noqa: ASYNC110  # set from a request or before the start; a test waits, not a user
        await asyncio.sleep(0.05)
    if state.faults.slow_s:
        await asyncio.sleep(state.faults.slow_s)
    if state.faults.no_jobs_api and request.path.startswith("/api/jobs"):
        return await answer_unknown(request)
    return await handler(request)


async def answer_unknown(_: web.Request) -> web.StreamResponse:
    """As ComfyUI's static files do, which catch every unknown path."""
    return web.FileResponse(Path(__file__).with_name("no such file"))


async def get_page(_: web.Request) -> web.StreamResponse:
    """Where ComfyUI has its editor."""
    text = "This is a ComfyUI simulator: it has ComfyUI's API and no editor. GET /simulator shows what it has been asked for."
    return web.Response(text=text)


async def make_app(options: Options) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[refuse_foreign_origins, count_and_misbehave])
    app[STATE] = State(options, Folders.prepare(options))
    add_routes(app)
    add_file_routes(app)
    add_control_routes(app)
    app.router.add_get("/", get_page)
    app.router.add_get("/{path:.*}", answer_unknown)
    return app


async def serve(options: Options) -> None:
    """Until SIGTERM or SIGINT; then within a second, without waiting for anything that runs."""
    # A 500 is often what the test asked for: no traceback for it.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = await make_app(options)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, options.listen, options.port)
    await site.start()
    port = runner.addresses[0][1]
    host = f"[{options.listen}]" if ":" in options.listen else options.listen
    print(
        f"ComfyUI simulator: http://{host}:{port} (simulated; output in {options.output_directory})",
        flush=True,
    )
    await stop.wait()
    app[STATE].stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(runner.cleanup(), 0.5)

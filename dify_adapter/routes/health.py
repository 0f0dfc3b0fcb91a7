"""/livez, /readyz, /metrics and /docs: whether this process answers, whether a job that comes now would be worked on,
figures, and what calls there are.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

from anyio import to_thread
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from dify_adapter import reference
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk, Desk
from dify_adapter.responses import answer_json
from handoff import durable
from handoff.failures import EdgeError
from handoff.messages import Language
from handoff.spool import listing

router = APIRouter()
_PROBLEMS: dict[str, dict[Language, str]] = {
    "unwritable": {
        "en": "The input folder cannot be written: it is full, read-only or not mounted.",
        "zh": "输入文件夹无法写入：已满、只读或未挂载。",
    },
    "no_watcher": {
        "en": "No watcher works: nothing is drawn until `handoff watch` runs beside ComfyUI.",
        "zh": "没有监视程序在工作：在 ComfyUI 旁运行 `handoff watch` 之前不会绘制任何内容。",
    },
    "paused": {
        "en": "The watchers are paused: jobs wait until `handoff resume`.",
        "zh": "监视程序已暂停：任务会等到执行 `handoff resume`。",
    },
    "unreadable": {"en": "The input folder cannot be read.", "zh": "输入文件夹无法读取。"},
}


@router.get("/livez")
async def livez() -> Response:
    return answer_json({"ok": True})


@router.get("/readyz")
async def readyz(desk: AtDesk, asked: HowAsked) -> Response:
    problems = await to_thread.run_sync(find_problems, desk, asked.language)
    return answer_json({"ok": not problems, "problems": problems}, status=503 if problems else 200)


@router.get("/metrics")
async def metrics(desk: AtDesk, caller: Caller) -> Response:
    """With any key: Prometheus sends it as its `authorization`."""
    del caller
    return Response(await to_thread.run_sync(desk.metrics.render), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs")
async def docs() -> Response:
    return Response(reference.render(), media_type="text/html; charset=utf-8")


def find_problems(desk: Desk, language: Language = "en") -> list[str]:
    """Why a job that comes now would have to wait, in words that name no path. [] when it would not."""
    return [_PROBLEMS[name][language] for name in _look(desk)]


def _look(desk: Desk) -> Iterator[str]:
    if not _can_write(desk):
        yield "unwritable"
    try:
        if not any(seen.alive is not False for seen in listing.list_watchers(desk.folders)):
            yield "no_watcher"
        if listing.find_pause(desk.folders) is not None:
            yield "paused"
    except EdgeError:
        yield "unreadable"


def _can_write(desk: Desk) -> bool:
    """As a submission would, with one block, since a full disk still takes empty files."""
    path = f"{desk.folders.tmp}/.ready-{secrets.token_hex(8)}"
    try:
        durable.write_file(path, b"\0" * 4096, durable=False)
    except (OSError, EdgeError):
        return False
    with suppress(OSError):
        os.unlink(path)
    return True

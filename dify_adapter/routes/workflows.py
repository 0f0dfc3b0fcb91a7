"""/v1/workflows: what jobs can name, with a JSON Schema each, and typed submission."""

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk
from dify_adapter.responses import answer_json
from dify_adapter.routes.jobs import submit
from handoff.messages import Language
from workflows.schema import json_schema
from workflows.template import Broken, Template

router = APIRouter(prefix="/v1/workflows")


@router.get("")
async def list_workflows(desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    del caller  # any key may
    entries = await to_thread.run_sync(desk.catalogue.list)
    return answer_json({"workflows": [_describe(entry, asked.language) for entry in entries]})


@router.get("/{name}")
async def get_workflow(name: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    del caller
    return answer_json(_describe(await to_thread.run_sync(desk.catalogue.get, name), asked.language))


@router.post("/{name}")
async def post_workflow(request: Request, name: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    return await submit(request, desk, caller, asked, workflow=name)


def _describe(entry: Template | Broken, language: Language) -> dict[str, Any]:
    if isinstance(entry, Broken):
        return {"name": entry.name, "problems": list(entry.problems)}
    return {
        "name": entry.name,
        "title": entry.title[language],
        "description": entry.description[language],
        "problems": [],
        "schema": json_schema(entry, language),
    }

"""The bytes of outputs: by key, and by a signed link that a browser opens."""

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from dify_adapter import submission
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk, Desk
from dify_adapter.file_answer import answer_output
from dify_adapter.reader import Elsewhere
from dify_adapter.refusal import Refused
from handoff.decode import excerpt
from handoff.failures import Failure, Reason
from handoff.spool.record import Tombstone

router = APIRouter()
_METHODS = ["GET", "HEAD"]


@router.api_route("/v1/jobs/{id}/outputs/{name}", methods=_METHODS)
async def get_output(request: Request, id: str, name: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    """By name or by number, counted from 1. Never waits: what a job that goes on has not made yet is not there."""
    del asked  # only its mistakes matter here
    submission.check_id(id)
    sight = await to_thread.run_sync(desk.reader.find, id)
    if sight is None or (not isinstance(sight.document, Tombstone) and not caller.sees(sight.document.owner)):
        raise Failure(Reason.UNKNOWN_ID, id=excerpt(id))
    return await _send(request, desk, id, name)


@router.api_route("/p/{signature}/{id}/{name}", methods=_METHODS)
async def open_link(request: Request, signature: str, id: str, name: str, desk: AtDesk) -> Response:
    if not desk.links.check(signature, id, name):
        if desk.links.is_genuine(signature, id, name):
            raise Refused(Failure(Reason.LINK_EXPIRED), status=410)
        raise Failure(Reason.NOT_FOUND, path=excerpt(request.url.path))
    return await _send(request, desk, id, name)


async def _send(request: Request, desk: Desk, id: str, name: str) -> Response:
    found = await to_thread.run_sync(desk.reader.open_output, id, name)
    if found is None:
        raise Failure(Reason.UNKNOWN_OUTPUT, id=id, output=excerpt(name))
    if isinstance(found, Elsewhere):
        return RedirectResponse(found.url, 307, headers={"Cache-Control": "no-store"})
    return answer_output(request, found)

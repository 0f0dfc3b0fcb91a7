"""/v1/jobs: submit, look, list, cancel, retry."""

import asyncio
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from dify_adapter import answers, submission
from dify_adapter.asked import Asked
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk, Desk
from dify_adapter.keys import Key, Scope
from dify_adapter.reader import Wanted
from dify_adapter.reception import read_body
from dify_adapter.responses import answer_job, answer_json, make_link
from dify_adapter.submission import Submitted
from handoff.decode import excerpt
from handoff.failures import Failure, Reason
from handoff.spool.listing import describe_waiting
from handoff.spool.publisher import ask_to_cancel
from handoff.spool.record import Tombstone
from handoff.spool.sight import Sight
from handoff.state import Status

router = APIRouter(prefix="/v1/jobs")
MOST_LISTED = 500


@router.put("/{id}")
async def put_job(request: Request, id: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    return await submit(request, desk, caller, asked, id=id)


@router.post("")
async def post_job(request: Request, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    return await submit(request, desk, caller, asked)


async def submit(
    request: Request, desk: Desk, caller: Key, asked: Asked, *, id: str | None = None, workflow: str | None = None
) -> Response:
    """202 for a new job, 200 for one that is known, both only when it is on the disk."""
    async with read_body(request) as body:
        submitted = await to_thread.run_sync(
            lambda: submission.submit(
                desk,
                caller,
                id=id,
                fields=body.fields,
                files=body.files,
                workflow=workflow,
                idempotency_key=request.headers.get("idempotency-key"),
            )
        )
    return await _answer_submitted(request, desk, asked, submitted)


async def _answer_submitted(request: Request, desk: Desk, asked: Asked, submitted: Submitted) -> Response:
    record = submitted.record
    sight = await hold(desk, record.id, asked.wait_s)
    if sight is None:  # a bucket knows a new job a moment later
        sight = Sight(document=describe_waiting(record))
    headers = {"Location": f"/v1/jobs/{record.id}"}
    return answer_job(request, sight, record.id, asked, status=200 if submitted.replay else 202, headers=headers)


@router.get("")
async def list_jobs(
    request: Request,
    desk: AtDesk,
    caller: Caller,
    status: Annotated[str, Query()] = "",
    workflow: Annotated[str, Query()] = "",
    limit: Annotated[str, Query()] = "",
    cursor: Annotated[str, Query()] = "",
) -> Response:
    statuses = _read_statuses(status)
    most = _read_number("limit", limit or "50", 1, MOST_LISTED)
    offset = _read_number("cursor", cursor or "0", 0, 1_000_000)
    owner = None if caller.may(Scope.ADMIN) else caller.owner
    wanted = Wanted(owner=owner, statuses=statuses, workflow=workflow or None, limit=most, offset=offset)
    found = await to_thread.run_sync(desk.reader.list, wanted)
    link = make_link(request, desk)
    jobs = [answers.to_document(Sight(document=document), document.id, link) for document in found.jobs]
    return answer_json({"jobs": jobs, "cursor": str(offset + len(jobs)) if found.more else None})


def _read_statuses(text: str) -> frozenset[Status]:
    try:
        return frozenset(map(Status, text.replace(",", " ").split())) or frozenset(Status)
    except ValueError:
        problem = f"it is {excerpt(text, 40)}; known are {', '.join(Status)}"
        raise Failure(Reason.BAD_FIELD, field="status", problem=problem) from None


def _read_number(name: str, text: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
        return int(text)
    problem = f"it is {excerpt(text, 40)}; a number from {least} to {most} is wanted"
    raise Failure(Reason.BAD_FIELD, field=name, problem=problem)


@router.get("/{id}")
async def get_job(request: Request, id: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    submission.check_id(id)
    sight = await hold(desk, id, asked.wait_s)
    return answer_job(request, _check_owner(sight, caller, id), id, asked)


@router.post("/{id}/cancel")
async def cancel_job(request: Request, id: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    """Asks the job to stop. One that is over stays as it is; one that has succeeded at ComfyUI is still saved."""
    submission.check_id(id)
    submission.allow(caller, Scope.SUBMIT, "this key may only read")
    sight = _check_owner(await to_thread.run_sync(desk.reader.find, id), caller, id)
    if not sight.done:
        await to_thread.run_sync(ask_to_cancel, desk.folders, id)
        sight = await hold(desk, id, asked.wait_s) or sight
    return answer_job(request, sight, id, asked)


@router.post("/{id}/retry")
async def retry_job(request: Request, id: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    submission.check_id(id)
    submitted = await to_thread.run_sync(submission.retry, desk, caller, id)
    return await _answer_submitted(request, desk, asked, submitted)


async def hold(desk: Desk, id: str, wait_s: float) -> Sight | None:
    """The job when it is over, at the latest after `wait_s`. A change on the way is no answer: Dify counts its rounds."""
    clock = asyncio.get_running_loop()
    end = clock.time() + wait_s
    sight = await desk.changes.wait(id, wait_s)
    while not (sight is not None and sight.done) and (left := end - clock.time()) > 0 and not desk.changes.released:
        sight = await desk.changes.wait(id, left)
    return sight


def _check_owner(sight: Sight | None, caller: Key, id: str) -> Sight:
    """Somebody else's job is unknown. Raises Failure."""
    if sight is None or not _is_seen(sight, caller):
        raise Failure(Reason.UNKNOWN_ID, id=excerpt(id))
    return sight


def _is_seen(sight: Sight, caller: Key) -> bool:
    """Of a removed job nobody knows whose it was; what is left of it tells nothing but how it ended."""
    return isinstance(sight.document, Tombstone) or caller.sees(sight.document.owner)

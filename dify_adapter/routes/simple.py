"""/generate and /prompt: what people write first, before they have read anything."""

import base64
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from dify_adapter import submission
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk, Desk
from dify_adapter.keys import Key
from dify_adapter.reader import OpenOutput
from dify_adapter.reception import read_body
from dify_adapter.responses import answer_json
from dify_adapter.routes.jobs import hold
from handoff.failures import Failure, Reason
from handoff.messages import Language
from handoff.spool.listing import describe_waiting
from handoff.spool.record import Record
from handoff.spool.sight import Sight
from handoff.status import ErrorEntry, StatusDocument, describe_failure

router = APIRouter()


@router.post("/generate")
async def generate(request: Request, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    """200 with `{"image": base64}`: the first picture of the job. Without a key a closed connection does not stop it."""
    record = await _submit(request, desk, caller)
    place = {"id": record.id, "status_url": _status_url(request, desk, record.id)}
    sight = await hold(desk, record.id, asked.wait_s or desk.settings.generate_timeout_s) or Sight(
        document=describe_waiting(record)
    )
    document = sight.document
    if not sight.done:
        message = {"en": "The picture is not ready yet; the job goes on.", "zh": "图片尚未完成；任务会继续。"}
        hint = {"en": "Ask status_url for it.", "zh": "请查询 status_url。"}
        said = ErrorEntry(
            reason="not_ready", message=message[asked.language], hint=hint[asked.language], retryable=False
        )
        return _answer_problem(HTTPStatus.GATEWAY_TIMEOUT, said, {**place, "job_status": sight.status})
    if not isinstance(document, StatusDocument) or not document.ok:
        return _answer_problem(HTTPStatus.BAD_GATEWAY, _why(sight, asked.language), place)
    name = next((output.name for output in document.outputs if output.kind == "image"), None)
    found = None if name is None else await to_thread.run_sync(desk.reader.open_output, record.id, name)
    if not isinstance(found, OpenOutput):  # there is none, it was removed, or it is too large to be passed on
        failure = Failure(Reason.UNKNOWN_OUTPUT, id=record.id, output=name or "1")
        return _answer_problem(HTTPStatus.BAD_GATEWAY, describe_failure(failure, asked.language), place)
    return answer_json({"image": await to_thread.run_sync(_encode, found)})


@router.post("/prompt")
async def prompt(request: Request, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    """The body of ComfyUI's own POST /prompt, or a text in the place of the graph."""
    del asked  # refused where it makes no sense
    record = await _submit(request, desk, caller)
    sight = await desk.changes.wait(record.id, 0) or Sight(document=describe_waiting(record))
    return answer_json(
        {
            "prompt_id": record.id,
            "id": record.id,
            "number": sight.position or 0,
            "status": sight.status,
            "status_url": _status_url(request, desk, record.id),
            "node_errors": {},
        }
    )


async def _submit(request: Request, desk: Desk, caller: Key) -> Record:
    async with read_body(request) as body:
        submitted = await to_thread.run_sync(
            lambda: submission.submit(
                desk,
                caller,
                id=None,
                fields=body.fields,
                files=body.files,
                idempotency_key=request.headers.get("idempotency-key"),
            )
        )
    return submitted.record


def _why(sight: Sight, language: Language) -> ErrorEntry:
    if isinstance(sight.document, StatusDocument) and sight.document.error is not None:
        return sight.document.error
    message = f"任务以 {sight.status} 结束。" if language == "zh" else f"The job ended as {sight.status}."
    return ErrorEntry(reason=sight.status, message=message, hint="", retryable=False)


def _answer_problem(status: HTTPStatus, said: ErrorEntry, more: Mapping[str, object]) -> Response:
    problem = {
        "type": f"urn:handoff:{said.reason}",
        "title": status.phrase,
        "status": int(status),
        "detail": said.message,
        "reason": said.reason,
        "hint": said.hint,
        "retryable": said.retryable,
        **more,
    }
    answer = answer_json(problem, status=status)
    answer.headers["Content-Type"] = "application/problem+json"
    return answer


def _status_url(request: Request, desk: Desk, id: str) -> str:
    base = desk.settings.public_url or str(request.base_url).rstrip("/")
    return f"{base}/v1/jobs/{id}"


def _encode(found: OpenOutput) -> str:
    with closing(found.file):
        return base64.b64encode(found.file.read()).decode()

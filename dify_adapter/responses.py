"""Answers as HTTP: a job is always 2xx, whatever became of it; a refusal has its status, unless the request says errors=200."""

from collections.abc import Mapping
from dataclasses import replace

from fastapi import Request, Response

from dify_adapter import answers
from dify_adapter.answers import Link
from dify_adapter.asked import Asked, read_asked
from dify_adapter.desk import Desk, desk_of
from dify_adapter.refusal import Refused
from handoff.job import is_id
from handoff.spool.sight import Sight

_TEXT = "text/plain; charset=utf-8"
_MARKDOWN = "text/markdown; charset=utf-8"
_JSON = "application/json"
_PROBLEM = "application/problem+json"


def answer_job(
    request: Request,
    sight: Sight,
    id: str,
    asked: Asked,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    desk = desk_of(request)
    link = make_link(request, desk)
    match asked.format:
        case "text":
            content, kind = answers.to_text(sight).encode(), _TEXT
        case "markdown":
            content, kind = answers.to_markdown(sight, asked.language, link).encode(), _MARKDOWN
        case "json":
            content, kind = answers.dump(answers.to_document(sight, id, link)), _JSON
    return Response(content, status, headers=headers, media_type=kind)


def answer_json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answers.dump(value), status, headers=headers, media_type=_JSON)


def make_link(request: Request, desk: Desk) -> Link:
    """Links open for whoever reads the answer: at the address that was set, else at the one that was asked."""
    base = desk.settings.public_url or str(request.base_url).rstrip("/")
    return lambda id, name: base + desk.links.sign(id, name)


def answer_refusal(request: Request, refused: Refused) -> Response:
    desk = desk_of(request)
    asked = read_asked(request.query_params, desk.settings.language)
    status = refused.status
    if status >= 500 and "/outputs/" in request.url.path:
        # a flow takes a text in the place of a picture for "there is no such picture": this one may be there
        asked = replace(asked, errors_as_200=False)
    if asked.errors_as_200:
        id = request.path_params.get("id")
        said = answers.to_rejection(refused, id if id and is_id(id) else None, status, asked.language)
        status, kind = 200, _JSON
    else:
        if status in (401, 403) and "squid" in request.headers.get("via", "").lower():
            status = 400  # Dify would show "blocked by SSRF protection" for it
        said, kind = answers.to_problem(refused, status, asked.language), _PROBLEM
    headers = dict(refused.headers)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Handoff", Bearer realm="Handoff"'
    match asked.format:
        case "text":
            return Response("rejected" if asked.errors_as_200 else said["reason"], status, headers, _TEXT)
        case "markdown":
            return Response(answers.to_sentence(refused, asked.language), status, headers, _MARKDOWN)
        case "json":
            return Response(answers.dump(said), status, headers, kind)

"""What Dify imports, by key or by a signed link, and the page from which a flow builder gets it."""

from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from dify_adapter import flows, openapi, page
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk, Desk
from dify_adapter.keys import read_presented
from dify_adapter.refusal import Refused
from dify_adapter.responses import answer_json
from dify_adapter.routes.health import find_problems
from handoff.decode import excerpt
from handoff.failures import Failure, Reason
from handoff.messages import Language
from workflows.template import Template

router = APIRouter()

OPENAPI = "openapi.json"
FILES = (*(f"{name}.yml" for name in flows.NAMES), OPENAPI)


@router.get("/")
async def get_page(request: Request, desk: AtDesk, asked: HowAsked) -> Response:
    """A browser asks its reader for the key: the password; the name does not matter."""
    if desk.keys.find(read_presented(request.headers)) is None:
        text = "A key is needed: any name, and the key as the password. 需要密钥：用户名任意，密码为密钥。\n"
        return Response(text, 401, {"WWW-Authenticate": 'Basic realm="Handoff"'}, "text/plain; charset=utf-8")
    language = asked.language if "lang" in request.query_params else _read_language(request, asked.language)
    facts = await to_thread.run_sync(_gather, desk, find_address(request, desk), _find_public_url(request, desk))
    headers = {"Content-Security-Policy": page.POLICY, "Content-Language": language, "Vary": "Accept-Language"}
    return Response(page.render(facts, language), 200, headers, "text/html; charset=utf-8")


@router.get("/dify/{file}")
async def get_file(request: Request, file: str, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    del caller  # any key may
    return await _answer(request, desk, file, asked.language)


@router.get("/dify/{token}/{file}")
async def get_file_by_link(request: Request, token: str, file: str, desk: AtDesk, asked: HowAsked) -> Response:
    if not desk.links.opens(token, "dify", file):
        if desk.links.is_genuine(token, "dify", file):
            raise Refused(Failure(Reason.LINK_EXPIRED), status=410)
        raise Failure(Reason.NOT_FOUND, path=excerpt(request.url.path))
    return await _answer(request, desk, file, asked.language)


async def _answer(request: Request, desk: Desk, file: str, language: Language) -> Response:
    if file not in FILES:
        raise Failure(Reason.NOT_FOUND, path=excerpt(request.url.path))
    address = find_address(request, desk)
    if file == OPENAPI:
        entries = await to_thread.run_sync(desk.catalogue.list)
        templates = [entry for entry in entries if isinstance(entry, Template)]
        return answer_json(openapi.describe(templates, server=address, language=language))
    flow = await to_thread.run_sync(flows.read, file.removesuffix(".yml"))
    fill = partial(flows.fill, address=address, bucket_url=flows.find_bucket_url(desk.settings))
    headers = {"Content-Disposition": f'attachment; filename="handoff-{file}"'}
    return Response(fill(flow, asks_for_key=not desk.keys.is_open), 200, headers, "application/yaml; charset=utf-8")


def _gather(desk: Desk, address: str, public_url: str) -> page.Facts:
    return page.Facts(
        address=address,
        public_url=public_url,
        links={file: f"/dify/{desk.links.token('dify', file)}/{file}" for file in FILES},
        link_lifetime_s=desk.settings.link_lifetime_s,
        asks_for_key=not desk.keys.is_open,
        problems={"en": find_problems(desk, "en"), "zh": find_problems(desk, "zh")},
        workflows=desk.catalogue.list(),
    )


def find_address(request: Request, desk: Desk) -> str:
    """Where Dify reaches this adapter."""
    return desk.settings.dify_url or _find_public_url(request, desk)


def _find_public_url(request: Request, desk: Desk) -> str:
    return desk.settings.public_url or str(request.base_url).rstrip("/")


def _read_language(request: Request, otherwise: Language) -> Language:
    """What the browser's reader likes best."""
    first = request.headers.get("accept-language", "").lower()[:2]
    return "zh" if first == "zh" else "en" if first == "en" else otherwise

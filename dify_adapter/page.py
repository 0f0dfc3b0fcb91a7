"""The page at `/`: one document in two languages that loads nothing and runs no script. Pure, but for `page.html` itself."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from ipaddress import ip_address
from string import Template as Text
from urllib.parse import urlsplit

from handoff.messages import Language
from workflows.template import Broken, Template

_PAGE = resources.files("dify_adapter").joinpath("page.html").read_text(encoding="utf-8")
_STYLE = base64.b64encode(
    hashlib.sha256(_PAGE.partition("<style>")[2].partition("</style>")[0].encode()).digest()
).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE}'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`address` is what Dify reaches, `public_url` what a browser does; `links` are paths, by the file's name."""

    address: str
    public_url: str
    links: Mapping[str, str]
    link_lifetime_s: float
    asks_for_key: bool
    problems: Mapping[Language, Sequence[str]]
    """Why a job that comes now would have to wait."""
    workflows: Sequence[Template | Broken]


def render(facts: Facts, language: Language) -> str:
    """`language` is shown first; the reader may choose the other one."""
    links = {re.sub(r"[.-]", "_", name).removesuffix("_yml"): escape(link) for name, link in facts.links.items()}
    openapi = links.pop("openapi_json")
    return Text(_PAGE).substitute(
        links,
        openapi=openapi,
        openapi_url=escape(facts.address) + openapi,
        language="zh-CN" if language == "zh" else "en",
        en=" checked" if language == "en" else "",
        zh=" checked" if language == "zh" else "",
        health=_show_health(facts.problems),
        address=escape(facts.address),
        loopback=_warn_of_loopback(facts.address),
        proxy=escape(allow_in_proxy(facts.address)),
        days=max(1, int(facts.link_lifetime_s // 86_400)),
        curl=escape(make_curl(facts.public_url, asks_for_key=facts.asks_for_key)),
        workflows="\n".join(map(_show_workflow, facts.workflows)),
    )


def allow_in_proxy(address: str) -> str:
    """The line of Dify's docker/.env that lets its proxy pass requests to this address."""
    host = urlsplit(address).hostname or ""
    return f"SSRF_PROXY_ALLOW_PRIVATE_{'IPS' if _is_ip(host) else 'DOMAINS'}={host}"


def make_curl(public_url: str, *, asks_for_key: bool) -> str:
    key = " -H 'Authorization: Bearer YOUR-KEY'" if asks_for_key else ""
    return f"curl {public_url}/prompt{key} -H 'Content-Type: application/json' -d '{{\"prompt\": \"A futuristic cityscape\"}}'"


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _show_health(problems: Mapping[Language, Sequence[str]]) -> str:
    if not any(problems.values()):
        return (
            '<p id="health" class="well"><span lang="en">Ready: a job that comes now is drawn.</span>'
            '<span lang="zh">就绪：现在提交的任务会立即绘制。</span></p>'
        )
    entries = [f'<li lang="{language}">{escape(text)}</li>' for language, texts in problems.items() for text in texts]
    return f'<ul id="health" class="warn">{"".join(entries)}</ul>'


def _warn_of_loopback(address: str) -> str:
    host = urlsplit(address).hostname or ""
    if host != "localhost" and not (_is_ip(host) and ip_address(host).is_loopback):
        return ""
    return (
        '<p class="warn" lang="en">In Dify\'s containers this address is the container itself. Set HANDOFF_DIFY_URL to a name'
        " that they reach, such as http://handoff:8080 or http://host.docker.internal:8080, and reload.</p>"
        '<p class="warn" lang="zh">在 Dify 的容器里，这个地址指向容器自身。请把 HANDOFF_DIFY_URL 设为它们能访问的地址，'
        "例如 http://handoff:8080 或 http://host.docker.internal:8080，然后刷新。</p>"
    )


def _show_workflow(entry: Template | Broken) -> str:
    name = f"<td><code>{escape(entry.name)}</code></td>"
    if isinstance(entry, Broken):
        return f'<tr>{name}<td class="warn">{escape(entry.problems[0])}</td></tr>'
    languages: tuple[Language, ...] = ("en", "zh")
    said = "".join(
        f'<span lang="{language}"><b>{escape(entry.title[language])}</b> {escape(entry.description[language])}</span>'
        for language in languages
    )
    return f"<tr>{name}<td>{said}</td></tr>"

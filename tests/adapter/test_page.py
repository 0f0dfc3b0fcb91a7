"""The page from which a flow builder gets what Dify imports, in a real browser and as HTML."""

import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests

from dify_adapter import page
from dify_adapter.keys import make_link_secrets, read_keys
from dify_adapter.links import Links
from tests.adapter.browser import Browser, open_browser
from tests.adapter.conftest import KEYS, Counter, Studio, open_counter
from tests.adapter.interpreter import load
from tests.servers.adapter import KEY
from workflows.catalogue import Catalogue
from workflows.template import Broken

DIFY_URL = "http://handoff:8080"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"anybody:{KEY}".encode()).decode()}
FLOWS = ("chatflow.yml", "workflow.yml", "picture-to-picture.yml", "bucket-polling.yml")

FACTS = page.Facts(
    address=DIFY_URL,
    public_url="https://draw.example",
    links={file: f"/dify/0123/{file}" for file in (*FLOWS, "openapi.json")},
    link_lifetime_s=604_800,
    asks_for_key=True,
    problems={"en": [], "zh": []},
    workflows=Catalogue(None).list(),
)


@pytest.fixture(scope="module")
def desk() -> Iterator[Counter]:
    with open_counter(dify_url=DIFY_URL) as counter:
        yield counter


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as browser:
        yield browser


def test_a_browser_shows_it_without_an_error_and_downloads_by_links_without_a_key(
    desk: Counter, browser: Browser, tmp_path: Path
) -> None:
    browser.open(desk.adapter.url + "/", BASIC)
    assert browser.evaluate("document.title") == "Handoff"
    assert browser.evaluate("document.getElementById('address').innerText") == DIFY_URL
    assert browser.evaluate("document.getElementById('proxy').innerText") == "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=handoff"
    assert (
        browser.evaluate("getComputedStyle(document.querySelector('pre')).userSelect") == "all"
    )  # the style is applied
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for file in FLOWS:
        flow = load(browser.download(f"a[href$='/{file}']", downloads).read_text("utf-8"))
        assert flow["workflow"]["environment_variables"][0]["value"] == DIFY_URL
    assert browser.errors == []


def test_a_reader_chooses_the_language(desk: Counter, browser: Browser) -> None:
    browser.open(desk.adapter.url + "/?lang=en", BASIC)
    shown = "[...document.querySelectorAll('h2')].map(title => title.innerText).join('|')"
    assert "Import a flow" in browser.evaluate(shown)
    assert "导入流程" not in browser.evaluate(shown)
    browser.evaluate("document.getElementById('zh').click()")
    assert "导入流程" in browser.evaluate(shown)
    assert "Import a flow" not in browser.evaluate(shown)
    assert browser.errors == []


def test_the_browser_tells_of_an_error(desk: Counter, browser: Browser) -> None:
    browser.open(desk.adapter.url + "/", BASIC)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<style>body { color: red }</style>')")
    browser.evaluate("console.error('planted')")
    assert len(browser.errors) == 2


def test_the_link_of_the_openapi_document_needs_no_key(desk: Counter) -> None:
    html = desk.adapter.get("/", headers=BASIC).text
    link = _find_links(html)["openapi"]
    document = requests.get(desk.adapter.url + link, timeout=30).json()
    assert document["servers"] == [{"url": DIFY_URL}]
    assert f"{DIFY_URL}{link}" in html


def test_a_changed_link_opens_nothing(desk: Counter) -> None:
    link = _find_links(desk.adapter.get("/", headers=BASIC).text)["openapi"]
    token = link.split("/")[2]
    changed = link.replace(token, token[:-1] + ("0" if token[-1] != "0" else "1"))
    assert requests.get(desk.adapter.url + link, timeout=30).status_code == 200
    assert requests.get(desk.adapter.url + changed, timeout=30).status_code == 404
    other = link.replace("openapi.json", "chatflow.yml")
    assert requests.get(desk.adapter.url + other, timeout=30).status_code == 404


def test_an_expired_link_says_so(desk: Counter) -> None:
    expired = Links(make_link_secrets(read_keys(KEYS.split())), lifetime_s=-7200, now=time.time)
    answer = requests.get(f"{desk.adapter.url}/dify/{expired.token('dify', FLOWS[0])}/{FLOWS[0]}", timeout=30)
    assert (answer.status_code, answer.json()["reason"]) == (410, "link_expired")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_without_a_key_the_browser_asks_for_one(desk: Counter, headers: dict[str, str]) -> None:
    answer = requests.get(desk.adapter.url + "/", headers=headers, timeout=30)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", ["/dify/chatflow.yml", "/dify/openapi.json"])
def test_files_are_served_by_key(desk: Counter, path: str) -> None:
    assert desk.adapter.get(path).status_code == 200
    assert desk.adapter.get(path, key=None).status_code == 401
    assert desk.adapter.get("/dify/nothing.yml").status_code == 404


def test_it_loads_nothing_and_runs_nothing(desk: Counter) -> None:
    answer = desk.adapter.get("/", headers=BASIC)
    assert "script" not in answer.text
    assert not re.search(r"(?:src|@import|url\()", answer.text)
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_no_watcher_is_told_in_both_languages(desk: Counter) -> None:
    html = desk.adapter.get("/", headers=BASIC).text
    (health,) = re.findall(r'<ul id="health" class="warn">(.*)</ul>', html)
    assert "No watcher" in health
    assert re.search(r'<li lang="zh">[^<]*[\u4e00-\u9fff]', health)


def test_a_working_installation_is_ready(studio: Studio) -> None:
    assert 'class="well"' in studio.adapter.get("/").text


@pytest.mark.parametrize(
    ("accepted", "first"), [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en", "en"), ("de-DE", "en"), ("", "en")]
)
def test_the_browsers_language_comes_first(desk: Counter, accepted: str, first: str) -> None:
    answer = desk.adapter.get("/", headers={**BASIC, "Accept-Language": accepted})
    assert answer.headers["Content-Language"] == first


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("http://handoff:8080", "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=handoff"),
        ("https://draw.example/handoff", "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=draw.example"),
        ("http://10.1.2.3:8080", "SSRF_PROXY_ALLOW_PRIVATE_IPS=10.1.2.3"),
        ("http://[fd00::1]:8080", "SSRF_PROXY_ALLOW_PRIVATE_IPS=fd00::1"),
    ],
)
def test_the_line_for_difys_proxy(address: str, line: str) -> None:
    assert page.allow_in_proxy(address) == line
    assert line in page.render(replace(FACTS, address=address), "en")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_an_address_that_dify_cannot_reach_is_warned_of(address: str) -> None:
    assert "HANDOFF_DIFY_URL" in page.render(replace(FACTS, address=address), "en")
    assert "HANDOFF_DIFY_URL" not in page.render(FACTS, "en")


def test_what_others_wrote_is_text_and_no_markup() -> None:
    broken = Broken(name="<b>", problems=("<script>alert(1)</script>",))
    html = page.render(replace(FACTS, workflows=[broken], problems={"en": ["<i>"], "zh": ["<i>"]}), "en")
    assert "<script>" not in html
    assert "<i>" not in html


@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_languages_say_the_same_things(language: Any) -> None:
    counted: dict[str, int] = {"en": 0, "zh": 0}

    class Counting(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            spoken = dict(attrs).get("lang")
            if tag != "html" and spoken is not None:
                counted[spoken] += 1

    Counting().feed(page.render(FACTS, language))
    assert counted["en"] == counted["zh"] > 10


def test_the_curl_line_carries_a_key_where_one_is_asked_for() -> None:
    assert "Bearer" in page.make_curl("http://h", asks_for_key=True)
    assert "Bearer" not in page.make_curl("http://h", asks_for_key=False)
    body = page.make_curl("http://h", asks_for_key=False).partition("-d '")[2].rstrip("'")
    assert json.loads(body) == {"prompt": "A futuristic cityscape"}


def _find_links(html: str) -> dict[str, str]:
    found = re.findall(r'<a(?: id="(\w+)")? href="([^"]+)"', html)
    return {name or href.rpartition("/")[2]: href for name, href in found}

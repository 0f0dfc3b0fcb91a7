"""URLs that try to reach what nobody listed: all are refused, and not one connection or look-up is made for them."""

import socket
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handoff.failures import Failure, Reason
from handoff.fetch import fetch
from tests.figures import Note
from tests.test_fetch import LISTED, reply, serving

CORPUS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("ssrf.toml").read_text("utf-8"))

_calls: list[tuple[str, Any]] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _calls is not None and event in ("socket.connect", "socket.getaddrinfo"):
        _calls.append((event, arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_listen)


@contextmanager
def overheard() -> Iterator[list[tuple[str, Any]]]:
    """Every connection that this process tries to make, and every name that it looks up, as Python itself reports them."""
    global _calls  # noqa: PLW0603 - an audit hook stays for ever
    calls: list[tuple[str, Any]] = []
    _calls = calls
    try:
        yield calls
    finally:
        _calls = None


def said_to(url: str, to: Path, *allow: str) -> tuple[str, str]:
    """The reason for which it is refused, and in which words."""
    try:
        fetch(url, to=to, allow=allow, limit_bytes=1000, timeout_s=3)
    except Failure as failure:
        return failure.reason, str(failure.details.get("problem"))
    return "fetched", ""


def test_the_corpus_is_large() -> None:
    assert sum(map(len, CORPUS.values())) >= 250


def test_no_url_of_the_corpus_is_asked(tmp_path: Path, note: Note) -> None:
    with serving(reply()) as server, overheard() as calls:
        said = {
            url: said_to(url.replace("{port}", str(server.port)), tmp_path / "x", *LISTED) for url in CORPUS["urls"]
        }
        assert server.requests == []
    wrong = {
        url: said[url]
        for url, problem in CORPUS["urls"].items()
        if said[url][0] != "forbidden_url" or problem not in said[url][1]
    }
    note(urls=len(said), passed=len(wrong), connections=len(calls))
    assert wrong == {}
    assert calls == []


def test_no_name_leads_to_an_address_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with overheard() as calls:
        said = {
            name: said_to(f"http://{name}.wild.test/", tmp_path / "x", "*.wild.test")[0] for name in CORPUS["names"]
        }
    note(names=len(said), passed=sum(reason != "forbidden_url" for reason in said.values()), connections=len(calls))
    assert said == dict.fromkeys(CORPUS["names"], Reason.FORBIDDEN_URL)
    assert calls == []


def resolve(host: str, port: int, **_: Any) -> list[Any]:
    addresses = CORPUS["names"].get(host.removesuffix(".wild.test"), ["127.0.0.1"])
    return [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        for address in addresses
    ]


def test_no_redirect_leads_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    said, asked = {}, []
    with serving(reply()) as other:
        for location in CORPUS["redirects"]:
            target = location.replace("{other}", str(other.port))
            with (
                serving(reply(b"", "302 Found", Location=target.encode().decode("latin-1"))) as server,
                overheard() as calls,
            ):
                origin = server.origin
                said[location] = said_to(f"{origin}/", tmp_path / "x", origin, "*.wild.test", "example.com")[0]
                asked += [
                    address for event, address in calls if event == "socket.connect" and address[1] != server.port
                ]
        assert other.requests == []
    note(redirects=len(said), followed=len(asked))
    assert said == {location: Reason(reason) for location, reason in CORPUS["redirects"].items()}
    assert asked == []


def test_a_listed_url_is_overheard(tmp_path: Path) -> None:
    """The control: the ears are open."""
    with serving(reply()) as server, overheard() as calls:
        assert said_to(f"{server.origin}/", tmp_path / "x", server.origin) == ("fetched", "")
    assert ("socket.connect", ("127.0.0.1", server.port)) in calls

"""The guard by tables, the edge against real sockets: a fetch reaches what is listed, and nothing else."""

import datetime as dt
import gzip
import ipaddress
import itertools
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from handoff.failures import Failure, Reason, Unavailable
from handoff.fetch import MAX_REDIRECTS, _trust, fetch, judge_address, judge_url, parse_allowed, shown

LISTED = ("example.com", "*.cdn.example", "img.example:8443", "8.8.8.8", "http://10.0.0.5:9000", "https://[fd00::5]")

FINE = [  # URL, what is asked for
    ("http://example.com/a.png", "http://example.com/a.png"),
    ("https://example.com/a.png?x=1&y=2", "https://example.com/a.png?x=1&y=2"),
    ("HTTPS://EXAMPLE.COM/A.png", "https://example.com/A.png"),
    ("https://example.com./a.png", "https://example.com/a.png"),
    ("https://example.com:443/a.png", "https://example.com/a.png"),
    ("https://example.com:/a.png", "https://example.com/a.png"),
    ("https://example.com", "https://example.com/"),
    ("https://example.com?x", "https://example.com/?x"),
    ("https://example.com/a.png#part", "https://example.com/a.png"),
    ("https://example.com/海报.png", "https://example.com/%E6%B5%B7%E6%8A%A5.png"),
    ("https://example.com/%E6%B5%B7.png", "https://example.com/%E6%B5%B7.png"),
    ("https://example.com//evil.test/a.png", "https://example.com//evil.test/a.png"),
    ("https://a.cdn.example/1", "https://a.cdn.example/1"),
    ("https://a.b.cdn.example/1", "https://a.b.cdn.example/1"),
    ("https://img.example:8443/1", "https://img.example:8443/1"),
    ("http://8.8.8.8/1", "http://8.8.8.8/1"),
    ("http://10.0.0.5:9000/files/1?sign=x", "http://10.0.0.5:9000/files/1?sign=x"),
    ("https://[fd00::5]/1", "https://[fd00::5]/1"),
    ("https://[FD00:0:0::5]/1", "https://[fd00::5]/1"),
]


@pytest.mark.parametrize(("url", "asked"), FINE)
def test_listed_urls_pass_in_one_canonical_form(url: str, asked: str) -> None:
    assert judge_url(url, LISTED).url == asked


def test_a_url_that_is_too_long_is_refused() -> None:
    """Everything else that is refused: tests/hostile/ssrf.toml."""
    with pytest.raises(Failure, match="longer than 8192"):
        judge_url("https://example.com/" + "x" * 8192, LISTED)


@pytest.mark.parametrize("url", [url for url, _ in FINE])
def test_nothing_passes_without_a_list(url: str) -> None:
    with pytest.raises(Failure, match="forbidden_url"):
        judge_url(url, ())


def test_only_entries_with_a_scheme_open_private_networks() -> None:
    assert judge_url("http://10.0.0.5:9000/", LISTED).private
    assert not judge_url("https://example.com/", LISTED).private
    assert judge_url("https://example.com/", (*LISTED, "https://example.com/")).private
    assert not judge_url("http://example.com/", (*LISTED, "https://example.com/")).private


@given(st.text())
def test_any_text_is_judged_and_shown(url: str) -> None:
    for text in (url, f"http://{url}", f"https://example.com/{url}"):
        shown(text).encode()
        with suppress(Failure):
            target = judge_url(text, LISTED)
            assert judge_url(target.url, LISTED) == target
            assert target.host.endswith(".cdn.example") or target.host in ("example.com", "8.8.8.8")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("", "no host"),
        ("*", "no host"),
        ("*.*.example.com", "no host"),
        ("example.com/path", "no host"),
        ("user@example.com", "no host"),
        ("ftp://example.com", "no host"),
        ("bücher.example", "no host"),
        ("example.com:0", "no port"),
        ("2852039166", "is a number"),
        ("*.10.0.0.5", "goes with a host name"),
        ("http://*.example.com", "goes with a host name"),
        ("10.0.0.5", "write http://10.0.0.5 if that is meant"),
        ("127.0.0.1:8080", "write http://127.0.0.1:8080 if that is meant"),
        ("[::1]:80", "write http://"),
        ("http://169.254.169.254", "never"),
        ("http://[::ffff:169.254.169.254]", "never"),
        ("http://0.0.0.0:80", "never"),
        ("169.254.169.254", "never"),
    ],
)
def test_unusable_entries_say_what_to_write(entry: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_allowed(entry)
    with pytest.raises(ValueError, match=re.escape(problem)):
        judge_url("https://example.com/", ("example.com", entry))


PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "100.64.0.1", "fd12::1", "::1", "::ffff:10.0.0.1"]  # fmt: skip
NEVER = [
    *["0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "224.0.0.1", "239.255.255.250", "255.255.255.255"],
    *["240.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.0.0.192", "192.88.99.1"],
    *["168.63.129.16", "100.100.100.200", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"],
    *["fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1", "::8.8.8.8"],
    *[
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::a00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::808:808",
        "2002:808:808::",
        "2002:a00:1::",
    ],
    *["2001::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "4000::1", "10.0.0.1.", "example.com", ""],
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert judge_address(address)
    assert judge_address(address, private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_may_be_reached_on_purpose_only(address: str) -> None:
    assert not judge_address(address)
    assert judge_address(address, private=True)


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_may_never_be_reached(address: str) -> None:
    assert not judge_address(address)
    assert not judge_address(address, private=True)


@given(st.ip_addresses())
def test_what_is_public_is_global_in_itself(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if judge_address(address):
        assert address.is_global
        assert judge_address(address, private=True)


@pytest.mark.parametrize(
    ("url", "visible"),
    [
        ("https://user:secret@h.example:1/p/a.png?token=secret#secret", "https://h.example:1/p/a.png"),
        ("https://h.example/@user/a.png", "https://h.example/…"),
        ("https://user:sec/ret@h.example/a.png", "https://…/"),
        ("https://user:sec?ret@h.example/a.png", "https://…"),
        ("https://user:secret@h.example\\x/", "https://…/"),
        ("https://h.example/\x1b[31m", "https://h.example/�[31m"),
        ("https://[::1]:8/x?secret", "https://[::1]:8/x"),
        ("mailto:secret@h.example", "(no URL)"),
    ],
)
def test_shown_urls_keep_no_secret(url: str, visible: str) -> None:
    assert shown(url) == visible


Answer = Callable[[socket.socket, str], None]


class Server:
    """A real listener; `answer` gets the connection and the request's text, and may be as rude as it likes."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[connection])
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                used = self._context.wrap_socket(connection, server_side=True) if self._context else connection
                with used:
                    request = b""
                    while b"\r\n\r\n" not in request and (part := used.recv(4096)):
                        request += part
                    self.requests.append(request.decode(errors="replace"))
                    self._answer(used, request.decode(errors="replace"))
            except OSError:  # the other side is gone, as it should be in half of these tests
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answer, context)
    try:
        yield server
    finally:
        server.close()


def reply(body: bytes = b"picture", status: str = "200 OK", **headers: str) -> Answer:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if "Transfer_Encoding" not in headers and "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return lambda connection, _: connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)


def get(url: str, to: Path, *allow: str, limit_bytes: int = 1000, timeout_s: float = 5) -> bytes:
    fetch(url, to=to, allow=allow, limit_bytes=limit_bytes, timeout_s=timeout_s)
    return to.read_bytes()


def refused(url: str, to: Path, *allow: str, limit_bytes: int = 1000, timeout_s: float = 5) -> tuple[Reason, str]:
    with pytest.raises(Failure) as caught:
        get(url, to, *allow, limit_bytes=limit_bytes, timeout_s=timeout_s)
    return caught.value.reason, str(caught.value.details)


@pytest.fixture(autouse=True)
def trust() -> Iterator[None]:
    """Authorities are read once per process; here SSL_CERT_FILE changes."""
    _trust.cache_clear()
    yield
    _trust.cache_clear()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Iterator[Sequence[str]]]:
    """Host names of the test, each with its answers in turn; every other name does not exist."""
    table: dict[str, Iterator[Sequence[str]]] = {}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in next(table[host])
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Where connections went; none of them gets there."""
    seen: list[object] = []

    def connect(_: socket.socket, address: object) -> None:
        seen.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return seen


def test_a_listed_private_server_is_asked_plainly(to: Path) -> None:
    with serving(reply(b"picture")) as server:
        assert get(f"{server.origin}/a.png?sign=1", to, server.origin) == b"picture"
        (request,) = server.requests
    assert request.startswith("GET /a.png?sign=1 HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{server.port}\r\n" in request
    assert "\r\nAccept-Encoding: identity\r\n" in request


def test_a_private_server_that_is_not_listed_gets_no_connection(to: Path) -> None:
    with serving(reply()) as server:
        reason, _ = refused(f"{server.origin}/", to, "example.com")
        assert server.requests == []
    assert reason is Reason.FORBIDDEN_URL


def test_proxies_of_the_environment_are_not_used(to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(reply(b"proxy")) as proxy, serving(reply(b"picture")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.origin)
        assert get(f"{server.origin}/", to, server.origin) == b"picture"
        assert proxy.requests == []


@pytest.mark.parametrize("bad", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1%eth0"])
def test_one_bad_address_closes_the_host(bad: str, to: Path, names: dict[str, Any], dialled: list[object]) -> None:
    names["pictures.test"] = itertools.repeat(["93.184.216.34", bad])
    reason, details = refused("http://pictures.test/", to, "pictures.test")
    assert reason is Reason.FORBIDDEN_URL
    assert "http://pictures.test in HANDOFF_URL_ALLOW" in details
    assert dialled == []


def test_a_listed_private_host_leads_to_no_metadata(to: Path, names: dict[str, Any], dialled: list[object]) -> None:
    names["files.test"] = itertools.repeat(["169.254.169.254"])
    assert refused("http://files.test/", to, "http://files.test")[0] is Reason.FORBIDDEN_URL
    assert dialled == []


def test_rebinding_gets_the_judged_address_only(to: Path, names: dict[str, Any], dialled: list[object]) -> None:
    names["pictures.test"] = iter([["93.184.216.34"], ["127.0.0.1"]])
    reason, _ = refused("http://pictures.test/", to, "pictures.test")
    assert dialled == [("93.184.216.34", 80)]  # refused; the second try asked again and was told 127.0.0.1
    assert reason is Reason.FORBIDDEN_URL


def test_a_name_is_resolved_once_and_sent_as_host(to: Path, names: dict[str, Any]) -> None:
    names["files.test"] = iter([["127.0.0.1"]])
    with serving(reply(b"picture")) as server:
        origin = f"http://files.test:{server.port}"
        assert get(f"{origin}/x", to, origin) == b"picture"
        assert f"\r\nHost: files.test:{server.port}\r\n" in server.requests[0]
    assert list(names["files.test"]) == []


def test_the_next_address_is_tried_when_one_is_dead(to: Path, names: dict[str, Any]) -> None:
    with serving(reply(b"picture")) as server:
        names["files.test"] = iter([["127.0.0.2", "127.0.0.1"]])  # the server listens on the second only
        origin = f"http://files.test:{server.port}"
        assert get(f"{origin}/x", to, origin) == b"picture"


def test_an_unknown_host_is_named(to: Path, names: dict[str, Any]) -> None:
    reason, details = refused("http://gone.test/", to, "gone.test")
    assert names == {}
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert "there is no host gone.test" in details


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/?token=secret",
        "http://user:secret@127.0.0.1/",
        "//evil.test/?secret",
        "file:///etc/passwd",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
    ],
)
def test_redirects_are_judged_like_the_first_url(location: str, to: Path) -> None:
    with serving(reply(b"", "302 Found", Location=location)) as server:
        reason, details = refused(f"{server.origin}/?secret", to, server.origin)
    assert reason is Reason.FORBIDDEN_URL
    assert "secret" not in details


def test_redirects_are_followed_three_times(to: Path) -> None:
    def hop(connection: socket.socket, request: str) -> None:
        left = int(request.split()[1].strip("/"))
        last = reply(b"picture") if left == 0 else reply(b"", "307 Temporary Redirect", Location=f"/{left - 1}")
        last(connection, request)

    with serving(hop) as server:
        assert get(f"{server.origin}/{MAX_REDIRECTS}", to, server.origin) == b"picture"
        reason, details = refused(f"{server.origin}/{MAX_REDIRECTS + 1}", to, server.origin)
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert "redirected more than 3 times" in details


def test_a_redirect_may_be_relative_and_not_ascii(to: Path) -> None:
    def hop(connection: socket.socket, request: str) -> None:
        first = request.startswith("GET /a/b ")
        last = reply(b"", "301 Moved", Location="../海报.png") if first else reply(b"picture")
        last(connection, request)

    with serving(hop) as server:
        assert get(f"{server.origin}/a/b", to, server.origin) == b"picture"
        assert server.requests[1].startswith("GET /%E6%B5%B7%E6%8A%A5.png HTTP")


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "401 Unauthorized", "403 Forbidden", "404 Not Found"])  # fmt: skip
def test_a_final_answer_is_not_asked_for_again(status: str, to: Path) -> None:
    with serving(reply(b"no", status)) as server:
        reason, details = refused(f"{server.origin}/?secret", to, server.origin)
        assert len(server.requests) == 1
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert f"it answered {status[:3]}" in details
    assert "secret" not in details


@pytest.mark.parametrize(
    "trouble",
    [
        reply(b"no", "503 Service Unavailable"),
        reply(b"no", "429 Too Many Requests"),
        reply(b"half", Content_Length="9"),
        reply(b"5\r\nhal", Transfer_Encoding="chunked"),
        lambda *_: None,
        lambda connection, _: connection.sendall(b"SSH-2.0-x\r\n\r\n"),
    ],
    ids=["503", "429", "cut short", "cut chunk", "closed", "no HTTP"],
)
def test_short_trouble_is_tried_again(trouble: Answer, to: Path) -> None:
    answers = iter([trouble, reply(b"picture"), trouble, trouble, trouble])

    def answer(connection: socket.socket, request: str) -> None:
        next(answers)(connection, request)

    with serving(answer) as server:
        assert get(f"{server.origin}/", to, server.origin) == b"picture"
        assert refused(f"{server.origin}/", to, server.origin)[0] is Reason.PICTURE_NOT_FETCHED
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    "answer",
    [reply(b"x" * 1001), reply(b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", Transfer_Encoding="chunked")],
    ids=["announced", "chunked"],
)
def test_too_many_bytes_are_not_stored(answer: Answer, to: Path) -> None:
    with serving(answer) as server:
        reason, details = refused(f"{server.origin}/", to, server.origin, limit_bytes=1000)
    assert reason is Reason.BAD_PICTURE
    assert "larger than 1000 bytes" in details
    assert to.stat().st_size <= 1000


def test_the_limit_itself_is_fine(to: Path) -> None:
    with serving(reply(b"x" * 1000)) as server:
        assert len(get(f"{server.origin}/", to, server.origin, limit_bytes=1000)) == 1000


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
def test_nothing_is_expanded(encoding: str, to: Path) -> None:
    with serving(reply(gzip.compress(bytes(10_000_000))[:900], Content_Encoding=encoding)) as server:
        reason, details = refused(f"{server.origin}/", to, server.origin)
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert "compressed" in details
    assert to.stat().st_size == 0


def drip(before: bytes) -> Answer:
    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        lambda connection, _: connection.recv(1),
    ],
    ids=["body", "body without length", "headers", "silence"],
)
def test_slow_answers_end_in_time(answer: Answer, to: Path) -> None:
    with serving(answer) as server:
        begun = time.monotonic()
        reason, details = refused(f"{server.origin}/", to, server.origin, timeout_s=0.6)
        assert 0.5 < time.monotonic() - begun < 2
        assert len(server.requests) == 1
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert "no whole answer within 0.6 s" in details


def test_no_thread_and_no_file_stays_open(to: Path) -> None:
    with serving(reply(b"", "302 Found", Location="/again")) as server:
        before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
        assert refused(f"{server.origin}/", to, server.origin)[0] is Reason.PICTURE_NOT_FETCHED
        time.sleep(0.1)
        assert threading.active_count() <= before[0] + MAX_REDIRECTS + 1  # the server's own, ending
        assert len(list(Path("/proc/self/fd").iterdir())) == before[1]


def certify(folder: Path, *hosts: str, days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """A server's context for these hosts, signed by an authority of its own, and that authority's file."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        start, end = sorted((now - dt.timedelta(hours=1), now + dt.timedelta(days=days)))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    # Python 3.13 checks strictly: an authority says what it may sign, and both say who signed
    key_usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        build(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
    ]
    certificate = (
        build(x509.Name([]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = folder / "server.pem"
    chain.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    trusted = folder / "authority.pem"
    trusted.write_bytes(authority.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context, trusted


def test_https_checks_the_certificate_for_the_url_host(
    to: Path, tmp_path: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certify(tmp_path, "files.test", "127.0.0.1")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    names.update({"files.test": itertools.repeat(["127.0.0.1"]), "other.test": itertools.repeat(["127.0.0.1"])})
    with serving(reply(b"picture"), context) as server:
        origin = f"https://files.test:{server.port}"
        other = f"https://other.test:{server.port}"
        reason, details = refused(f"{origin}/x", to, origin)
        assert reason is Reason.PICTURE_NOT_FETCHED
        assert "its certificate is not valid" in details

        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        _trust.cache_clear()
        assert get(f"{origin}/x", to, origin) == b"picture"
        assert get(f"{server.origin}/x", to, server.origin) == b"picture"
        reason, details = refused(f"{other}/x", to, other)
        assert reason is Reason.PICTURE_NOT_FETCHED
        assert "its certificate is not valid" in details
        assert len(server.requests) == 2
    assert asked == ["files.test", "files.test", None, "other.test"]


def test_a_slow_handshake_and_a_slow_body_over_https_end_in_time(
    to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certify(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    silent = reply(b"no TLS")
    with serving(drip(b"HTTP/1.1 200 OK\r\n\r\n"), context) as server, socket.create_server(("127.0.0.1", 0)) as deaf:
        for origin in (server.origin, f"https://127.0.0.1:{deaf.getsockname()[1]}"):
            begun = time.monotonic()
            assert "no whole answer within 0.6 s" in refused(f"{origin}/", to, origin, timeout_s=0.6)[1]
            assert time.monotonic() - begun < 2
    with serving(silent) as plain:
        origin = plain.origin.replace("http:", "https:")
        assert refused(f"{origin}/", to, origin, timeout_s=2)[0] is Reason.PICTURE_NOT_FETCHED


def test_an_outdated_certificate_is_refused(to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certify(tmp_path, "127.0.0.1", days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with serving(reply(), context) as server:
        reason, details = refused(f"{server.origin}/", to, server.origin)
        assert server.requests == []
    assert reason is Reason.PICTURE_NOT_FETCHED
    assert "expired" in details


def test_a_full_disk_and_a_lost_folder_are_not_the_job_s_fault(tmp_path: Path) -> None:
    with serving(reply(b"picture")) as server:
        with pytest.raises(Unavailable):
            get(f"{server.origin}/", Path("/dev/full"), server.origin)
        with pytest.raises(FileNotFoundError):
            get(f"{server.origin}/", tmp_path / "gone" / "x", server.origin)

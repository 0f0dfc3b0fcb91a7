"""Fetches a picture from a URL that a job names, and goes nowhere else.

Default is no: only what `HANDOFF_URL_ALLOW` lists may be fetched. Its entries:

    example.com               this host on the usual port of http or https
    *.example.com             every host below it, not itself
    example.com:8443          this host on this port
    http://10.0.0.5:9000      exactly this scheme, host and port; the host may lie in a private network
    https://files.internal    the same on port 443

Only an entry written with its scheme opens a private network (10/8, 172.16/12, 192.168/16, 127/8, 100.64/10, fc00::/7,
::1), for Dify's file URLs, say; so write public hosts without it. Link-local and cloud metadata addresses stay closed
whatever is listed. The host is resolved once, every address of it is judged, and the connection goes to a judged one.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import string
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import quote, urljoin, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay, wait_exponential

from handoff.durable import disk_errors
from handoff.failures import Failure, Reason, Transient

MAX_REDIRECTS = 3
MAX_URL = 8192
ATTEMPTS = 3
CHUNK = 1 << 16

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?")
_ENTRY = re.compile(r"(?:(?P<scheme>https?)://)?(?P<below>\*\.)?(?P<authority>[^/*@]+)/?", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST6 = ipaddress.IPv6Network("2000::/3")
# What `is_global` of some supported Python takes for public: 6to4 and its relays, Teredo, documentation, protocol
# assignments, Azure's host address.
_NEVER = _networks("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16", "3fff::/20")
_PRIVATE = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "fc00::/7", "::1/128"
)
# Cloud metadata inside private ranges (Alibaba, AWS over IPv6); the usual 169.254.169.254 is link-local.
_METADATA = _networks("100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be fetched, taken apart. `path` includes the query; `private` says that the host may be private."""

    scheme: str
    host: str
    port: int
    path: str
    private: bool = False

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """One entry of the allow-list; the module's docstring shows its forms."""

    host: str
    port: int | None = None
    scheme: str | None = None
    below: bool = False

    def covers(self, scheme: str, host: str, port: int) -> bool:
        return (
            (host.endswith(f".{self.host}") if self.below else host == self.host)
            and self.scheme in (None, scheme)
            and port == (self.port or _PORTS[scheme])
        )


def parse_allowed(entry: str) -> Allowed:
    """Raises ValueError with a sentence that says how to write it instead."""
    found = _ENTRY.fullmatch(entry.strip())
    if not found:
        raise ValueError(f"{entry!r} is no host: write example.com, *.example.com or http://10.0.0.5:9000")
    try:
        host, port = _split_authority(found["authority"])
    except ValueError as error:
        raise ValueError(f"{entry!r} is no host: {error}") from None
    scheme, below = found["scheme"], bool(found["below"])
    address = _address(host)
    if below and (scheme or address):
        raise ValueError(f"{entry!r}: *. goes with a host name, without http:// or https://")
    if address and not judge_address(address, private=bool(scheme)):
        if judge_address(address, private=True):
            raise ValueError(f"{entry!r} is private: write http://{entry.strip()} if that is meant")
        raise ValueError(f"{entry!r} can never be fetched from")
    return Allowed(host=host, port=port, scheme=scheme and scheme.lower(), below=below)


def judge_url(url: str, allow: Sequence[str]) -> Target:
    """Decides by the text alone; the addresses that a name leads to are judged when it is resolved.

    Raises Failure(FORBIDDEN_URL), and ValueError for an entry of `allow` that cannot be read.
    """
    entries = [parse_allowed(entry) for entry in allow]
    try:
        target = _take_apart(url)
    except ValueError as error:
        raise Failure(Reason.FORBIDDEN_URL, url=shown(url), problem=str(error)) from None
    covering = [entry for entry in entries if entry.covers(target.scheme, target.host, target.port)]
    if not covering:
        problem = f"no entry of HANDOFF_URL_ALLOW covers {target.scheme}://{target.authority}"
        raise Failure(Reason.FORBIDDEN_URL, url=shown(url), problem=problem)
    return replace(target, private=any(entry.scheme for entry in covering))


def _take_apart(url: str) -> Target:
    if len(url) > MAX_URL:
        raise ValueError(f"it is longer than {MAX_URL} characters")
    # urlsplit drops some of these silently; who sees the URL before or after us would read another one.
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise ValueError("it contains spaces, line breaks or backslashes; write a space as %20")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it is not a well-formed URL") from None  # the original text may quote a password
    if parts.scheme not in _PORTS:
        raise ValueError("only http:// and https:// are fetched")
    if "@" in parts.netloc:
        raise ValueError("user names and passwords in a URL are not sent")
    if not parts.netloc.isascii():
        raise ValueError("its host is not ASCII; write the form that begins with xn--")
    host, port = _split_authority(parts.netloc)
    path = quote(parts.path or "/", safe=string.punctuation, errors="replace")
    if parts.query:
        path += "?" + quote(parts.query, safe=string.punctuation, errors="replace")
    return Target(scheme=parts.scheme, host=host, port=port or _PORTS[parts.scheme], path=path)


def judge_address(address: str | Address, *, private: bool = False) -> bool:
    """Whether a connection may go there. With `private` private networks may be reached, link-local and metadata never."""
    if isinstance(address, str):
        try:
            address = ipaddress.ip_address(address)
        except ValueError:
            return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return judge_address(address.ipv4_mapped, private=private)
        if address in _NAT64:
            return judge_address(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if any(address in network for network in _METADATA):
        return False
    if private and any(address in network for network in _PRIVATE):
        return True
    if any(address in network for network in _NEVER) or (address.version == 6 and address not in _UNICAST6):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def shown(url: str) -> str:
    """The URL as it may be kept and logged: without query, fragment and user part, in doubt without the path as well."""
    scheme, mark, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    if not mark:
        return "(no URL)"
    authority, slash, path = rest.partition("/")
    authority = authority.rpartition("@")[2]
    if not _AUTHORITY.fullmatch(authority):
        authority, path = "…", ""
    if "@" in path:  # may be the rest of a password that contains a slash
        path = "…"
    text = f"{scheme}://{authority}{slash}{path}"
    return "".join(character if character.isprintable() else "�" for character in text[:200])


def fetch(url: str, *, to: Path, allow: Sequence[str], limit_bytes: int, timeout_s: float) -> None:
    """Writes what the URL answers to the file `to`, within `timeout_s` in all (the system's resolver has its own limit).

    At most 3 redirects, each judged like the first URL. Short trouble (a reset, a 503) is tried again while there is time.
    Raises Failure: FORBIDDEN_URL, PICTURE_NOT_FETCHED, BAD_PICTURE (more than `limit_bytes`); Unavailable when `to`
    cannot be written, FileNotFoundError when its folder is gone. After an error `to` may hold a part.
    """
    deadline = time.monotonic() + timeout_s
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(timeout_s),
        wait=wait_exponential(multiplier=0.2, max=2),
        retry=retry_if_exception_type(Transient),
        reraise=True,
    )
    with disk_errors(to.name), to.open("wb") as file:
        try:
            attempts(_follow, url, file, allow, limit_bytes, deadline)
        except Transient as error:
            late = time.monotonic() >= deadline
            problem = f"no whole answer within {timeout_s:g} s" if late else str(error)
            raise Failure(Reason.PICTURE_NOT_FETCHED, url=shown(url), problem=problem) from error


def _follow(url: str, file: IO[bytes], allow: Sequence[str], limit_bytes: int, deadline: float) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        target = judge_url(url, allow)
        with _connection(target, deadline) as connection, closing(_ask(connection, target)) as response:
            location = response.getheader("Location")
            if response.status not in (301, 302, 303, 307, 308) or location is None:
                _check(response, target, limit_bytes)
                _save(response, file, target, limit_bytes)
                if time.monotonic() >= deadline:  # the end may be the one that `_cut` made
                    raise Transient("out of time")
                return
        # http.client reads headers as Latin-1; servers that put other characters into Location send UTF-8
        url = urljoin(target.url, location.encode("latin-1").decode(errors="replace"))
    raise _not_fetched(target, f"redirected more than {MAX_REDIRECTS} times")


@contextmanager
def _connection(target: Target, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to a judged address that is cut at the deadline, however slowly the other side talks."""
    with (
        _network_errors(target),
        closing(_dial(_resolve(target), target.port, deadline)) as plain,
        closing(plain.dup()) as duplicate,
    ):
        # shutdown() on a duplicate ends the connection under any reader; a socket's own time-out bounds single reads only.
        timer = threading.Timer(deadline - time.monotonic(), _cut, [duplicate])
        timer.daemon = True
        timer.start()
        try:
            used = _secure(plain, target.host) if target.scheme == "https" else plain
            with closing(http.client.HTTPConnection(target.host, target.port)) as connection:
                connection.sock = used
                yield connection
        finally:
            timer.cancel()
            timer.join()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _network_errors(target: Target) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise _not_fetched(target, f"its certificate is not valid: {error.verify_message}") from error
    except TimeoutError as error:
        raise Transient("it does not answer") from error
    except OSError as error:
        raise Transient(f"the connection failed: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise Transient(f"it broke off or does not speak HTTP ({type(error).__name__})") from error


def _resolve(target: Target) -> list[str]:
    """All addresses of the host, each of them judged: one bad address closes the host."""
    addresses = [target.host] if _address(target.host) else _look_up(target)
    if not all(judge_address(address, private=target.private) for address in addresses):
        hint = (
            ""
            if target.private
            else f"; {target.scheme}://{target.authority} in HANDOFF_URL_ALLOW allows a private one"
        )
        problem = f"{target.host} leads to an address that is not public{hint}"
        raise Failure(Reason.FORBIDDEN_URL, url=shown(target.url), problem=problem)
    return addresses


def _look_up(target: Target) -> list[str]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Transient(f"the name server does not answer for {target.host}") from error
        raise _not_fetched(target, f"there is no host {target.host}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _dial(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    trouble: OSError = OSError("no address")
    for tried, address in enumerate(addresses):
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.001, (deadline - time.monotonic()) / (len(addresses) - tried)))
            connection.connect((address, port))
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        except OSError as error:
            connection.close()
            trouble = error
        else:
            return connection
    raise trouble


def _secure(connection: socket.socket, host: str) -> ssl.SSLSocket:
    """The certificate is checked for the host of the URL, whichever address it led to."""
    return _trust().wrap_socket(connection, server_hostname=host)


@cache
def _trust() -> ssl.SSLContext:
    """The system's authorities (or SSL_CERT_FILE) and certifi's, since some containers have none. Loading takes 0.1 s."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


def _ask(connection: http.client.HTTPConnection, target: Target) -> http.client.HTTPResponse:
    headers = {
        "Host": target.authority,
        "Accept": "image/png, image/jpeg, image/webp, image/*;q=0.8, */*;q=0.5",
        "Accept-Encoding": "identity",
        "User-Agent": "handoff",
        "Connection": "close",
    }
    connection.request("GET", target.path, headers=headers)
    return connection.getresponse()


def _check(response: http.client.HTTPResponse, target: Target, limit_bytes: int) -> None:
    if response.status in (408, 425, 429) or response.status >= 500:
        raise Transient(f"it answered {response.status}")
    if response.status != 200:
        raise _not_fetched(target, f"it answered {response.status}")
    encoding = response.getheader("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):  # nothing is ever expanded, so nothing can be a bomb
        raise _not_fetched(target, "it answered compressed although that was not asked for")
    if response.length is not None and response.length > limit_bytes:
        raise _too_large(target, limit_bytes)


def _save(response: http.client.HTTPResponse, file: IO[bytes], target: Target, limit_bytes: int) -> None:
    size = 0
    if file.tell():  # an earlier try left a part
        file.seek(0)
        file.truncate()
    while chunk := response.read(CHUNK):
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(target, limit_bytes)
        with disk_errors("a fetched picture"):
            file.write(chunk)
    if response.length:  # what Content-Length promised and did not come
        raise Transient(f"it broke off after {size} bytes")
    with disk_errors("a fetched picture"):
        file.flush()


def _not_fetched(target: Target, problem: str) -> Failure:
    return Failure(Reason.PICTURE_NOT_FETCHED, url=shown(target.url), problem=problem)


def _too_large(target: Target, limit_bytes: int) -> Failure:
    return Failure(Reason.BAD_PICTURE, picture=shown(target.url), problem=f"it is larger than {limit_bytes} bytes")


def _split_authority(authority: str) -> tuple[str, int | None]:
    """Host in its one canonical form, and the port if given. Raises ValueError with what is wrong."""
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        raise ValueError("its host and port cannot be read")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    if found["v6"]:
        try:
            return str(ipaddress.IPv6Address(found["v6"])), port
        except ValueError:
            raise ValueError("its host is no IPv6 address") from None
    host = found["host"].lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # 2852039166, 0xa9fea9fe and 0251.0376.0251.0376 are addresses to many programs
        try:
            return str(ipaddress.IPv4Address(host)), port
        except ValueError:
            raise ValueError("its host is a number; write an address as four decimal numbers") from None
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("its host is no host name")
    return host, port


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

"""Signed links: an address that opens one output until it expires, without a key and without a query string. Pure.

`/p/<expiry><signature>/<id>/<name>`: expiry and HMAC-SHA256 share one path segment of hexadecimal digits, since agents
and chat clients mangle query strings, and some of them underscores.
"""

import hmac
from collections.abc import Callable, Sequence
from urllib.parse import quote

ROUND_S = 3600
"""A link expires at a full hour at or after its lifetime: the same output has the same address for an hour, which caches
and people like better."""

_EXPIRY = 8
_SIGNATURE = 32


class Links:
    """Signs with the first secret and accepts every one of them, so that secrets can be changed without broken links."""

    def __init__(self, secrets: Sequence[bytes], *, lifetime_s: float, now: Callable[[], float]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("links need a secret")
        self._secrets = tuple(secrets)
        self._lifetime_s = lifetime_s
        self._now = now

    def sign(self, id: str, name: str) -> str:
        """The path of an output."""
        return f"/p/{self.token(id, name)}/{quote(id, safe='')}/{quote(name, safe='')}"

    def check(self, signature: str, id: str, name: str) -> bool:
        return self.opens(signature, id, name)

    def token(self, *parts: str) -> str:
        """What opens the thing that `parts` name, until it expires. Parts of another number or order are another thing."""
        expiry = f"{-int(-(self._now() + self._lifetime_s) // ROUND_S) * ROUND_S:0{_EXPIRY}x}"
        return expiry + _sign(self._secrets[0], expiry, parts)

    def opens(self, token: str, *parts: str) -> bool:
        return self.is_genuine(token, *parts) and self._now() < int(token[:_EXPIRY], 16)

    def is_genuine(self, token: str, *parts: str) -> bool:
        """Signed here, though it may have expired since."""
        if len(token) != _EXPIRY + _SIGNATURE or not set(token) <= set("0123456789abcdef"):
            return False
        expiry, signature = token[:_EXPIRY], token[_EXPIRY:]
        # every secret is tried, so that the time says nothing about which one it was
        found = [hmac.compare_digest(_sign(secret, expiry, parts), signature) for secret in self._secrets]
        return any(found)


def _sign(secret: bytes, expiry: str, parts: Sequence[str]) -> str:
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (text.encode() for text in (expiry, *parts)))
    return hmac.new(secret, message, "sha256").hexdigest()[:_SIGNATURE]

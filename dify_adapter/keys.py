"""Who asks: named keys with an owner and scopes. Pure.

A key is written `name:key`, `name:key:submit+graph`, or `name@owner:key:admin`. Without scopes it may submit; reading the
owner's own jobs is always allowed. Several keys may have one owner, so that a key can be changed without a gap.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SHORTEST = 16  # characters of a key; shorter ones can be guessed

_LINE = re.compile(r"(?P<name>[^:@\s]+)(@(?P<owner>[^:@\s]+))?:(?P<secret>[^:\s]+)(:(?P<scopes>[a-z+]+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_READ = "read"  # the word for no scope at all


class Scope(StrEnum):
    """Public names: they stand in settings. `admin` may everything and sees everybody's jobs."""

    SUBMIT = "submit"
    GRAPH = "graph"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Key:
    """Who a request comes from. The key itself is not kept, its hash is."""

    name: str
    owner: str
    scopes: frozenset[Scope]
    sha256: bytes = b""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether jobs of this owner exist for it."""
        return owner == self.owner or Scope.ADMIN in self.scopes


EVERYBODY = Key(name="anonymous", owner="anonymous", scopes=frozenset(Scope))
"""Who asks where no keys are set up."""


def read_keys(texts: Iterable[str]) -> list[Key]:
    """Raises ValueError; its text repeats no key."""
    keys: list[Key] = []
    for number, text in enumerate(texts, 1):
        key = _read_key(text, f"key {number}")
        if any(key.name == other.name for other in keys):
            raise ValueError(f"two keys are named {key.name}")
        if any(key.sha256 == other.sha256 for other in keys):
            raise ValueError(f"{key.name} has the same key as another name")
        keys.append(key)
    return keys


def _read_key(text: str, which: str) -> Key:
    found = _LINE.fullmatch(text)
    if not found:
        raise ValueError(f"{which} is not of the form name:key or name@owner:key:submit+graph+admin")
    name, owner = found["name"], found["owner"] or found["name"]
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(owner):
        raise ValueError(f"{which}: names are of the form {_NAME.pattern}")
    if len(found["secret"]) < SHORTEST:
        raise ValueError(
            f"the key {name} has fewer than {SHORTEST} characters; `handoff keys new {name}` makes a good one"
        )
    words = set((found["scopes"] or Scope.SUBMIT).split("+")) - {_READ}
    if unknown := words - set(Scope):
        known = ", ".join([*Scope, _READ])
        raise ValueError(f"the key {name} has the unknown scope {', '.join(sorted(unknown))}; known are {known}")
    return Key(name=name, owner=owner, scopes=frozenset(map(Scope, words)), sha256=_hash(found["secret"]))


def find_key(keys: Sequence[Key], presented: str) -> Key | None:
    """Compares with every key and in constant time, so that the time tells nothing about any of them."""
    digest = _hash(presented)
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def read_presented(headers: Mapping[str, str]) -> str | None:
    """The key that a request brings: `Authorization: Bearer`, Basic (as the password), the bare key, or `X-API-Key`."""
    authorization = headers.get("authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "":
            return headers.get("x-api-key", "").strip() or None
        case "bearer":
            return rest.strip() or None
        case "basic":
            return _read_basic(rest)
        case _:
            return authorization


def _read_basic(text: str) -> str | None:
    try:
        user, _, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return password or user or None


def make_link_secrets(keys: Sequence[Key]) -> list[bytes]:
    """What links are signed with where nothing else was set: the same after a restart and in every adapter."""
    return [hmac.digest(key.sha256, b"handoff links", "sha256") for key in keys]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()

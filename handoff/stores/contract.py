"""What the programs ask of an object store, and which keys they may use. Every implementation passes one test suite.

All methods may be called from several threads. They raise `Transient`, `Unavailable` or `Permanent`; the texts say what
happened, to what and what to do, and never hold a credential or a signed address.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from handoff.failures import Permanent

KEY_LIMIT = 1024
"""Bytes of a whole key, prefix included: S3's own limit."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What the store says it holds. `sha256` is None for an object that somebody else put there without it."""

    size: int
    sha256: str | None


class Store(Protocol):
    """Keys are relative to the store's prefix. A put that returns is durable and confirmed; a key is put whole or not at all."""

    def put_file(self, key: str, path: Path, *, media_type: str, sha256: str, size: int, cache_control: str) -> None:
        """Puts the regular file at `path`, which must hold exactly these bytes; Permanent when it does not, or is a link."""

    def put_bytes(
        self, key: str, data: bytes, *, media_type: str, cache_control: str = "no-store", durable: bool = True
    ) -> None:
        """`durable=False` is for courtesy objects that may be lost with the power."""

    def get_bytes(self, key: str, limit: int) -> bytes | None:
        """None when it is not there; Permanent when it has more than `limit` bytes."""

    def head(self, key: str) -> Stored | None:
        """None when it is not there."""

    def create(self, key: str, data: bytes, *, media_type: str) -> bool:
        """Puts only where nothing is: of several writers one gets True.

        After a lost reply one's own object is found: who gets False compares what is there with what was meant.
        """

    def url(self, key: str, *, expires_s: int) -> str | None:
        """An address at which anybody can GET the object until it expires; None where the store has no addresses."""

    def download(self, bucket: str, key: str, path: Path, limit: int) -> int:
        """Copies an object of any bucket to `path`, which must not exist, and returns its size in bytes.

        The caller decides which buckets and keys are allowed. Permanent when it is missing, forbidden or above `limit`.
        """

    def describe(self) -> str:
        """Which store this is, for a log line."""

    def check(self) -> None:
        """Writes one small object, `_check.txt`. Raises Unavailable with the remedy when nothing could be published."""


CHECK_KEY = "_check.txt"
CHECK_TEXT = b"Handoff writes this to find out whether it may. It is safe to delete.\n"


def clean_prefix(prefix: str) -> str:
    """Without slashes at its ends. ValueError when no key below it could be valid."""
    clean = prefix.strip("/")
    try:
        whole_key(clean, CHECK_KEY)
    except Permanent as error:
        raise ValueError(f"the prefix {prefix!r} cannot be used: {error}") from None
    return clean


def whole_key(prefix: str, key: str) -> str:
    """The key as the store knows it. Permanent for a key that could leave the prefix or that stores disagree about."""
    whole = f"{prefix}/{key}" if prefix else key
    try:
        encoded = whole.encode()
    except UnicodeEncodeError:
        raise Permanent(f"the key {whole!r} is not text that UTF-8 can hold") from None
    if not key or len(encoded) > KEY_LIMIT:
        raise Permanent(f"a key has 1 to {KEY_LIMIT} bytes, this one has {len(encoded)}: {whole[:80]!r}")
    if any(segment in {"", ".", ".."} for segment in whole.split("/")):
        raise Permanent(f"the key {whole!r} has an empty, '.' or '..' part")
    if not whole.isprintable():
        raise Permanent(f"the key {whole!r} has control characters or invisible separators")
    return whole

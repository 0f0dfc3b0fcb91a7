"""What logs, errors, documents and the bucket may show: no secret by name, no URL with the parts that carry secrets. Pure."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

MASK = "***"
SHORTEST = 4  # characters; a secret that is shorter would be found in any text

_SECRET_NAME = re.compile(
    r"(api|access|private|secret|auth)_?key|(^|_)(token|password|passwd|passphrase|pwd|secrets?|authorization|bearer|cookie|credentials?)(_|$)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# The scheme's length is bounded, so that a long text without "://" is not searched again from each of its words.
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,19}://)([^\s/?#\"']*@)?([^\s?#\"']*)([?#][^\s\"']*)?")


def mask_value(name: str, value: Any) -> Any:
    """The value called `name`: `***` for a text or structure that is named like a secret, else without secrets in it.

    A link of a ComfyUI graph, [node id, number], is no secret whatever its input is called.
    """
    return MASK if _hides(name, value) else _mask(value)


def mask_urls(text: str) -> str:
    """The text without the parts of URLs that carry secrets: user, query and fragment."""
    return _URL.sub(_mask_url, text) if "://" in text else text


def find_secrets(name: str, value: Any) -> set[str]:
    """The texts in the value called `name` that `mask_value` hides because of a name, to be hidden wherever they turn up."""
    if isinstance(value, dict):
        return {
            text for inner, item in value.items() for text in find_secrets(name if _hides(name, value) else inner, item)
        }
    if isinstance(value, list):
        return {text for item in value for text in find_secrets(name if _hides(name, value) else "", item)}
    return {value} if isinstance(value, str) and len(value) >= SHORTEST and _hides(name, value) else set()


def hide(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets: a program that was given one may repeat it in its own words."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    plain = _CAMEL.sub("_", name).lower().replace("-", "_").replace(" ", "_")
    return _SECRET_NAME.search(plain) is not None


def _hides(name: str, value: Any) -> bool:
    is_plain = value in (None, "") or isinstance(value, bool | int | float)
    return not is_plain and _is_secret(name) and not _is_link(value)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: mask_value(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return mask_urls(value) if isinstance(value, str) else value


def _mask_url(match: re.Match[str]) -> str:
    scheme, user, place, rest = match.groups()
    return f"{scheme}{MASK + '@' if user else ''}{place}{rest[0] + MASK if rest else ''}"

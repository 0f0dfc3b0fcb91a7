"""From bytes to a JSON value and back, strictly: what is ambiguous, endless or cannot be written again is refused.

A file that is still being written fails with `Reason.TRUNCATED`; every other reason is final: no further bytes can make
that file right. Nothing but `Failure` is raised, whatever the bytes, in time and memory linear in their number.
"""

import codecs
import hashlib
import json
import re
from math import isfinite
from typing import NoReturn, TypeAlias

from handoff.failures import Failure, Reason

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject: TypeAlias = dict[str, JsonValue]

BYTES = 4 * 1024 * 1024
DEPTH = 100
VALUES = 200_000
DIGITS = 20
"""Limits of a job file: its size, how deep arrays and objects nest, how many values it has, how long an integer is."""

# Each optional end below matches always, so that no quote is ever scanned twice: a text of 2 million \" stays linear.
_STRING = r'"(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+(?P<end>")?'
_LEXEME = re.compile(_STRING, re.DOTALL)
_NO_STRUCTURE = re.compile(rf'(?:[^][{{}},"]++|{_STRING})++', re.DOTALL)
_STRING_CUT = re.compile(
    r'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+(?:\\(?:u[0-9a-fA-F]{0,3})?)?'
)
_ATOM_CUT = re.compile(
    r"t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?"
    r"|-|-?(?:0|[1-9][0-9]*+)(?:\.|(?:\.[0-9]++)?(?:[eE][+-]?[0-9]*+)?)"
)
_ATOM_LETTERS = "+-.0123456789Eaeflnrstu"
_UTF16 = {codecs.BOM_UTF16_LE: codecs.utf_16_le_decode, codecs.BOM_UTF16_BE: codecs.utf_16_be_decode}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = " \t\r\n"


def decode(data: bytes, *, limit: int = BYTES) -> JsonValue:
    """The value that `data` (UTF-8, or UTF-16 with a byte-order mark) spells; it can be written again by `canonical`.

    Raises Failure: TOO_LARGE (more than `limit` bytes), BAD_ENCODING (also half a surrogate pair as an escape), TOO_DEEP,
    BAD_NUMBER (NaN, infinite, overlong), DUPLICATE_KEY, NOT_JSON, and TRUNCATED where nothing is wrong but the end, which
    is missing. TRUNCATED has no detail `seconds`: only who watches the file knows for how long it has not changed.
    """
    if len(data) > limit:
        raise Failure(Reason.TOO_LARGE, bytes=len(data), limit=limit)
    text, is_whole = _read_text(data)
    _measure(text)
    try:
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_to_object,
            parse_int=_to_int,
            parse_float=_to_float,
            parse_constant=_refuse_number,
        )
    except json.JSONDecodeError as error:
        if _is_beginning(text):
            raise Failure(Reason.TRUNCATED, bytes=len(data)) from None
        problem = excerpt(error.msg[:1].lower() + error.msg[1:].removesuffix(" at").rstrip(": "))
        raise Failure(Reason.NOT_JSON, problem=problem, line=error.lineno, column=error.colno) from None
    if not is_whole:
        raise Failure(Reason.TRUNCATED, bytes=len(data))
    if _SURROGATE.search(text):
        _refuse_half_characters(value)
    return value


def canonical(value: JsonValue) -> bytes:
    """The one spelling of a value: keys sorted, no spaces, UTF-8. Equal bytes = the same value in the same types."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def body_sha256(body: JsonValue) -> str:
    """64 hex digits that do not depend on the order of keys or on white space. `body` is a job without its id."""
    return hashlib.sha256(canonical(body)).hexdigest()


def excerpt(text: str, limit: int = 80) -> str:
    """At most `limit` characters of a text from outside, on one line, fit to stand in a failure's details."""
    seen = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:limit])
    return seen if len(text) <= limit else seen[: limit - 1] + "…"


def _read_text(data: bytes) -> tuple[str, bool]:
    """The text so far, and whether it ends where a text may end: not inside a character, not in a preallocated tail."""
    written = data.rstrip(b"\0")
    if any(mark.startswith(written) for mark in (codecs.BOM_UTF8, *_UTF16)):
        return "", False
    try:
        if data.startswith(codecs.BOM_UTF32_LE):  # which begins as UTF-16's does
            raise Failure(Reason.BAD_ENCODING, problem="it looks like UTF-32")
        if data[:2] in _UTF16:
            text, used = _UTF16[data[:2]](_whole_units(data[2:]), "strict", False)
            return text, used + 2 == len(data)
        if b"\0" in written[:2]:
            raise Failure(Reason.BAD_ENCODING, problem="it looks like UTF-16 without a byte-order mark")
        written = written.removeprefix(codecs.BOM_UTF8)
        text, used = codecs.utf_8_decode(written, "strict", False)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Failure(Reason.BAD_ENCODING, problem=f"{error.reason} in line {line}") from None
    if used < len(written):
        # U+FFFD stands for the character that was cut, since JSON may only be cut so inside a string.
        return text + "\N{REPLACEMENT CHARACTER}", False
    return text, not data.endswith(b"\0")


def _whole_units(data: bytes) -> bytes:
    """UTF-16 without half a unit at its end, and without a tail of zeros, which may have cut a unit, too."""
    used = len(data.rstrip(b"\0"))
    is_filled = len(data) - used > used % 2
    return data[: used // 2 * 2] if is_filled else data[: len(data) // 2 * 2]


def _measure(text: str) -> None:
    """Refuse what nests too deeply or has too many values, before a parser spends memory on it."""
    structure = _NO_STRUCTURE.sub("", text)
    if len(structure) - structure.count("]") - structure.count("}") >= VALUES:
        raise Failure(Reason.TOO_DEEP, limit=f"{VALUES} values")
    depth = 0
    for sign in structure:
        if sign in "[{":
            depth += 1
            if depth > DEPTH:
                raise Failure(Reason.TOO_DEEP, limit=f"{DEPTH} levels")
        elif sign != ",":
            depth -= 1


def _is_beginning(text: str) -> bool:
    """Whether some text that begins like this is JSON.

    The last token is completed where it is cut; then the parser must find nothing wrong before the end.
    """
    completed = text
    open_string = next((string for string in _LEXEME.finditer(text) if string["end"] is None), None)
    if open_string is not None:
        if not _STRING_CUT.fullmatch(text, open_string.start() + 1):
            return False
        completed = text[: open_string.start()] + '""'
    else:
        before = text.rstrip(_ATOM_LETTERS)
        if _ATOM_CUT.fullmatch(text, len(before)):
            completed = before + "0"
    try:
        json.loads(completed, parse_int=str)
    except json.JSONDecodeError as error:
        return not completed[error.pos :].strip(_BLANK)
    return True


def _to_object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Failure(Reason.DUPLICATE_KEY, key=excerpt(key))
            seen.add(key)
    return found


def _to_int(digits: str) -> int:
    if len(digits.removeprefix("-")) > DIGITS:
        _refuse_number(digits)
    return int(digits)


def _to_float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        _refuse_number(digits)
    return number


def _refuse_number(digits: str) -> NoReturn:
    raise Failure(Reason.BAD_NUMBER, value=excerpt(digits))


def _refuse_half_characters(value: JsonValue) -> None:
    try:
        canonical(value)
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Failure(Reason.BAD_ENCODING, problem=f"the escape {half} is half of a surrogate pair") from None

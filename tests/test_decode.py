"""What is taken as JSON, what is refused and why, and what may still be growing."""

import json
import time
from collections.abc import Callable
from itertools import product
from string import Formatter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handoff.decode import (
    BYTES,
    DEPTH,
    DIGITS,
    VALUES,
    JsonObject,
    JsonValue,
    body_sha256,
    canonical,
    decode,
    excerpt,
)
from handoff.failures import Failure, Reason
from handoff.messages import FAILURES, render

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**19), 10**19)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES_OF_JSON: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
OBJECTS: st.SearchStrategy[JsonObject] = st.dictionaries(TEXTS, VALUES_OF_JSON, max_size=5)


def write_plain(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def write_escaped(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def write_utf16(value: JsonValue) -> bytes:
    return b"\xff\xfe" + json.dumps(value, ensure_ascii=False).encode("utf-16-le")


def write_utf16_big(value: JsonValue) -> bytes:
    return b"\xfe\xff" + json.dumps(value, ensure_ascii=False).encode("utf-16-be")


def write_marked(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8-sig")


SPELLINGS = st.sampled_from([canonical, write_plain, write_escaped, write_utf16, write_utf16_big, write_marked])
Spelling = Callable[[JsonValue], bytes]


def refusal(data: bytes) -> Failure:
    with pytest.raises(Failure) as caught:
        decode(data)
    return caught.value


@given(VALUES_OF_JSON, SPELLINGS)
def test_every_spelling_of_a_value_decodes_to_it(value: JsonValue, spelling: Spelling) -> None:
    assert canonical(decode(spelling(value))) == canonical(value)


@given(OBJECTS)
def test_the_hash_ignores_order_and_white_space(value: JsonObject) -> None:
    reordered = decode(write_plain(dict(reversed(value.items()))))
    assert body_sha256(reordered) == body_sha256(value)


@given(VALUES_OF_JSON, VALUES_OF_JSON)
@example(1, 1.0)
@example(1, True)
@example({"a": None}, {})
def test_the_hash_tells_values_and_types_apart(one: JsonValue, other: JsonValue) -> None:
    assert (body_sha256(one) == body_sha256(other)) == (repr_sorted(one) == repr_sorted(other))


def repr_sorted(value: JsonValue) -> str:
    """The value and the types in it, independent of the order of keys and of `canonical`."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{repr_sorted(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_sorted, value)) + "]"
    return repr(value)


def test_the_hash_of_a_job_never_changes_between_versions() -> None:
    assert canonical({"b": [1, 2.5, None], "a": "猫"}) == '{"a":"猫","b":[1,2.5,null]}'.encode()
    assert body_sha256({"prompt": "猫"}) == "29c14a7d16461eab969230a6f276d4d210b3eba306735b67739966bc6627daa1"


@given(OBJECTS, SPELLINGS, st.data())
def test_every_beginning_of_an_object_may_still_be_growing(
    value: JsonObject, spelling: Spelling, data: st.DataObject
) -> None:
    whole = spelling(value)
    end = data.draw(st.integers(0, len(whole) - 1))
    failure = refusal(whole[:end])
    assert (failure.reason, failure.details["bytes"]) == (Reason.TRUNCATED, end)


@given(OBJECTS, SPELLINGS, st.data())
def test_a_preallocated_tail_of_zeros_may_still_be_filled(
    value: JsonObject, spelling: Spelling, data: st.DataObject
) -> None:
    whole = spelling(value)
    end = data.draw(st.integers(0, len(whole)))
    zeros = data.draw(st.integers(2, 9))  # one zero byte is just the second half of a unit
    assert refusal(whole[:end] + bytes(zeros)).reason is Reason.TRUNCATED


@pytest.mark.parametrize("write", [write_plain, write_utf16, write_utf16_big])
def test_a_whole_object_in_an_unfinished_file_is_not_whole_yet(write: Spelling) -> None:
    whole = write({"a": 1})
    assert decode(whole) == {"a": 1}
    for zeros in (2, 3, 4096):
        assert refusal(whole + bytes(zeros)).reason is Reason.TRUNCATED


def test_a_unit_that_zeros_cut_is_not_taken_for_a_line_break() -> None:
    assert refusal(write_utf16({"a": "上"})[:-5] + bytes(2)).reason is Reason.TRUNCATED  # 上 is 0A 4E


EVERY_TOKEN = r'{"text": "\u732b\"\\\n\ud83d\ude00猫", "n": [-0.5e+10, -12E-3, 0, 1e5, true, false, null, {}, []]}'


@pytest.mark.parametrize("end", range(len(EVERY_TOKEN.encode())))
def test_every_cut_through_every_token_may_still_be_growing(end: int) -> None:
    assert refusal(EVERY_TOKEN.encode()[:end]).reason is Reason.TRUNCATED


def can_be_completed(text: str) -> bool:
    ends = ("", "0", '"', '":0', '"":0', ":0", 'n"', 'n":0')
    closers = ["".join(signs) for length in range(4) for signs in product("]}", repeat=length)]
    return any(is_json(text + end + closing) for end in ends for closing in closers)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def is_truncated(text: str) -> bool:
    try:
        decode(text.encode())
    except Failure as failure:
        return failure.reason is Reason.TRUNCATED
    return False


@pytest.mark.parametrize("length", [1, 2, 3])
def test_truncated_means_that_some_more_text_would_make_it_json(length: int) -> None:
    for letters in product('[]{}",:1.e-\\ ', repeat=length):
        text = "".join(letters)
        assert is_truncated(text) == (can_be_completed(text) and not is_json(text)), text


def test_white_space_after_the_last_brace_is_whole() -> None:
    assert decode(b'{"a": 1}\r\n \t') == {"a": 1}


@given(st.binary(max_size=60))
@example(b"\xff\xfe\x00\xd8\x00\x00")
@example(b"\xff\xfe\x00\xdc")
@example(b"\xef\xbb\xbf\xef\xbb\xbf{}")
def test_any_bytes_give_a_value_or_a_failure(data: bytes) -> None:
    survives(data)


@given(OBJECTS, SPELLINGS, st.data())
def test_a_damaged_job_gives_a_value_or_a_failure(value: JsonObject, spelling: Spelling, data: st.DataObject) -> None:
    whole = spelling(value)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    survives(whole[:start] + data.draw(st.binary(max_size=4)) + whole[end:])


@given(st.text('{}[]",:\\u0dD8c1e-+.tfn \n\0', max_size=40))
def test_any_json_like_text_gives_a_value_or_a_failure(text: str) -> None:
    survives(text.encode())


def survives(data: bytes) -> None:
    failure, value = None, None
    try:
        value = decode(data)
    except Failure as caught:
        failure = caught
    if failure is None:
        assert decode(canonical(value)) == value
        return
    assert all(len(str(detail)) <= 120 for detail in failure.details.values())
    text = FAILURES[failure.reason]["en"]
    placeholders = {name for _, name, _, _ in Formatter().parse(text.message + text.hint) if name}
    assert placeholders - failure.details.keys() <= {"seconds"}  # which only the watcher of the file knows
    render(failure, "en").message.encode()  # a reason file can hold it


REFUSED: list[tuple[str, bytes, Reason, str]] = [
    ("comma after the last", b'{\n "a": 1,\n}', Reason.NOT_JSON, "at line"),  # Python 3.13 points to the comma
    ("no comma", b'{"a": 1 "b": 2}', Reason.NOT_JSON, "expecting ',' delimiter at line 1, column 9"),
    ("single quotes", b"{'a': 1}", Reason.NOT_JSON, "double quotes at line 1, column 2"),
    ("comment", b'{"a": 1} // mine', Reason.NOT_JSON, "extra data at line 1, column 10"),
    ("two objects", b'{"a": 1}{"a": 1}', Reason.NOT_JSON, "column 9"),
    ("line break in a text", b'{"a": "b\nc"}', Reason.NOT_JSON, "invalid control character at line 1, column 9"),
    ("bad escape", b'{"a": "\\q"}', Reason.NOT_JSON, "escape at line 1"),
    ("bad escape, then cut", b'{"a": "\\q', Reason.NOT_JSON, "escape at line 1"),
    ("bad hex escape, then cut", b'{"a": "\\u12x', Reason.NOT_JSON, "escape at line 1"),
    ("cut character after a backslash", b'{"a": "\\\xe7\x8c', Reason.NOT_JSON, "escape"),
    ("cut character outside a text", b'{"a": 1}\xe7\x8c', Reason.NOT_JSON, "extra data"),
    ("two points, then cut", b'{"a": 1.5.', Reason.NOT_JSON, "column 10"),
    ("leading zero, then cut", b'{"a": 01', Reason.NOT_JSON, "column 8"),
    ("letter after a text, then cut", b'["1"e', Reason.NOT_JSON, "column 5"),
    ("wrong bracket, then cut", b'{"a": [1}', Reason.NOT_JSON, "column 9"),
    ("text instead of JSON", b"a cat on a roof", Reason.NOT_JSON, "expecting value at line 1, column 1"),
    ("picture", b"\x89PNG\r\n\x1a\n", Reason.BAD_ENCODING, "invalid start byte in line 1"),
    ("latin-1", b'{\n"a": "Gr\xf6\xdfe"}', Reason.BAD_ENCODING, "invalid start byte in line 2"),
    ("half pair in UTF-16", b"\xff\xfe\x00\xdc\x00\x00", Reason.BAD_ENCODING, "illegal encoding"),
    ("UTF-16 without mark", '{"a": 1}'.encode("utf-16-le"), Reason.BAD_ENCODING, "UTF-16 without a byte-order mark"),
    ("half pair as escape", b'{"a": "x\\ud83dy"}', Reason.BAD_ENCODING, "\\ud83d is half of a surrogate pair"),
    ("half pair in a key", b'{"\\uDE00": 1}', Reason.BAD_ENCODING, "\\ude00 is half"),
    ("NaN", b'{"cfg": NaN}', Reason.BAD_NUMBER, "NaN is not"),
    ("-Infinity", b'{"cfg": -Infinity}', Reason.BAD_NUMBER, "-Infinity is not"),
    ("overflow", b'{"cfg": -1e999}', Reason.BAD_NUMBER, "-1e999 is not"),
    ("21 digits", b'{"seed": 123456789012345678901}', Reason.BAD_NUMBER, "123456789012345678901 is not"),
    ("10,000 digits", b"[" + b"9" * 10_000 + b"]", Reason.BAD_NUMBER, "9" * 79 + "… is not"),
    ("same key twice", b'{"a": {"seed": 1, "b": 0, "seed": 2}}', Reason.DUPLICATE_KEY, "key seed stands twice"),
    ("same key, spelt otherwise", b'{"a": 1, "\\u0061": 2}', Reason.DUPLICATE_KEY, "key a stands twice"),
    ("long key twice", b'{"%b":1,"%b":2}' % (b"k" * 999, b"k" * 999), Reason.DUPLICATE_KEY, "k" * 79 + "… stands"),
    ("deep array", b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), Reason.TOO_DEEP, "limit is 100 levels"),
    ("deep object", b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1), Reason.TOO_DEEP, "limit is 100 levels"),
    ("many values", b"[" + b"0," * VALUES + b"0]", Reason.TOO_DEEP, "limit is 200000 values"),
    ("too large", b" " * (BYTES + 1), Reason.TOO_LARGE, "4194305 bytes, the limit is 4194304"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "reason", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_can_never_become_right_says_why(data: bytes, reason: Reason, said: str) -> None:
    failure = refusal(data)
    assert failure.reason is reason
    assert said in render(failure, "en").message
    assert failure.details.keys() >= ({"line", "column"} if reason is Reason.NOT_JSON else set())


def test_a_cut_file_says_how_far_it_came() -> None:
    assert "ends in the middle (7 bytes)" in render(refusal(b'{"a": "'), "en").message


def test_what_is_within_the_limits_is_taken() -> None:
    assert decode(b"[" * DEPTH + b"]" * DEPTH) is not None
    assert decode(b"9" * DIGITS) == 99999999999999999999
    assert decode(b'"' + b"[,{" * VALUES + b'"') == "[,{" * VALUES
    assert decode(b'{"a": "\\u0000\\ud83d\\ude00"}') == {"a": "\0😀"}
    assert decode(b'"\\\\ud83d"') == "\\ud83d"
    assert decode(b"12", limit=2) == 12
    with pytest.raises(Failure, match="too_large"):
        decode(b"123", limit=2)


BOMBS = {
    "brackets": b"[" * BYTES,
    "objects": b'{"a":' * (BYTES // 5),
    "empty arrays": b"[" + b"[]," * (BYTES // 3 - 1),
    "open text full of escaped quotes": b'"' + b'\\"' * (BYTES // 2 - 1),
    "text that ends in backslashes": b'"' + b"\\" * (BYTES - 1),
    "empty texts": b'""' * (BYTES // 2),
    "quotes and letters": b'"a"b' * (BYTES // 4),
    "cut escapes": b'"\\u1' * (BYTES // 4),
    "digits": b"1" * BYTES,
    "fraction": b"0." + b"1" * (BYTES - 2),
    "letters": b"e" * BYTES,
    "zeros": bytes(BYTES),
    "half pairs": b'"' + b"\\ud800" * (BYTES // 6 - 1) + b'"',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little(name: str) -> None:
    """Seconds would mean that some step is not linear: 4 MiB in quadratic time take hours."""
    started = time.process_time()
    survives(BOMBS[name])
    assert time.process_time() - started < 5


def test_an_excerpt_is_short_and_on_one_line() -> None:
    assert excerpt("猫\n\x1b[31m\ud800") == "猫��[31m�"
    assert excerpt("x" * 80) == "x" * 80
    assert excerpt("x" * 81) == "x" * 79 + "…"

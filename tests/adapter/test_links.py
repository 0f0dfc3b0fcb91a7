"""Signed links: what opens, what does not, and for how long."""

import string
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_adapter.links import ROUND_S, Links

OLD, NEW = b"the first secret", b"the second secret"
NOON = 1_800_000_000.0
DAY = 86400.0


def links(*secrets: bytes, at: float = NOON, lifetime_s: float = DAY) -> Links:
    return Links(secrets or (OLD,), lifetime_s=lifetime_s, now=lambda: at)


def signature_of(path: str) -> str:
    return path.split("/")[2]


def test_a_link_opens_its_output_and_no_other() -> None:
    path = links().sign("cat", "cat.png")
    signature = signature_of(path)
    assert path == f"/p/{signature}/cat/cat.png"
    assert links().check(signature, "cat", "cat.png")
    for id, name in (("cat", "cat-2.png"), ("cat-2", "cat.png"), ("cat", "../cat.png"), ("", ""), ("catcat.png", "")):
        assert not links().check(signature, id, name)


def test_what_is_signed_as_one_thing_opens_no_other_of_the_same_letters() -> None:
    token = links().token("ab", "c")
    assert links().opens(token, "ab", "c")
    for parts in (("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("c", "ab"), ("ab", "c", "")):
        assert not links().opens(token, *parts)


@given(st.integers(0, 39), st.sampled_from(string.hexdigits + "g/+-_ \n"))
def test_a_changed_character_closes_it(place: int, character: str) -> None:
    signature = signature_of(links().sign("cat", "cat.png"))
    changed = signature[:place] + character + signature[place + 1 :]
    assert links().check(changed, "cat", "cat.png") == (changed == signature)


@pytest.mark.parametrize(
    "forged", ["", "0", "f" * 39, "f" * 40, "f" * 41, "é" * 40, "F" * 40, " " * 40, "0x" + "f" * 38]
)
def test_a_forged_signature_closes_it(forged: str) -> None:
    assert not links().check(forged, "cat", "cat.png")
    assert not links().is_genuine(forged, "cat", "cat.png")


def test_the_expiry_cannot_be_moved() -> None:
    signature = signature_of(links().sign("cat", "cat.png"))
    later = f"{int(signature[:8], 16) + ROUND_S:08x}" + signature[8:]
    assert not links().check(later, "cat", "cat.png")


@given(st.floats(0, 4e9), st.floats(1, 7 * DAY))
def test_a_link_lives_for_its_lifetime_and_an_hour_at_most_more(at: float, lifetime_s: float) -> None:
    signature = signature_of(links(at=at, lifetime_s=lifetime_s).sign("cat", "cat.png"))
    assert links(at=at + lifetime_s - 0.1).check(signature, "cat", "cat.png")
    expired = links(at=at + lifetime_s + ROUND_S)
    assert not expired.check(signature, "cat", "cat.png")
    assert expired.is_genuine(signature, "cat", "cat.png")


def test_the_address_stays_the_same_for_an_hour() -> None:
    began = NOON - NOON % ROUND_S
    paths = {links(at=began + minute * 60).sign("cat", "cat.png") for minute in range(1, 60)}
    assert len(paths) == 1


def test_secrets_are_changed_without_broken_links() -> None:
    before = signature_of(links(OLD).sign("cat", "cat.png"))
    both = links(NEW, OLD)
    assert both.check(before, "cat", "cat.png")
    after = signature_of(both.sign("cat", "cat.png"))
    assert links(NEW).check(after, "cat", "cat.png")
    assert not links(NEW).check(before, "cat", "cat.png")


@pytest.mark.parametrize("secrets", [[], [b""], [OLD, b""]])
def test_nothing_is_signed_without_a_secret(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Links(secrets, lifetime_s=DAY, now=lambda: NOON)


@given(st.text(min_size=1))
def test_a_path_is_one_plain_segment_each(name: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in name):
        return
    path = links().sign("cat", name)
    assert len(path.split("/")) == 5
    assert set(path) <= set(string.ascii_letters + string.digits + "/%-._~")
    assert unquote(path.split("/")[4]) == name
    assert links().check(signature_of(path), "cat", name)

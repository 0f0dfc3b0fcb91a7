"""Which keys may be used, for every text there is."""

import os.path

from hypothesis import given
from hypothesis import strategies as st

from handoff.failures import Permanent
from handoff.stores.contract import KEY_LIMIT, whole_key

ODD = st.text(st.sampled_from("./\\a é\0\n\u2028\ud800"), max_size=12)


@given(prefix=st.sampled_from(["", "jobs", "team/jobs"]), key=ODD | st.text(max_size=40))
def test_a_key_stays_below_its_prefix_or_is_refused(prefix: str, key: str) -> None:
    try:
        whole = whole_key(prefix, key)
    except Permanent:
        return
    root = "/bucket/" + prefix
    assert os.path.normpath(f"/bucket/{whole}") == f"/bucket/{whole}"
    assert f"/bucket/{whole}".startswith(root)
    assert whole.endswith(key)
    assert len(whole.encode()) <= KEY_LIMIT
    assert not any(letter < " " or letter == "\x7f" for letter in whole)


@given(key=st.from_regex(r"[A-Za-z0-9_ .猫-]{1,40}\.png", fullmatch=True))
def test_ordinary_names_are_keys(key: str) -> None:
    assert whole_key("jobs", f"a-job/{key}") == f"jobs/a-job/{key}"

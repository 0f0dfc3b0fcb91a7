"""Links of a finished job: made when it ends, for the store that then has its outputs."""

from typing import Any, cast

import pytest

from handoff.folders import Folders
from handoff.spool.record import Record
from handoff.status import OutputEntry, StatusDocument
from watcher.delivery import Delivery

NOON = "2026-11-24T12:00:00.000Z"
OLD = OutputEntry(
    name="cat.png", kind="image", media_type="image/png", bytes=1, sha256="0" * 64, key="old/cat/cat.png", url="http://old/"
)  # fmt: skip


class Store:
    def __init__(self, *, has_urls: bool) -> None:
        self._has_urls = has_urls

    def url(self, key: str, *, expires_s: int) -> str | None:
        return f"https://new/{key}?for={expires_s}" if self._has_urls else None


def deliver(store: Store, lifetime_s: int) -> Delivery:
    nobody = cast(Any, None)
    return Delivery(
        seat=nobody,
        folders=Folders(input="/nowhere", output="/nowhere"),
        journal=nobody,
        comfyui=nobody,
        store=cast(Any, store),
        site=nobody,
        prefix="jobs",
        url_lifetime_s=lifetime_s,
        language="en",
    )


@pytest.mark.parametrize(
    ("attempt", "has_urls", "lifetime_s", "key", "url"),
    [
        (1, True, 60, "jobs/cat/cat.png", "https://new/cat/cat.png?for=60"),
        (2, True, 60, "jobs/cat/attempt-2/cat.png", "https://new/cat/attempt-2/cat.png?for=60"),
        (1, True, 0, "jobs/cat/cat.png", None),
        (1, False, 60, "jobs/cat/cat.png", None),
    ],
)
def test_no_link_of_an_earlier_bucket_survives(
    attempt: int, *, has_urls: bool, lifetime_s: int, key: str, url: str | None
) -> None:
    record = Record(token="0" * 16, id="cat", sha256="0" * 64, received_at=NOON, body={}, attempt=attempt)
    saving = StatusDocument(id="cat", created_at=NOON, outputs=[OLD], url=OLD.url, markdown="![cat.png](http://old/)")
    renewed = deliver(Store(has_urls=has_urls), lifetime_s).renew_links(record, saving)
    assert [(output.key, output.url) for output in renewed.outputs] == [(key, url)]
    assert renewed.url == url
    assert renewed.markdown == (None if url is None else f"![cat.png]({url})")

"""The bytes of outputs over HTTP: by key and by link, whole and in parts, with the volume and with the bucket alone."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from dify_adapter.links import Links
from dify_adapter.ranges import UnsatisfiableRange, choose_range
from handoff.stores.contract import Store
from handoff.stores.folder import FolderStore
from handoff.stores.s3 import S3Settings, S3Store
from tests.adapter.scene import PNG, Scene
from tests.servers.adapter import Adapter, start_adapter
from tests.servers.rgw import S3Server

KEYS = "shop:hk_0123456789abcdef artist:hk_artist_0123456789 ops:hk_admin_0123456789:admin"
ARTIST, OPS = "hk_artist_0123456789", "hk_admin_0123456789"
OUTPUTS = {
    "cat.png": (PNG, "image/png"),
    "cat.json": (b'{"status":"nothing of a job"}', "application/json"),
    "cat.html": (b"<script>alert(1)</script>", "text/html"),
    "cat.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "image/svg+xml"),
    "cat.txt": ("Katze 猫".encode(), "text/plain"),
    "cat.mp4": (os.urandom(1 << 20), "video/mp4"),
    "cat-猫 & 100%.png": (PNG + b"other", "image/png"),
    "cat.safetensors": (b"weights", "application/octet-stream"),
    "cat-empty.txt": (b"", "text/plain"),
}
NUMBERS = {name: number for number, name in enumerate(OUTPUTS, 1)}


@dataclass
class Shop:
    adapter: Adapter
    scene: Scene
    store: Store | None

    def draw(self, id: str, owner: str = "shop") -> None:
        with self.scene.watcher(secrets.token_hex(4)) as watcher:
            watcher.store = self.store
            watcher.succeed(self.scene.submit(id, owner=owner), OUTPUTS)

    def status(self, id: str = "cat") -> dict[str, Any]:
        answer = self.adapter.get(f"/v1/jobs/{id}")
        assert answer.status_code == 200
        document: dict[str, Any] = answer.json()
        return document

    def get(self, name: str | int, **options: Any) -> requests.Response:
        return self.adapter.get(f"/v1/jobs/cat/outputs/{quote(str(name), safe='')}", **options)

    def open(self, path: str, **options: Any) -> requests.Response:
        """As a browser does: without a key."""
        return self.adapter.get(path, key=None, **options)

    def link(self, name: str = "cat.png") -> str:
        urls = {output["name"]: str(output["url"]) for output in self.status()["outputs"]}
        return urlsplit(urls[name]).path


@pytest.fixture(scope="module", params=["volume", "bucket folder", "bucket s3"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("shop")
    scene = Scene(root)
    settings: dict[str, Any] = {"api_keys": KEYS, "link_secrets": "new-secret-0123456789 old-secret-0123456789"}
    store: Store | None = None
    if request.param != "volume":
        settings |= {"status_source": "bucket", "output_dir": root / "no-such-folder"}
        store = FolderStore(root / "bucket", "jobs")
    if request.param == "bucket s3":
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = server.make_bucket()
        settings |= {
            "bucket": bucket,
            "s3_endpoint_url": server.endpoint,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        store = S3Store(
            S3Settings(
                bucket=bucket,
                endpoint_url=server.endpoint,
                prefix="jobs",
                access_key_id=server.access_key,
                secret_access_key=server.secret_key,
            )
        )
    with start_adapter(root, **settings) as adapter:
        found = Shop(adapter, scene, store)
        found.draw("cat")
        yield found


# ── what comes ──


@pytest.mark.parametrize("name", OUTPUTS)
def test_bytes_and_type_are_exact(shop: Shop, name: str) -> None:
    data, kind = OUTPUTS[name]
    for answer in (shop.get(name), shop.get(NUMBERS[name]), shop.open(shop.link(name))):
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-type"] == ("text/plain; charset=utf-8" if kind == "text/plain" else kind)
        assert answer.headers["content-length"] == str(len(data))
        assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_could_run_in_a_browser_is_an_attachment_and_json_never_is(shop: Shop, name: str) -> None:
    disposition = shop.get(name).headers.get("content-disposition")
    if name in ("cat.html", "cat.svg", "cat.safetensors"):
        assert disposition == f"attachment; filename*=UTF-8''{name}"
    else:
        assert disposition is None


def test_no_json_answer_is_a_file(shop: Shop) -> None:
    for path in ("/v1/jobs/cat", "/v1/jobs", "/v1/jobs/cat/outputs/99", "/v1/jobs/nobody", "/p/x/y/z"):
        assert "content-disposition" not in shop.adapter.get(path).headers


def test_head_tells_the_same_without_bytes(shop: Shop) -> None:
    whole, head = shop.get("cat.mp4"), shop.adapter.ask("HEAD", "/v1/jobs/cat/outputs/cat.mp4")
    assert head.content == b""
    for name in ("content-type", "content-length", "etag", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]


# ── a part of it ──


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-99", 0, 100), ("bytes=100-", 100, None), ("bytes=-50", -50, None), ("bytes=0-0", 0, 1),
     ("bytes=5-99999999", 5, None), ("bytes=-99999999", 0, None), ("BYTES = 7 - 8", 7, 9)],
)  # fmt: skip
def test_a_part(shop: Shop, asked: str, start: int, stop: int | None) -> None:
    data, _ = OUTPUTS["cat.mp4"]
    for answer in (
        shop.get("cat.mp4", headers={"Range": asked}),
        shop.open(shop.link("cat.mp4"), headers={"Range": asked}),
    ):
        first = start % len(data)
        expected = data[start:stop]
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=-", "bytes=a-b", "", "bytes=--1"])
def test_a_part_that_makes_no_sense_is_the_whole(shop: Shop, asked: str) -> None:
    answer = shop.get("cat.png", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, PNG)


def test_a_part_behind_the_end(shop: Shop) -> None:
    answer = shop.get("cat.png", headers={"Range": f"bytes={len(PNG)}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(PNG)}")


def test_what_the_reader_has_already_is_not_sent_again(shop: Shop) -> None:
    etag = shop.get("cat.png").headers["etag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = shop.get("cat.png", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
    assert shop.get("cat.png", headers={"If-None-Match": '"other"'}).status_code == 200
    part = {"Range": "bytes=0-3"}
    assert shop.get("cat.png", headers={**part, "If-Range": etag}).status_code == 206
    assert shop.get("cat.png", headers={**part, "If-Range": '"other"'}).status_code == 200


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_range_lies_within_the_file(first: int, last: int, size: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        try:
            part = choose_range(header, size)
        except UnsatisfiableRange:
            assert first >= size or last == 0
            continue
        if part is not None:
            assert 0 <= part[0] < part[1] <= size


# ── who may see it ──


def test_a_key_sees_its_own_outputs_only(shop: Shop) -> None:
    assert shop.get("cat.png", key=OPS).status_code == 200
    for key, status in ((ARTIST, 404), ("hk_wrong_0123456789", 401), (None, 401)):
        answer = shop.get("cat.png", key=key)
        assert answer.status_code == status
        assert PNG not in answer.content


def test_what_is_not_there(shop: Shop) -> None:
    for path in ("cat/outputs/99", "cat/outputs/0", "cat/outputs/status.json", "cat/outputs/dog.png"):
        answer = shop.adapter.get(f"/v1/jobs/{path}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_output")
    answer = shop.adapter.get("/v1/jobs/nobody/outputs/1")
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_id")


def test_dify_reads_at_once_that_there_is_no_further_picture(shop: Shop) -> None:
    answer = shop.adapter.get("/v1/jobs/cat/outputs/99?errors=200&wait=60", timeout=20)
    document = answer.json()
    assert (answer.status_code, document["status"], document["done"]) == (200, "rejected", True)
    assert document["error"]["reason"] == "unknown_output"
    assert answer.headers["content-type"] == "application/json"


def test_a_link_opens_one_output_and_nothing_else(shop: Shop) -> None:
    shop.draw(other := f"other-{secrets.token_hex(4)}")
    path = shop.link()
    _, _, signature, id, name = path.split("/")
    for forged in (
        f"/p/{signature}/{id}/cat.json",
        f"/p/{signature}/{other}/{name}",
        f"/p/{signature}/{id}/1",
        f"/p/{signature[:-1]}{'0' if signature[-1] != '0' else '1'}/{id}/{name}",
        f"/p/{'0' * len(signature)}/{id}/{name}",
        f"/p/{signature}/{id}{name}/",
        f"/p/{signature}//{name}",
    ):
        answer = shop.open(forged)
        assert answer.status_code == 404, forged
        assert PNG not in answer.content


@pytest.mark.parametrize(
    "path",
    ["/p/{}/cat/..%2F..%2Fcat%2Fcat.png", "/p/{}/..%2Fcat/cat.png", "/p/{}/cat/%2e%2e", "/p/{}/.handoff/feed",
     "/p/{}/cat/cat.png%00", "/p/{}/cat/status.json", "/p/{}/cat/%2Fetc%2Fpasswd", "/p/{}/%2e%2e/cat.png"],
)  # fmt: skip
def test_no_path_leads_elsewhere(shop: Shop, path: str) -> None:
    """Also where the signature is right: whoever signs does not check what is signed."""

    links = Links([b"new-secret-0123456789"], lifetime_s=3600, now=lambda: 2e9)
    _, _, _, id, name = (unquote(part) for part in path.split("/"))
    for signature in (links.token(id, name), shop.link().split("/")[2]):
        url = shop.adapter.url + path.format(signature)
        prepared = requests.Request("GET", url).prepare()
        prepared.url = url  # requests would tidy it up
        answer = requests.Session().send(prepared, timeout=20)
        assert answer.status_code == 404, answer.text


def test_links_signed_with_either_secret_open_and_expired_ones_say_so(shop: Shop) -> None:

    for secret, status in ((b"new-secret-0123456789", 200), (b"old-secret-0123456789", 200), (b"lost", 404)):
        path = Links([secret], lifetime_s=3600, now=lambda: 2e9).sign("cat", "cat.png")
        assert shop.open(path).status_code == status
    expired = Links([b"old-secret-0123456789"], lifetime_s=3600, now=lambda: 1e9).sign("cat", "cat.png")
    answer = shop.open(expired)
    assert (answer.status_code, answer.json()["reason"]) == (410, "link_expired")


def test_the_status_links_every_output(shop: Shop) -> None:
    document = shop.status()
    assert [output["name"] for output in document["outputs"]] == list(OUTPUTS)
    for output in document["outputs"]:
        assert shop.open(urlsplit(output["url"]).path).content == OUTPUTS[output["name"]][0]
    assert "?" not in json.dumps([output["url"] for output in document["outputs"]])


def test_many_read_at_once_and_no_file_stays_open(shop: Shop) -> None:
    def open_files() -> int:
        return len(list(Path(f"/proc/{shop.adapter.process.pid}/fd").iterdir()))

    shop.get("cat.png")
    before = open_files()
    for _ in range(10):
        shop.get("cat.mp4", headers={"Range": "bytes=0-9"})
        shop.get("cat.png", headers={"If-None-Match": "*"})
        shop.adapter.ask("HEAD", "/v1/jobs/cat/outputs/1")
        with shop.get("cat.mp4", stream=True) as answer:  # and leaves in the middle
            next(answer.iter_content(10))
    assert open_files() <= before + 5  # of forty

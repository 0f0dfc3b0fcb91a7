"""Pictures that are sent: proven by decoding, kept once, fetched only from where they may be, and removed when unused."""

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from PIL import Image

from dify_adapter import uploads as module
from dify_adapter.uploads import Uploads
from handoff.failures import Failure, Reason
from handoff.pictures import Limits
from handoff.spool.publisher import sweep
from handoff.spool.record import Record
from tests.adapter.conftest import KEYS
from tests.adapter.scene import Scene, touch
from tests.servers.adapter import Adapter, start_adapter

READER = "hk_reader_0123456789"
DAY = 86400


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 10), color: object = None) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color or secrets.randbelow(1 << 24)).save(file, kind)  # type: ignore[arg-type]
    return file.getvalue()


class Host(BaseHTTPRequestHandler):
    """Somebody's file server. A path is asked for once, as Dify's addresses are good for a while only."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = self.files.get(self.path)
        self.send_response(200 if data else 404)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, format: str, *args: Any) -> None:
        """To nobody."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def adapter(host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    root = tmp_path_factory.mktemp("uploads")
    Scene(root)
    with start_adapter(root, api_keys=KEYS, url_allow=host, body_limit=1 << 20) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def kept(adapter: Adapter) -> Path:
    return adapter.stderr.parent / "input" / "uploads"


def check(answer: requests.Response, data: bytes, kept: Path, extension: str = "png") -> None:
    assert answer.status_code == 201, answer.text
    said = answer.json()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (said["name"], said["sha256"]) == (f"uploads/{sha256}.{extension}", sha256)
    assert (kept / f"{sha256}.{extension}").read_bytes() == data
    assert (said["width"], said["height"]) == (20, 10)


# ── ways in ──


@pytest.mark.parametrize(
    ("kind", "extension", "media_type"),
    [("PNG", "png", "image/png"), ("JPEG", "jpg", "image/jpeg"), ("WEBP", "webp", "image/webp"),
     ("GIF", "gif", "image/gif"), ("BMP", "bmp", "image/bmp"), ("TIFF", "tiff", "image/tiff")],
)  # fmt: skip
def test_a_file_of_a_form(adapter: Adapter, kept: Path, kind: str, extension: str, media_type: str) -> None:
    """Whatever its name and type say, its bytes decide."""
    data = picture(kind)
    answer = adapter.post("/v1/uploads", files={"image": ("../../etc/passwd.exe", data, "text/html")})
    check(answer, data, kept, extension)
    assert answer.json()["media_type"] == media_type


def test_several_files(adapter: Adapter) -> None:
    data = [picture(), picture()]
    answer = adapter.post("/v1/uploads", files=[("image", ("a.png", data[0])), ("image", ("b.png", data[1]))])
    said = answer.json()
    assert [upload["sha256"] for upload in said["uploads"]] == [hashlib.sha256(one).hexdigest() for one in data]
    assert said["name"] == said["uploads"][0]["name"]


def test_the_picture_itself_as_the_body(adapter: Adapter, kept: Path) -> None:
    data = picture()
    check(adapter.post("/v1/uploads", data=data, headers={"Content-Type": "image/png"}), data, kept)


def test_base64_in_json(adapter: Adapter, kept: Path) -> None:
    data = picture()
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for given in (text, lines, f"data:image/png;base64,{text}", f" {text.rstrip('=')} "):
        check(adapter.post("/v1/uploads", json={"image": given}), data, kept)


def test_base64_of_a_photo_is_larger_than_a_job_may_be(tmp_path: Path) -> None:
    scene, file = Scene(tmp_path), io.BytesIO()
    Image.effect_noise((2400, 2400), 80).save(file, "PNG")
    data = file.getvalue()
    assert len(data) > 4 << 20
    with start_adapter(tmp_path) as adapter:
        answer = adapter.post("/v1/uploads", json={"image": base64.b64encode(data).decode()})
    assert answer.status_code == 201, answer.text
    assert Path(f"{scene.folders.input}/{answer.json()['name']}").read_bytes() == data


def test_an_address_is_fetched_now(adapter: Adapter, kept: Path, host: str) -> None:
    data = Host.files[path := "/files/tools/x.png?timestamp=1&sign=abc"] = picture()
    check(adapter.post("/v1/uploads", json={"url": host + path}), data, kept)
    check(adapter.post("/v1/uploads", data={"url": host + path}), data, kept)
    assert Host.asked.count(path) == 2


def test_a_job_has_its_picture_before_it_is_answered(adapter: Adapter, kept: Path, host: str) -> None:
    """Dify's addresses expire after 300 s, and the job may wait longer."""
    data = Host.files[path := f"/files/{secrets.token_hex(4)}.png"] = picture()
    id = f"job-{secrets.token_hex(4)}"
    answer = adapter.put(f"/v1/jobs/{id}", json={"workflow": "invert", "image": host + path})
    assert answer.status_code == 202, answer.text
    name = f"uploads/{hashlib.sha256(data).hexdigest()}.png"
    assert (kept.parent / name).read_bytes() == data
    assert Record.read(f"{kept.parent}/.handoff/ids/{id}").body["params"]["image"] == name


def test_the_same_picture_twice_is_one_file(adapter: Adapter, kept: Path) -> None:
    data = picture()
    before = len(list(kept.iterdir()))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: requests_post(adapter, data), range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["name"] for answer in answers}) == 1
    assert len(list(kept.iterdir())) == before + 1
    assert not list((kept.parent / ".handoff" / "tmp").iterdir())


def requests_post(adapter: Adapter, data: bytes) -> requests.Response:
    headers = {"Authorization": f"Bearer {adapter.key}"}
    return requests.post(f"{adapter.url}/v1/uploads", files={"image": data}, headers=headers, timeout=60)


# ── what is not taken ──


def reason(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    found: str = answer.json()["reason"]
    return found


@pytest.mark.parametrize(
    "data",
    [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n", picture()[:-20], b"GIF89a", b"\0" * 100],
    ids=["svg", "pdf", "beginning", "cut off", "header", "zeros"],
)  # fmt: skip
def test_what_is_no_whole_picture_is_refused(adapter: Adapter, kept: Path, data: bytes) -> None:
    before = sorted(kept.iterdir())
    assert reason(adapter.post("/v1/uploads", files={"image": data}), 422) == "bad_picture"
    assert sorted(kept.iterdir()) == before
    assert not list((kept.parent / ".handoff" / "tmp").iterdir())


def test_an_empty_request_is_refused(adapter: Adapter) -> None:
    nothing: list[dict[str, Any]] = [
        {"json": {}},
        {"data": {"url": ""}},
        {"json": {"image": 7}},
        {"files": {"image": b""}},
    ]
    for options in nothing:
        assert reason(adapter.post("/v1/uploads", **options), 400) == "bad_body"


def test_what_is_too_large_is_not_kept(adapter: Adapter, kept: Path) -> None:
    """It says how long it is, or goes on and on: neither comes further than the limit."""
    headers = {"Content-Type": "image/png"}
    assert reason(adapter.post("/v1/uploads", data=bytes(2 << 20), headers=headers), 413) == "too_large"
    before, parts = most_memory(adapter), (bytes(1 << 16) for _ in range(2048))
    with contextlib.suppress(requests.ConnectionError):  # it may hang up on whoever goes on
        assert reason(adapter.post("/v1/uploads", data=parts, headers=headers), 413) == "too_large"
    assert most_memory(adapter) - before < 20_000
    assert not list((kept.parent / ".handoff" / "tmp").iterdir())


def most_memory(adapter: Adapter) -> int:
    """In kilobytes."""
    status = Path(f"/proc/{adapter.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    uploads = Uploads(scene.folders, limits=Limits(pixels=10_000))
    with pytest.raises(Failure) as failed:
        uploads.keep(io.BytesIO(picture(size=(101, 100))))
    assert (failed.value.reason, "pixels" in str(failed.value)) == (Reason.BAD_PICTURE, True)
    uploads = Uploads(scene.folders, limits=Limits(bytes=50))
    with pytest.raises(Failure, match="larger than 50 bytes"):
        uploads.keep(io.BytesIO(picture()))
    assert not os.listdir(scene.folders.uploads)
    assert not os.listdir(scene.folders.tmp)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/x.png", "http://localhost/x.png", "http://[::1]/x.png",
     "http://10.0.0.1/x.png", "https://example.com/x.png", "http://2130706433/x.png", "http://user:secret@127.0.0.1/x.png"],
)  # fmt: skip
def test_no_other_address_is_fetched(adapter: Adapter, url: str) -> None:
    for answer in (
        adapter.post("/v1/uploads", json={"url": url}),
        adapter.post("/v1/jobs", json={"workflow": "invert", "image": url}),
    ):
        assert reason(answer, 422) == "forbidden_url"
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x.png", "gopher://127.0.0.1/", "s3://bucket/key"]
)
def test_no_other_scheme_is_fetched(adapter: Adapter, url: str) -> None:
    assert reason(adapter.post("/v1/uploads", json={"url": url}), 422) in ("forbidden_url", "bad_picture")


def test_no_file_of_the_volume_is_read(adapter: Adapter, kept: Path) -> None:
    (kept.parent / "private.png").write_bytes(picture())
    for name in ("private.png", "uploads/../private.png", "/etc/passwd"):
        assert reason(adapter.post("/v1/uploads", json={"image": name, "url": name}), 422) == "bad_picture"


def test_an_address_that_gives_nothing(adapter: Adapter, host: str) -> None:
    assert reason(adapter.post("/v1/uploads", json={"url": f"{host}/missing.png"}), 422) == "picture_not_fetched"
    Host.files["/page.png"] = b"<html>"
    assert reason(adapter.post("/v1/uploads", json={"url": f"{host}/page.png"}), 422) == "bad_picture"


def test_only_keys_that_may_submit_upload(adapter: Adapter) -> None:
    assert reason(adapter.post("/v1/uploads", files={"image": picture()}, key=READER), 403) == "forbidden"
    assert reason(adapter.post("/v1/uploads", files={"image": picture()}, key=None), 401) == "unauthorized"


# ── what nobody needs any more ──


class Store:
    def __init__(self, root: Path) -> None:
        self.scene = Scene(root)
        self.uploads = Uploads(self.scene.folders)

    def keep(self, *, age_s: float = 2 * DAY) -> str:
        name = self.uploads.keep(io.BytesIO(picture())).name
        touch(f"{self.scene.folders.input}/{name}", age_s=age_s)
        return name

    def has(self, name: str) -> bool:
        return os.path.exists(f"{self.scene.folders.input}/{name}")

    def submit(self, id: str, name: str) -> Record:
        record = self.scene.make_record(id, {"workflow": "invert", "params": {"image": name}})
        return self.scene.publish(record)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_old_unused_ones_are_removed_and_nothing_else(store: Store) -> None:
    old, young = store.keep(), store.keep(age_s=DAY - 60)
    folder = Path(store.scene.folders.uploads)
    others = ["mine.png", "README", f"{'0' * 64}.txt", f"{'0' * 63}.png", ".hidden"]
    for name in others:
        (folder / name).write_bytes(b"somebody's")
        touch(f"{folder}/{name}", age_s=9 * DAY)
    assert store.uploads.collect() == 1
    assert (store.has(old), store.has(young)) == (False, True)
    assert set(others) <= set(os.listdir(folder))
    assert store.uploads.collect() == 0


def test_what_an_unfinished_job_names_stays_until_it_is_over(store: Store) -> None:
    waiting, running, dropped, claimed = (store.keep() for _ in range(4))
    store.submit("waiting", waiting)
    Path(f"{store.scene.folders.input}/drop.json").write_text(json.dumps({"workflow": "invert", "image": dropped}))
    with store.scene.watcher() as watcher:
        record = store.submit("running", running)
        watcher.run(record)
        Path(f"{watcher.seat.path}/c-2026~x.json").write_text(json.dumps({"image": claimed.removeprefix("uploads/")}))
        assert store.uploads.collect() == 0
        assert all(map(store.has, (waiting, running, dropped, claimed)))
        watcher.save(record, {})
        watcher.finish(record)
        assert store.uploads.collect() == 1
        assert not store.has(running)


def test_one_that_is_used_again_is_young_again(store: Store) -> None:
    touched, sent = store.keep(), store.keep()
    assert store.uploads.touch(touched)
    data = Path(f"{store.scene.folders.input}/{sent}").read_bytes()
    assert store.uploads.keep(io.BytesIO(data)).name == sent
    assert store.uploads.collect() == 0
    assert not store.uploads.touch("uploads/nothing.png")
    assert not store.uploads.touch(f"uploads/{'0' * 64}.png")
    assert not store.uploads.touch("../../etc/passwd")


@pytest.mark.parametrize("how", ["named", "touched", "sent"])
def test_one_that_is_needed_at_the_last_moment_stays(store: Store, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Between the look and the removal."""
    name, other = store.keep(), store.keep()
    data = Path(f"{store.scene.folders.input}/{name}").read_bytes()
    rename = os.rename

    def late(source: str, target: str) -> None:
        if how == "touched" and name.removeprefix("uploads/") in source and not target.endswith(name):
            assert store.uploads.touch(name)
        rename(source, target)
        if target.endswith(f"{module._ASIDE}{name.removeprefix('uploads/')}"):
            if how == "named":
                store.submit("cat", name)
            if how == "sent":
                assert store.uploads.keep(io.BytesIO(data)).name == name

    monkeypatch.setattr(os, "rename", late)
    assert store.uploads.collect() == (1 if how != "sent" else 2)  # the old file; the new one is another
    assert (store.has(name), store.has(other)) == (True, False)
    assert Path(f"{store.scene.folders.input}/{name}").read_bytes() == data


def test_what_a_killed_collector_put_aside_is_judged_again(store: Store) -> None:
    needed, unused = store.keep(), store.keep()
    store.submit("cat", needed)
    folder = store.scene.folders.uploads
    for name in (needed, unused):
        plain = name.removeprefix("uploads/")
        os.rename(f"{folder}/{plain}", f"{folder}/{module._ASIDE}{plain}")
    assert store.uploads.collect() == 1
    assert (store.has(needed), store.has(unused)) == (True, False)
    assert len(os.listdir(folder)) == 1


def test_what_a_killed_upload_left_is_swept_by_a_watcher(store: Store) -> None:
    left = f"{store.scene.folders.tmp}/picture-0123456789abcdef"
    Path(left).write_bytes(picture())
    assert sweep(store.scene.folders) == 0
    touch(left, age_s=90)
    assert sweep(store.scene.folders) == 1
    assert not os.listdir(store.scene.folders.tmp)


def test_where_a_job_cannot_be_read_nothing_is_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store.keep()
    store.submit("cat", name)

    def fail(path: str, limit: int) -> bytes:
        raise PermissionError(path)

    monkeypatch.setattr(module, "read_file", fail)
    with pytest.raises(PermissionError):
        store.uploads.collect()
    assert store.has(name)


def test_several_collectors_at_once(store: Store) -> None:
    names = [store.keep() for _ in range(50)]
    store.submit("cat", names[0])
    with ThreadPoolExecutor(4) as pool:
        removed = [task.result() for task in [pool.submit(Uploads(store.scene.folders).collect) for _ in range(4)]]
    assert sum(removed) == len(names) - 1
    assert [name for name in names if store.has(name)] == names[:1]


def test_the_server_collects(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = store.keep()
    with start_adapter(tmp_path) as adapter:
        assert adapter.wait_for("uploads_removed")["count"] == 1
    assert not store.has(old)

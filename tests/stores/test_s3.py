"""The S3 store against a real server: what it sends, and what it makes of refusals, faults and lies on the way."""

import datetime as dt
import re
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore import auth

from handoff.failures import EdgeError, Permanent, Transient, Unavailable
from handoff.stores.contract import Stored
from handoff.stores.s3 import S3Settings, S3Store
from tests.servers.rgw import S3Server
from tests.stores.conftest import File, Settle
from tests.stores.fault_proxy import Choose, Fault, FaultProxy

MakeFile = Callable[[int], File]


def put(store: S3Store, key: str = "a-job/status.json", data: bytes = b"{}") -> None:
    store.put_bytes(key, data, media_type="application/json")


def times(count: int, fault: Fault, method: str, pattern: str = "") -> Choose:
    """The first `count` requests of this method whose path and query match meet the fault."""
    left = [count]

    def choose(seen: str, path: str) -> Fault | None:
        if seen != method or not re.search(pattern, path) or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    return choose


def uploads(server: S3Server, bucket: str) -> list[Any]:
    client = server.client()
    found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    client.close()
    return list(found)


# --- what is sent ---


def test_objects_carry_type_cache_rule_and_sum(
    settle: Settle, s3_server: S3Server, bucket: str, make_file: MakeFile
) -> None:
    settings = settle()
    store = S3Store(settings)
    client = s3_server.client()
    for size in (100, 17 << 20):
        file = make_file(size)
        file.put(store, "a-job/p.png")
        found = client.head_object(Bucket=bucket, Key=f"{settings.prefix}/a-job/p.png")
        assert found["ContentType"] == "image/png"
        assert found["CacheControl"] == "public, max-age=31536000, immutable"
        assert found["Metadata"] == {"sha256": file.sha256}
    put(store)
    found = client.head_object(Bucket=bucket, Key=f"{settings.prefix}/a-job/status.json")
    assert (found["ContentType"], found["CacheControl"]) == ("application/json", "no-store")
    client.close()


def test_a_small_put_is_one_request_and_a_large_one_is_looked_at(
    settle: Settle, proxy: FaultProxy, make_file: MakeFile
) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    put(store)
    assert proxy.methods() == ["PUT"]
    proxy.seen.clear()
    make_file(40 << 20).put(store, "a-job/film.mp4")
    assert proxy.methods() == ["POST", "GET", "PUT", "PUT", "PUT", "POST", "HEAD"]


def test_credentials_come_from_where_boto3_looks(
    settle: Settle, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    S3Store(settle(access_key_id=None, secret_access_key=None)).check()


# --- addresses for readers ---


def test_a_presigned_address_opens_one_object_for_a_while(
    settle: Settle, s3_server: S3Server, make_file: MakeFile
) -> None:
    store = S3Store(settle(public_endpoint_url=s3_server.https_endpoint))
    file = make_file(1000)
    file.put(store, "图/猫.png")
    put(store, "other.json")
    url = store.url("图/猫.png", expires_s=60)
    other = store.url("other.json", expires_s=60)
    brief = store.url("other.json", expires_s=0)
    assert url
    assert other
    assert brief
    assert url.startswith(s3_server.https_endpoint)
    with requests.Session() as session:
        session.trust_env, session.verify = False, s3_server.ca_bundle
        reply = session.get(url, timeout=10)
        assert (reply.status_code, reply.content) == (200, file.data)
        assert reply.headers["Content-Type"] == "image/png"
        tampered = [
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.split("?")[0] + "?" + other.split("?")[1],
            url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
            url.split("?")[0],
        ]
        for address in tampered:
            assert session.get(address, timeout=10).status_code == 403
        assert session.put(url, data=b"x", timeout=10).status_code == 403
        assert session.get(other, timeout=10).status_code == 200
        threading.Event().wait(2.1)
        assert session.get(brief, timeout=10).status_code == 403


# --- refusals: each is the installation's fault, says the remedy and holds no secret ---


def test_a_wrong_secret(settle: Settle) -> None:
    with pytest.raises(Unavailable, match=r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"):
        S3Store(settle(secret_access_key="f" * 40)).check()


def test_an_unknown_access_key(settle: Settle) -> None:
    with pytest.raises(Unavailable, match=r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"):
        S3Store(settle(access_key_id="NOBODY")).check()


def test_no_credentials_at_all(settle: Settle) -> None:
    with pytest.raises(Unavailable, match=r"NoCredentialsError.*AWS_ACCESS_KEY_ID"):
        S3Store(settle(access_key_id=None, secret_access_key=None)).check()


def test_no_such_bucket(settle: Settle, make_file: MakeFile) -> None:
    store = S3Store(settle(bucket="not-there"))
    for use in (
        store.check,
        lambda: make_file(10).put(store, "p.png"),
        lambda: make_file(17 << 20).put(store, "p.png"),
        lambda: store.get_bytes("p.png", 10),
        lambda: store.create("p.png", b"", media_type="text/plain"),
    ):
        with pytest.raises(Unavailable, match=r"NoSuchBucket.*not-there.*HANDOFF_BUCKET"):
            use()


def test_a_clock_that_is_off(settle: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = vars(auth)["get_current_datetime"]
    monkeypatch.setattr(auth, "get_current_datetime", lambda *a, **k: real(*a, **k) - dt.timedelta(hours=2))
    with pytest.raises(Unavailable, match=r"RequestTimeTooSkewed.*synchronise"):
        S3Store(settle()).check()


def test_nobody_listens(settle: Settle) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: cannot connect.*refused"):
            S3Store(settle(endpoint_url=f"http://127.0.0.1:{port}")).check()


def test_a_name_that_is_not_known(settle: Settle) -> None:
    with pytest.raises(Unavailable, match=r"no-such-host.invalid.*cannot connect.*HANDOFF_S3_ENDPOINT_URL"):
        S3Store(settle(endpoint_url="http://no-such-host.invalid")).check()


def test_a_certificate_of_an_unknown_ca(settle: Settle, s3_server: S3Server) -> None:
    with pytest.raises(Unavailable, match=r"certificate was not accepted.*AWS_CA_BUNDLE"):
        S3Store(settle(endpoint_url=s3_server.https_endpoint)).check()


@pytest.mark.parametrize("bundle", ["/nowhere/ca.pem", __file__])
def test_a_ca_bundle_that_is_none(settle: Settle, s3_server: S3Server, bundle: str) -> None:
    with pytest.raises(Unavailable, match=r"CA certificates cannot be read.*AWS_CA_BUNDLE"):
        S3Store(settle(endpoint_url=s3_server.https_endpoint, verify=bundle)).check()


def test_https_spoken_to_an_http_port(settle: Settle, s3_server: S3Server) -> None:
    with pytest.raises(Unavailable, match="should it be http"):
        S3Store(settle(endpoint_url=s3_server.endpoint.replace("http:", "https:"))).check()


def test_a_web_page_instead_of_a_store(settle: Settle, proxy: FaultProxy) -> None:
    proxy.choose = times(-1, Fault.NONSENSE, "PUT")
    with pytest.raises(Unavailable, match=r"not how an object store answers.*HANDOFF_S3_ENDPOINT_URL"):
        S3Store(settle(endpoint_url=proxy.endpoint)).check()


def test_no_error_holds_a_secret(settle: Settle, s3_server: S3Server, proxy: FaultProxy) -> None:
    said = []
    for changes in (
        {"secret_access_key": "wrong" * 8},
        {"access_key_id": "NOBODYKNOWSME"},
        {"bucket": "not-there"},
        {"endpoint_url": "http://127.0.0.1:1"},
        {"endpoint_url": s3_server.https_endpoint},
        {"endpoint_url": proxy.endpoint},
    ):
        proxy.choose = times(-1, Fault.RESET_MID_BODY, "PUT")
        settings = settle(**changes)
        with pytest.raises(EdgeError) as raised:
            S3Store(settings).check()
        said += traceback.format_exception(raised.value)
        said += [repr(settings), S3Store(settings).describe(), repr(S3Store(settings))]
    text = "".join(said)
    for secret in (
        s3_server.secret_key,
        s3_server.access_key,
        "wrong" * 8,
        "NOBODYKNOWSME",
        "token" * 30,
        "Signature=",
    ):
        assert secret not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint_url": "http://user:hunter2@host"},
        {"endpoint_url": "user:hunter2@host"},
        {"endpoint_url": "127.0.0.1:9000"},
        {"endpoint_url": "ftp://host"},
        {"public_endpoint_url": "https://host/?x=1"},
        {"bucket": "Not A Bucket"},
        {"bucket": ""},
        {"prefix": "a/../b"},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_at_once(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError) as raised:
        S3Settings(**{"bucket": "bucket"} | changes)
    assert "hunter2" not in str(raised.value)


# --- faults on the way ---


def test_a_reply_lost_once_is_asked_for_again(settle: Settle, proxy: FaultProxy) -> None:
    proxy.choose = times(1, Fault.LOSE_REPLY, "PUT")
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    put(store, data=b"once")
    assert proxy.methods() == ["PUT", "PUT"]
    assert store.get_bytes("a-job/status.json", 10) == b"once"


def test_a_put_whose_replies_are_all_lost_is_confirmed_by_a_look(settle: Settle, proxy: FaultProxy) -> None:
    proxy.choose = times(-1, Fault.LOSE_REPLY, "PUT")
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    put(store, data=b"there")
    assert proxy.methods() == ["PUT", "PUT", "HEAD"]
    assert store.get_bytes("a-job/status.json", 10) == b"there"


def test_a_put_that_never_arrives_is_transient(settle: Settle, proxy: FaultProxy) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    put(store, data=b"old")
    proxy.choose = times(-1, Fault.RESET_MID_BODY, "PUT")
    with pytest.raises(Transient, match="broke"):
        put(store, data=b"new" * 100_000)
    assert store.get_bytes("a-job/status.json", 10) == b"old"


def test_a_busy_store_is_transient_and_not_asked_more_than_needed(settle: Settle, proxy: FaultProxy) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    proxy.choose = times(-1, Fault.BUSY, "PUT")
    with pytest.raises(Transient, match="503 'SlowDown'"):
        put(store)
    assert proxy.methods() == ["PUT", "PUT"]
    proxy.choose = times(1, Fault.BUSY, "PUT")
    put(store)


def test_a_hanging_store_is_transient(settle: Settle, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handoff.stores.s3.READ_TIMEOUT_S", 0.3)
    proxy.choose = lambda _method, _path: Fault.HANG
    with pytest.raises(Transient, match="too slow"):
        put(S3Store(settle(endpoint_url=proxy.endpoint)))


def test_an_answer_that_breaks_off_is_not_taken_for_whole(settle: Settle, proxy: FaultProxy, tmp_path: Path) -> None:
    settings = settle(endpoint_url=proxy.endpoint)
    store = S3Store(settings)
    put(store, "big", b"x" * 1_000_000)
    proxy.choose = times(-1, Fault.CUT_ANSWER, "GET")
    with pytest.raises(Transient):
        store.get_bytes("big", 1 << 20)
    with pytest.raises(Transient):
        store.download(settings.bucket, f"{settings.prefix}/big", tmp_path / "big", 1 << 20)
    assert not (tmp_path / "big").exists()


@pytest.mark.parametrize("lost", [1, -1])
def test_a_lost_reply_to_the_last_step_of_an_upload_is_no_failure(
    settle: Settle, proxy: FaultProxy, make_file: MakeFile, lost: int
) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    proxy.choose = times(lost, Fault.LOSE_REPLY, "POST", "uploadId=")
    file = make_file(17 << 20)
    file.put(store, "film.mp4")
    assert store.head("film.mp4") == Stored(size=file.size, sha256=file.sha256)
    assert "DELETE" not in proxy.methods()


@pytest.mark.parametrize("step", [("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_a_failed_upload_leaves_nothing_behind(
    s3_server: S3Server, settle: Settle, proxy: FaultProxy, make_file: MakeFile, step: tuple[str, str]
) -> None:
    bucket = s3_server.make_bucket()
    store = S3Store(settle(endpoint_url=proxy.endpoint, bucket=bucket))
    proxy.choose = times(-1, Fault.BUSY, *step)
    with pytest.raises(Transient):
        make_file(20 << 20).put(store, "film.mp4")
    assert store.head("film.mp4") is None
    assert uploads(s3_server, bucket) == []


def test_what_a_killed_watcher_had_begun_to_upload_is_cleared_away(
    s3_server: S3Server, settle: Settle, make_file: MakeFile
) -> None:
    bucket = s3_server.make_bucket()
    settings = settle(bucket=bucket)
    client = s3_server.client()
    for name in ("film.mp4", "film.mp4.other"):
        key = f"{settings.prefix}/{name}"
        begun = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=begun, PartNumber=1, Body=b"x" * (5 << 20))
    file = make_file(17 << 20)
    file.put(S3Store(settings), "film.mp4")
    assert S3Store(settings).head("film.mp4") == Stored(size=file.size, sha256=file.sha256)
    assert [upload["Key"] for upload in uploads(s3_server, bucket)] == [f"{settings.prefix}/film.mp4.other"]
    client.close()


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.NOT_IMPLEMENTED])
def test_uploads_go_on_where_unfinished_ones_may_not_be_listed(
    settle: Settle, proxy: FaultProxy, make_file: MakeFile, fault: Fault
) -> None:
    proxy.choose = times(-1, fault, "GET", "uploads")
    store, file = S3Store(settle(endpoint_url=proxy.endpoint)), make_file(17 << 20)
    file.put(store, "film.mp4")
    assert store.head("film.mp4") == Stored(size=file.size, sha256=file.sha256)


def test_a_file_that_changes_during_an_upload_leaves_nothing_behind(
    s3_server: S3Server, settle: Settle, make_file: MakeFile
) -> None:
    bucket = s3_server.make_bucket()
    store = S3Store(settle(bucket=bucket))
    with pytest.raises(Permanent, match="changed"):
        make_file(17 << 20).put(store, "film.mp4", sha256="0" * 64)
    assert uploads(s3_server, bucket) == []


# --- stores that answer otherwise ---


def events(store: S3Store) -> Any:
    return store._client.meta.events


def test_an_etag_that_is_no_md5_makes_it_look(settle: Settle, proxy: FaultProxy) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    events(store).register("after-call.s3.PutObject", lambda parsed, **_: parsed.update(ETag='"kms-something"'))
    put(store)
    assert proxy.methods() == ["PUT", "HEAD"]


def test_a_store_that_shows_other_bytes_is_not_believed(settle: Settle, s3_server: S3Server, bucket: str) -> None:
    settings = settle()
    store = S3Store(settings)
    client = s3_server.client()

    def spoil(parsed: dict[str, object], **_: object) -> None:
        parsed["ETag"] = '"kms-something"'
        client.put_object(Bucket=bucket, Key=f"{settings.prefix}/a-job/status.json", Body=b"[]")

    events(store).register("after-call.s3.PutObject", spoil)
    with pytest.raises(Transient, match="was taken, but"):
        put(store)
    client.close()


def test_bytes_that_change_on_the_way_are_noticed_by_the_store(settle: Settle) -> None:
    store = S3Store(settle())

    def flip(request: Any, **_: object) -> None:
        request.headers.replace_header("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")

    events(store).register("before-sign.s3.PutObject", flip)
    with pytest.raises(Transient, match="BadDigest"):
        put(store)
    assert store.head("a-job/status.json") is None


def test_creating_where_the_store_knows_no_conditional_puts(settle: Settle, proxy: FaultProxy) -> None:
    store = S3Store(settle(endpoint_url=proxy.endpoint))
    for data, won in ((b"one", True), (b"two", False)):
        proxy.choose = times(1, Fault.NOT_IMPLEMENTED, "PUT")
        assert store.create("_site.json", data, media_type="application/json") is won
    assert store.get_bytes("_site.json", 10) == b"one"
    assert proxy.methods() == ["PUT", "HEAD", "PUT", "PUT", "HEAD", "GET"]


# --- pictures from other buckets ---


def test_a_picture_is_copied_from_another_bucket(
    settle: Settle, s3_server: S3Server, make_file: MakeFile, tmp_path: Path
) -> None:
    other = s3_server.make_bucket()
    file = make_file(1_000_000)
    file.put(S3Store(settle(bucket=other, prefix="in")), "猫.png")
    store = S3Store(settle())
    assert store.download(other, "in/猫.png", tmp_path / "cat.png", file.size) == file.size
    assert (tmp_path / "cat.png").read_bytes() == file.data
    with pytest.raises(Permanent, match="more than"):
        store.download(other, "in/猫.png", tmp_path / "big.png", file.size - 1)
    for bucket, key in ((other, "in/dog.png"), ("not-there", "x"), (other, "in/../x"), ("arn:aws:s3:::x", "x")):
        with pytest.raises(Permanent):
            store.download(bucket, key, tmp_path / "no.png", 10)
    with pytest.raises(Unavailable, match=r"cat.png"):
        store.download(other, "in/猫.png", tmp_path / "cat.png", file.size)
    with pytest.raises(Unavailable, match="absent"):
        store.download(other, "in/猫.png", tmp_path / "absent" / "cat.png", file.size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", file.path.name]
    assert (tmp_path / "cat.png").read_bytes() == file.data


def test_a_wrong_secret_is_no_fault_of_the_picture(settle: Settle, tmp_path: Path, bucket: str) -> None:
    with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
        S3Store(settle(secret_access_key="f" * 40)).download(bucket, "x", tmp_path / "x", 10)

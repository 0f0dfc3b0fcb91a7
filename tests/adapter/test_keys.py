"""Keys: how they are written, sent and compared, and what each may do."""

import base64
import time
from pathlib import Path

import pytest

from dify_adapter.keyring import Keyring
from dify_adapter.keys import EVERYBODY, Scope, find_key, make_link_secrets, read_keys, read_presented
from handoff.settings import AdapterSettings, SettingsError
from tests.adapter.conftest import Counter, Studio, open_counter
from tests.servers.adapter import KEY, start_adapter
from tests.servers.watcher import Stopped

GRAPHS, ADMIN, READER = "hk_graphs_0123456789", "hk_admin_0123456789", "hk_reader_0123456789"
CANVAS = {"workflow": "canvas", "params": {"width": 32}}
GRAPH = {
    "graph": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
}


@pytest.mark.parametrize(
    ("text", "name", "owner", "scopes"),
    [
        ("shop:0123456789abcdef", "shop", "shop", {Scope.SUBMIT}),
        ("shop-2@shop:0123456789abcdef", "shop-2", "shop", {Scope.SUBMIT}),
        ("a:0123456789abcdef:submit+graph", "a", "a", {Scope.SUBMIT, Scope.GRAPH}),
        ("a:0123456789abcdef:admin", "a", "a", {Scope.ADMIN}),
        ("a:0123456789abcdef:read", "a", "a", set()),
    ],
)
def test_a_line_says_name_owner_and_scopes(text: str, name: str, owner: str, scopes: set[Scope]) -> None:
    [key] = read_keys([text])
    assert (key.name, key.owner, set(key.scopes)) == (name, owner, scopes)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["shop"], "not of the form"),
        (["shop:short"], "fewer than 16"),
        (["shop:0123456789abcdef:sumbit"], "unknown scope sumbit"),
        (["a:0123456789abcdef", "a:0123456789abcdeg"], "two keys are named a"),
        (["a:0123456789abcdef", "b:0123456789abcdef"], "same key"),
        (["-a:0123456789abcdef"], "names are of the form"),
    ],
)
def test_a_line_that_means_nothing_is_refused_without_repeating_the_key(texts: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        read_keys(texts)
    assert "0123456789" not in str(raised.value)
    assert "short" not in str(raised.value)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": "abc"}, "abc"),
        ({"authorization": basic("shop:abc")}, "abc"),
        ({"authorization": basic("abc:")}, "abc"),
        ({"authorization": "abc"}, "abc"),
        ({"authorization": "Basic ???"}, None),
        ({"authorization": "Bearer "}, None),
        ({}, None),
    ],
)
def test_a_key_is_read_from_where_programs_put_it(headers: dict[str, str], presented: str | None) -> None:
    assert read_presented(headers) == presented


def test_only_the_whole_key_is_found() -> None:
    keys = read_keys(["a:0123456789abcdef", "b:fedcba9876543210"])
    assert find_key(keys, "fedcba9876543210") is keys[1]
    assert all(find_key(keys, text) is None for text in ("", "0123456789abcde", "0123456789abcdef0", "é"))


def test_link_secrets_follow_from_the_keys_and_are_none_of_them() -> None:
    keys = read_keys(["a:0123456789abcdef", "b:fedcba9876543210"])
    assert make_link_secrets(keys) == make_link_secrets(keys)
    assert len({*make_link_secrets(keys), *(key.sha256 for key in keys)}) == 4


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\nshop:0123456789abcdef\n")
    ring = Keyring(AdapterSettings(api_keys_file=path, api_keys=("ops:fedcba9876543210",)))
    assert ring.find("0123456789abcdef") is not None
    path.write_text("shop:0000000000000000 0\n")
    assert ring.find("0123456789abcdef") is not None, "a file that cannot be used changes nothing"
    path.write_text("new:aaaaaaaaaaaaaaaaaaaa\n")
    assert ring.find("0123456789abcdef") is None
    assert ring.find("aaaaaaaaaaaaaaaaaaaa") is not None
    assert ring.find("fedcba9876543210") is not None


def test_an_empty_file_of_keys_does_not_open_the_door(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# nobody yet\n")
    with pytest.raises(SettingsError, match="holds no key"):
        Keyring(AdapterSettings(api_keys_file=path))
    assert Keyring(AdapterSettings()).find(None) is EVERYBODY


# over HTTP


def test_without_a_key_or_with_a_wrong_one_nothing_is_told(counter: Counter) -> None:
    for key in (None, "wrong", KEY[:-1]):
        answer = counter.adapter.get("/v1/jobs", key=key)
        assert answer.status_code == 401
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Bearer" in answer.headers["WWW-Authenticate"]
        assert answer.json()["reason"] == "unauthorized"


def test_behind_dify_s_proxy_a_wrong_key_is_no_401(counter: Counter) -> None:
    for key, status in ((None, 400), ("wrong", 400)):
        answer = counter.adapter.get("/v1/jobs", key=key, headers={"Via": "1.1 3f2a (squid/6.6)"})
        assert answer.status_code == status
        assert answer.json()["reason"] == "unauthorized"
    forbidden = counter.adapter.post("/v1/jobs", json=GRAPH, headers={"Via": "1.1 x (squid/5.7)"})
    assert (forbidden.status_code, forbidden.json()["reason"]) == (400, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": KEY}, {"Authorization": basic(f"shop:{KEY}")}, {"Authorization": f"Bearer {KEY}"}],
)
def test_every_way_of_sending_the_key_works(counter: Counter, headers: dict[str, str]) -> None:
    assert counter.adapter.get("/v1/jobs", key=None, headers=headers).status_code == 200


def test_graphs_need_their_scope_and_readers_may_only_read(counter: Counter) -> None:
    assert counter.adapter.post("/v1/jobs", json=GRAPH).status_code == 403
    assert counter.adapter.post("/v1/jobs", json=GRAPH, key=GRAPHS).status_code == 202
    assert counter.adapter.post("/v1/jobs", json=GRAPH["graph"], key=GRAPHS).status_code == 202, "an exported graph"
    assert counter.adapter.post("/v1/jobs", json={"prompt": GRAPH["graph"]}, key=GRAPHS).status_code == 202
    mine = counter.adapter.put("/v1/jobs/readable", json=CANVAS)
    assert mine.status_code == 202
    assert counter.adapter.get("/v1/jobs/readable", key=READER).status_code == 200
    for answer in (
        counter.adapter.post("/v1/jobs", json=CANVAS, key=READER),
        counter.adapter.post("/v1/jobs/readable/cancel", key=READER),
        counter.adapter.post("/v1/jobs/readable/retry", key=READER),
    ):
        assert answer.status_code == 403, answer.text


def test_a_key_sees_its_own_jobs_only(counter: Counter) -> None:
    adapter = counter.adapter
    assert adapter.put("/v1/jobs/secret-job", json=CANVAS).status_code == 202
    assert adapter.get("/v1/jobs/secret-job", key=GRAPHS).status_code == 404
    assert adapter.post("/v1/jobs/secret-job/cancel", key=GRAPHS).status_code == 404
    assert adapter.post("/v1/jobs/secret-job/retry", key=GRAPHS).status_code == 404
    for body in (CANVAS, {"workflow": "canvas"}):
        assert adapter.put("/v1/jobs/secret-job", json=body, key=GRAPHS).status_code == 409
    assert not (counter.volume.input / "secret-job.cancel").exists()

    def ids(key: str) -> set[str]:
        return {job["id"] for job in adapter.get("/v1/jobs?limit=500", key=key).json()["jobs"]}

    assert "secret-job" not in ids(GRAPHS)
    assert "secret-job" in ids(KEY) & ids(ADMIN) & ids(READER)
    assert adapter.get("/v1/jobs/secret-job", key=ADMIN).json()["owner"] == "shop"


def test_keys_are_in_no_log(studio: Studio) -> None:
    studio.adapter.get("/v1/jobs", key="hk_this_is_wrong_but_secret")
    studio.adapter.get(f"/v1/jobs?key={KEY}", key=None)
    studio.adapter.put("/v1/jobs/logged", json=CANVAS)
    text = studio.adapter.stderr.read_text()
    assert "submitted" in text
    assert KEY not in text
    assert "hk_this" not in text


# without keys


def test_without_keys_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        start_adapter(tmp_path, api_keys=None, listen="0.0.0.0:0", input_dir=tmp_path)
    assert "HANDOFF_ALLOW_ANONYMOUS" in (tmp_path / "adapter-1.log").read_text()
    with start_adapter(
        tmp_path, api_keys=None, listen="0.0.0.0:0", input_dir=tmp_path, allow_anonymous="yes"
    ) as open_one:
        open_one.url = open_one.url.replace("0.0.0.0", "127.0.0.1")
        assert open_one.get("/v1/jobs").status_code == 200
        assert open_one.get("/v1/jobs", key="any", headers={"Host": "handoff.example.com"}).status_code == 200


def test_without_keys_pages_of_other_sites_get_nothing() -> None:
    with open_counter(api_keys=None) as counter:
        adapter = counter.adapter
        host = adapter.url.removeprefix("http://")
        assert adapter.post("/v1/jobs", json=CANVAS).status_code == 202
        assert adapter.post("/v1/jobs", json=CANVAS, key="whatever").status_code == 202
        assert adapter.post("/v1/jobs", json=CANVAS, headers={"Origin": f"http://{host}"}).status_code == 202
        stranger = adapter.post("/v1/jobs", data={"workflow": "canvas"}, headers={"Origin": "https://evil.example"})
        assert (stranger.status_code, stranger.json()["reason"]) == (403, "forbidden")
        rebound = adapter.get("/v1/jobs", headers={"Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["reason"]) == (403, "forbidden")
        for name in ("localhost", "comfy-adapter", "host.docker.internal", "[::1]:8080"):
            assert adapter.get("/v1/jobs", headers={"Host": name}).status_code == 200


def test_a_withdrawn_key_works_no_more(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\nops:{ADMIN}:admin\n")
    with open_counter(api_keys=None, api_keys_file=keys) as counter:
        assert counter.adapter.get("/v1/jobs", key=KEY).status_code == 200
        time.sleep(0.01)  # file systems that count in milliseconds
        keys.write_text(f"ops:{ADMIN}:admin\n")
        assert counter.adapter.get("/v1/jobs", key=KEY).status_code == 401
        assert counter.adapter.get("/v1/jobs", key=ADMIN).status_code == 200

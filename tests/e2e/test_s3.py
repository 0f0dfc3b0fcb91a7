"""A real S3 server: objects arrive whole, the status last, and an outage costs nothing but time."""

import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest
import requests

from tests.e2e.jobs import canvas, film, sleeping
from tests.e2e.place import Place, S3Bucket
from tests.e2e.promises import check_promises
from tests.e2e.volume import eventually
from tests.stores.fault_proxy import Fault, FaultProxy, running_proxy

if TYPE_CHECKING:
    pass


def test_a_dropped_job_ends_in_a_real_bucket(place: Place) -> None:
    watcher = place.start()
    place.volume.drop("poster.json", canvas(metadata={"order": "四七一一"}))
    (status,) = place.volume.succeed("poster.json")
    check_promises(place.volume, place.simulator, watchers=(watcher,))
    (output,) = status["outputs"]
    head = place.bucket.client.head_object(Bucket=place.bucket.name, Key=output["key"])
    assert head["ContentType"] == "image/png"
    assert "immutable" in head["CacheControl"]
    assert output["sha256"] in head["Metadata"].values()
    head = place.bucket.client.head_object(Bucket=place.bucket.name, Key=f"jobs/{status['id']}/status.json")
    assert head["ContentType"] == "application/json"
    assert head["CacheControl"] == "no-store"
    picture = requests.get(status["url"], timeout=10)
    assert picture.headers["Content-Type"] == "image/png"
    assert hashlib.sha256(picture.content).hexdigest() == output["sha256"]
    assert status["url"] in status["markdown"]
    secrets = (place.server.secret_key.encode(), place.server.access_key.encode())
    for key in place.bucket.list_keys():
        data = place.bucket.get(key) or b""
        assert secrets[0] not in data
    assert place.server.secret_key not in watcher.stderr.read_text()
    assert place.server.access_key not in watcher.stderr.read_text()


def test_over_https_with_the_settings_that_ship(place: Place) -> None:
    watcher = place.start(
        HANDOFF_S3_ENDPOINT_URL=place.server.https_endpoint,
        AWS_CA_BUNDLE=place.server.ca_bundle,
    )  # fmt: skip
    names = [f"tls-{number}.json" for number in range(3)]
    for name in names:
        place.volume.drop(name, canvas())
    for status in place.volume.succeed(*names):
        assert status["url"].startswith("https://")
    check_promises(place.volume, place.simulator, watchers=(watcher,))


def test_in_a_store_that_knows_no_conditional_puts(place: Place) -> None:
    with running_proxy(place.server.endpoint) as proxy:
        proxy.choose = lambda _method, _path: Fault.NO_CONDITIONS
        watcher = place.start(HANDOFF_S3_ENDPOINT_URL=proxy.endpoint)
        place.volume.drop("one.json", canvas())
        place.volume.succeed("one.json")
        check_promises(place.volume, place.simulator, watchers=(watcher,))
    site = [path.partition("?")[0] for method, path in proxy.seen if method == "PUT" and "_site.json" in path]
    assert len(site) == 2, "refused with a condition, then put without"
    place.bucket.check_objects(place.volume)


def test_the_status_is_the_last_object_and_only_then_complete(place: Place) -> None:
    with running_proxy(place.server.endpoint) as proxy:
        watcher = place.start(HANDOFF_S3_ENDPOINT_URL=proxy.endpoint)
        job = canvas(id="ordered")
        job["params"]["batch_size"] = 4
        place.volume.drop("ordered.json", job)
        (status,) = place.volume.succeed("ordered.json")
        check_promises(place.volume, place.simulator, watchers=(watcher,))
    keys = [path.partition("?")[0] for method, path in proxy.seen if method == "PUT"]
    puts = [key.rpartition("/")[2] for key in keys if "/ordered/" in key and not key.endswith("/progress.json")]
    assert puts[-1] == "status.json"
    assert puts.count("status.json") == 1
    assert set(puts) == {output["name"] for output in status["outputs"]} | {"job.json", "status.json"}
    assert len(status["outputs"]) == 4


def test_the_bucket_is_closed_altogether_and_opens_again(place: Place) -> None:
    watcher = place.start(HANDOFF_S3_ENDPOINT_URL="http://127.0.0.1:9")
    place.volume.drop("refused.json", canvas())
    place.volume.wait_until("refused.json", "saving")
    watcher.wait_for("bucket_away")
    assert watcher.terminate() == 0
    second = place.start()
    place.volume.succeed("refused.json")
    check_promises(place.volume, place.simulator, watchers=(watcher, second))


@pytest.mark.parametrize("fault", [Fault.LOSE_REPLY, Fault.RESET_MID_BODY, Fault.CUT_ANSWER])
def test_every_third_exchange_breaks(place: Place, fault: Fault) -> None:
    with running_proxy(place.server.endpoint) as proxy:
        break_every_third(proxy, fault)
        watcher = place.start(HANDOFF_S3_ENDPOINT_URL=proxy.endpoint)
        names = [f"job-{number}.json" for number in range(4)]
        for name in names:
            place.volume.drop(name, canvas())
        place.volume.drop("film.json", film())
        for status in place.volume.succeed(*names, "film.json"):
            assert status["attempt"] == 1
        check_promises(place.volume, place.simulator, watchers=(watcher,))
    place.bucket.check_objects(place.volume)


def break_every_third(proxy: FaultProxy, fault: Fault) -> None:
    count = itertools.count(1)
    proxy.choose = lambda _method, _path: fault if next(count) % 3 == 0 else None


def test_a_wrong_secret_waits_and_is_named(place: Place) -> None:
    watcher = place.start(AWS_SECRET_ACCESS_KEY="wrong")
    place.volume.drop("locked-out.json", canvas())
    place.volume.wait_until("locked-out.json", "saving")
    line = watcher.wait_for("bucket_away")
    assert "SignatureDoesNotMatch" in line["error"] or "403" in line["error"] or "secret" in line["error"].lower()
    assert watcher.terminate() == 0
    second = place.start()
    place.volume.succeed("locked-out.json")
    check_promises(place.volume, place.simulator, watchers=(watcher, second))


def test_a_bucket_that_is_not_there_yet(place: Place) -> None:
    watcher = place.start(bucket="handoff-comes-later")
    place.volume.drop("early.json", canvas())
    place.volume.wait_until("early.json", "saving")
    line = watcher.wait_for("bucket_away")
    assert "handoff-comes-later" in line["error"]
    place.bucket.client.create_bucket(Bucket="handoff-comes-later")
    place.volume.bucket = S3Bucket(place.bucket.client, "handoff-comes-later")
    place.volume.succeed("early.json")
    check_promises(place.volume, place.simulator, watchers=(watcher,))


def test_pollers_find_progress_before_the_end(place: Place) -> None:
    watcher = place.start()
    place.volume.drop("watched.json", sleeping(2, id="watched"))
    eventually(lambda: place.bucket.get("jobs/watched/progress.json"), "there is progress")
    assert place.bucket.get("jobs/watched/status.json") is None
    place.volume.succeed("watched.json")
    check_promises(place.volume, place.simulator, watchers=(watcher,))

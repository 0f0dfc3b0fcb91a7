"""The stores under test, and a world in which boto3 finds nobody's real credentials."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handoff.stores.contract import Store
from handoff.stores.folder import FolderStore
from handoff.stores.s3 import S3Settings, S3Store
from tests.servers.rgw import S3Server
from tests.stores.fault_proxy import FaultProxy, running_proxy

Settle = Callable[..., S3Settings]


@pytest.fixture(scope="session", autouse=True)
def _no_surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy"}:
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture(scope="session")
def settle(s3_server: S3Server, bucket: str) -> Settle:
    """Working settings with a prefix of their own, and what the test changes about them."""

    def make(**changes: Any) -> S3Settings:
        usual: dict[str, Any] = {
            "bucket": bucket,
            "endpoint_url": s3_server.endpoint,
            "prefix": f"jobs-{secrets.token_hex(4)}",
            "access_key_id": s3_server.access_key,
            "secret_access_key": s3_server.secret_key,
        }
        return S3Settings(**usual | changes)

    return make


@pytest.fixture(scope="session", params=["folder", "s3-http", "s3-https"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One of each kind for all tests, since a client takes long to make; `job` keeps the tests apart."""
    if request.param == "folder":
        return FolderStore(tmp_path_factory.mktemp("bucket"), "jobs")
    server: S3Server = request.getfixturevalue("s3_server")
    settle: Settle = request.getfixturevalue("settle")
    if request.param == "s3-http":
        return S3Store(settle())
    return S3Store(settle(endpoint_url=server.https_endpoint, verify=server.ca_bundle))


@pytest.fixture
def job() -> str:
    return secrets.token_hex(4)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with running_proxy(s3_server.endpoint) as proxy:
        yield proxy


class File:
    """A file to publish, and what is promised about it."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.path, self.data = path, data
        self.size, self.sha256 = len(data), hashlib.sha256(data).hexdigest()

    def put(self, store: Store, key: str, **changes: Any) -> None:
        promised: dict[str, Any] = {"path": self.path, "sha256": self.sha256, "size": self.size} | changes
        store.put_file(key, media_type="image/png", cache_control="public, max-age=31536000, immutable", **promised)


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[int], File]:
    return lambda size: File(tmp_path / f"file-{secrets.token_hex(4)}", os.urandom(size))

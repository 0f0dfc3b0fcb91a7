"""A volume whose bucket is in a real S3 server."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.volume import Volume
from tests.servers.rgw import S3Server
from tests.servers.simulator import Simulator
from tests.servers.watcher import Watcher

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class S3Bucket:
    client: "S3Client"
    name: str

    def get(self, key: str) -> bytes | None:
        with suppress(self.client.exceptions.NoSuchKey):
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return None

    def list_keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    def check_objects(self, volume: Volume) -> None:
        """Nothing is there twice, under another name, or half."""
        expected = {"jobs/_site.json"}
        for id, status in volume.jobs().items():
            expected |= {f"jobs/{id}/job.json", f"jobs/{id}/status.json"} | {
                output["key"] for output in status["outputs"]
            }
        assert {key for key in self.list_keys() if not key.endswith("/progress.json")} == expected
        assert self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []) == []


@dataclass
class Place:
    server: S3Server
    bucket: S3Bucket
    volume: Volume
    simulator: Simulator
    start: Callable[..., Watcher]

"""The apps that Dify imports, with an installation's own addresses in place of the examples that they are shipped with."""

import json
from importlib import resources
from typing import Final

from handoff.settings import Settings

NAMES: Final = ("chatflow", "workflow", "picture-to-picture", "bucket-polling")

_ADDRESS = "http://handoff:8080"
_KEY = "PUT-YOUR-HANDOFF-KEY-HERE"
_BUCKET = "http://bucket:9000/pictures/jobs"


def read(name: str) -> str:
    """One of `NAMES`, as it is shipped."""
    if name not in NAMES:
        raise ValueError(f"no flow is named {name}")
    return resources.files("dify_adapter").joinpath("dify", f"{name}.yml").read_text(encoding="utf-8")


def fill(flow: str, *, address: str, bucket_url: str | None = None, asks_for_key: bool = True) -> str:
    """The flow for an adapter that Dify reaches at `address`. A key is never filled in: an app's file travels."""
    values = {
        _ADDRESS: address,
        _BUCKET: bucket_url or _BUCKET,
        # never empty: Dify's HTTP node fails on an empty key
        _KEY: _KEY if asks_for_key else "this-handoff-asks-for-no-key",
    }
    for example, value in values.items():
        # every JSON text is a YAML text, whatever it holds
        flow = flow.replace(f'value: "{example}"', f"value: {json.dumps(value, ensure_ascii=False)}")
    return flow


def find_bucket_url(settings: Settings) -> str | None:
    """Where the jobs' documents lie in the bucket as readers reach it; None without S3."""
    if settings.bucket is None:
        return None
    endpoint = settings.s3_public_endpoint_url or settings.s3_endpoint_url
    bucket = f"{endpoint.rstrip('/')}/{settings.bucket}" if endpoint else f"https://{settings.bucket}.s3.amazonaws.com"
    return f"{bucket}/{settings.s3_prefix.strip('/')}".rstrip("/")

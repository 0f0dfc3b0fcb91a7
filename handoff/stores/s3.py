"""The store for S3 and what speaks its protocol: every put is confirmed by the reply's ETag, or by a look at the object.

Stores differ. What is relied upon: signatures, Content-MD5 on puts, and metadata kept as given. An ETag is the MD5 of the
bytes on most stores and for single puts only; conditional puts are used where the store knows them.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from handoff.failures import EdgeError, Permanent, Transient, Unavailable
from handoff.stores.contract import CHECK_KEY, CHECK_TEXT, Stored, clean_prefix, whole_key
from handoff.stores.s3_errors import LIBRARY_ERRORS, code_of, explain, may_have_arrived
from handoff.stores.source import Source, open_source

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_SIZE = 16 << 20
"""Bytes. Files up to this go in one put, larger ones in parts of at least this; each thread holds one part in memory."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
_MOST_PARTS = 10_000
_LONGEST_URL_S = 7 * 86400
_CHUNK = 1 << 18
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_MISSING = {"404", "NoSuchKey"}


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Where the bucket is. Without keys boto3 looks in its usual places; `verify` names a file with the CA's certificates.

    `public_endpoint_url` is the address at which readers of presigned URLs reach the store. ValueError for an address or
    prefix that cannot be used.
    """

    bucket: str
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    prefix: str = ""
    region: str | None = None
    verify: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", clean_prefix(self.prefix))
        if not _BUCKET.fullmatch(self.bucket):
            raise ValueError(f"{self.bucket!r} is no bucket name: 3 to 63 of a-z, 0-9, '.' and '-'")
        for url in filter(None, (self.endpoint_url, self.public_endpoint_url)):
            if "@" in url:
                raise ValueError("an endpoint's address holds no user and password; give the keys by themselves")
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is no endpoint: write http://HOST:PORT or https://HOST")


class S3Store:
    """One bucket and prefix. Safe to use from about 16 threads at once; connects at the first use."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._lock = Lock()
        self._clients: dict[str | None, S3Client] = {}

    def put_file(self, key: str, path: Path, *, media_type: str, sha256: str, size: int, cache_control: str) -> None:
        whole = whole_key(self._settings.prefix, key)
        with open_source(path, size=size, sha256=sha256) as source:
            if size > PART_SIZE:
                self._put_in_parts(whole, source, media_type=media_type, cache_control=cache_control)
            else:
                data = source.read(size)
                source.verify()
                self._put(whole, data, sha256, media_type=media_type, cache_control=cache_control)

    def put_bytes(
        self, key: str, data: bytes, *, media_type: str, cache_control: str = "no-store", durable: bool = True
    ) -> None:
        del durable  # S3 knows no other
        whole = whole_key(self._settings.prefix, key)
        self._put(whole, data, hashlib.sha256(data).hexdigest(), media_type=media_type, cache_control=cache_control)

    def get_bytes(self, key: str, limit: int) -> bytes | None:
        whole = whole_key(self._settings.prefix, key)
        with self._explained("get", whole):
            try:
                reply = self._client.get_object(Bucket=self._bucket, Key=whole)
            except LIBRARY_ERRORS as error:
                if code_of(error) in _MISSING:
                    return None
                raise
            return b"".join(_chunks(reply["Body"], self._place(whole), limit))

    def head(self, key: str) -> Stored | None:
        return self._head(whole_key(self._settings.prefix, key))

    def create(self, key: str, data: bytes, *, media_type: str) -> bool:
        """Where the store knows no conditional put (501) this looks first and then puts: two may win at the same moment."""
        whole = whole_key(self._settings.prefix, key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._explained("create", whole):
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=whole,
                    Body=data,
                    IfNoneMatch="*",
                    ContentMD5=_md5(data),
                    ContentType=media_type,
                    CacheControl="no-store",
                    Metadata={"sha256": sha256},
                )
            except LIBRARY_ERRORS as error:
                if code_of(error) in {"PreconditionFailed", "412"}:
                    return False
                if code_of(error) not in {"NotImplemented", "501"}:
                    raise
            else:
                return True
        if self._head(whole):
            return False
        self._put(whole, data, sha256, media_type=media_type, cache_control="no-store")
        return True

    def url(self, key: str, *, expires_s: int) -> str | None:
        """Signed here, without asking the store; S3 allows at most seven days."""
        whole = whole_key(self._settings.prefix, key)
        with self._explained("sign an address for", whole):
            client = self._connect(self._settings.public_endpoint_url or self._settings.endpoint_url)
            return client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": whole},
                ExpiresIn=max(1, min(expires_s, _LONGEST_URL_S)),
            )

    def download(self, bucket: str, key: str, path: Path, limit: int) -> int:
        if not _BUCKET.fullmatch(bucket):
            raise Permanent(f"{bucket!r} is no bucket name")
        whole = whole_key("", key)
        place = f"s3://{bucket}/{whole}"
        with self._explained("get", whole, bucket):
            try:
                reply = self._client.get_object(Bucket=bucket, Key=whole)
            except LIBRARY_ERRORS as error:
                if code_of(error) in {*_MISSING, "NoSuchBucket", "AccessDenied", "403"}:
                    raise Permanent(f"{place} is not there, or this program may not read it") from error
                raise
        return self._save(_chunks(reply["Body"], place, limit), path, whole, bucket)

    def describe(self) -> str:
        settings = self._settings
        return f"s3 bucket {settings.bucket} at {settings.endpoint_url or 'AWS'}, prefix {settings.prefix or '(none)'}"

    def check(self) -> None:
        try:
            self.put_bytes(CHECK_KEY, CHECK_TEXT, media_type="text/plain")
        except EdgeError as error:
            raise Unavailable(str(error)) from error

    @property
    def _client(self) -> "S3Client":
        return self._connect(self._settings.endpoint_url)

    def _connect(self, endpoint_url: str | None) -> "S3Client":
        """One client per address: making the first takes 0.3 s, and making one is not thread-safe while using one is."""
        with self._lock:
            if endpoint_url not in self._clients:
                settings = self._settings
                session = boto3.session.Session(
                    aws_access_key_id=settings.access_key_id,
                    aws_secret_access_key=settings.secret_access_key,
                    aws_session_token=settings.session_token,
                )
                self._clients[endpoint_url] = session.client(
                    "s3",
                    endpoint_url=endpoint_url,
                    region_name=settings.region or session.region_name or "us-east-1",
                    verify=settings.verify,
                    config=Config(
                        signature_version="s3v4",  # presigned URLs would otherwise still be signed the old way
                        connect_timeout=CONNECT_TIMEOUT_S,
                        read_timeout=READ_TIMEOUT_S,
                        max_pool_connections=16,
                        # The job's own retry decides the long waits; two layers of patience would multiply.
                        retries={"mode": "standard", "total_max_attempts": 2},
                        # boto3's own default breaks on stores that know no streamed checksums, over https above all.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._clients[endpoint_url]

    def _put(self, whole: str, data: bytes, sha256: str, *, media_type: str, cache_control: str) -> None:
        content_md5 = _md5(data)
        try:
            reply = self._client.put_object(
                Bucket=self._bucket,
                Key=whole,
                Body=data,
                ContentMD5=content_md5,
                ContentType=media_type,
                CacheControl=cache_control,
                Metadata={"sha256": sha256},
            )
        except LIBRARY_ERRORS as error:
            if may_have_arrived(error) and self._holds(whole, len(data), sha256):
                return
            raise self._explain("put", whole, error) from error
        if not _is_md5(reply.get("ETag", ""), content_md5):
            self._confirm(whole, len(data), sha256)

    def _put_in_parts(self, whole: str, source: Source, *, media_type: str, cache_control: str) -> None:
        with self._explained("put", whole):
            upload_id = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=whole,
                ContentType=media_type,
                CacheControl=cache_control,
                Metadata={"sha256": source.sha256},
            )["UploadId"]
        try:
            self._abort_others(whole, upload_id)
            parts = self._put_parts(whole, upload_id, source)
            source.verify()
            self._complete(whole, upload_id, parts, source)
        except BaseException:
            with suppress(EdgeError), self._explained("abort", whole):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=whole, UploadId=upload_id)
            raise

    def _abort_others(self, whole: str, upload_id: str) -> None:
        """Uploads of this object that nobody will finish: of a watcher that was killed, or begun twice since the reply was
        lost. Their parts would stay for ever.

        Only one watcher at a time publishes a job. Where uploads may not be listed, they stay.
        """
        with self._explained("list uploads of", whole), suppress(ClientError):
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=whole).get("Uploads", [])
            for upload in found:
                if upload["Key"] == whole and upload["UploadId"] != upload_id:
                    with suppress(ClientError):  # gone, if the reply to the first request was lost
                        self._client.abort_multipart_upload(Bucket=self._bucket, Key=whole, UploadId=upload["UploadId"])

    def _put_parts(self, whole: str, upload_id: str, source: Source) -> "list[CompletedPartTypeDef]":
        part_size = max(PART_SIZE, -(-source.size // _MOST_PARTS))
        parts: list[CompletedPartTypeDef] = []
        while data := source.read(part_size):
            number = len(parts) + 1
            with self._explained(f"put part {number} of", whole):
                reply = self._client.upload_part(
                    Bucket=self._bucket,
                    Key=whole,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=data,
                    ContentMD5=_md5(data),
                )
            parts.append({"PartNumber": number, "ETag": reply["ETag"]})
        return parts

    def _complete(self, whole: str, upload_id: str, parts: "list[CompletedPartTypeDef]", source: Source) -> None:
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=whole, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except LIBRARY_ERRORS as error:
            # After a lost reply the second request finds the upload gone: it became the object.
            doubtful = may_have_arrived(error) or code_of(error) == "NoSuchUpload"
            if doubtful and self._holds(whole, source.size, source.sha256):
                return
            raise self._explain("complete", whole, error) from error
        self._confirm(whole, source.size, source.sha256)

    def _head(self, whole: str) -> Stored | None:
        with self._explained("look at", whole):
            try:
                reply = self._client.head_object(Bucket=self._bucket, Key=whole)
            except LIBRARY_ERRORS as error:
                if code_of(error) in _MISSING:
                    return None
                raise
            return Stored(size=reply["ContentLength"], sha256=reply.get("Metadata", {}).get("sha256"))

    def _holds(self, whole: str, size: int, sha256: str) -> bool:
        """False also when the store cannot be asked."""
        with suppress(EdgeError):
            return self._head(whole) == Stored(size=size, sha256=sha256)
        return False

    def _confirm(self, whole: str, size: int, sha256: str) -> None:
        found = self._head(whole)
        if found != Stored(size=size, sha256=sha256):
            raise Transient(
                f"{self._place(whole)} was taken, but the store now shows {found}, not {size} bytes, {sha256}"
            )

    def _save(self, chunks: Iterator[bytes], path: Path, whole: str, bucket: str) -> int:
        try:
            with open(path, "xb") as file:
                try:
                    while True:
                        with self._explained("get", whole, bucket):
                            chunk = next(chunks, b"")
                        if not chunk:
                            return file.tell()
                        file.write(chunk)
                except BaseException:
                    os.unlink(path)
                    raise
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error

    def _place(self, whole: str) -> str:
        return f"s3://{self._bucket}/{whole}"

    def _explain(self, doing: str, whole: str, error: Exception, bucket: str | None = None) -> EdgeError:
        settings = self._settings
        secrets = [settings.secret_access_key, settings.session_token, settings.access_key_id]
        return explain(
            error,
            doing=f"{doing} s3://{bucket or self._bucket}/{whole}",
            bucket=bucket or self._bucket,
            endpoint=settings.endpoint_url or "AWS",
            secrets=[secret for secret in secrets if secret],
        )

    @contextmanager
    def _explained(self, doing: str, whole: str, bucket: str | None = None) -> Iterator[None]:
        try:
            yield
        except LIBRARY_ERRORS as error:
            raise self._explain(doing, whole, error, bucket) from error


def _chunks(body: "StreamingBody", place: str, limit: int) -> Iterator[bytes]:
    """Read to the end, since only there botocore notices that the connection broke. Permanent above `limit` bytes."""
    size = 0
    with closing(body):
        for chunk in body.iter_chunks(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise Permanent(f"{place} has more than {limit} bytes")
            yield chunk


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _is_md5(etag: str, content_md5: str) -> bool:
    return etag.strip('"').lower() == base64.b64decode(content_md5).hex()

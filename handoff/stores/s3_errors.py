"""What boto3 raises, as what it means for a job: try again, wait for somebody to mend it, or give up.

A wrong key, a missing bucket or a clock that is off is the installation's fault, not the job's: Unavailable, with the
remedy. The store's own words are quoted, shortened and without anything secret.
"""

import ssl
from collections.abc import Iterable, Iterator

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from handoff.failures import EdgeError, Permanent, Transient, Unavailable

LIBRARY_ERRORS = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, OSError, ValueError, KeyError)
"""Everything a call may raise; ValueError and KeyError for an answer that makes no sense or lacks what it must have."""

_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile boto3 takes them from)"
_RENEW = "renew the temporary credentials"
_ALLOW = "allow these keys s3:PutObject, s3:GetObject and s3:AbortMultipartUpload on the bucket and prefix"
_REGION = "set AWS_REGION to the bucket's region"
_ENDPOINT = "check HANDOFF_S3_ENDPOINT_URL"
_STYLE = (
    "this store wants the bucket in the host name: put `s3 =` and `  addressing_style = virtual` into ~/.aws/config"
)

_MISCONFIGURED = {
    "NoSuchBucket": "create the bucket {bucket}, or correct HANDOFF_BUCKET",
    "InvalidBucketName": "correct HANDOFF_BUCKET",
    "InvalidAccessKeyId": f"the store does not know this access key: {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is not the one of this access key: {_KEYS}",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's: synchronise it (NTP)",
    "AccessDenied": _ALLOW,
    "AccountProblem": "the account is locked at the store",
    "AllAccessDisabled": "the account or the bucket is locked at the store",
    "QuotaExceeded": "the quota is used up: raise it or make room",
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "InvalidToken": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "SecondLevelDomainForbidden": _STYLE,
    "PathStyleDomainForbidden": _STYLE,
}
_AGAIN = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.LoginError,
)
_BROKEN = (boto.ConnectTimeoutError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError)
_UNANSWERED: tuple[tuple[tuple[type[Exception], ...], type[EdgeError], str], ...] = (
    (_NO_CREDENTIALS, Unavailable, "no usable credentials ({reason}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ((boto.ParamValidationError,), Permanent, "the request is not valid for S3"),
    (
        (boto.EndpointConnectionError, boto.ProxyConnectionError),
        Unavailable,
        f"cannot connect ({{reason}}); is it running? {_ENDPOINT}",
    ),
    ((ResponseParserError,), Unavailable, f"the answer is not that of an object store; {_ENDPOINT}"),
    (_BROKEN, Transient, "the connection broke or was too slow ({reason})"),
    (
        (boto.BotoCoreError,),
        Unavailable,
        "boto3 cannot work with its settings ({reason}); see ~/.aws/config and the AWS_ variables",
    ),
)
"""The first that fits counts."""
_QUOTED = 200
"""Characters of a store's own message."""


def code_of(error: Exception) -> str:
    """The S3 error code, the HTTP status as text where the answer had no body, or "" for no answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


def may_have_arrived(error: Exception) -> bool:
    """Whether the store may have done what was asked although it did not say so."""
    if isinstance(error, boto.ClientError):
        return _status(error) in {500, 502, 504}
    # botocore's ConnectionError: no connection was made
    return not isinstance(error, (boto.ParamValidationError, boto.ConnectionError, *_NO_CREDENTIALS))


def explain(error: Exception, *, doing: str, bucket: str, endpoint: str, secrets: Iterable[str]) -> EdgeError:
    """The error to raise instead; `doing` is what was tried, with the object's name."""
    kind, text = _answered(error, bucket) if isinstance(error, boto.ClientError) else _unanswered(error)
    for secret in secrets:
        text = text.replace(secret, "***")
    return kind(f"cannot {doing} at {endpoint}: {text}")


def _answered(error: boto.ClientError, bucket: str) -> tuple[type[EdgeError], str]:
    code, status = code_of(error), _status(error)
    about_keys = _MISCONFIGURED.get(code, "").endswith((_KEYS, _RENEW))  # its message may repeat them
    message = (
        ""
        if about_keys
        else "".join(c for c in str(error.response["Error"].get("Message", "")) if c.isprintable())[:_QUOTED]
    )
    said = f"the store answered {status} {code[:60]!a}" + (f" ({message})" if message else "")
    if code in _MISCONFIGURED:
        return Unavailable, f"{said}; {_MISCONFIGURED[code].format(bucket=bucket)}"
    if code in _AGAIN or status in {408, 429} or (status >= 500 and status not in {501, 507}):
        return Transient, said
    if status == 507:
        return Unavailable, f"{said}; the store is full"
    if status in {401, 403}:
        return Unavailable, f"{said}; {_KEYS}; {_ALLOW}"
    if code.isdecimal() and status in {301, 302, 303, 307, 308, 400, 404, 405}:
        return Unavailable, f"{said}, which is not how an object store answers; {_ENDPOINT} and {_REGION}"
    return Permanent, said


def _unanswered(error: Exception) -> tuple[type[EdgeError], str]:
    cause = _innermost(error)
    reason = f"{type(error).__name__}: {(isinstance(cause, OSError) and cause.strerror) or 'no reason given'}"
    if isinstance(error, boto.SSLError):
        return Unavailable, _tls(cause)
    for kinds, kind, text in _UNANSWERED:
        if isinstance(error, kinds):
            return kind, text.format(reason=reason)
    return Transient, f"the call broke off ({reason})"


def _tls(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        remedy = "if it comes from your own CA, name that CA's file in AWS_CA_BUNDLE"
        return f"its certificate was not accepted ({cause.verify_message}); {remedy}"
    if not isinstance(cause, ssl.SSLError) or "CERTIFICATE" in (cause.reason or ""):
        return f"the file of CA certificates cannot be read ({getattr(cause, 'strerror', None)}); check AWS_CA_BUNDLE"
    return f"no TLS connection ({cause.reason}); {_ENDPOINT}: should it be http?"


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _innermost(error: BaseException) -> BaseException:
    """The error of the socket or TLS below the layers that botocore and urllib3 put around it."""
    found = error
    for cause in _causes(error):
        if isinstance(cause, OSError):
            found = cause
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__

"""What each refusal of an S3 server means, also those that the real server of the tests never gives."""

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    IncompleteReadError,
    InvalidConfigError,
    ParamValidationError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from handoff.failures import EdgeError, Permanent, Transient, Unavailable
from handoff.stores.s3_errors import explain, may_have_arrived


def refusal(status: int, code: str, message: str = "") -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "PutObject",
    )


def explained(error: Exception, *secrets: str) -> EdgeError:
    return explain(error, doing="put s3://b/k", bucket="b", endpoint="http://store", secrets=secrets)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", Unavailable),
        (403, "403", Unavailable),
        (401, "Unauthorized", Unavailable),
        (400, "ExpiredToken", Unavailable),
        (400, "AuthorizationHeaderMalformed", Unavailable),
        (301, "PermanentRedirect", Unavailable),
        (403, "SecondLevelDomainForbidden", Unavailable),
        (404, "NoSuchBucket", Unavailable),
        (404, "404", Unavailable),
        (400, "400", Unavailable),
        (507, "XMinioStorageFull", Unavailable),
        (400, "BadDigest", Transient),
        (400, "RequestTimeout", Transient),
        (404, "NoSuchUpload", Transient),
        (409, "OperationAborted", Transient),
        (429, "429", Transient),
        (500, "InternalError", Transient),
        (502, "502", Transient),
        (503, "SlowDown", Transient),
        (400, "EntityTooLarge", Permanent),
        (400, "InvalidArgument", Permanent),
        (411, "MissingContentLength", Permanent),
        (413, "413", Permanent),
        (501, "NotImplemented", Permanent),
    ],
)
def test_what_a_refusal_means(status: int, code: str, kind: type[EdgeError]) -> None:
    error = explained(refusal(status, code, "some words"))
    assert type(error) is kind
    assert str(error).startswith("cannot put s3://b/k at http://store: the store answered")
    assert code in str(error)


@pytest.mark.parametrize(
    ("error", "kind", "doubtful"),
    [
        (ReadTimeoutError(endpoint_url="http://store"), Transient, True),
        (ConnectTimeoutError(endpoint_url="http://store"), Transient, False),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Transient, True),
        (ValueError("bad header"), Transient, True),
        (KeyError("ETag"), Transient, True),
        (ResponseParserError("<html>"), Unavailable, True),
        (CredentialRetrievalError(provider="sso", error_msg="expired"), Unavailable, False),
        (InvalidConfigError(error_msg="profile"), Unavailable, True),
        (ParamValidationError(report="no"), Permanent, False),
        (refusal(500, "InternalError"), Transient, True),
        (refusal(503, "SlowDown"), Transient, False),
        (refusal(403, "AccessDenied"), Unavailable, False),
    ],
)
def test_what_no_answer_means(error: Exception, kind: type[EdgeError], doubtful: bool) -> None:
    assert type(explained(error)) is kind
    assert may_have_arrived(error) is doubtful


def test_the_stores_own_words_are_quoted_shortened_and_harmless() -> None:
    text = str(explained(refusal(403, "AccessDenied", "\x1b[31m\nno s3:PutObject for you " + "x" * 5000)))
    assert "no s3:PutObject for you" in text
    assert text.isprintable()
    assert len(text) < 600
    assert len(str(explained(refusal(400, "X" * 5000)))) < 600


def test_words_about_keys_are_not_repeated() -> None:
    for code in ("ExpiredToken", "InvalidToken", "SignatureDoesNotMatch", "InvalidAccessKeyId"):
        assert "hunter2" not in str(explained(refusal(403, code, "your token hunter2 is bad")))
    assert "hunter2" not in str(explained(refusal(403, "AccessDenied", "hunter2 may not"), "hunter2"))

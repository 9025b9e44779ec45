"""The advice for errors that the tested S3 servers do not send, or not on request."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import urllib3
from minio import S3Error
from minio.error import InvalidResponseError
from pydantic import SecretStr

from shared.settings import StoreSettings
from shared.storage.s3.refusals import unavailable

SETTINGS = StoreSettings(
    folder=None,
    endpoint="http://s3.example:9000",
    access_key=SecretStr("a"),
    secret_key=SecretStr("b"),
    bucket="media",
    region="eu-west-1",
)


def refusal(code: str, message: str = "no") -> S3Error:
    """Return an error as the client library raises it."""
    response = cast("Any", SimpleNamespace(headers={}, status=403, data=b""))
    return S3Error(response, code, message, "/media", "1", "2")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ExpiredToken", "MINIO_SESSION_TOKEN to new ones of one session, and restart"),
        ("InvalidClientTokenId", "MINIO_SESSION_TOKEN"),
        ("PermanentRedirect", r"\(MINIO_REGION is eu-west-1\); set MINIO_REGION"),
        ("IllegalLocationConstraintException", "set MINIO_REGION"),
        ("XMinioStorageFull", "free some space"),
        ("BucketAlreadyExists", "set MINIO_BUCKET to another name"),
        ("AccessDenied", "needs s3:GetObject.*on the bucket media"),
        ("RequestExpired", "synchronize both clocks"),
    ],
)
def test_each_code_has_its_advice(code: str, advice: str) -> None:
    """Servers agree on codes; the server's own message is kept."""
    assert code in str(unavailable(refusal(code, "so it is"), SETTINGS))
    with pytest.raises(Exception, match=rf"^object store: {code}: so it is.*{advice}"):
        raise unavailable(refusal(code, "so it is"), SETTINGS)


def test_an_unknown_code_is_reported_as_it_is() -> None:
    """Without advice that could mislead."""
    error = unavailable(refusal("SlowDown", "reduce your rate."), SETTINGS)

    assert str(error) == "object store: SlowDown: reduce your rate"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_broken_proxy_is_not_taken_for_a_wrong_address(status: int) -> None:
    """It recovers; the setting is right."""
    error = unavailable(InvalidResponseError(status, "text/html", "bad gateway"), SETTINGS)

    assert "bad gateway" in str(error)
    assert "MINIO_ENDPOINT" not in str(error)


def test_a_server_that_expects_tls_is_named() -> None:
    """Go's servers answer in plain text; others close the connection."""
    body = "Client sent an HTTP request to an HTTPS server."
    stated = unavailable(InvalidResponseError(400, "text/plain", body), SETTINGS)
    closed = unavailable(urllib3.exceptions.ProtocolError("Connection aborted."), SETTINGS)

    assert str(stated).endswith("expects TLS; set MINIO_ENDPOINT to https://s3.example:9000")
    assert str(closed).endswith(
        "if the server expects TLS, set MINIO_ENDPOINT to https://s3.example:9000"
    )

"""Explains why an S3 server refuses a request: what happened, and which setting to change.

Servers agree on error codes, not on messages, so the advice follows the code; TLS and connection
errors have none and are recognized by their type.

Units: seconds. I/O: reads the clock, for the difference to the server's.
"""

import re
from email.utils import parsedate_to_datetime
from xml.etree.ElementTree import ParseError

import urllib3
from minio import S3Error
from minio.error import InvalidResponseError, MinioException
from minio.time import utcnow

from shared.errors import StoreUnavailableError
from shared.settings import StoreSettings

#: ValueError: the client library found another XML than it expects
CLIENT_ERRORS = (
    *(MinioException, urllib3.exceptions.HTTPError),
    *(TimeoutError, ParseError, ValueError),
)
_BUSY = re.compile("Response code: (500|502|503|504)")  # a proxy, or the server itself
_TEXT_CHARS = 300
_BODY_CHARS = 80
_CLOCK = "synchronize both clocks with a time server (S3 allows 15 minutes)"
_SESSION = (
    "set MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MINIO_SESSION_TOKEN to new ones of one session, "
    "and restart"
)
_REGION = "set MINIO_REGION to the region of the server or bucket"
_BUCKET = (
    'check MINIO_BUCKET; "segue prepare" creates a bucket, but not the objects of a deleted one'
)
_SPACE = "free some space on the server, or raise its quota"
_ADVICE = {
    **dict.fromkeys(
        ("InvalidAccessKeyId", "XAdminUserNotFound"), "set MINIO_ACCESS_KEY to a key of this server"
    ),
    "SignatureDoesNotMatch": (
        "set MINIO_SECRET_KEY to the secret of MINIO_ACCESS_KEY; if it is, a proxy changes requests"
    ),
    **dict.fromkeys(
        (
            *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId"),
            *("InvalidClientTokenId", "TokenRefreshRequired", "XMinioInvalidToken"),
        ),
        f"the credentials of a session expire: {_SESSION}",
    ),
    **dict.fromkeys(
        (
            *("AuthorizationHeaderMalformed", "AuthorizationQueryParametersError"),
            *("IllegalLocationConstraintException", "InvalidLocationConstraint", "InvalidRegion"),
            *("PermanentRedirect", "Redirect", "TemporaryRedirect"),
        ),
        _REGION,
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"), _CLOCK),
    "NoSuchBucket": _BUCKET,
    **dict.fromkeys(
        ("InvalidBucketName", "BucketAlreadyExists"), "set MINIO_BUCKET to another name"
    ),
    **dict.fromkeys(
        (
            *("XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"),
            *("InsufficientStorage", "EntityTooLarge"),
        ),
        _SPACE,
    ),
    "MethodNotAllowed": "set MINIO_ENDPOINT to the S3 port of the server",
}


def unavailable(error: Exception, settings: StoreSettings) -> StoreUnavailableError:
    """Return the error that callers get for an error of the client library."""
    if isinstance(error, S3Error):
        return StoreUnavailableError(f"object store: {_refusal(error, settings)}")
    if isinstance(error, (InvalidResponseError, ParseError, ValueError)) and not _BUSY.search(
        str(error)
    ):
        return StoreUnavailableError(f"object store: {_not_s3(error, settings)}")
    cause = _cause(error)
    if isinstance(cause, urllib3.exceptions.SSLError):
        return StoreUnavailableError(f"object store: {_tls(cause, settings)}")
    if isinstance(cause, urllib3.exceptions.NewConnectionError):
        reason = _text(cause).rpartition(": ")[2]
        return StoreUnavailableError(
            f"object store: no connection to {settings.endpoint}: {reason}; start the server, or "
            "set MINIO_ENDPOINT to its address"
        )
    text = f"object store: {type(cause).__name__}: {_text(cause)}".rstrip(": ")
    is_plain = settings.endpoint.startswith("http://")
    if is_plain and isinstance(cause, urllib3.exceptions.ProtocolError):
        text += f"; if the server expects TLS, set MINIO_ENDPOINT to {_other_scheme(settings)}"
    return StoreUnavailableError(text)


def _refusal(error: S3Error, settings: StoreSettings) -> str:
    """Return code, message and advice of an error that the server reports."""
    code = error.code or "unknown error"
    text = f"{code}: {(error.message or 'no message')[:_TEXT_CHARS]}".rstrip(".")
    if code == "NoSuchBucket":
        text = f"{code}: the bucket {settings.bucket} does not exist"
    advice = _ADVICE.get(code)
    if code in {"AccessDenied", "AllAccessDisabled", "Forbidden"}:
        advice = (
            "the account needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on "
            f"the bucket {settings.bucket}"
        )
        if re.search("expired", error.message or "", re.IGNORECASE):
            advice = _CLOCK
    if advice == _REGION:
        text += f" (MINIO_REGION is {settings.region})"
    elif advice == _CLOCK and (difference := _difference(error)):
        text += f" ({difference})"
    return f"{text}; {advice}" if advice else text


def _difference(error: S3Error) -> str:
    """Return how far this machine's clock is from the server's; empty if it sent no time."""
    try:
        server = parsedate_to_datetime(error.response.headers["date"])
        seconds = (utcnow() - server).total_seconds()
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    direction = "ahead of" if seconds > 0 else "behind"
    return f"this machine is {abs(seconds):.0f} s {direction} the server"


def _not_s3(error: Exception, settings: StoreSettings) -> str:
    """Return what an endpoint that sends no S3 response is, as far as it says."""
    if re.search("HTTP request to an HTTPS server|only via https", str(error), re.IGNORECASE):
        other = _other_scheme(settings)
        return f"{settings.endpoint} expects TLS; set MINIO_ENDPOINT to {other}"
    body = " ".join(str(error).split())[:_BODY_CHARS]
    return (
        f"{settings.endpoint} does not answer as an S3 server does: {body}; set MINIO_ENDPOINT to "
        "the S3 port of the server, not to its console or a proxy"
    )


def _tls(error: Exception, settings: StoreSettings) -> str:
    """Return why there is no TLS connection."""
    text = _text(error)
    if re.search("WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|RECORD_LAYER_FAILURE|packet length", text):
        other = _other_scheme(settings)
        return f"{settings.endpoint} does not use TLS; set MINIO_ENDPOINT to {other}"
    reason = re.sub(r"^.*?certificate verify failed: | \(_ssl\.c:\d+\).*$", "", text)
    if re.search("mismatch|not valid for|doesn't match", reason, re.IGNORECASE):
        return f"{reason}; set MINIO_ENDPOINT to a name that is in the server's certificate"
    if "verify failed" in text:
        ca_file = settings.ca_file or "not set"
        return (
            f"the certificate of {settings.endpoint} is not trusted: {reason}; set MINIO_CA_FILE "
            f"to a PEM file with the CA that issued it (now {ca_file})"
        )
    return f"no TLS connection to {settings.endpoint}: {reason}"


def _other_scheme(settings: StoreSettings) -> str:
    scheme, _, address = settings.endpoint.partition("://")
    return f"{'http' if scheme == 'https' else 'https'}://{address}"


def _cause(error: Exception) -> Exception:
    """Return the error behind exhausted retries."""
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        return error.reason
    return error


def _text(error: Exception) -> str:
    return str(error)[:_TEXT_CHARS]

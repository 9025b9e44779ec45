"""Downloads the output of a prediction, and retries until the file is complete.

A download is free and a prediction is not, so a truncated or missing file is downloaded again
before the prediction is abandoned. The file is decoded to check that it is complete: a connection
that closes early does not always raise an error.

I/O: the provider's file hosts; decoding runs in a child process with limits.
"""

from http import HTTPStatus

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import ApiError, ReplicateApi, ResponseError
from services.generator.providers.replicate.models import parse_data_url
from shared.clock import Clock
from shared.errors import MediaError, ProviderBusyError, ProviderRejectedError
from shared.media.decode import INVALID_OUTPUT, decoded_bytes, length_of
from shared.media.samples import SAMPLE_RATE_HZ
from shared.media.sandbox import MediaSandbox

_RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0)
_SHORT_S = 0.25  # more than any decoder drops at the end
#: the other 3xx and 4xx are final: a redirect is not followed, so none can loop
_TEMPORARY = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
_SIGNATURES = {
    b"ID3": "audio/mpeg",
    b"RIFF": "audio/wav",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}


class OutputGoneError(ProviderRejectedError):
    """The provider deleted the output."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{INVALID_OUTPUT}: {reason}", retryable=True)


async def fetch_output(
    url: str,
    request: CompositionRequest,
    *,
    api: ReplicateApi,
    sandbox: MediaSandbox,
    clock: Clock,
) -> tuple[bytes, str]:
    """Return the bytes and media type of an output.

    Raises:
        ProviderBusyError: the host is down; the output may still exist.
        ProviderRejectedError: the output is gone, or its data URL is invalid.
    """
    if url.lower().startswith("data:"):
        inline = parse_data_url(url)
        if inline is None:
            raise ProviderRejectedError(f"{INVALID_OUTPUT}: invalid data URL")
        return inline[0], _media_type(*inline)
    best = b""
    declared: str | None = None
    last_error: ApiError | None = None
    for delay_s in (*_RETRY_DELAYS_S, None):
        try:
            data, declared = await api.download(url)
        except ApiError as error:
            last_error = error
        else:
            best = max(best, data, key=len)
            if await _is_complete(data, request.duration_s, sandbox):
                return data, _media_type(data, declared)
        if delay_s is not None:
            await clock.sleep(delay_s)
    if best:
        return best, _media_type(best, declared)  # the inspection decides whether it is usable
    if isinstance(last_error, ResponseError) and _is_final(last_error.status):
        raise OutputGoneError(f"the output is gone (HTTP {last_error.status})")
    raise ProviderBusyError(f"the output could not be downloaded: {last_error}")


def _is_final(status: int) -> bool:
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TEMPORARY


async def _is_complete(data: bytes, duration_s: int, sandbox: MediaSandbox) -> bool:
    try:
        samples = await sandbox.returning(decoded_bytes(duration_s)).run(length_of, data)
    except MediaError:
        return False
    return bool(samples >= (duration_s - _SHORT_S) * SAMPLE_RATE_HZ)


def _media_type(data: bytes, declared: str | None) -> str:
    """Return the type by signature, else as declared, else MP3, which was requested."""
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    if declared is not None and declared.startswith("audio/"):
        return declared
    return "audio/mpeg"

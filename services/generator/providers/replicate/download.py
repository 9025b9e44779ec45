"""Output: the bytes of a prediction that succeeded, whole if they can be had.

A download is free and a prediction is not, so a torn or missing file is fetched again before
anything is given up. The file is decoded once to see whether it is whole: a connection that
closes early does not always say so.

I/O: the provider's file hosts; decoding runs in a thread.
"""

import asyncio
from http import HTTPStatus

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import AnswerError, ApiError, ReplicateApi
from services.generator.providers.replicate.models import data_of
from shared.clock import Clock
from shared.errors import MediaError, ProviderBusyError, ProviderRejectedError
from shared.media.decode import INVALID_OUTPUT, decode
from shared.media.samples import SAMPLE_RATE_HZ

_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
_SHORT_S = 0.25  # more than any decoder leaves out at the end
_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}
_HEADS = {
    b"ID3": "audio/mpeg",
    b"RIFF": "audio/wav",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}


class OutputGoneError(ProviderRejectedError):
    """The provider deleted what it made; nothing is left to fetch."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{INVALID_OUTPUT}: {why}", retryable=True)


async def fetched(
    url: str, request: CompositionRequest, *, api: ReplicateApi, clock: Clock
) -> tuple[bytes, str]:
    """Bytes and media type of an output.

    Raises:
        ProviderBusyError: the host is down; the output may still be there.
        ProviderRejectedError: it is gone, or is no audio.
    """
    if url.lower().startswith("data:"):
        inside = data_of(url)
        if inside is None:
            raise ProviderRejectedError(f"{INVALID_OUTPUT}: a data URL without data")
        return inside[0], _type_of(*inside)
    best = b""
    told: str | None = None
    trouble: ApiError | None = None
    for pause_s in (*_PAUSES_S, None):
        try:
            data, told = await api.download(url)
        except ApiError as error:
            trouble = error
        else:
            best = max(best, data, key=len)
            if await asyncio.to_thread(_is_whole, data, request.duration_s):
                return data, _type_of(data, told)
        if pause_s is not None:
            await clock.sleep(pause_s)
    if best:
        return best, _type_of(best, told)  # it stays as it is: whoever measures it decides
    if isinstance(trouble, AnswerError) and trouble.status in _GONE:
        raise OutputGoneError(f"the output is gone (HTTP {trouble.status})")
    raise ProviderBusyError(f"the output cannot be fetched: {trouble}")


def _is_whole(data: bytes, duration_s: int) -> bool:
    try:
        samples = decode(data).shape[1]
    except MediaError:
        return False
    return bool(samples >= (duration_s - _SHORT_S) * SAMPLE_RATE_HZ)


def _type_of(data: bytes, told: str | None) -> str:
    """What the bytes say they are, else what was declared, else MP3, which was asked for."""
    for head, media_type in _HEADS.items():
        if data.startswith(head):
            return media_type
    return told if told is not None and told.startswith("audio/") else "audio/mpeg"

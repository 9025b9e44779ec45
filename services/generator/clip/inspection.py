"""Inspection: whether a clip that came back may be used, and where its new music begins.

`quality.py` decides on arrays; here the bytes are decoded and the window as it was sent is
fetched, because the sound itself must say whether it came back.

I/O: the store; decoding in threads.
"""

import asyncio
import io
from dataclasses import dataclass

import av
from av.audio.stream import AudioStream

from services.generator.clip.quality import Asked, Recognised, faults, recognise
from services.generator.providers import Clip, CompositionRequest, ContinuationWindow
from shared.errors import MediaError, NotFoundError, ProviderRejectedError
from shared.media.decode import INVALID_OUTPUT, decode
from shared.media.samples import SAMPLE_RATE_HZ, Audio
from shared.storage import ObjectStore

_MP3_DELAY_SAMPLES = 1105  # LAME's 576 and a decoder's 529, at the file's own rate


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFor:
    """A request, and what of its answer will be heard."""

    request: CompositionRequest
    so_far_samples: int  #: of track up to the end of the window
    needed_samples: int  #: of new music, up to the end of the scene

    def quality(self, *, continued: bool) -> Asked:
        """The same in the words of `quality.py`; a clip that could not continue has no window."""
        window = self.request.window if continued else None
        return Asked(
            samples=self.request.duration_s * SAMPLE_RATE_HZ,
            window_samples=window.length_s * SAMPLE_RATE_HZ if window else 0,
            so_far_samples=self.so_far_samples,
            source_samples=window.end_s * SAMPLE_RATE_HZ if window else 0,
            needed_samples=max(0, self.needed_samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A clip, decoded."""

    audio: Audio
    rate_hz: int  #: of the file; the sound was brought to ours
    channels: int  #: of the file
    #: of nothing in front of the music, because the file does not tell how much to cut off
    padding_samples: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The gate that every clip goes through."""

    store: ObjectStore

    async def passed(self, clip: Clip, asked: AskedFor, *, musical: bool) -> tuple[int, Recognised]:
        """Samples of the clip, and its shape.

        Raises:
            ProviderRejectedError: it cannot be used, and why; a new seed may help.
        """
        try:
            measured = await asyncio.to_thread(measure, clip.data)
        except MediaError as error:
            raise ProviderRejectedError(error.reason, retryable=True) from error
        window = asked.request.window if clip.continued and musical else None
        source = await self._source(window) if window is not None else None
        quality = asked.quality(continued=clip.continued)
        found, wrong = await asyncio.to_thread(_judged, measured, quality, source, musical=musical)
        if found is None or wrong:
            raise ProviderRejectedError(f"{INVALID_OUTPUT}: {'; '.join(wrong)}", retryable=True)
        return int(measured.audio.shape[1]), found

    async def _source(self, window: ContinuationWindow) -> Audio | None:
        """What is continued, up to the window's end; None if it cannot be had any more."""
        try:
            audio = await asyncio.to_thread(decode, await self.store.get(window.clip_key))
        except (NotFoundError, MediaError):
            return None
        return audio[:, : window.end_s * SAMPLE_RATE_HZ]


def _judged(
    measured: Measured, asked: Asked, source: Audio | None, *, musical: bool
) -> tuple[Recognised | None, tuple[str, ...]]:
    sent = before = None
    if source is not None:
        # counted from the front: a file may miss the rest of a frame at its end
        begin = asked.source_samples - asked.window_samples
        before, sent = source[:, :begin], source[:, begin:]
    found = recognise(
        measured.audio,
        asked,
        sent=sent,
        before=before,
        padding_samples=measured.padding_samples,
    )
    if found is not None and not musical:
        return found, ()  # nothing to hear is what was asked for; its length is right
    wrong = faults(
        measured.audio, found, asked, rate_hz=measured.rate_hz, channels=measured.channels
    )
    return found, wrong


def measure(data: bytes) -> Measured:
    """The clip in `data`.

    Raises:
        MediaError: it cannot be decoded.
    """
    audio = decode(data)
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            stream = container.streams.audio[0]
            return Measured(
                audio=audio,
                rate_hz=stream.rate,
                channels=stream.channels,
                padding_samples=_padding(stream),
            )
    except av.FFmpegError as error:
        raise MediaError(f"{INVALID_OUTPUT}: {error.strerror}") from error


def _padding(stream: AudioStream) -> int:
    """What the decoder left in front; a stream that starts later than 0 told its padding."""
    told = bool(stream.start_time)
    if told or not stream.codec_context.name.startswith("mp3"):
        return 0
    return round(_MP3_DELAY_SAMPLES * SAMPLE_RATE_HZ / stream.rate)

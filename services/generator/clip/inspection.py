"""Inspects a received clip: whether it is usable, and where its new music begins.

The rules on arrays are in `quality.py`; this module decodes the bytes and reads the window that
was sent, to find out from the audio whether the clip repeats it. A clip from outside is decoded by
a child process with limits.

Shapes: float32 `(channels, samples)` at 48 kHz. I/O: the store; decoding runs in threads.
"""

import asyncio
import io
from dataclasses import dataclass

import av
from av.audio.stream import AudioStream

from services.generator.clip.quality import (
    ExpectedClip,
    RecognisedClip,
    faults,
    recognise,
)
from services.generator.providers import Clip, CompositionRequest, ContinuationWindow
from shared.errors import MediaError, NotFoundError, ProviderRejectedError
from shared.media.decode import (
    INVALID_OUTPUT,
    LENGTH_S_MAX,
    ONLY_THIS_FILE,
    audio_demuxer,
    decode,
    decoded_bytes,
)
from shared.media.samples import SAMPLE_RATE_HZ, Audio
from shared.media.sandbox import MediaSandbox
from shared.storage import ObjectStore

_LONGER_S = 10  # than requested; the inspection names the length of such a clip
_MP3_DELAY_SAMPLES = 1105  # LAME's 576 and a decoder's 529, at the file's own rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """A request, and the part of its clip that the track will use."""

    request: CompositionRequest
    so_far_samples: int  #: of track up to the end of the window
    needed_samples: int  #: of new music, up to the end of the scene

    def expected(self, *, continued: bool) -> ExpectedClip:
        """Return the expected clip; one that could not continue has no window."""
        window = self.request.window if continued else None
        return ExpectedClip(
            samples=self.request.duration_s * SAMPLE_RATE_HZ,
            window_samples=window.length_s * SAMPLE_RATE_HZ if window else 0,
            so_far_samples=self.so_far_samples,
            source_samples=window.end_s * SAMPLE_RATE_HZ if window else 0,
            needed_samples=max(0, self.needed_samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedClip:
    """A decoded clip."""

    audio: Audio
    rate_hz: int  #: of the file; the audio is resampled to 48 kHz
    channels: int  #: of the file
    #: padding in front of the music that the file's header does not declare
    padding_samples: int


@dataclass(frozen=True, kw_only=True)
class ClipInspector:
    """Checks every clip before it is used."""

    store: ObjectStore
    sandbox: MediaSandbox

    async def inspect(
        self, clip: Clip, spec: ClipSpec, *, musical: bool
    ) -> tuple[int, RecognisedClip]:
        """Return the clip's length in samples, and its shape.

        Raises:
            ProviderRejectedError: the clip is unusable; a new seed may help.
        """
        try:
            decoded = await self._decode(clip, spec)
        except MediaError as error:
            raise ProviderRejectedError(error.reason, retryable=True) from error
        window = spec.request.window if clip.continued and musical else None
        source = await self._source(window) if window is not None else None
        expected = spec.expected(continued=clip.continued)
        recognised, problems = await asyncio.to_thread(
            _judge, decoded, expected, source, musical=musical
        )
        if recognised is None or problems:
            reason = f"{INVALID_OUTPUT}: {'; '.join(problems)}"
            raise ProviderRejectedError(reason, retryable=True)
        return int(decoded.audio.shape[1]), recognised

    async def _decode(self, clip: Clip, spec: ClipSpec) -> DecodedClip:
        length_s = spec.request.duration_s + spec.so_far_samples // SAMPLE_RATE_HZ
        length_s_max = min(LENGTH_S_MAX, length_s + _LONGER_S)
        if not clip.is_foreign:
            return await asyncio.to_thread(decode_clip, clip.data, length_s_max=length_s_max)
        sandbox = self.sandbox.returning(decoded_bytes(length_s_max))
        return await sandbox.run(decode_clip, clip.data, length_s_max=length_s_max)

    async def _source(self, window: ContinuationWindow) -> Audio | None:
        """Return the continued clip up to the window's end; None if it is unavailable."""
        try:
            audio = await asyncio.to_thread(decode, await self.store.get(window.clip_key))
        except (NotFoundError, MediaError):
            return None
        return audio[:, : window.end_s * SAMPLE_RATE_HZ]


def _judge(
    decoded: DecodedClip, expected: ExpectedClip, source: Audio | None, *, musical: bool
) -> tuple[RecognisedClip | None, tuple[str, ...]]:
    window_audio = before = None
    if source is not None:
        # counted from the front: a file may lack the rest of its last frame
        begin = expected.source_samples - expected.window_samples
        before, window_audio = source[:, :begin], source[:, begin:]
    recognised = recognise(
        decoded.audio,
        expected,
        sent=window_audio,
        before=before,
        padding_samples=decoded.padding_samples,
    )
    if recognised is not None and not musical:
        return recognised, ()  # silence was requested; its length is right
    problems = faults(
        decoded.audio, recognised, expected, rate_hz=decoded.rate_hz, channels=decoded.channels
    )
    return recognised, problems


def decode_clip(data: bytes, *, length_s_max: int = LENGTH_S_MAX) -> DecodedClip:
    """Decode a clip; blocks, so call it in a thread or a child process.

    Raises:
        MediaError: it cannot be decoded, or is longer than `length_s_max`.
    """
    audio = decode(data, length_s_max=length_s_max)
    demuxer = audio_demuxer(io.BytesIO(data))
    try:
        with av.open(
            io.BytesIO(data), "r", format=demuxer, options=ONLY_THIS_FILE, metadata_errors="replace"
        ) as container:
            stream = container.streams.audio[0]
            return DecodedClip(
                audio=audio,
                rate_hz=stream.rate,
                channels=stream.channels,
                padding_samples=_padding(stream),
            )
    except av.FFmpegError as error:
        raise MediaError(f"{INVALID_OUTPUT}: {error.strerror}") from error


def _padding(stream: AudioStream) -> int:
    """Return the padding left by the decoder; a start time after 0 declares it already."""
    declared = bool(stream.start_time)
    if declared or not stream.codec_context.name.startswith("mp3"):
        return 0
    return round(_MP3_DELAY_SAMPLES * SAMPLE_RATE_HZ / stream.rate)

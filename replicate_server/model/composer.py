"""Composes the clip that the model would return, with Segue's synthesizer.

The clip obeys the model's rules: `duration` whole seconds at 32 kHz, the window re-encoded at its
start, one gain over the whole clip. The file carries the piece that the clip belongs to, so a clip
of this emulator is continued in its own bars; other music is continued in its key. Equal inputs,
seed and input bytes make equal clips.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. Takes seconds of processor time:
call it in a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from replicate_server.http.request_schema import Inputs
from replicate_server.model import clip_shapes, rules
from replicate_server.model.clip_shapes import ClipAudio
from replicate_server.model.rules import ModelError
from services.generator.providers import CompositionRequest, ContinuationWindow, mp3
from services.generator.providers.synth import mixing
from shared.errors import MediaError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ, Audio, rms, silence

#: Returns a clip as an MP3 file, from a request and the file that holds its window.
Compose = Callable[[CompositionRequest, bytes | None], bytes]
_CLIP_KEY = "input_audio"
_SHORT_SAMPLES_MAX = CLIP_RATE_HZ // 50  # a decoder may drop the rest of the last frame
_PEAK = 10 ** (-1 / 20)  # "peak" and "clip" end at -1 dBFS
_RMS = 10 ** (-18 / 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """Inputs of one clip."""

    inputs: Inputs
    seed: int
    source: bytes | None  #: bytes of `input_audio`
    shape: str = "window"  #: one of `clip_shapes.SHAPES`


def make_clip(request: ClipRequest, compose: Compose) -> bytes:
    """Return the file of the requested clip.

    Raises:
        ModelError: the model would fail; the message is its error.
    """
    try:
        return _compose_clip(request, compose)
    except ProviderRejectedError as error:
        raise ModelError(error.reason) from error


def _compose_clip(request: ClipRequest, compose: Compose) -> bytes:
    inputs = request.inputs
    if request.source is None or not inputs.continuation:
        clip = compose(_composition(request, inputs.duration), None)
        window_samples, source = 0, None
    else:
        source = _decode_source(request.source)
        start, stop = rules.window_of(inputs, samples=source.shape[1])
        source = source[:, :stop]
        clip = _continue_source(request, source, start, compose)
        window_samples = stop - start
    is_plain = inputs.normalization_strategy == "loudness" and rules.is_stereo(inputs)
    if is_plain and inputs.output_format == "mp3" and request.shape == "window":
        return clip
    audio = _normalised(decode(clip, rate_hz=CLIP_RATE_HZ), inputs.normalization_strategy)
    sound = ClipAudio(
        audio=audio if rules.is_stereo(inputs) else audio.mean(axis=0, keepdims=True),
        window_samples=window_samples,
        source=source,
        comment=mp3.comment_of(clip),
    )
    return clip_shapes.encode_shape(sound, shape=request.shape, file_format=inputs.output_format)


def _continue_source(request: ClipRequest, source: Audio, start: int, compose: Compose) -> bytes:
    """Return the clip that continues `source[:, start:]`; the composer takes whole seconds only."""
    assert request.source is not None
    stop = source.shape[1]
    start_s, end_s = start // CLIP_RATE_HZ, -(-(stop - _SHORT_SAMPLES_MAX) // CLIP_RATE_HZ)
    is_whole = (
        start_s * CLIP_RATE_HZ == start and abs(end_s * CLIP_RATE_HZ - stop) <= _SHORT_SAMPLES_MAX
    )
    if is_whole and end_s > start_s:
        composition = _composition(request, request.inputs.duration, start_s=start_s, end_s=end_s)
        return compose(composition, request.source)
    # The window is not whole seconds: pass the composer whole seconds that end where it ends, and
    # cut the surplus at the head.
    context_s = -(-(stop - start) // CLIP_RATE_HZ)
    surplus = context_s * CLIP_RATE_HZ - (stop - start)
    context = source[:, max(stop - context_s * CLIP_RATE_HZ, 0) :]
    context = np.concatenate(
        [silence(context_s * CLIP_RATE_HZ - context.shape[1]), context], axis=1
    )
    composition = _composition(request, request.inputs.duration + 1, start_s=0, end_s=context_s)
    audio = decode(compose(composition, mp3.encode(context)), rate_hz=CLIP_RATE_HZ)
    clip = audio[:, surplus : surplus + request.inputs.duration * CLIP_RATE_HZ]
    return mp3.encode(clip * np.float32(mixing.normalising_gain(clip)))


def _composition(
    request: ClipRequest, duration_s: int, *, start_s: int = 0, end_s: int = 0
) -> CompositionRequest:
    window = None
    if end_s:
        window = ContinuationWindow(clip_key=_CLIP_KEY, clip_url=None, start_s=start_s, end_s=end_s)
    prompt = request.inputs.prompt or ""
    return CompositionRequest(
        prompt=prompt, duration_s=duration_s, window=window, seed=request.seed
    )


def _decode_source(source: bytes) -> Audio:
    try:
        return decode(source, rate_hz=CLIP_RATE_HZ)
    except MediaError as error:
        raise ModelError(f"Failed to open the input audio: {error.reason}") from error


def _normalised(audio: Audio, strategy: str) -> Audio:
    """Return the clip with the model's normalisation; "loudness" is already applied."""
    if strategy == "clip":
        return np.clip(audio, -_PEAK, _PEAK)
    loudest = float(np.abs(audio).max())
    if strategy == "peak" and loudest > 0:
        return audio * np.float32(_PEAK / loudest)
    if strategy == "rms" and (level := rms(audio)) > 0:
        return audio * np.float32(_RMS / level)
    return audio

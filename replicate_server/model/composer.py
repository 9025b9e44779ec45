"""Studio: the clip that the model would send, composed by Segue's own synthesizer.

Whatever the inputs ask for, the answer obeys the model's rules: `duration` whole seconds at
32 kHz, the window at its head as a coder gives it back, one gain over the whole. The piece that
a clip belongs to travels in the file, so a clip of ours that comes back is continued in its own
bars; music from elsewhere is continued in its key.

Equal inputs, seed and input bytes make equal clips.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. Pure, but it takes seconds of
processor time: call it in a thread.
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
from services.generator.providers.synth.voices import RATE_HZ
from shared.errors import MediaError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import Audio, rms, silence

#: Makes a clip, an MP3 file, of a request and the file that its window lies in.
Compose = Callable[[CompositionRequest, bytes | None], bytes]
_CLIP_KEY = "input_audio"
_SHORT_SAMPLES_MAX = RATE_HZ // 50  # a decoder may miss a frame's rest at the end
_PEAK = 10 ** (-1 / 20)  # "peak" and "clip" end at -1 dBFS
_RMS = 10 ** (-18 / 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """What one clip is made of."""

    inputs: Inputs
    seed: int
    source: bytes | None  #: the bytes behind `input_audio`
    shape: str = "window"  #: one of `shapes.SHAPES`


def make_clip(request: ClipRequest, compose: Compose) -> bytes:
    """The file that the request asks for.

    Raises:
        ModelError: the model would fail, and with which words.
    """
    try:
        return _made(request, compose)
    except ProviderRejectedError as error:
        raise ModelError(error.reason) from error


def _made(request: ClipRequest, compose: Compose) -> bytes:
    inputs = request.inputs
    if request.source is None or not inputs.continuation:
        clip = compose(_composition(request, inputs.duration), None)
        window_samples, heard = 0, None
    else:
        source = _decoded(request.source)
        start, stop = rules.window_of(inputs, samples=source.shape[1])
        clip = _continued(request, source[:, :stop], start, compose)
        window_samples, heard = stop - start, source[:, :stop]
    is_plain = inputs.normalization_strategy == "loudness" and rules.is_stereo(inputs)
    if is_plain and inputs.output_format == "mp3" and request.shape == "window":
        return clip
    audio = _levelled(decode(clip, rate_hz=RATE_HZ), inputs.normalization_strategy)
    sound = ClipAudio(
        audio=audio if rules.is_stereo(inputs) else audio.mean(axis=0, keepdims=True),
        window_samples=window_samples,
        source=heard,
        comment=mp3.comment_of(clip),
    )
    return clip_shapes.encode_shape(sound, shape=request.shape, file_format=inputs.output_format)


def _continued(request: ClipRequest, heard: Audio, start: int, compose: Compose) -> bytes:
    """The clip that goes on from `heard[:, start:]`; the composer knows whole seconds only."""
    assert request.source is not None
    stop = heard.shape[1]
    start_s, end_s = start // RATE_HZ, -(-(stop - _SHORT_SAMPLES_MAX) // RATE_HZ)
    early = start_s * RATE_HZ == start and abs(end_s * RATE_HZ - stop) <= _SHORT_SAMPLES_MAX
    if early and end_s > start_s:
        composition = _composition(request, request.inputs.duration, start_s=start_s, end_s=end_s)
        return compose(composition, request.source)
    # A window of a broken length: give the composer whole seconds that end where it ends, and
    # take the surplus off the head again.
    context_s = -(-(stop - start) // RATE_HZ)
    surplus = context_s * RATE_HZ - (stop - start)
    context = heard[:, max(stop - context_s * RATE_HZ, 0) :]
    context = np.concatenate([silence(context_s * RATE_HZ - context.shape[1]), context], axis=1)
    composition = _composition(request, request.inputs.duration + 1, start_s=0, end_s=context_s)
    audio = decode(compose(composition, mp3.encode(context)), rate_hz=RATE_HZ)
    wanted = audio[:, surplus : surplus + request.inputs.duration * RATE_HZ]
    return mp3.encode(wanted * np.float32(mixing.normalising_gain(wanted)))


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


def _decoded(source: bytes) -> Audio:
    try:
        return decode(source, rate_hz=RATE_HZ)
    except MediaError as error:
        raise ModelError(f"Failed to open the input audio: {error.reason}") from error


def _levelled(audio: Audio, strategy: str) -> Audio:
    """The model's normalisation of the whole clip; "loudness" is done already."""
    if strategy == "clip":
        return np.clip(audio, -_PEAK, _PEAK)
    loudest = float(np.abs(audio).max())
    if strategy == "peak" and loudest > 0:
        return audio * np.float32(_PEAK / loudest)
    if strategy == "rms" and (level := rms(audio)) > 0:
        return audio * np.float32(_RMS / level)
    return audio

"""Build style samples in many file formats, and a provider's continuation of them.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz.
"""

import hashlib
import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream

from services.generator.providers import CompositionRequest
from shared.media.samples import Audio
from tests.support.audio_builders import mp3, music

RATE_HZ = 32_000
_BLEND_SAMPLES = RATE_HZ // 20
_TONE_SAMPLES = 4 * RATE_HZ  # then it has decayed by 100 dB


def a_song(seconds: float, *, root_hz: float = 196.0) -> Audio:
    """Return plucked tones in stereo, unlike any provider's music; no two seconds are alike."""
    place = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    chance = np.random.default_rng(7)
    sound = np.zeros((2, place.size))
    for beat in range(int(seconds * 4) + 1):
        pitch_hz = root_hz * 2 ** (chance.integers(0, 25) / 12)
        span = slice(beat * RATE_HZ // 4, beat * RATE_HZ // 4 + _TONE_SAMPLES)
        since = place[span] - beat / 4
        tone = np.sin(2 * np.pi * pitch_hz * since) * np.exp(-since * 3)
        sound[:, span] += tone * chance.uniform(0.5, 1.0, (2, 1))
    sound += 0.2 * np.sin(2 * np.pi * root_hz / 2 * place)  # a drone, so that no moment is silent
    return np.asarray(sound * 0.15, dtype=np.float32)


def quiet(seconds: float) -> Audio:
    """Return silence."""
    return np.zeros((2, round(seconds * RATE_HZ)), dtype=np.float32)


def audio_file(
    audio: Audio,
    *,
    container: str = "wav",
    codec: str = "pcm_s16le",
    layout: str = "stereo",
    rate_hz: int = RATE_HZ,
) -> bytes:
    """Encode `audio` as a file."""
    target = io.BytesIO()
    rate = 48_000 if codec == "libopus" else rate_hz
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, AudioStream), "the codec is an audio codec"
        stream.layout = layout
        block = np.ascontiguousarray(audio)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = RATE_HZ
        frame.pts = 0
        frame.time_base = Fraction(1, RATE_HZ)
        context = stream.codec_context
        size = 0 if codec.startswith("pcm") else 1024
        resampler = av.AudioResampler(
            format=context.format, layout=layout, rate=rate, frame_size=_frame_size(codec, size)
        )
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return target.getvalue()


def _frame_size(codec: str, usual: int) -> int:
    return {"libmp3lame": 1152, "libopus": 960, "flac": 4608}.get(codec, usual)


@dataclass(kw_only=True)
class Continuing:
    """`clip_of` of a `LedgerProvider`: continues a song with a known piece.

    The piece starts where the song ends.
    """

    folder: Path  #: of the store
    song: Audio
    #: start of each file in the piece, by SHA-256
    _places: dict[str, int] = field(default_factory=dict)

    def clip_of(self, request: CompositionRequest) -> bytes:
        """Return the next clip."""
        begin, window = 0, request.window
        if window is not None:
            source = hashlib.sha256((self.folder / window.clip_key).read_bytes()).hexdigest()
            begin = self._places.get(source, -window.end_s * RATE_HZ) + window.start_s * RATE_HZ
        end = begin + request.duration_s * RATE_HZ
        sound = music(np.arange(begin, end), rate_hz=RATE_HZ)
        if begin < 0:  # crossfade over the song's last 50 ms: models leave no gap
            fade = np.clip(1 - np.arange(-begin, 0, -1) / _BLEND_SAMPLES, 0, 1)
            song = self.song[:, begin:]
            sound[:, :-begin] = (1 - fade) * song + fade * sound[:, :-begin]
        file = mp3(sound)
        self._places[hashlib.sha256(file).hexdigest()] = begin
        return file

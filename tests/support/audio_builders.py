"""Build clips and segments of a run from a known piece of music.

A continued clip is the next part of the piece: its window repeats the end of the clip before, and
the clip has another level, like clips that are normalised one by one. The expected track is
therefore the piece itself, at one level.

Units: samples at 48 kHz unless a rate is named.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from shared.contract.events import Origin, SegmentGenerated
from shared.media.decode import decode
from shared.media.samples import SAMPLE_RATE_HZ, Audio, exact_seconds, samples_at
from tests.support.event_builders import a_segment

PROVIDER_RATE_HZ = 32_000
Kind = Literal["continued", "fresh", "silence"]
#: the encoder's delay of 1105 samples at 32 kHz, which a decoder without the header keeps
HEADERLESS_LATE_SAMPLES = 1658
_PARTIALS = 14
_PIECES = 4
_CACHED_S = 40


@dataclass(frozen=True, kw_only=True)
class Take:
    """A segment, its clip and the clip's file."""

    segment: SegmentGenerated
    clip: Audio | None
    file: bytes | None
    piece: int  #: number of the piece of music
    piece_at: int  #: start of the clip in the piece
    late: int  #: samples of silence that the decoder leaves before the clip
    gain_db: float


def music(places: NDArray[Any], *, piece: int = 0, rate_hz: int = SAMPLE_RATE_HZ) -> Audio:
    """Return the piece at `places`: partials of varying level, stereo, without repetition."""
    whole = places.size and places[0] >= 0 and float(places[0]).is_integer()
    if whole and places[-1] < _CACHED_S * rate_hz and (np.diff(places) == 1).all():
        return _beginning(piece % _PIECES, rate_hz)[:, int(places[0]) : int(places[-1]) + 1].copy()
    return _played(places, piece % _PIECES, rate_hz)


@lru_cache(maxsize=2 * _PIECES)
def _beginning(piece: int, rate_hz: int) -> Audio:
    return _played(np.arange(_CACHED_S * rate_hz), piece, rate_hz)


def _played(places: NDArray[Any], piece: int, rate_hz: int) -> Audio:
    chance = np.random.default_rng(1000 + piece)
    seconds = places / rate_hz
    sound = np.zeros((2, places.size))
    for _ in range(_PARTIALS):
        pitch_hz = math.exp(chance.uniform(math.log(90), math.log(3000)))
        breath_hz, phase, turn = chance.uniform(0.1, 0.6), *chance.uniform(0, 6.28, 2)
        swell = 0.6 + 0.4 * np.sin(2 * np.pi * breath_hz * seconds + turn)
        tone = swell * np.sin(2 * np.pi * pitch_hz * seconds + phase) / math.sqrt(pitch_hz / 90)
        sound += tone * chance.uniform(0.4, 1.0, (2, 1))
    return np.asarray(sound * 0.08, dtype=np.float32)


def mp3(audio: Audio, *, rate_hz: int = PROVIDER_RATE_HZ, header: bool = True) -> bytes:
    """Encode `audio` as MP3 at 96 kb/s; without `header` decoding is not gapless."""
    target = io.BytesIO()
    options = {} if header else {"write_xing": "0"}
    with av.open(target, "w", format="mp3", options=options) as container:
        fast = {"compression_level": "7"}  # the encoder's fastest; tests encode thousands of clips
        stream = container.add_stream("libmp3lame", rate=rate_hz, layout="stereo", options=fast)
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(audio), format="fltp", layout="stereo"
        )
        frame.sample_rate = rate_hz
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return target.getvalue()


def a_run_of_takes(
    durations_s: Sequence[float],
    *,
    kinds: Sequence[Kind] | None = None,
    gains_db: Sequence[float] | None = None,
    as_mp3: bool = False,
    header: bool = True,
    **fields: Any,
) -> list[Take]:
    """Return a run's takes, placed as the generator places them; `fields` go into every event."""
    gains_db = gains_db or [0.0] * len(durations_s)
    takes: list[Take] = []
    elapsed = exact_seconds(0)
    for index, duration_s in enumerate(durations_s):
        start = samples_at(elapsed)
        elapsed += exact_seconds(duration_s)
        last = next((take for take in reversed(takes) if take.clip is not None), None)
        place = {
            "count": len(durations_s),
            "duration_s": duration_s,
            "start_samples": start,
            "samples": samples_at(elapsed) - start,
            **fields,
        }
        kind: Kind = kinds[index] if kinds else ("continued" if index else "fresh")
        if kind == "silence":
            takes.append(_silent(index, start, place))
            continue
        continues = last if kind == "continued" else None
        takes.append(
            _take(index, start, place, continues, gains_db[index], as_mp3=as_mp3, header=header)
        )
    return takes


def _silent(index: int, start: int, place: dict[str, Any]) -> Take:
    segment = a_segment(
        index,
        origin=Origin.SILENCE,
        object_key=None,
        clip_samples=0,
        join_samples=start,
        reason="asked for",
        **place,
    )
    return Take(segment=segment, clip=None, file=None, piece=0, piece_at=0, late=0, gain_db=0.0)


def _take(
    index: int,
    start: int,
    place: dict[str, Any],
    last: Take | None,
    gain_db: float,
    *,
    as_mp3: bool,
    header: bool,
) -> Take:
    piece, piece_at, window_s, join = index, 0, 0, start
    if last is not None:
        origin = last.segment.join_samples - last.segment.window_samples
        whole_s = last.segment.clip_samples // SAMPLE_RATE_HZ
        end_s = min(whole_s, -(-(start - origin) // SAMPLE_RATE_HZ))
        window_s = min(1, end_s)
        piece = last.piece
        piece_at = last.piece_at - last.late + (end_s - window_s) * SAMPLE_RATE_HZ
        join = max(start, origin + end_s * SAMPLE_RATE_HZ)
    seconds = math.ceil(exact_seconds(place["duration_s"])) + window_s
    clip, file = _sounded(piece, piece_at, seconds, gain_db, as_mp3=as_mp3, header=header)
    segment = a_segment(
        index,
        origin=Origin.CONTINUED if last else Origin.FRESH,
        clip_samples=clip.shape[1],
        window_samples=window_s * SAMPLE_RATE_HZ,
        join_samples=join,
        sha256=hashlib.sha256(file).hexdigest() if file else None,
        size_bytes=len(file or b""),
        **place,
    )
    return Take(
        segment=segment,
        clip=clip,
        file=file,
        piece=piece,
        piece_at=piece_at,
        late=0 if header else HEADERLESS_LATE_SAMPLES,
        gain_db=gain_db,
    )


def _sounded(
    piece: int, piece_at: int, seconds: int, gain_db: float, *, as_mp3: bool, header: bool
) -> tuple[Audio, bytes | None]:
    factor = np.float32(10 ** (gain_db / 20))
    if not as_mp3:
        here = piece_at + np.arange(seconds * SAMPLE_RATE_HZ)
        return music(here, piece=piece) * factor, None
    places = piece_at * (PROVIDER_RATE_HZ / SAMPLE_RATE_HZ) + np.arange(seconds * PROVIDER_RATE_HZ)
    sound = music(places, piece=piece, rate_hz=PROVIDER_RATE_HZ) * factor
    file = mp3(sound, header=header)
    return decode(file), file

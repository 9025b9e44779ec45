"""Finds the previous music inside a continued clip, and crossfades two clips.

A continued clip begins with a window: the previous tail, re-synthesised, so the same music at
another level and perhaps some samples late. `match` measures lag and level; `crossfade` blends.
The crossfade keeps the power of the sum constant for the correlation it measures: equal gain
when both sides are the same music (equal power would bulge by 3 dB), equal power when they are
uncorrelated (equal gain would dip by 3 dB), and anything between.

Shapes: float32 `(channels, samples)`, full scale 1.0. Units: samples per channel at 48 kHz.
Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.media.samples import SAMPLE_RATE_HZ, Audio

LAG_SAMPLES_MAX = SAMPLE_RATE_HZ // 20  # 50 ms: beyond the 35 ms of an MP3 without its header
#: below it a lag is chance; a re-synthesised window correlates far above
SAME_MUSIC = 0.5
#: a periodic sound matches at every period; peaks this close to the best count as equal, and
#: the smallest lag wins
_PEAK_TOLERANCE = 0.01
_INAUDIBLE = 1e-6  # -120 dBFS: below it there is no level to compare


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Lag, correlation and gain of a window against the tail that it repeats."""

    lag_samples: int  #: by how much the window comes late
    correlation: float  #: of both at that lag, -1 to 1
    gain_db: float | None  #: lifts the window to the tail's level; None: one of them is silent


def match(tail: Audio, head: Audio, *, lag_max: int) -> Match:
    """Return the lag and gain at which `head` repeats `tail`.

    `head` may be longer than `tail`, so that a late window is compared in full.
    """
    reach = min(lag_max, min(tail.shape[1], head.shape[1]) // 4)
    lags = np.arange(-reach, reach + 1)
    first = np.maximum(0, -lags)  # of the tail's samples that have a partner at each lag
    last = np.minimum(tail.shape[1], head.shape[1] - lags)
    tail_energy, head_energy = _energy_before(tail), _energy_before(head)
    of_tail = tail_energy[last] - tail_energy[first]
    of_head = head_energy[last + lags] - head_energy[first + lags]
    audible = np.minimum(of_tail, of_head) > tail.shape[0] * (last - first) * _INAUDIBLE**2
    scale = np.sqrt(np.where(audible, of_tail * of_head, 1.0))
    correlations = np.where(audible, _products(tail, head, lags) / scale, 0.0)
    chosen = _nearest_peak(correlations, reach)
    gain_db = 10 * np.log10(of_tail[chosen] / of_head[chosen]) if audible[chosen] else None
    return Match(
        lag_samples=int(lags[chosen]),
        correlation=float(np.clip(correlations[chosen], -1.0, 1.0)),
        gain_db=None if gain_db is None else float(gain_db),
    )


def crossfade(leaving: Audio, entering: Audio) -> Audio:
    """Return `leaving` blended into `entering` at constant power; both have one length."""
    assert leaving.shape == entering.shape, "both sides of a crossfade are equally long"
    up = fade_in_curve(leaving.shape[1])
    down = 1 - up
    correlation = match(leaving, entering, lag_max=0).correlation
    power = np.sqrt(up**2 + down**2 + 2 * max(0.0, correlation) * up * down)
    return np.asarray((leaving * down + entering * up) / power, dtype=np.float32)


def fade_in_curve(samples: int) -> NDArray[np.float32]:
    """Return a gain curve from 0 to 1, flat at both ends to avoid clicks."""
    turn = (np.arange(samples) + 0.5) * (np.pi / max(1, samples))
    return np.asarray((1 - np.cos(turn)) / 2, dtype=np.float32)


def click_ratio(near: Audio, around: Audio | None = None) -> float | None:
    """Return the largest second difference near a seam over the median around it.

    3 to 6 is music, 350 a hard cut. Where music fades, the audio near the seam is too quiet to
    compare with: pass more `around` it. Returns the worse channel; None if both are silent.
    """
    ratios = [
        float(bends.max(initial=0.0) / np.median(sounding))
        for bends, usual in zip(
            _bends(near), _bends(near if around is None else around), strict=True
        )
        if (sounding := usual[usual > _INAUDIBLE]).size
    ]
    return max(ratios, default=None)


def _bends(audio: Audio) -> NDArray[np.float64]:
    return np.abs(np.diff(audio.astype(np.float64), n=2, axis=1))


def _energy_before(audio: Audio) -> NDArray[np.float64]:
    """Return the energy of all channels before each sample, and the total."""
    squares = np.square(audio, dtype=np.float64).sum(axis=0)
    return np.concatenate([[0.0], np.cumsum(squares)])


def _products(tail: Audio, head: Audio, lags: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-correlation of all channels at each lag."""
    size = 1 << (tail.shape[1] + head.shape[1] - 1).bit_length()
    spectrum = np.conj(np.fft.rfft(tail, size)) * np.fft.rfft(head, size)
    circular = np.fft.irfft(spectrum.sum(axis=0), size)
    return np.asarray(circular[lags % size], dtype=np.float64)


def _nearest_peak(correlations: NDArray[np.float64], reach: int) -> int:
    """Return the index of the peak nearest to lag 0 among the best peaks."""
    best = correlations.max()
    if best < SAME_MUSIC:
        return reach
    padded = np.pad(correlations, 1, constant_values=-np.inf)
    peaks = (
        (correlations >= padded[:-2])
        & (correlations >= padded[2:])
        & (correlations >= best - _PEAK_TOLERANCE)
    )
    candidates = np.flatnonzero(peaks)
    return int(candidates[np.argmin(np.abs(candidates - reach))])

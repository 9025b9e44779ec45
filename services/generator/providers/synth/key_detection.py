"""Detects the key of music from elsewhere, and how well two signals agree.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. Pure.
"""

import numpy as np

from shared.media.samples import CLIP_RATE_HZ, Audio

_LOWEST_HZ, _HIGHEST_HZ = 110.0, 1_760.0  # where harmony is written
_MINOR_ABOVE_MAJOR = 3  # a minor key's relative major lies three semitones up
# How well each semitone above the tonic fits a key (Krumhansl and Kessler, 1982).
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def tonic_of(audio: Audio) -> int:
    """Return the tonic of the best-fitting key; of a minor key, its relative major's."""
    power = np.abs(np.fft.rfft(audio.mean(axis=0, dtype=np.float64))) ** 2
    hz = np.fft.rfftfreq(audio.shape[1], 1 / CLIP_RATE_HZ)
    in_range = (hz >= _LOWEST_HZ) & (hz <= _HIGHEST_HZ)
    classes = np.round(69 + 12 * np.log2(hz[in_range] / 440)).astype(int) % 12
    chroma = np.sqrt(np.bincount(classes, weights=power[in_range], minlength=12))
    chroma -= chroma.mean()

    def fits(profile: tuple[float, ...], tonic: int) -> float:
        return float(np.roll(np.array(profile) - np.mean(profile), tonic) @ chroma)

    major = [fits(_MAJOR, tonic) for tonic in range(12)]
    minor = [fits(_MINOR, (tonic - _MINOR_ABOVE_MAJOR) % 12) for tonic in range(12)]
    return int(np.argmax(np.maximum(major, minor)))


def agreement(reference: Audio, other: Audio) -> tuple[float, float]:
    """Return the correlation, and the gain that brings `other` to the level of `reference`.

    If either is silent: 0.0, at a gain of 1.0.
    """
    product = float(np.vdot(reference.astype(np.float64), other))
    power, other_power = (float(np.vdot(a.astype(np.float64), a)) for a in (reference, other))
    if power <= 0 or other_power <= 0:
        return 0.0, 1.0
    return product / float(np.sqrt(power * other_power)), product / other_power

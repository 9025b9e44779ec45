"""Synthesizes the synth provider's instruments: sums of partials, or shaped noise.

No note has a hard edge: attacks take milliseconds and partials end below 9 kHz, so that click
detection finds only seams.

Shapes: float32 `(channels, samples)`, two channels. Units: samples at 32 kHz. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.media.samples import CLIP_RATE_HZ, Audio

RING_S_MAX = 3.0  #: no note rings longer than this after its beginning, releases included
_TOP_HZ = 9_000.0
_SHORTEST_S = 0.05  # of a note cut short by the next section

Mono = NDArray[np.float32]


class Voice(StrEnum):
    """An instrument."""

    PAD = "pad"
    WIDE = "wide"
    FELT = "felt"
    BELL = "bell"
    SUB = "sub"
    BASS = "bass"
    HARP = "harp"
    PLUCK = "pluck"
    STRINGS = "strings"
    SPICCATO = "spiccato"
    BRASS = "brass"
    KICK = "kick"
    TAIKO = "taiko"
    CLAP = "clap"
    SHAKER = "shaker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note on a piece's timeline."""

    voice: Voice
    start_s: float
    pitch: int  #: MIDI; ignored by drums
    length_s: float  #: until its release begins
    velocity: float
    pan: float  #: -1.0 left to 1.0 right

    def ending_by(self, moment_s: float) -> "Note":
        """Return this note, released at `moment_s` at the latest."""
        left_s = max(moment_s - self.start_s, _SHORTEST_S)
        return replace(self, length_s=min(self.length_s, left_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timbre:
    """The synthesis parameters of a pitched voice."""

    partials: tuple[float, ...]  #: amplitudes of harmonics 1, 2, 3 …
    attack_s: float
    release_s: float
    decay_s: float | None = None  #: the fundamental falls by 1/e in this time; None: sustained
    damping: float = 0.0  #: how much faster each higher partial falls
    swell_s: float = 0.0  #: how much later each higher partial has risen: brass opens up
    vibrato_cents: float = 0.0
    spread_cents: float = 0.0  #: left and right are this far apart: width
    gain: float = 1.0
    reverb: float = 0.2  #: share that is sent to the reverb


def _slope(count: int, power: float, *, even: float = 1.0) -> tuple[float, ...]:
    """Return harmonics that fall with `k ** -power`, the even ones scaled by `even`."""
    return tuple((even if k % 2 == 0 else 1.0) * k**-power for k in range(1, count + 1))


_TIMBRES: Mapping[Voice, _Timbre] = {
    Voice.PAD: _Timbre(
        partials=_slope(10, 1.3), attack_s=0.28, release_s=0.8, spread_cents=9, gain=0.42,
        reverb=0.45,
    ),
    Voice.WIDE: _Timbre(
        partials=_slope(18, 1.1), attack_s=0.09, release_s=0.45, spread_cents=14, gain=0.36,
        reverb=0.4,
    ),
    Voice.FELT: _Timbre(
        partials=(1.0, 0.42, 0.20, 0.10, 0.05, 0.02), attack_s=0.007, release_s=0.30,
        decay_s=0.85, damping=0.75, spread_cents=2, gain=0.62, reverb=0.35,
    ),
    Voice.BELL: _Timbre(
        partials=(1.0, 0.0, 0.0, 0.22, 0.0, 0.0, 0.05), attack_s=0.006, release_s=0.6,
        decay_s=0.9, damping=0.5, spread_cents=3, gain=0.55, reverb=0.7,
    ),
    Voice.SUB: _Timbre(
        partials=(1.0, 0.30, 0.10), attack_s=0.06, release_s=0.35, gain=0.75, reverb=0.05
    ),
    Voice.BASS: _Timbre(
        partials=(1.0, 0.55, 0.30, 0.16, 0.08, 0.04), attack_s=0.010, release_s=0.09,
        decay_s=0.9, damping=0.35, gain=0.72, reverb=0.04,
    ),
    Voice.HARP: _Timbre(
        partials=(1.0, 0.55, 0.38, 0.18, 0.12, 0.06, 0.03), attack_s=0.004, release_s=0.25,
        decay_s=0.55, damping=0.45, spread_cents=3, gain=0.60, reverb=0.4,
    ),
    Voice.PLUCK: _Timbre(
        partials=_slope(9, 1.15, even=0.8), attack_s=0.008, release_s=0.14, decay_s=0.26,
        damping=0.40, spread_cents=4, gain=0.55, reverb=0.28,
    ),
    Voice.STRINGS: _Timbre(
        partials=_slope(11, 1.25), attack_s=0.11, release_s=0.35, vibrato_cents=9,
        spread_cents=8, gain=0.42, reverb=0.5,
    ),
    Voice.SPICCATO: _Timbre(
        partials=_slope(14, 1.05), attack_s=0.012, release_s=0.09, decay_s=0.22, damping=0.20,
        spread_cents=10, gain=0.62, reverb=0.35,
    ),
    Voice.BRASS: _Timbre(
        partials=_slope(12, 1.0), attack_s=0.05, release_s=0.18, swell_s=0.05,
        vibrato_cents=4, spread_cents=6, gain=0.42, reverb=0.35,
    ),
}  # fmt: skip
_DRUM_REVERB: Mapping[Voice, float] = {
    Voice.KICK: 0.05,
    Voice.TAIKO: 0.45,
    Voice.CLAP: 0.35,
    Voice.SHAKER: 0.15,
}


def reverb_of(voice: Voice) -> float:
    """Return the share of a voice that is sent to the reverb."""
    timbre = _TIMBRES.get(voice)
    return timbre.reverb if timbre else _DRUM_REVERB[voice]


def sound(voice: Voice, pitch: int, length_s: float) -> Audio:
    """Return one note at velocity 1.0, centred, release included."""
    timbre = _TIMBRES.get(voice)
    if timbre is None:
        return _drum(voice)
    length_s = min(length_s, RING_S_MAX - timbre.release_s)
    count = int((length_s + timbre.release_s) * CLIP_RATE_HZ)
    at_s = np.arange(count, dtype=np.float32) / np.float32(CLIP_RATE_HZ)
    envelope = _envelope(timbre, at_s, length_s) * np.float32(timbre.gain)
    hz = 440.0 * 2 ** ((pitch - 69) / 12)
    if not timbre.spread_cents:
        wave = _partials(timbre, at_s, hz) * envelope
        return np.stack([wave, wave])
    half = 2 ** (timbre.spread_cents / 2400)
    return np.stack([_partials(timbre, at_s, side) for side in (hz * half, hz / half)]) * envelope


def _partials(timbre: _Timbre, at_s: Mono, hz: float) -> Mono:
    """Return the sum of the harmonics, as powers of one rotating phasor."""
    cycles = hz * np.arange(at_s.size, dtype=np.float64) / CLIP_RATE_HZ
    if timbre.vibrato_cents:
        depth = hz * (2 ** (timbre.vibrato_cents / 1200) - 1) / (2 * np.pi * 5.2)
        # vibrato fades in after the attack, as a player's does
        cycles -= depth * np.cos(2 * np.pi * 5.2 * at_s) * np.minimum(at_s / 0.4, 1.0)
    turn = np.exp(2j * np.pi * (cycles % 1.0)).astype(np.complex64)
    turning = turn.copy()
    wave = np.zeros_like(at_s)
    count = len(timbre.partials)
    for k, amplitude in enumerate(timbre.partials, start=1):
        if k * hz > _TOP_HZ:
            break
        if amplitude:
            fade = 1.0 - max(0.0, k * hz / _TOP_HZ - 0.5)  # no edge where the partials stop
            # Schroeder's phases: in phase, the harmonics would add up to a train of spikes
            start = np.complex64(amplitude * fade * np.exp(-1j * np.pi * k * k / count))
            wave += (turning * start).imag * _course(timbre, at_s, k)
        turning = turning * turn
    return wave


def _course(timbre: _Timbre, at_s: Mono, k: int) -> Mono | np.float32:
    """Return the amplitude of the k-th harmonic over the note."""
    if timbre.decay_s:
        speed = np.float32((1 + timbre.damping * (k - 1)) / timbre.decay_s)
        return np.asarray(np.exp(-at_s * speed))
    if timbre.swell_s:
        return np.asarray(1 - np.exp(-at_s / np.float32(timbre.swell_s * k)))
    return np.float32(1.0)


def _envelope(timbre: _Timbre, at_s: Mono, length_s: float) -> Mono:
    """Return attack, hold and release with half-cosine edges."""
    rise = np.clip(at_s / timbre.attack_s, 0, 1)
    fall = np.clip((at_s - length_s) / timbre.release_s, 0, 1)
    shape = (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 + 0.5 * np.cos(np.pi * fall))
    return np.asarray(shape, dtype=np.float32)


@cache
def _drum(voice: Voice) -> Audio:
    """Return a drum stroke, always the same."""
    if voice is Voice.KICK:
        wave = _skin(low_hz=46, sweep_hz=60, sweep_s=0.035, decay_s=0.16, attack_s=0.005)
    elif voice is Voice.TAIKO:
        wave = _skin(low_hz=52, sweep_hz=45, sweep_s=0.06, decay_s=0.34, attack_s=0.006)
        wave = np.stack([wave, wave])
        thump = _noise(150, 700, decay_s=0.10, attack_s=0.006)
        wave[:, : thump.shape[1]] += 0.35 * thump
    elif voice is Voice.CLAP:
        wave = _noise(600, 3200, decay_s=0.085, attack_s=0.010)
    else:
        wave = 0.8 * _noise(2200, 5500, decay_s=0.075, attack_s=0.018)
    stereo = np.stack([wave, wave]) if wave.ndim == 1 else wave
    stereo.flags.writeable = False
    return stereo.astype(np.float32)


def _skin(
    *, low_hz: float, sweep_hz: float, sweep_s: float, decay_s: float, attack_s: float
) -> Mono:
    at_s = np.arange(int(6 * decay_s * CLIP_RATE_HZ)) / CLIP_RATE_HZ
    cycles = low_hz * at_s + sweep_hz * sweep_s * (1 - np.exp(-at_s / sweep_s))
    strike = 0.5 - 0.5 * np.cos(np.pi * np.clip(at_s / attack_s, 0, 1))
    wave = np.sin(2 * np.pi * cycles) + 0.18 * np.sin(4 * np.pi * cycles)
    return np.asarray(wave * strike * np.exp(-at_s / decay_s), dtype=np.float32)


def _noise(low_hz: float, high_hz: float, *, decay_s: float, attack_s: float) -> Audio:
    """Return a burst of band-limited noise; left and right differ a little."""
    count = int(7 * decay_s * CLIP_RATE_HZ)
    rng = np.random.default_rng(round(low_hz))
    white = rng.standard_normal((2, count))
    white[1] = 0.6 * white[0] + 0.8 * white[1]
    hz = np.fft.rfftfreq(count, 1 / CLIP_RATE_HZ)
    band = 1 / (1 + (low_hz / np.maximum(hz, 1)) ** 4) / (1 + (hz / high_hz) ** 8)
    burst = np.fft.irfft(np.fft.rfft(white) * band, count)
    at_s = np.arange(count) / CLIP_RATE_HZ
    strike = 0.5 - 0.5 * np.cos(np.pi * np.clip(at_s / attack_s, 0, 1))
    shaped = burst * strike * np.exp(-at_s / decay_s)
    return np.asarray(shaped / np.abs(shaped).max(), dtype=np.float32)

"""Renders a piece's notes as audio, and normalises audio to the model's loudness.

Every section is mixed with the notes that still ring from before it, a reverb and a soft limiter.
None of them is anticipatory, so the same moment of the same piece has the same samples in every
clip, and a clip can be continued from any whole second. Loudness is gated ITU-R BS.1770, as the
model's.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz, timeline in whole seconds. Pure.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from services.generator.providers.synth import score
from services.generator.providers.synth.score import Piece
from services.generator.providers.synth.voices import RING_S_MAX, reverb_of, sound
from shared.media.samples import CHANNELS, CLIP_RATE_HZ, SILENT_RMS, Audio, silence

LOUDNESS_LUFS = -14.0  # the model's "loudness" normalisation
_ROOM_S = 1.8
_ROOM_DELAY_S = 0.016
_PREROLL_S = int(RING_S_MAX) + 2  # longest ring of a note, with its reverb
_CEILING = 0.9
_LEVEL = np.float32(0.55)
_AIR = np.float32(6e-4)  # room noise, some 50 dB down, so that no pause is digital silence
_BLOCK_S = 0.4  # BS.1770's gating block; a new one begins every quarter of it


def render(piece: Piece, *, start_s: int, stop_s: int) -> Audio:
    """Return `[start_s, stop_s)` of a piece, before any gain."""
    from_s = max(start_s - _PREROLL_S, 0)
    count = (stop_s - from_s) * CLIP_RATE_HZ
    dry, sent = silence(count), silence(count)
    sounds: dict[tuple[str, int, float], Audio] = {}
    for note in score.notes(piece, start_s=from_s, stop_s=stop_s):
        key = (note.voice, note.pitch, round(note.length_s, 4))
        if key not in sounds:
            sounds[key] = sound(note.voice, note.pitch, note.length_s)
        at = round((note.start_s - from_s) * CLIP_RATE_HZ)
        wave = sounds[key][:, : count - at]
        angle = (note.pan + 1) * np.pi / 4
        sides = np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32)
        placed = wave * (sides * np.float32(note.velocity))
        dry[:, at : at + wave.shape[1]] += placed
        sent[:, at : at + wave.shape[1]] += placed * np.float32(reverb_of(note.voice))
    mix = _LEVEL * (dry + reverberate(sent)) + _air(from_s, stop_s)
    soft = np.tanh(mix / np.float32(_CEILING)) * np.float32(_CEILING)
    return np.ascontiguousarray(soft[:, (start_s - from_s) * CLIP_RATE_HZ :])


def _air(start_s: int, stop_s: int) -> Audio:
    """Return quiet noise; each second of the timeline always has the same noise."""
    seconds = [
        np.random.default_rng([2, second]).standard_normal(
            (CHANNELS, CLIP_RATE_HZ), dtype=np.float32
        )
        for second in range(start_s, stop_s)
    ]
    white = np.concatenate(seconds, axis=1)
    white[:, 1:] = white[:, 1:] + white[:, :-1]  # low-pass: the highs would dominate
    return white * _AIR


def reverberate(audio: Audio) -> Audio:
    """Return the reverb of `audio`, of the same length."""
    room = _room()
    size = 1 << (audio.shape[1] + room.shape[1] - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(room, size), size)
    return wet[:, : audio.shape[1]].astype(np.float32)


@cache
def _room() -> Audio:
    """Return the impulse response: decaying noise, highs first, different on either side."""
    count = int(_ROOM_S * CLIP_RATE_HZ)
    at_s = np.arange(count) / CLIP_RATE_HZ
    white = np.random.default_rng(1).standard_normal((CHANNELS, count))
    hz = np.fft.rfftfreq(count, 1 / CLIP_RATE_HZ)
    spectrum = np.fft.rfft(white)
    room = np.zeros((CHANNELS, count))
    for low_hz, high_hz, decay_s in ((180, 900, 0.34), (900, 3000, 0.26), (3000, 6500, 0.13)):
        band = 1 / (1 + (low_hz / np.maximum(hz, 1)) ** 4) / (1 + (hz / high_hz) ** 4)
        room += np.fft.irfft(spectrum * band, count) * np.exp(-at_s / decay_s)
    room *= np.clip(at_s / 0.012, 0, 1) * np.clip((_ROOM_S - at_s) / 0.2, 0, 1)
    room /= np.sqrt((room**2).sum(axis=1, keepdims=True))
    delay = np.zeros((CHANNELS, int(_ROOM_DELAY_S * CLIP_RATE_HZ)))
    return np.concatenate([delay, room], axis=1).astype(np.float32)


def loudness_lufs(audio: Audio) -> float:
    """Return the integrated loudness; minus infinity for silence and less than one block."""
    weighted = np.fft.rfft(audio) * _weighting(audio.shape[1])
    power = np.fft.irfft(weighted, audio.shape[1]).astype(np.float64) ** 2
    hop = int(_BLOCK_S / 4 * CLIP_RATE_HZ)
    hops = power.sum(axis=0)[: audio.shape[1] // hop * hop].reshape(-1, hop).mean(axis=1)
    if hops.size < 4:  # noqa: PLR2004 - four hops are a block
        return -np.inf
    blocks = np.lib.stride_tricks.sliding_window_view(hops, 4).mean(axis=1)
    loud = blocks[_lufs(blocks) > -70.0]  # noqa: PLR2004 - BS.1770's absolute gate
    if not loud.size:
        return -np.inf
    gated = loud[_lufs(loud) > _lufs(loud.mean()) - 10.0]
    return float(_lufs(gated.mean()))


def normalising_gain(audio: Audio) -> float:
    """Return the gain that brings a clip to the model's loudness; 1.0 if nearly silent."""
    if np.sqrt(np.mean(audio**2)) < SILENT_RMS:
        return 1.0
    lufs = loudness_lufs(audio)
    return float(10 ** ((LOUDNESS_LUFS - lufs) / 20)) if np.isfinite(lufs) else 1.0


def _lufs(power: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(-0.691 + 10 * np.log10(np.maximum(power, 1e-20)))


def _weighting(count: int) -> NDArray[np.float64]:
    """Return the magnitude response of BS.1770's two filters; their phase does not matter."""
    unit = np.exp(-2j * np.pi * np.fft.rfftfreq(count, 1 / CLIP_RATE_HZ) / 48_000)
    shelf = _response((1.53512485958697, -2.69169618940638, 1.19839281085285),
                      (1.0, -1.69065929318241, 0.73248077421585), unit)  # fmt: skip
    high_pass = _response((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621), unit)
    return np.abs(shelf * high_pass)


def _response(
    above: tuple[float, ...], below: tuple[float, ...], unit: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    top = sum(c * unit**k for k, c in enumerate(above))
    bottom = sum(c * unit**k for k, c in enumerate(below))
    return np.asarray(top / bottom)

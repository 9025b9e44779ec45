"""Quality: what came back, and whether it can be used; decided by measuring, never by assumption.

Three shapes are known. The window in front (as the model does it), or the new music alone, or
everything so far with the new music behind it. Length decides between them; where two have the
same length, the sound does: is the music that was sent heard at the head?

The two mistakes cost unequally. Music cut off that was new is missed by nobody; a window left
in is heard twice. So a clip of the length that was asked for counts as having its window
unless it clearly has not (the same music correlates at 0.99 after one coding; music of
another kind at up to 0.4, other music of the same key and bar at up to 0.75).

Shapes: float32 `(channels, samples)`. Units: samples at 48 kHz. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from shared.media import CHANNELS, SAMPLE_RATE_HZ, Audio, rms

PROVIDER_RATE_HZ = 32_000
#: an MP3 without its header decodes to 44 to 70 ms more than the music
LENGTH_OFF_SAMPLES = SAMPLE_RATE_HZ // 4
_TRACK_OFF_SAMPLES = SAMPLE_RATE_HZ // 2  # of a cumulative track, whose scenes are cut exactly
_EARLY_SAMPLES = SAMPLE_RATE_HZ // 100
_LATE_SAMPLES = SAMPLE_RATE_HZ * 60 // 1000  # 34.5 ms of encoder's delay, and some room
_HEARD_MIN = 0.3
_SILENT_RMS = 2e-3  # the model itself takes less for silence
_CLIPPED_AT = 0.98  # a coder bends the tops that were cut off
_BLOCK_SAMPLES = SAMPLE_RATE_HZ // 20


class Shape(StrEnum):
    """What a clip consists of."""

    WINDOW = "window"  #: the music that was sent, then new music
    NO_WINDOW = "no_window"  #: new music alone
    CUMULATIVE = "cumulative"  #: everything so far, then new music


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A clip whose shape is known."""

    shape: Shape
    old_samples: int  #: where the new music begins in the clip
    lag_samples: int = 0  #: how much later than expected the old music lies, as far as heard
    correlation: float | None = None  #: of what was sent and what was found; None: not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a clip was asked for."""

    samples: int  #: all of it, the window included
    window_samples: int  #: 0: begin anew
    so_far_samples: int  #: of track up to the end of the window
    needed_samples: int | None = None  #: of new music that will be heard; None: all of it

    @property
    def new_samples(self) -> int:
        """Samples of new music."""
        return self.samples - self.window_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where the gate closes."""

    silent_tail_samples_max: int = 2 * SAMPLE_RATE_HZ
    #: music 6 dB over full scale has 0.0002 of its samples there, 10 dB over 0.005 (measured)
    clipped_share_max: float = 0.003


def recognise(clip: Audio, asked: Asked, *, sent: Audio | None) -> Recognised | None:
    """The shape of `clip`; None if it has the length of none. `sent` is the window as sent."""
    length = clip.shape[1]
    if asked.window_samples == 0:
        if abs(length - asked.samples) > LENGTH_OFF_SAMPLES:
            return None
        return Recognised(shape=Shape.NO_WINDOW, old_samples=0)
    if abs(length - asked.samples) <= LENGTH_OFF_SAMPLES:
        return _with_or_without(clip, asked, sent)
    if abs(length - asked.new_samples) <= LENGTH_OFF_SAMPLES:
        return Recognised(shape=Shape.NO_WINDOW, old_samples=0)
    if abs(length - asked.so_far_samples - asked.new_samples) <= _TRACK_OFF_SAMPLES:
        return _cumulative(clip, asked, sent)
    return None


def faults(
    clip: Audio,
    found: Recognised | None,
    asked: Asked,
    *,
    rate_hz: int,
    channels: int,
    limits: Limits | None = None,
) -> tuple[str, ...]:
    """Why the clip cannot be used, in words for the status; empty: it can.

    `rate_hz` and `channels` are those of the file; the clip itself was brought to ours.
    """
    limits = limits or Limits()
    wrong: list[str] = []
    if rate_hz != PROVIDER_RATE_HZ or channels != CHANNELS:
        wrong.append(f"{rate_hz} Hz and {channels} channels instead of 32000 Hz stereo")
    if found is None:
        wrong.append(f"{_s(clip.shape[1])} s instead of {_s(asked.samples)} s")
        return tuple(wrong)
    new = clip[:, found.old_samples :]
    if asked.needed_samples is not None:
        new = new[:, : asked.needed_samples]
    if rms(new) < _SILENT_RMS:
        return (*wrong, "silent")
    tail = new.shape[1] - _sounding_until(new)
    # a scene shorter than the limit may not be silent for most of it either
    if tail > min(limits.silent_tail_samples_max, new.shape[1] // 2):
        wrong.append(f"silent for the last {_s(tail)} s")
    share = float(np.mean(np.abs(clip) >= _CLIPPED_AT))
    if share > limits.clipped_share_max:
        wrong.append(f"{share:.1%} of the samples clipped")
    return tuple(wrong)


def heard_at(music: Audio, where: Audio, *, early: int, late: int) -> tuple[float, int]:
    """How well `music` is heard in `where`, and at which sample, from `-early` to `late`."""
    count = music.shape[1]
    field = np.zeros((CHANNELS, count + early + late))
    part = where[:, : count + late]
    field[:, early : early + part.shape[1]] = part
    size = 1 << (field.shape[1] + count - 1).bit_length()
    both = np.fft.rfft(field, size) * np.conj(np.fft.rfft(music.astype(np.float64), size))
    together = np.fft.irfft(both, size).sum(axis=0)[: early + late + 1]
    power = np.concatenate([[0.0], np.cumsum(np.square(field).sum(axis=0))])
    there = power[count : count + early + late + 1] - power[: early + late + 1]
    ours = float(np.square(music, dtype=np.float64).sum())
    # places that are nearly silent would make much of nothing
    alike = together / np.sqrt(np.maximum(there, 1e-3 * max(there.max(), 1e-12)) * ours)
    best = int(np.argmax(alike))
    return float(alike[best]), best - early


def _with_or_without(clip: Audio, asked: Asked, sent: Audio | None) -> Recognised:
    if sent is None or rms(sent) < _SILENT_RMS:
        return Recognised(shape=Shape.WINDOW, old_samples=asked.window_samples)
    alike, lag = heard_at(sent, clip, early=_EARLY_SAMPLES, late=_LATE_SAMPLES)
    if alike < _HEARD_MIN:
        return Recognised(shape=Shape.NO_WINDOW, old_samples=0, correlation=alike)
    return Recognised(
        shape=Shape.WINDOW,
        old_samples=asked.window_samples + lag,
        lag_samples=lag,
        correlation=alike,
    )


def _cumulative(clip: Audio, asked: Asked, sent: Audio | None) -> Recognised | None:
    """Everything so far, if the window is heard where it should lie."""
    if sent is None or rms(sent) < _SILENT_RMS:
        return Recognised(shape=Shape.CUMULATIVE, old_samples=asked.so_far_samples)
    start = asked.so_far_samples - asked.window_samples
    early = min(start, _TRACK_OFF_SAMPLES)
    alike, lag = heard_at(sent, clip[:, start - early :], early=0, late=early + _TRACK_OFF_SAMPLES)
    if alike < _HEARD_MIN:
        return None
    return Recognised(
        shape=Shape.CUMULATIVE,
        old_samples=asked.so_far_samples + lag - early,
        lag_samples=lag - early,
        correlation=alike,
    )


def _sounding_until(audio: Audio) -> int:
    """The end of the last twentieth of a second that is not silent."""
    for end in range(audio.shape[1], 0, -_BLOCK_SAMPLES):
        if rms(audio[:, max(0, end - _BLOCK_SAMPLES) : end]) >= _SILENT_RMS:
            return end
    return 0


def _s(samples: int) -> str:
    return f"{samples / SAMPLE_RATE_HZ:.2f}"

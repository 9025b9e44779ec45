"""Quality: what came back, and whether it can be used; decided by measuring, never by assumption.

Three shapes are known. The window in front (as the model does it), or the new music alone, or
everything so far with the new music behind it: all of the track, or all of the clip that was
sent. Length decides between them; where two have the same length, the sound does: where is the
music that was sent heard? A cumulative track will replace what was made before, so there the
music before the window must be ours as well; if it is not, only what is new is taken of it.

The two mistakes cost unequally. Music cut off that was new is missed by nobody; a window left
in is heard twice. So a clip of the length that was asked for counts as having its window
unless it clearly has not (the same music correlates at 0.99 after one coding; music of
another kind at up to 0.4, other music of the same key and bar at up to 0.75).

Shapes: float32 `(channels, samples)`. Units: samples at 48 kHz. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, Audio, rms

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
#: a scene may be over before its clip enters, and the next one continues the clip all the same;
#: the least that is asked for holds a second of new music
_JUDGED_SAMPLES_MIN = SAMPLE_RATE_HZ


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
    padding_samples: int = 0  #: of them, nothing: the file does not tell how much to cut off
    lag_samples: int = 0  #: how much later than expected the old music lies, as far as heard
    correlation: float | None = None  #: of what was sent and what was found; None: not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a clip was asked for."""

    samples: int  #: all of it, the window included
    window_samples: int  #: 0: begin anew
    so_far_samples: int  #: of track up to the end of the window
    source_samples: int = 0  #: of the clip that is continued, up to the end of the window
    #: of new music that will be heard; None: all of it; a second of it is judged all the same
    needed_samples: int | None = None

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


def recognise(
    clip: Audio,
    asked: Asked,
    *,
    sent: Audio | None,
    before: Audio | None = None,
    padding_samples: int = 0,
) -> Recognised | None:
    """The shape of `clip`; None if it has the length of none.

    `sent` is the window as it was sent, `before` what the same clip holds before it;
    `padding_samples` are known to lie in front of the music.
    """
    length = clip.shape[1]
    as_asked = abs(length - asked.samples) <= LENGTH_OFF_SAMPLES
    alone = Recognised(
        shape=Shape.NO_WINDOW, old_samples=padding_samples, padding_samples=padding_samples
    )
    if asked.window_samples == 0:
        return alone if as_asked else None
    ends = [
        end
        for end in dict.fromkeys((asked.so_far_samples, asked.source_samples))
        if end > asked.window_samples
        and abs(length - end - asked.new_samples) <= _TRACK_OFF_SAMPLES
    ]
    if sent is None or rms(sent) < _SILENT_RMS:
        return _by_length(asked, ends, alone, length)
    found = [_with_window(clip, asked, sent, padding_samples)] if as_asked else []
    found += [_cumulative(clip, end, sent, before, padding_samples) for end in ends]
    best = max(found, key=lambda one: one.correlation or 0.0, default=None)
    if best is not None and (best.correlation or 0.0) >= _HEARD_MIN:
        return best
    if as_asked:
        assert best is not None, "the window was listened for"
        return replace(alone, correlation=best.correlation)
    return alone if abs(length - asked.new_samples) <= LENGTH_OFF_SAMPLES else None


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
        new = new[:, : max(asked.needed_samples, _JUDGED_SAMPLES_MIN)]
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


def _by_length(
    asked: Asked, ends: Sequence[int], alone: Recognised, length: int
) -> Recognised | None:
    """The shape where there is nothing to listen for."""
    padding = alone.padding_samples
    if abs(length - asked.samples) <= LENGTH_OFF_SAMPLES:
        old = asked.window_samples + padding
        return Recognised(shape=Shape.WINDOW, old_samples=old, padding_samples=padding)
    if abs(length - asked.new_samples) <= LENGTH_OFF_SAMPLES:
        return alone
    if not ends:
        return None
    end = min(ends, key=lambda end: abs(length - end - asked.new_samples))
    return Recognised(shape=Shape.CUMULATIVE, old_samples=end + padding, padding_samples=padding)


def _with_window(clip: Audio, asked: Asked, sent: Audio, padding: int) -> Recognised:
    alike, lag = heard_at(sent, clip, early=_EARLY_SAMPLES, late=_LATE_SAMPLES)
    return Recognised(
        shape=Shape.WINDOW,
        old_samples=asked.window_samples + lag,
        padding_samples=padding,
        lag_samples=lag,
        correlation=alike,
    )


def _cumulative(
    clip: Audio, end: int, sent: Audio, before: Audio | None, padding: int
) -> Recognised:
    """Everything up to `end`; what lies before the window must be ours to be believed."""
    start = end - sent.shape[1]
    early = min(start, _TRACK_OFF_SAMPLES)
    alike, lag = heard_at(sent, clip[:, start - early :], early=0, late=early + _TRACK_OFF_SAMPLES)
    lag -= early
    ours = before is None or _agree(before, clip[:, : start + lag])
    return Recognised(
        shape=Shape.CUMULATIVE if ours else Shape.WINDOW,
        old_samples=end + lag,
        padding_samples=padding,
        lag_samples=lag,
        correlation=alike,
    )


def _agree(before: Audio, heard: Audio) -> bool:
    """Whether two stretches that end together are the same music, or nothing is to be heard."""
    count = min(before.shape[1], heard.shape[1])
    ours, theirs = before[:, before.shape[1] - count :], heard[:, heard.shape[1] - count :]
    loud, there = rms(ours), rms(theirs)
    if loud < _SILENT_RMS:
        return True
    return there > 0 and float(np.mean(ours * theirs)) / (loud * there) >= _HEARD_MIN


def _sounding_until(audio: Audio) -> int:
    """The end of the last twentieth of a second that is not silent."""
    for end in range(audio.shape[1], 0, -_BLOCK_SAMPLES):
        if rms(audio[:, max(0, end - _BLOCK_SAMPLES) : end]) >= _SILENT_RMS:
            return end
    return 0


def _s(samples: int) -> str:
    return f"{samples / SAMPLE_RATE_HZ:.2f}"

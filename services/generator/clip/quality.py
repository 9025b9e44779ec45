"""Recognises the shape of a clip and finds its faults, by measuring the audio.

There are three shapes: the window followed by new music (the model's usual output), new music
alone, or a cumulative track: everything so far, of the track or of the clip that was sent,
followed by new music. The length decides; if two shapes have the same length, the audio decides
by where the sent window correlates. A cumulative track replaces all earlier music, so the music
before the window must match as well; if it does not, only the new part is used.

The two possible errors cost unequally. New music that is cut off is not missed; a window left
in is heard twice. So a clip of the requested length counts as having its window unless it
clearly has not (the same music correlates at 0.99 after one encoding; music of another kind at
up to 0.4, other music of the same key and bar at up to 0.75).

Shapes: float32 `(channels, samples)`. Units: samples at 48 kHz. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from shared.media.samples import CHANNELS, CLIP_RATE_HZ, SAMPLE_RATE_HZ, SILENT_RMS, Audio, rms

#: an MP3 without its header decodes to 44 to 70 ms more than the music
LENGTH_OFF_SAMPLES = SAMPLE_RATE_HZ // 4
_TRACK_OFF_SAMPLES = SAMPLE_RATE_HZ // 2  # of a cumulative track, whose scenes have exact lengths
_EARLY_SAMPLES = SAMPLE_RATE_HZ // 100
_LATE_SAMPLES = SAMPLE_RATE_HZ * 60 // 1000  # 34.5 ms of encoder delay, with a margin
_CORRELATION_MIN = 0.3
_CLIPPED_AT = 0.98  # encoding bends clipped peaks
_BLOCK_SAMPLES = SAMPLE_RATE_HZ // 20
#: the next scene continues a clip even if the clip's own scene ends before its music starts;
#: every request includes at least a second of new music
_JUDGED_SAMPLES_MIN = SAMPLE_RATE_HZ


class Shape(StrEnum):
    """The parts of a clip."""

    WINDOW = "window"  #: the sent window, then new music
    NO_WINDOW = "no_window"  #: new music alone
    CUMULATIVE = "cumulative"  #: everything so far, then new music


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognisedClip:
    """A clip whose shape is known."""

    shape: Shape
    old_samples: int  #: where the new music begins in the clip
    padding_samples: int = 0  #: of them, padding that the file does not declare
    lag_samples: int = 0  #: how much later than expected the old music starts; 0 if not compared
    correlation: float | None = None  #: of the sent window with the clip; None: not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedClip:
    """The clip that was requested."""

    samples: int  #: window included
    window_samples: int  #: 0: nothing is continued
    so_far_samples: int  #: of track up to the end of the window
    source_samples: int = 0  #: of the clip that is continued, up to the end of the window
    #: of new music that the track uses; None: all of it; at least a second is judged
    needed_samples: int | None = None

    @property
    def new_samples(self) -> int:
        """Return the samples of new music."""
        return self.samples - self.window_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """The limits beyond which a clip is rejected."""

    silent_tail_samples_max: int = 2 * SAMPLE_RATE_HZ
    #: music 6 dB over full scale has 0.0002 of its samples there, 10 dB over 0.005 (measured)
    clipped_share_max: float = 0.003


def recognise(
    clip: Audio,
    expected: ExpectedClip,
    *,
    sent: Audio | None,
    before: Audio | None = None,
    padding_samples: int = 0,
) -> RecognisedClip | None:
    """Return the shape of `clip`; None if its length matches none.

    `sent` is the window as it was sent, `before` the audio before it in the same clip;
    `padding_samples` precede the music.
    """
    length = clip.shape[1]
    full_length = abs(length - expected.samples) <= LENGTH_OFF_SAMPLES
    alone = RecognisedClip(
        shape=Shape.NO_WINDOW, old_samples=padding_samples, padding_samples=padding_samples
    )
    if expected.window_samples == 0:
        return alone if full_length else None
    ends = [
        end
        for end in dict.fromkeys((expected.so_far_samples, expected.source_samples))
        if end > expected.window_samples
        and abs(length - end - expected.new_samples) <= _TRACK_OFF_SAMPLES
    ]
    if sent is None or rms(sent) < SILENT_RMS:
        return _by_length(expected, ends, alone, length)
    candidates = [_with_window(clip, expected, sent, padding_samples)] if full_length else []
    candidates += [_cumulative(clip, end, sent, before, padding_samples) for end in ends]
    best = max(candidates, key=lambda candidate: candidate.correlation or 0.0, default=None)
    if best is not None and (best.correlation or 0.0) >= _CORRELATION_MIN:
        return best
    if full_length:
        assert best is not None, "the window was compared"
        return replace(alone, correlation=best.correlation)
    return alone if abs(length - expected.new_samples) <= LENGTH_OFF_SAMPLES else None


def faults(
    clip: Audio,
    recognised: RecognisedClip | None,
    expected: ExpectedClip,
    *,
    rate_hz: int,
    channels: int,
    limits: QualityLimits | None = None,
) -> tuple[str, ...]:
    """Return why the clip is unusable, for the job's status; empty if it is usable.

    `rate_hz` and `channels` are the file's; `clip` is resampled.
    """
    limits = limits or QualityLimits()
    problems: list[str] = []
    if rate_hz != CLIP_RATE_HZ or channels != CHANNELS:
        problems.append(f"{rate_hz} Hz and {channels} channels instead of {CLIP_RATE_HZ} Hz stereo")
    if recognised is None:
        problems.append(f"{_seconds(clip.shape[1])} s instead of {_seconds(expected.samples)} s")
        return tuple(problems)
    new = clip[:, recognised.old_samples :]
    if expected.needed_samples is not None:
        new = new[:, : max(expected.needed_samples, _JUDGED_SAMPLES_MIN)]
    if rms(new) < SILENT_RMS:
        return (*problems, "silent")
    tail = new.shape[1] - _sounding_until(new)
    # at most half of a scene may be silent
    if tail > min(limits.silent_tail_samples_max, new.shape[1] // 2):
        problems.append(f"silent for the last {_seconds(tail)} s")
    share = float(np.mean(np.abs(clip) >= _CLIPPED_AT))
    if share > limits.clipped_share_max:
        problems.append(f"{share:.1%} of the samples clipped")
    return tuple(problems)


def best_match(music: Audio, audio: Audio, *, early: int, late: int) -> tuple[float, int]:
    """Return the best correlation of `music` in `audio`, and its offset in `[-early, late]`."""
    count = music.shape[1]
    field = np.zeros((CHANNELS, count + early + late))
    part = audio[:, : count + late]
    field[:, early : early + part.shape[1]] = part
    size = 1 << (field.shape[1] + count - 1).bit_length()
    spectrum = np.fft.rfft(field, size) * np.conj(np.fft.rfft(music.astype(np.float64), size))
    products = np.fft.irfft(spectrum, size).sum(axis=0)[: early + late + 1]
    power = np.concatenate([[0.0], np.cumsum(np.square(field).sum(axis=0))])
    local_power = power[count : count + early + late + 1] - power[: early + late + 1]
    music_power = float(np.square(music, dtype=np.float64).sum())
    # avoid high correlations where `audio` is nearly silent
    correlation = products / np.sqrt(
        np.maximum(local_power, 1e-3 * max(local_power.max(), 1e-12)) * music_power
    )
    best = int(np.argmax(correlation))
    return float(correlation[best]), best - early


def _by_length(
    expected: ExpectedClip, ends: Sequence[int], alone: RecognisedClip, length: int
) -> RecognisedClip | None:
    """Return the shape if there is no window to compare."""
    padding = alone.padding_samples
    if abs(length - expected.samples) <= LENGTH_OFF_SAMPLES:
        old = expected.window_samples + padding
        return RecognisedClip(shape=Shape.WINDOW, old_samples=old, padding_samples=padding)
    if abs(length - expected.new_samples) <= LENGTH_OFF_SAMPLES:
        return alone
    if not ends:
        return None
    end = min(ends, key=lambda end: abs(length - end - expected.new_samples))
    return RecognisedClip(
        shape=Shape.CUMULATIVE, old_samples=end + padding, padding_samples=padding
    )


def _with_window(clip: Audio, expected: ExpectedClip, sent: Audio, padding: int) -> RecognisedClip:
    correlation, lag = best_match(sent, clip, early=_EARLY_SAMPLES, late=_LATE_SAMPLES)
    return RecognisedClip(
        shape=Shape.WINDOW,
        old_samples=expected.window_samples + lag,
        padding_samples=padding,
        lag_samples=lag,
        correlation=correlation,
    )


def _cumulative(
    clip: Audio, end: int, sent: Audio, before: Audio | None, padding: int
) -> RecognisedClip:
    """Return the clip as a cumulative track, if the audio before the window matches."""
    start = end - sent.shape[1]
    early = min(start, _TRACK_OFF_SAMPLES)
    correlation, lag = best_match(
        sent, clip[:, start - early :], early=0, late=early + _TRACK_OFF_SAMPLES
    )
    lag -= early
    matches = before is None or _agree(before, clip[:, : start + lag])
    return RecognisedClip(
        shape=Shape.CUMULATIVE if matches else Shape.WINDOW,
        old_samples=end + lag,
        padding_samples=padding,
        lag_samples=lag,
        correlation=correlation,
    )


def _agree(before: Audio, received: Audio) -> bool:
    """Return whether two signals that end together are the same music, or `before` is silent."""
    count = min(before.shape[1], received.shape[1])
    ours, theirs = before[:, before.shape[1] - count :], received[:, received.shape[1] - count :]
    our_rms, their_rms = rms(ours), rms(theirs)
    if our_rms < SILENT_RMS:
        return True
    return (
        their_rms > 0 and float(np.mean(ours * theirs)) / (our_rms * their_rms) >= _CORRELATION_MIN
    )


def _sounding_until(audio: Audio) -> int:
    """Return the end of the last 50 ms block that is not silent."""
    for end in range(audio.shape[1], 0, -_BLOCK_SAMPLES):
        if rms(audio[:, max(0, end - _BLOCK_SAMPLES) : end]) >= SILENT_RMS:
            return end
    return 0


def _seconds(samples: int) -> str:
    return f"{samples / SAMPLE_RATE_HZ:.2f}"

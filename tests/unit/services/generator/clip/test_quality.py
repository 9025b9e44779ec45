"""Checks that every shape of clip is recognised, and every fault reported.

The clips are MP3 files of known music, as a provider sends them, decoded by our decoder.

Units: samples at 48 kHz; the files are made at 32 kHz.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.generator.clip.inspection import decode_clip
from services.generator.clip.quality import (
    LENGTH_OFF_SAMPLES,
    ExpectedClip,
    QualityLimits,
    RecognisedClip,
    Shape,
    _agree,
    faults,
    recognise,
)
from services.generator.providers import mp3 as clips
from shared.errors import MediaError
from shared.media.samples import SAMPLE_RATE_HZ, Audio, silence
from tests.support.audio_builders import HEADERLESS_LATE_SAMPLES, PROVIDER_RATE_HZ, mp3, music

RATE = SAMPLE_RATE_HZ
SO_FAR_S, WINDOW_S, NEW_S = 6, 1, 4
EXPECTED = ExpectedClip(
    samples=(WINDOW_S + NEW_S) * RATE,
    window_samples=WINDOW_S * RATE,
    so_far_samples=SO_FAR_S * RATE,
)


def _played(start_s: float, end_s: float, *, piece: int = 0) -> Audio:
    """Return known music at the provider's rate."""
    places = np.arange(int(start_s * PROVIDER_RATE_HZ), int(end_s * PROVIDER_RATE_HZ))
    return music(places, piece=piece, rate_hz=PROVIDER_RATE_HZ)


def _sent() -> Audio:
    """Return the window as cut from the earlier clip."""
    return decode_clip(mp3(_played(0, SO_FAR_S))).audio[
        :, (SO_FAR_S - WINDOW_S) * RATE : SO_FAR_S * RATE
    ]


def _clip(sound: Audio, **how: Any) -> Audio:
    return decode_clip(mp3(sound, **how)).audio


def _noisy(sound: Audio, *, share: float) -> Audio:
    """Return the same music with noise, as from a poor codec."""
    rng = np.random.default_rng(1)
    level = np.sqrt(np.mean(np.square(sound)))
    return (sound + rng.normal(0, level * share, sound.shape)).astype(np.float32)


def _joined(*parts: Audio) -> Audio:
    return np.concatenate(parts, axis=1)


START_S, END_S = SO_FAR_S - WINDOW_S, SO_FAR_S + NEW_S


@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_a_window_is_recognised_at_any_level(gain_db: float) -> None:
    """The whole clip is normalised."""
    recognised = recognise(
        _clip(_played(START_S, END_S) * np.float32(10 ** (gain_db / 20))), EXPECTED, sent=_sent()
    )

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.WINDOW, WINDOW_S * RATE)
    assert recognised.correlation == pytest.approx(1.0, abs=0.02)


def test_a_noisy_window_is_recognised() -> None:
    """The noise is as loud as the music."""
    recognised = recognise(
        _clip(_noisy(_played(START_S, END_S), share=1.0)), EXPECTED, sent=_sent()
    )

    assert recognised is not None
    assert recognised.shape is Shape.WINDOW
    assert abs(recognised.lag_samples) <= 2


def test_a_file_without_its_header_has_a_late_window() -> None:
    """34.5 ms of encoder delay precede the music."""
    recognised = recognise(_clip(_played(START_S, END_S), header=False), EXPECTED, sent=_sent())

    assert recognised is not None
    assert recognised.shape is Shape.WINDOW
    assert recognised.lag_samples == pytest.approx(HEADERLESS_LATE_SAMPLES, abs=3)
    assert recognised.old_samples == WINDOW_S * RATE + recognised.lag_samples


def test_new_music_alone_is_recognised_by_its_length() -> None:
    """It is shorter by the window, and nothing is cut off."""
    recognised = recognise(_clip(_played(SO_FAR_S, END_S)), EXPECTED, sent=_sent())

    assert recognised == RecognisedClip(shape=Shape.NO_WINDOW, old_samples=0)


def test_other_music_of_the_requested_length_has_no_window() -> None:
    """Its head does not correlate with the sent window."""
    recognised = recognise(_clip(_played(0, WINDOW_S + NEW_S, piece=2)), EXPECTED, sent=_sent())

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.NO_WINDOW, 0)


@pytest.mark.parametrize("late_s", [-0.3, 0.0, 0.3])
def test_a_cumulative_track_is_recognised_with_the_end_of_the_old_music(late_s: float) -> None:
    """Everything so far, slightly longer or shorter than ours, then new music."""
    track = _joined(_played(0.5, 0.5 + max(0.0, late_s)), _played(max(0.0, -late_s), END_S))
    recognised = recognise(_clip(track), EXPECTED, sent=_sent())

    assert recognised is not None
    assert recognised.shape is Shape.CUMULATIVE
    assert recognised.old_samples == pytest.approx((SO_FAR_S + late_s) * RATE, abs=10)


def test_other_music_of_a_cumulative_length_is_not_recognised() -> None:
    """By length alone, unrelated music would replace the whole track."""
    assert recognise(_clip(_played(0, END_S, piece=3)), EXPECTED, sent=_sent()) is None


def _source() -> Audio:
    """Return the continued clip up to the window's end; it starts in mid-track."""
    return decode_clip(mp3(_played(2, SO_FAR_S))).audio


def test_a_cumulative_track_may_contain_only_the_sent_clip() -> None:
    """The model received no other music."""
    expected = replace(EXPECTED, source_samples=(SO_FAR_S - 2) * RATE)
    source = _source()
    recognised = recognise(
        _clip(_played(2, END_S)), expected, sent=source[:, -RATE:], before=source[:, :-RATE]
    )

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.CUMULATIVE, (SO_FAR_S - 2) * RATE)


def test_a_track_that_matches_only_in_the_window_replaces_nothing() -> None:
    """The music before the window differs, so only the new music is used."""
    other = _played(0, SO_FAR_S - WINDOW_S, piece=3)
    recognised = recognise(
        _clip(_joined(other, _played(START_S, END_S))),
        EXPECTED,
        sent=_sent(),
        before=decode_clip(mp3(_played(0, SO_FAR_S))).audio[:, :-RATE],
    )

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.WINDOW, SO_FAR_S * RATE)


@pytest.mark.parametrize("more_s", [0.0, 0.2])
def test_of_two_shapes_of_one_length_the_audio_decides(more_s: float) -> None:
    """The track so far is only slightly longer than the window."""
    expected = replace(EXPECTED, so_far_samples=int((WINDOW_S + 0.2) * RATE))
    recognised = recognise(_clip(_played(START_S - more_s, END_S)), expected, sent=_sent())

    assert recognised is not None
    assert recognised.shape is (Shape.CUMULATIVE if more_s else Shape.WINDOW)
    assert recognised.old_samples == pytest.approx((WINDOW_S + more_s) * RATE, abs=10)


@pytest.mark.parametrize("header", [True, False])
def test_undeclared_padding_is_known_without_a_window_to_compare(*, header: bool) -> None:
    """For a clip without a window, for new music alone, and after silence."""
    padding = 0 if header else HEADERLESS_LATE_SAMPLES
    fresh = ExpectedClip(samples=4 * RATE, window_samples=0, so_far_samples=0)
    for seconds, expected, sent, old in (
        (4, fresh, None, 0),
        (NEW_S, EXPECTED, _sent(), 0),
        (NEW_S + WINDOW_S, EXPECTED, silence(RATE), WINDOW_S * RATE),
        (SO_FAR_S + NEW_S, EXPECTED, None, SO_FAR_S * RATE),
    ):
        decoded = decode_clip(mp3(_played(8, 8 + seconds), header=header))
        assert decoded.padding_samples == padding
        recognised = recognise(
            decoded.audio, expected, sent=sent, padding_samples=decoded.padding_samples
        )
        assert recognised is not None
        assert (recognised.old_samples, recognised.padding_samples) == (old + padding, padding)


@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.6, 7.0, 12.0])
def test_a_length_of_no_shape_is_not_recognised(seconds: float) -> None:
    """Whatever it sounds like."""
    assert recognise(_clip(_played(START_S, START_S + seconds)), EXPECTED, sent=_sent()) is None


def test_a_silent_window_is_recognised_by_length() -> None:
    """There is no audio to compare."""
    recognised = recognise(_clip(_played(0, WINDOW_S + NEW_S)), EXPECTED, sent=silence(RATE))

    assert recognised == RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)


def test_a_clip_without_a_window_is_new_from_its_first_sample() -> None:
    """If it has the requested length."""
    expected = ExpectedClip(samples=4 * RATE, window_samples=0, so_far_samples=0)

    assert recognise(_clip(_played(0, 4)), expected, sent=None) == RecognisedClip(
        shape=Shape.NO_WINDOW, old_samples=0
    )
    assert recognise(_clip(_played(0, 3)), expected, sent=None) is None


def _faults(sound: Audio, *, encode: Callable[[Audio], bytes] = mp3, **how: Any) -> tuple[str, ...]:
    decoded = decode_clip(encode(sound))
    recognised = recognise(decoded.audio, EXPECTED, sent=_sent())
    fields = {"rate_hz": decoded.rate_hz, "channels": decoded.channels, **how}
    return faults(decoded.audio, recognised, EXPECTED, **fields)


def test_good_music_has_no_fault() -> None:
    """The offline provider's clips and the known music pass."""
    assert _faults(_played(START_S, END_S)) == ()


def test_each_fault_is_reported() -> None:
    """With the message for the job's status."""
    good = _played(START_S, END_S)
    head = good[:, :PROVIDER_RATE_HZ]
    quiet = np.zeros((2, PROVIDER_RATE_HZ), dtype=np.float32)

    assert _faults(good[:, : 2 * PROVIDER_RATE_HZ]) == ("2.00 s instead of 5.00 s",)
    assert _faults(_joined(head, quiet, quiet, quiet, quiet)) == ("silent",)
    (tail,) = _faults(
        _joined(good[:, : int(2.4 * PROVIDER_RATE_HZ)], quiet, quiet, quiet)[:, : good.shape[1]]
    )
    assert tail == "silent for the last 2.60 s"
    (clipped,) = _faults(np.clip(good * 12, -1, 1), encode=clips.encode)
    assert clipped.endswith("% of the samples clipped")
    assert _faults(good, rate_hz=44_100) == ("44100 Hz and 2 channels instead of 32000 Hz stereo",)
    assert _faults(good, channels=1) == ("32000 Hz and 1 channels instead of 32000 Hz stereo",)


def test_an_unused_end_may_be_silent() -> None:
    """A clip has whole seconds, and is cut to the scene's length."""
    clip = _clip(
        _joined(
            _played(START_S, START_S + 2.2), np.zeros((2, int(2.8 * PROVIDER_RATE_HZ)), np.float32)
        )
    )
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)
    expected = ExpectedClip(
        samples=5 * RATE, window_samples=RATE, so_far_samples=RATE, needed_samples=int(1.1 * RATE)
    )

    assert faults(clip, recognised, expected, rate_hz=32_000, channels=2) == ()
    assert faults(clip, recognised, EXPECTED, rate_hz=32_000, channels=2) == (
        "silent for the last 2.80 s",
    )


@pytest.mark.parametrize("needed_samples", [0, 2400])
def test_at_least_a_second_of_new_music_is_judged(
    needed_samples: int,
) -> None:
    """The scene ends before its music starts, but the next scene continues the clip."""
    expected = ExpectedClip(
        samples=5 * RATE,
        window_samples=RATE,
        so_far_samples=RATE,
        needed_samples=needed_samples,
    )
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)
    music, quiet = _clip(_played(START_S, END_S)), np.zeros((2, 5 * RATE), np.float32)

    assert faults(music, recognised, expected, rate_hz=32_000, channels=2) == ()
    assert faults(quiet, recognised, expected, rate_hz=32_000, channels=2) == ("silent",)


def test_the_silent_tail_has_its_own_limit() -> None:
    """But never more than half of the scene."""
    half = np.zeros((2, int(1.5 * PROVIDER_RATE_HZ)), np.float32)
    clip = _clip(_joined(_played(START_S, END_S - 1.5), half))
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)

    assert (
        faults(clip, recognised, EXPECTED, rate_hz=32_000, channels=2, limits=QualityLimits()) == ()
    )
    strict = QualityLimits(silent_tail_samples_max=RATE)
    assert faults(clip, recognised, EXPECTED, rate_hz=32_000, channels=2, limits=strict) == (
        "silent for the last 1.50 s",
    )


def test_the_offline_providers_format_is_the_models() -> None:
    """32 kHz stereo; data that is no audio is rejected."""
    decoded = decode_clip(clips.encode(_played(0, 1)))

    assert (decoded.rate_hz, decoded.channels, decoded.audio.shape) == (32_000, 2, (2, RATE))
    with pytest.raises(MediaError, match="Invalid audio output format"):
        decode_clip(b"not audio" * 100)


def test_music_before_the_window_agrees_if_it_is_the_same_or_silent() -> None:
    """Silence before the window is no evidence against a cumulative track."""
    same, other = (music(np.arange(RATE), piece=piece) for piece in (0, 1))

    assert _agree(same, same)
    assert not _agree(same, other)
    assert _agree(silence(RATE), other)
    assert not _agree(same, silence(RATE))


def _shape_by_length(samples: int, expected: ExpectedClip = EXPECTED) -> tuple[Shape, int] | None:
    """Return shape and old samples of a clip of this length, without a window to compare."""
    recognised = recognise(silence(samples), expected, sent=None)
    return None if recognised is None else (recognised.shape, recognised.old_samples)


@pytest.mark.parametrize("off", [-LENGTH_OFF_SAMPLES, LENGTH_OFF_SAMPLES])
def test_a_length_may_be_off_by_a_quarter_second(off: int) -> None:
    """Of the clip with its window, and of new music alone; a sample more is no shape."""
    full, alone = (WINDOW_S + NEW_S) * RATE, NEW_S * RATE
    beyond = 1 if off > 0 else -1

    assert _shape_by_length(full + off) == (Shape.WINDOW, WINDOW_S * RATE)
    assert _shape_by_length(full + off + beyond) is None
    assert _shape_by_length(alone + off) == (Shape.NO_WINDOW, 0)
    assert _shape_by_length(alone + off + beyond) is None


@pytest.mark.parametrize(("more", "is_known"), [(0, True), (1, False)])
def test_new_music_alone_may_be_off_by_a_quarter_second(more: int, *, is_known: bool) -> None:
    """Also if the window is compared and is not in the clip."""
    clip = silence(NEW_S * RATE + LENGTH_OFF_SAMPLES + more)

    recognised = recognise(clip, EXPECTED, sent=music(np.arange(RATE)))

    assert (recognised is not None) is is_known


@pytest.mark.parametrize(("off_s", "source_s"), [(0.1, 6.0), (0.2, 6.3)])
def test_of_two_cumulative_lengths_the_nearer_one_is_recognised(
    off_s: float, source_s: float
) -> None:
    """The track so far has 6 s, the sent clip 6.3 s."""
    expected = replace(EXPECTED, source_samples=round(6.3 * RATE))

    assert _shape_by_length(round((SO_FAR_S + NEW_S + off_s) * RATE), expected) == (
        Shape.CUMULATIVE,
        round(source_s * RATE),
    )


def test_a_sample_at_the_limit_is_clipped() -> None:
    """0.98 of full scale."""
    clip = np.full((2, 5 * RATE), 0.98, dtype=np.float32)
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)

    assert faults(clip, recognised, EXPECTED, rate_hz=32_000, channels=2) == (
        "100.0% of the samples clipped",
    )

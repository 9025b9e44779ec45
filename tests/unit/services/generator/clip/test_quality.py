"""Quality: every shape a clip may have, told apart by measuring, and every fault by its name.

The shapes are what a provider sends: MP3 files of music that is known, through our decoder.

Units: samples at 48 kHz; the files are made at 32 kHz.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.generator.clip.inspection import decode_clip
from services.generator.clip.quality import (
    ExpectedClip,
    QualityLimits,
    RecognisedClip,
    Shape,
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
    """Known music, at the provider's rate."""
    places = np.arange(int(start_s * PROVIDER_RATE_HZ), int(end_s * PROVIDER_RATE_HZ))
    return music(places, piece=piece, rate_hz=PROVIDER_RATE_HZ)


def _sent() -> Audio:
    """The window as it was cut from the earlier clip."""
    return decode_clip(mp3(_played(0, SO_FAR_S))).audio[
        :, (SO_FAR_S - WINDOW_S) * RATE : SO_FAR_S * RATE
    ]


def _clip(sound: Audio, **how: Any) -> Audio:
    return decode_clip(mp3(sound, **how)).audio


def _noisy(sound: Audio, *, share: float) -> Audio:
    """The same music from a poor coder."""
    chance = np.random.default_rng(1)
    loud = np.sqrt(np.mean(np.square(sound)))
    return (sound + chance.normal(0, loud * share, sound.shape)).astype(np.float32)


def _joined(*parts: Audio) -> Audio:
    return np.concatenate(parts, axis=1)


START_S, END_S = SO_FAR_S - WINDOW_S, SO_FAR_S + NEW_S


@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_a_window_in_front_is_found_at_any_level(gain_db: float) -> None:
    """The whole clip was normalised."""
    recognised = recognise(
        _clip(_played(START_S, END_S) * np.float32(10 ** (gain_db / 20))), EXPECTED, sent=_sent()
    )

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.WINDOW, WINDOW_S * RATE)
    assert recognised.correlation == pytest.approx(1.0, abs=0.02)


def test_a_window_that_a_poor_coder_returned_is_still_heard() -> None:
    """As loud a noise as the music."""
    recognised = recognise(
        _clip(_noisy(_played(START_S, END_S), share=1.0)), EXPECTED, sent=_sent()
    )

    assert recognised is not None
    assert recognised.shape is Shape.WINDOW
    assert abs(recognised.lag_samples) <= 2


def test_a_file_without_its_header_is_late_and_the_window_with_it() -> None:
    """34.5 ms of the encoder's delay stand in front: new music begins so much later."""
    recognised = recognise(_clip(_played(START_S, END_S), header=False), EXPECTED, sent=_sent())

    assert recognised is not None
    assert recognised.shape is Shape.WINDOW
    assert recognised.lag_samples == pytest.approx(HEADERLESS_LATE_SAMPLES, abs=3)
    assert recognised.old_samples == WINDOW_S * RATE + recognised.lag_samples


def test_new_music_alone_is_known_by_its_length() -> None:
    """Shorter by the window; nothing of it may be cut off."""
    recognised = recognise(_clip(_played(SO_FAR_S, END_S)), EXPECTED, sent=_sent())

    assert recognised == RecognisedClip(shape=Shape.NO_WINDOW, old_samples=0)


def test_other_music_of_the_length_that_was_asked_for_has_no_window() -> None:
    """What was sent is not heard at its head."""
    recognised = recognise(_clip(_played(0, WINDOW_S + NEW_S, piece=2)), EXPECTED, sent=_sent())

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.NO_WINDOW, 0)


@pytest.mark.parametrize("late_s", [-0.3, 0.0, 0.3])
def test_a_cumulative_track_is_found_with_the_place_of_its_end(late_s: float) -> None:
    """Everything so far, a little longer or shorter than ours, then what is new."""
    track = _joined(_played(0.5, 0.5 + max(0.0, late_s)), _played(max(0.0, -late_s), END_S))
    recognised = recognise(_clip(track), EXPECTED, sent=_sent())

    assert recognised is not None
    assert recognised.shape is Shape.CUMULATIVE
    assert recognised.old_samples == pytest.approx((SO_FAR_S + late_s) * RATE, abs=10)


def test_a_track_of_that_length_without_the_music_so_far_is_nothing_known() -> None:
    """Length alone would put somebody else's music over the whole track."""
    assert recognise(_clip(_played(0, END_S, piece=3)), EXPECTED, sent=_sent()) is None


def _source() -> Audio:
    """The clip that is continued, up to the window's end; it began in the middle of the track."""
    return decode_clip(mp3(_played(2, SO_FAR_S))).audio


def test_a_cumulative_track_may_hold_no_more_than_the_clip_that_was_sent() -> None:
    """That is everything that the model was told of."""
    expected = replace(EXPECTED, source_samples=(SO_FAR_S - 2) * RATE)
    source = _source()
    recognised = recognise(
        _clip(_played(2, END_S)), expected, sent=source[:, -RATE:], before=source[:, :-RATE]
    )

    assert recognised is not None
    assert (recognised.shape, recognised.old_samples) == (Shape.CUMULATIVE, (SO_FAR_S - 2) * RATE)


def test_where_only_the_window_is_ours_nothing_is_replaced() -> None:
    """Other music before it would take the place of what was made: the new music alone counts."""
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
def test_of_two_shapes_of_one_length_the_sound_decides(more_s: float) -> None:
    """The track so far is hardly longer than the window: where does the window lie?"""
    expected = replace(EXPECTED, so_far_samples=int((WINDOW_S + 0.2) * RATE))
    recognised = recognise(_clip(_played(START_S - more_s, END_S)), expected, sent=_sent())

    assert recognised is not None
    assert recognised.shape is (Shape.CUMULATIVE if more_s else Shape.WINDOW)
    assert recognised.old_samples == pytest.approx((WINDOW_S + more_s) * RATE, abs=10)


@pytest.mark.parametrize("header", [True, False])
def test_padding_that_a_file_does_not_tell_is_known_where_nothing_can_be_heard(
    *, header: bool
) -> None:
    """Of a clip that begins anew, of new music alone, and after silence."""
    padding = 0 if header else HEADERLESS_LATE_SAMPLES
    anew = ExpectedClip(samples=4 * RATE, window_samples=0, so_far_samples=0)
    for seconds, expected, sent, old in (
        (4, anew, None, 0),
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
    """Wrong however it sounds."""
    assert recognise(_clip(_played(START_S, START_S + seconds)), EXPECTED, sent=_sent()) is None


def test_silence_that_was_sent_is_believed_by_length() -> None:
    """There is nothing to listen for."""
    recognised = recognise(_clip(_played(0, WINDOW_S + NEW_S)), EXPECTED, sent=silence(RATE))

    assert recognised == RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)


def test_a_clip_that_was_to_begin_anew_is_new_from_its_first_sample() -> None:
    """In its length, or not at all."""
    expected = ExpectedClip(samples=4 * RATE, window_samples=0, so_far_samples=0)

    assert recognise(_clip(_played(0, 4)), expected, sent=None) == RecognisedClip(
        shape=Shape.NO_WINDOW, old_samples=0
    )
    assert recognise(_clip(_played(0, 3)), expected, sent=None) is None


def _found_wrong(sound: Audio, **how: Any) -> tuple[str, ...]:
    decoded = decode_clip(mp3(sound))
    recognised = recognise(decoded.audio, EXPECTED, sent=_sent())
    given = {"rate_hz": decoded.rate_hz, "channels": decoded.channels, **how}
    return faults(decoded.audio, recognised, EXPECTED, **given)


def test_good_music_has_no_fault() -> None:
    """As the offline provider and the known pieces are."""
    assert _found_wrong(_played(START_S, END_S)) == ()


def test_each_fault_is_named() -> None:
    """In words for the status."""
    good = _played(START_S, END_S)
    head = good[:, :PROVIDER_RATE_HZ]
    quiet = np.zeros((2, PROVIDER_RATE_HZ), dtype=np.float32)

    assert _found_wrong(good[:, : 2 * PROVIDER_RATE_HZ]) == ("2.00 s instead of 5.00 s",)
    assert _found_wrong(_joined(head, quiet, quiet, quiet, quiet)) == ("silent",)
    (tail,) = _found_wrong(
        _joined(good[:, : int(2.4 * PROVIDER_RATE_HZ)], quiet, quiet, quiet)[:, : good.shape[1]]
    )
    assert tail == "silent for the last 2.60 s"
    (clipped,) = _found_wrong(np.clip(good * 12, -1, 1))
    assert clipped.endswith("% of the samples clipped")
    assert _found_wrong(good, rate_hz=44_100) == (
        "44100 Hz and 2 channels instead of 32000 Hz stereo",
    )
    assert _found_wrong(good, channels=1) == ("32000 Hz and 1 channels instead of 32000 Hz stereo",)


def test_an_end_that_nobody_will_hear_may_be_silent() -> None:
    """A scene is expected for in whole seconds, and cut to its own length."""
    clip = _clip(
        _joined(
            _played(START_S, START_S + 2.2), np.zeros((2, int(2.8 * PROVIDER_RATE_HZ)), np.float32)
        )
    )
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)
    needed = ExpectedClip(
        samples=5 * RATE, window_samples=RATE, so_far_samples=RATE, needed_samples=int(1.1 * RATE)
    )

    assert faults(clip, recognised, needed, rate_hz=32_000, channels=2) == ()
    assert faults(clip, recognised, EXPECTED, rate_hz=32_000, channels=2) == (
        "silent for the last 2.80 s",
    )


@pytest.mark.parametrize("needed_samples", [0, 2400])
def test_a_scene_that_is_over_before_its_music_enters_has_a_second_of_it_judged(
    needed_samples: int,
) -> None:
    """Nothing of it is heard in its own scene, but the next one continues it."""
    needed = ExpectedClip(
        samples=5 * RATE,
        window_samples=RATE,
        so_far_samples=RATE,
        needed_samples=needed_samples,
    )
    recognised = RecognisedClip(shape=Shape.WINDOW, old_samples=RATE)
    music, quiet = _clip(_played(START_S, END_S)), np.zeros((2, 5 * RATE), np.float32)

    assert faults(music, recognised, needed, rate_hz=32_000, channels=2) == ()
    assert faults(quiet, recognised, needed, rate_hz=32_000, channels=2) == ("silent",)


def test_how_long_an_end_may_be_silent_is_a_limit_of_its_own() -> None:
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


def test_the_offline_providers_form_is_measured_as_the_models() -> None:
    """32 kHz stereo; what is no audio is said to be none."""
    decoded = decode_clip(clips.encode(_played(0, 1)))

    assert (decoded.rate_hz, decoded.channels, decoded.audio.shape) == (32_000, 2, (2, RATE))
    with pytest.raises(MediaError, match="Invalid audio output format"):
        decode_clip(b"not audio" * 100)

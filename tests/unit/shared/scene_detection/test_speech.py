"""Windows of speech become passages."""

import numpy as np

from shared.scene_detection.slices import SOUND_RATE
from shared.scene_detection.speech import WINDOW, Passages, SpeechDetector

STEP_S = WINDOW / SOUND_RATE


def _passages(*probabilities: float) -> list[tuple[float, float]]:
    passages = Passages()
    for index, probability in enumerate(probabilities):
        passages.push(index * STEP_S, probability)
    return [(round(start, 3), round(end, 3)) for start, end in passages.finish()]


def test_speech_begins_and_ends_where_the_probability_changes() -> None:
    """Ten windows of speech: 0.32 s, 30 ms wider on both sides."""
    found = _passages(*[0.0] * 10, *[0.9] * 10, *[0.1] * 10)
    assert found == [(round(10 * STEP_S - 0.03, 3), round(20 * STEP_S + 0.03, 3))]


def test_a_short_pause_is_part_of_the_speech_and_a_click_is_none() -> None:
    """Two windows of pause are bridged; five windows alone are not speech."""
    assert len(_passages(*[0.9] * 10, *[0.1] * 2, *[0.9] * 10)) == 1
    assert len(_passages(*[0.9] * 10, *[0.1] * 10, *[0.9] * 10)) == 2
    assert _passages(*[0.0] * 5, *[0.9] * 5, *[0.0] * 10) == []


def test_speech_at_the_end_is_closed() -> None:
    """The film ends during speech."""
    assert _passages(*[0.9] * 10) == [(0.0, round(10 * STEP_S + 0.03, 3))]


def test_tone_and_noise_are_not_speech() -> None:
    """The model itself: music-like sound has no speech."""
    time = np.arange(3 * SOUND_RATE) / SOUND_RATE
    noise = np.random.default_rng(1).standard_normal(len(time)) * 0.05
    tone = (0.3 * np.sin(2 * np.pi * 220 * time) + noise).astype(np.float32)
    detector = SpeechDetector()
    for start in range(0, len(tone), 1000):
        detector.push(start / SOUND_RATE, tone[start : start + 1000])
    assert detector.finish() == []

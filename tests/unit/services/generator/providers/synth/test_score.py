"""Checks the synth provider's harmony, bars, sections and rendering."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.providers import mp3
from services.generator.providers.synth import key_detection, mixing, score, theory
from services.generator.providers.synth.score import Piece
from services.generator.providers.synth.voices import RING_S_MAX, Voice, sound
from shared.contract.prompt import Mood
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ, silence

moods = st.sampled_from(list(Mood))
seeds = st.integers(min_value=0, max_value=2**64 - 1)
tonics = st.integers(min_value=0, max_value=11)
pieces = st.builds(
    lambda tonic, first, second, seam, seed: (
        Piece(tonic=tonic)
        .followed_by(first, seed=seed, start_s=0)
        .followed_by(second, seed=seed // 3, start_s=seam)
    ),
    tonics,
    moods,
    moods,
    st.integers(min_value=1, max_value=11),
    seeds,
)


@settings(deadline=None, max_examples=40)
@given(pieces, st.integers(min_value=0, max_value=12))
def test_an_interval_has_the_same_notes_however_it_is_split(piece: Piece, middle: int) -> None:
    """A clip can therefore continue where another ended."""
    whole = list(score.notes(piece, start_s=0, stop_s=12))
    halves = [
        *score.notes(piece, start_s=0, stop_s=middle),
        *score.notes(piece, start_s=middle, stop_s=12),
    ]

    assert sorted(map(repr, whole)) == sorted(map(repr, halves))


@given(tonics, moods, seeds, seeds, st.integers(min_value=1, max_value=20))
def test_a_new_section_does_not_change_earlier_notes(
    tonic: int, mood: Mood, seed: int, other: int, joint_s: int
) -> None:
    """A note before the seam is at most released earlier."""
    before = Piece(tonic=tonic).followed_by(Mood.CALM, seed=seed, start_s=0)
    after = before.followed_by(mood, seed=other, start_s=joint_s)

    def started(piece: Piece) -> list[tuple[float, int, float]]:
        notes = score.notes(piece, start_s=0, stop_s=joint_s)
        return [(note.start_s, note.pitch, note.velocity) for note in notes]

    assert started(before) == started(after)


@given(tonics, moods, seeds, seeds, st.integers(min_value=1, max_value=21))
def test_the_same_mood_keeps_its_bars_and_a_new_one_starts_its_own(
    tonic: int, mood: Mood, seed: int, other: int, joint_s: int
) -> None:
    """A cut is a downbeat only if the mood changes."""
    piece = Piece(tonic=tonic).followed_by(Mood.CALM, seed=seed, start_s=0)

    section = piece.followed_by(mood, seed=other, start_s=joint_s).sections[-1]

    assert section.grid_s == (0 if mood is Mood.CALM else joint_s)
    assert section.theme == (seed if mood is Mood.CALM else other)


@given(st.lists(st.integers(min_value=1, max_value=5), min_size=9, max_size=30))
def test_a_piece_keeps_a_bounded_number_of_sections(lengths: list[int]) -> None:
    """It keeps the latest sections, in order."""
    piece, at = Piece(tonic=0), 0
    for number, length in enumerate(lengths):
        piece = piece.followed_by(list(Mood)[number % 5], seed=number, start_s=at)
        at += length

    starts = [section.start_s for section in piece.sections]
    assert len(starts) == 8
    assert starts == sorted(starts)
    assert Piece.model_validate_json(piece.model_dump_json()) == piece


@pytest.mark.parametrize("mood", list(Mood))
def test_beats_of_every_mood_meet_on_whole_seconds(mood: Mood) -> None:
    """A clip can start on any whole second with a note of the mood."""
    piece = Piece(tonic=0).followed_by(mood, seed=1, start_s=0)
    starts = {note.start_s for note in score.notes(piece, start_s=0, stop_s=8)}

    assert {float(second) for second in range(0, 8, theory.BAR_S)} <= starts
    assert len(starts) > 8


@given(tonics, moods, seeds)
def test_voices_move_by_small_steps(tonic: int, mood: Mood, theme: int) -> None:
    """No voice leaps more than a fifth, or a sixth where the progression restarts."""
    bars = [theory.harmony(mood, tonic=tonic, theme=theme, bar=bar) for bar in range(5)]

    for bar, (chord, following) in enumerate(pairwise(bars)):
        leap_max = 8 if bar == 3 else 7
        assert all(
            abs(a - b) <= leap_max for a, b in zip(chord.voices, following.voices, strict=True)
        )
    assert all(48 <= pitch <= 80 for bar in bars for pitch in bar.voices)
    assert all({pitch % 12 for pitch in bar.voices} <= bar.chord for bar in bars)


@given(tonics, moods, seeds)
def test_no_melody_tone_clashes_with_the_chord(tonic: int, mood: Mood, theme: int) -> None:
    """No melody tone is a semitone from a chord tone."""
    for bar in range(4):
        sound_of_bar = theory.harmony(mood, tonic=tonic, theme=theme, bar=bar)
        passing = sound_of_bar.scale - sound_of_bar.chord
        assert not any((t + s) % 12 in sound_of_bar.chord for t in passing for s in (-1, 1))


@given(tonics)
def test_the_keys_of_all_moods_are_neighbours(tonic: int) -> None:
    """At most two tones of a mood's scale are not in the piece's key."""
    home = {(tonic + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}
    for style in theory.STYLES.values():
        own = {(tonic + style.shift + step) % 12 for step in style.scale}
        assert len(own - home) <= 1


def test_the_same_moment_renders_equally_in_every_interval() -> None:
    """Ringing notes and reverb are included from the first sample."""
    piece = Piece(tonic=3).followed_by(Mood.DRAMATIC, seed=1, start_s=0)

    whole = mixing.render(piece, start_s=0, stop_s=12)
    part = mixing.render(piece, start_s=8, stop_s=10)

    same, level = key_detection.agreement(part, whole[:, 8 * CLIP_RATE_HZ : 10 * CLIP_RATE_HZ])
    assert same > 0.9999
    assert level == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("voice", list(Voice))
def test_no_note_starts_or_ends_abruptly(voice: Voice) -> None:
    """Silent at both ends, near full scale at most, and of bounded length."""
    note = sound(voice, 64, 1.0)

    assert np.abs(note[:, 0]).max() < 1e-6
    assert np.abs(note[:, -1]).max() < 5e-3
    assert 0.1 < np.abs(note).max() < 2.5
    assert note.shape[1] <= RING_S_MAX * CLIP_RATE_HZ


@pytest.mark.parametrize("mood", list(Mood))
def test_every_mood_fits_under_full_scale_at_the_models_loudness(mood: Mood) -> None:
    """Peaks are at most 13 dB above the loudness, so -14 LUFS needs no clamp."""
    piece = Piece(tonic=5).followed_by(mood, seed=2, start_s=0)
    audio = mixing.render(piece, start_s=0, stop_s=8)

    peak_db = 20 * np.log10(np.abs(audio).max())
    assert peak_db - mixing.loudness_lufs(audio) < 13


@pytest.mark.parametrize(("hz", "lufs"), [(997.0, -23.0), (100.0, -24.8)])
def test_loudness_follows_the_standard(hz: float, lufs: float) -> None:
    """A 997 Hz stereo sine at -23 dBFS has -23 LUFS; low frequencies count less."""
    at_s = np.arange(10 * CLIP_RATE_HZ) / CLIP_RATE_HZ
    tone = (10 ** (-23 / 20) * np.sin(2 * np.pi * hz * at_s)).astype(np.float32)

    assert mixing.loudness_lufs(np.stack([tone, tone])) == pytest.approx(lufs, abs=0.15)


def test_pauses_do_not_lower_the_loudness() -> None:
    """The gate excludes them."""
    at_s = np.arange(5 * CLIP_RATE_HZ) / CLIP_RATE_HZ
    tone = np.tile((0.1 * np.sin(2 * np.pi * 997 * at_s)).astype(np.float32), (2, 1))
    paused = np.concatenate([tone, silence(5 * CLIP_RATE_HZ)], axis=1)

    assert mixing.loudness_lufs(paused) == pytest.approx(mixing.loudness_lufs(tone), abs=0.2)
    assert mixing.loudness_lufs(silence(CLIP_RATE_HZ)) == -np.inf
    assert mixing.normalising_gain(silence(CLIP_RATE_HZ)) == 1.0


@settings(deadline=None, max_examples=15)
@given(st.integers(min_value=1, max_value=4), st.text(st.characters(codec="ascii")))
def test_a_clip_keeps_its_length_and_its_comment(seconds: int, comment: str) -> None:
    """Exactly."""
    comment = comment.replace("\x00", "").strip()
    tone = np.full((2, seconds * CLIP_RATE_HZ), 0.1, dtype=np.float32)

    data = mp3.encode(tone, comment=comment)

    assert decode(data, rate_hz=CLIP_RATE_HZ).shape == tone.shape
    assert mp3.comment_of(data) == comment


@pytest.mark.parametrize("mood", list(Mood))
@pytest.mark.parametrize("tonic", [0, 5, 10])
def test_a_key_is_detected_to_within_a_fifth(mood: Mood, tonic: int) -> None:
    """A neighbour on the circle of fifths shares all tones but one."""
    piece = Piece(tonic=tonic).followed_by(mood, seed=4, start_s=0)

    detected = key_detection.tonic_of(mixing.render(piece, start_s=0, stop_s=4))

    home = tonic + {Mood.ELEGANT: 5, Mood.EXCITING: 7}.get(mood, 0)
    assert (detected - home) % 12 in {0, 5, 7}

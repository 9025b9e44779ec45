"""Tests of ops/score/waveform.py: what is drawn where."""

import numpy as np
import pytest

from ops.score.waveform import (
    COLUMNS,
    HEIGHT,
    WIDTH,
    Envelope,
    SeamMark,
    Timeline,
    draw_waveform,
    envelope_of,
)
from shared.media.samples import SAMPLE_RATE_HZ, Audio

GREEN, ORANGE = (84, 214, 140), (255, 166, 77)
MIDDLE = WIDTH // 2


def _tone(*levels: float) -> Audio:
    """Return a tone with one second of each level."""
    second = np.sin(np.linspace(0, 2 * np.pi * 200, SAMPLE_RATE_HZ, dtype=np.float32))
    return np.stack([np.concatenate([second * level for level in levels])] * 2)


def _envelope(track: Audio, *, samples: int | None = None) -> Envelope:
    """Return the envelope of a track that comes in blocks of an odd length."""
    blocks = [track[:, start : start + 1151] for start in range(0, track.shape[1], 1151)]
    total = samples or track.shape[1]
    return envelope_of(blocks, samples=total, track_samples=track.shape[1])


def _inked(pixels: np.ndarray, column: int) -> int:
    """Return the number of non-background pixels of a column, between the labels."""
    return int((pixels[80:360, column] != pixels[2, 2]).any(axis=1).sum())


def test_a_louder_scene_is_drawn_higher() -> None:
    """A full-scale tone beside one at a tenth."""
    image = np.asarray(
        draw_waveform(_envelope(_tone(1.0, 0.1)), Timeline(scene_starts=[0, SAMPLE_RATE_HZ]))
    )

    assert image.shape == (HEIGHT, WIDTH, 3)
    assert _inked(image, WIDTH // 4) > 5 * _inked(image, 3 * WIDTH // 4)


def test_neighbouring_scenes_have_different_colours() -> None:
    """The boundary is visible."""
    image = draw_waveform(_envelope(_tone(0.5, 0.5)), Timeline(scene_starts=[0, SAMPLE_RATE_HZ]))

    left, right = (image.getpixel((x, HEIGHT // 2 - 20)) for x in (MIDDLE - 90, MIDDLE + 90))

    assert left != right


@pytest.mark.parametrize(("kind", "colour"), [("splice", GREEN), ("fade", ORANGE)])
def test_a_seam_is_drawn_at_its_sample_in_the_colour_of_its_kind(
    kind: str, colour: tuple[int, int, int]
) -> None:
    """Half-way through the track, and nowhere else."""
    seams = [SeamMark(at_samples=SAMPLE_RATE_HZ, kind=kind)]

    image = np.asarray(
        draw_waveform(
            _envelope(_tone(0, 0)), Timeline(scene_starts=[0, SAMPLE_RATE_HZ], seams=seams)
        )
    )

    columns = np.nonzero((image[100:350] == colour).all(axis=2).any(axis=0))[0]
    assert columns.size
    assert abs(int(columns.mean()) - MIDDLE) <= 2
    assert np.ptp(columns) <= 2


def test_a_track_with_fewer_samples_than_columns_is_drawn() -> None:
    """A hundred samples on more than a thousand columns."""
    image = draw_waveform(
        _envelope(np.full((2, 100), 0.5, dtype=np.float32)), Timeline(scene_starts=[0])
    )

    assert image.size == (WIDTH, HEIGHT)


def test_the_envelope_of_blocks_is_that_of_the_whole() -> None:
    """Whatever the lengths of the blocks; peaks, and the RMS level of both channels."""
    track = _tone(1.0, 0.25)
    whole = envelope_of([track], samples=track.shape[1], track_samples=track.shape[1])
    parts = _envelope(track)

    for name in ("high", "low", "level"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6)
    assert whole.high.max() == pytest.approx(1.0, abs=0.01)
    quarter = whole.level[3 * COLUMNS // 4]
    assert quarter == pytest.approx(0.25 / np.sqrt(2), abs=0.01)


def test_the_image_covers_the_whole_film_and_marks_the_end_of_shorter_music() -> None:
    """One second of music in a film of two: the second half is empty, with a line between."""
    film = 2 * SAMPLE_RATE_HZ
    timeline = Timeline(scene_starts=[0], film_samples=film)

    image = np.asarray(draw_waveform(_envelope(_tone(1.0), samples=film), timeline))

    red = np.nonzero((image[100:350] == (248, 113, 113)).all(axis=2).all(axis=0))[0]
    assert _inked(image, WIDTH // 4) > 100
    assert _inked(image, 3 * WIDTH // 4) < 5
    assert red.size
    assert abs(int(red.mean()) - MIDDLE) <= 2


def test_every_image_has_a_legend_of_what_it_shows() -> None:
    """Without a fade or a silent scene these are left out."""
    track = _envelope(_tone(0.5, 0))
    seams = [SeamMark(at_samples=SAMPLE_RATE_HZ, kind="splice")]
    bare = np.asarray(draw_waveform(track, Timeline(scene_starts=[0])))
    full = np.asarray(
        draw_waveform(
            track,
            Timeline(scene_starts=[0, SAMPLE_RATE_HZ], seams=seams, silent_scenes=[1]),
        )
    )

    legend = slice(HEIGHT - 30, HEIGHT - 8)
    assert (bare[legend] != bare[2, 2]).any()
    assert not (bare[legend] == GREEN).all(axis=2).any()
    assert (full[legend] == GREEN).all(axis=2).any()
    assert not (full[legend] == ORANGE).all(axis=2).any()
    area = slice(100, 170), slice(1100, 1300)
    assert not (bare[area] != bare[2, 2]).any()
    assert (full[area] != bare[2, 2]).any(), "the silent scene is hatched"

"""Tests of ops/score/waveform.py: what is drawn where."""

import numpy as np
import pytest

from ops.score.waveform import HEIGHT, WIDTH, SeamMark, draw_waveform
from shared.media.samples import SAMPLE_RATE_HZ, Audio

GREEN, ORANGE = (84, 214, 140), (255, 166, 77)
MIDDLE = WIDTH // 2


def _tone(*levels: float) -> Audio:
    """Return a tone with one second of each level."""
    second = np.sin(np.linspace(0, 2 * np.pi * 200, SAMPLE_RATE_HZ, dtype=np.float32))
    return np.stack([np.concatenate([second * level for level in levels])] * 2)


def _inked(pixels: np.ndarray, column: int) -> int:
    """Return the number of non-background pixels of a column, between the labels."""
    return int((pixels[80:360, column] != pixels[2, 2]).any(axis=1).sum())


def test_a_louder_scene_is_drawn_higher() -> None:
    """A full-scale tone beside one at a tenth."""
    image = np.asarray(draw_waveform(_tone(1.0, 0.1), scene_starts=[0, SAMPLE_RATE_HZ], seams=[]))

    assert image.shape == (HEIGHT, WIDTH, 3)
    assert _inked(image, WIDTH // 4) > 5 * _inked(image, 3 * WIDTH // 4)


def test_neighbouring_scenes_have_different_colours() -> None:
    """The boundary is visible."""
    image = draw_waveform(_tone(0.5, 0.5), scene_starts=[0, SAMPLE_RATE_HZ], seams=[])

    left, right = (image.getpixel((x, HEIGHT // 2 - 20)) for x in (MIDDLE - 90, MIDDLE + 90))

    assert left != right


@pytest.mark.parametrize(("kind", "colour"), [("splice", GREEN), ("fade", ORANGE)])
def test_a_seam_is_drawn_at_its_sample_in_the_colour_of_its_kind(
    kind: str, colour: tuple[int, int, int]
) -> None:
    """Half-way through the track, and nowhere else."""
    seams = [SeamMark(at_samples=SAMPLE_RATE_HZ, kind=kind)]

    image = np.asarray(draw_waveform(_tone(0, 0), scene_starts=[0, SAMPLE_RATE_HZ], seams=seams))

    columns = np.nonzero((image[100:350] == colour).all(axis=2).any(axis=0))[0]
    assert columns.size
    assert abs(int(columns.mean()) - MIDDLE) <= 2
    assert np.ptp(columns) <= 2


def test_a_track_with_fewer_samples_than_columns_is_drawn() -> None:
    """A hundred samples on more than a thousand columns."""
    image = draw_waveform(np.full((2, 100), 0.5, dtype=np.float32), scene_starts=[0], seams=[])

    assert image.size == (WIDTH, HEIGHT)

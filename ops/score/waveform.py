"""Draws a track as an image that covers the whole film, with its scenes, seams and a legend.

Both channels are drawn in one strip, one colour per scene, the peaks in a darker shade than the
RMS level. A scene boundary is a dashed line with the scene's number; a seam is a mark on top, green
where the music continues (splice), orange where it fades. A scene that became silence is hatched,
and a line marks the end of the film or of the music, if they differ.

Shapes: audio is float32 `(channels, samples)`. Units: samples of the track at 48 kHz; pixels.
Pure.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shared.media.samples import SAMPLE_RATE_HZ, Audio

WIDTH, HEIGHT = 1600, 448
_TOP, _BOTTOM, _SIDE = 56, 72, 24
COLUMNS = WIDTH - 2 * _SIDE
_BACK, _INK, _FAINT = (16, 18, 24), (226, 230, 238), (78, 84, 98)
_SPLICE, _FADE, _END = (84, 214, 140), (255, 166, 77), (248, 113, 113)
_COLOURS = ((96, 165, 250), (196, 132, 252), (244, 114, 182), (250, 204, 21), (45, 212, 191))
_MARK = 8  # half the width of a mark
_LABEL_MIN = 34  # pixels of a scene that has a label
_TICKS_MAX = 12
_TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MINUTE_S = 60
_TEXT, _SMALL = 20, 16
_SHADE = 0.55  # of a scene's colour, for the peaks behind the RMS level
_HATCH = 10  # pixels between two lines of a silent scene
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamMark:
    """The seam between a scene and the one before it."""

    at_samples: int
    kind: str  #: "splice" or "fade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The highest and lowest sample and the RMS level of each column of the image."""

    high: NDArray[np.float32]
    low: NDArray[np.float32]
    level: NDArray[np.float32]
    samples: int  #: that all columns cover: the film, or the track if it is longer
    track_samples: int  #: columns after these are empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What is marked in the image."""

    scene_starts: Sequence[int]  #: samples; the first is 0
    seams: Sequence[SeamMark] = ()
    silent_scenes: Sequence[int] = ()  #: by index
    film_samples: int | None = None  #: on the time of the track; None: only the track was made
    tempo: float = 1.0  #: of the track in the film; times are the film's


def envelope_of(blocks: Iterable[Audio], *, samples: int, track_samples: int) -> Envelope:
    """Return the envelope of a track that comes in blocks, over `samples` of time."""
    assert samples > 0, "a film and a track have at least one sample"
    edges = np.linspace(0, samples, COLUMNS + 1).astype(np.int64)
    high, low = np.zeros(COLUMNS, np.float32), np.zeros(COLUMNS, np.float32)
    squares, position = np.zeros(COLUMNS, np.float64), 0
    for whole in blocks:
        block = whole[:, : max(0, samples - position)]
        first = int(np.searchsorted(edges, position, side="right")) - 1
        last = int(np.searchsorted(edges, position + block.shape[1], side="left"))
        for column in range(max(first, 0), min(last, COLUMNS)):
            start, end = int(edges[column]) - position, int(edges[column + 1]) - position
            part = block[:, max(start, 0) : max(end, start + 1)]
            if part.size:
                high[column] = max(high[column], float(part.max()))
                low[column] = min(low[column], float(part.min()))
                squares[column] += float(np.square(part, dtype=np.float64).mean(axis=0).sum())
        position += block.shape[1]
    level = np.sqrt(squares / np.maximum(np.diff(edges), 1)).astype(np.float32)
    return Envelope(high=high, low=low, level=level, samples=samples, track_samples=track_samples)


def draw_waveform(envelope: Envelope, timeline: Timeline, *, title: str = "") -> Image.Image:
    """Return the image of a track."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _BACK)
    draw = ImageDraw.Draw(image)
    total = envelope.samples
    _draw_wave(draw, envelope, timeline)
    ends = [*timeline.scene_starts, envelope.track_samples]
    for index, (start, end) in enumerate(pairwise(ends)):
        left, right = _column(start, total), _column(end, total)
        if index in timeline.silent_scenes:
            _draw_hatch(draw, left, right)
        _draw_scene(draw, index, left, right)
    for seam in timeline.seams:
        _draw_seam(draw, seam, _column(seam.at_samples, total))
    shorter = _end_of_shorter(envelope, timeline)
    if shorter is not None:
        x = _column(shorter, total)
        draw.line((x, _TOP, x, HEIGHT - _BOTTOM), _END, width=2)
    _draw_times(draw, total, tempo=timeline.tempo)
    _draw_text(draw, title, _legend(envelope, timeline))
    return image


def _draw_wave(draw: ImageDraw.ImageDraw, envelope: Envelope, timeline: Timeline) -> None:
    middle, reach = (_TOP + HEIGHT - _BOTTOM) / 2, (HEIGHT - _TOP - _BOTTOM) / 2 - 4
    for column in range(COLUMNS):
        scene = bisect_right(timeline.scene_starts, column * envelope.samples // COLUMNS) - 1
        colour = _COLOURS[scene % len(_COLOURS)]
        high, low, level = (
            float(values[column]) for values in (envelope.high, envelope.low, envelope.level)
        )
        if high == low == 0:
            continue
        x = _SIDE + column
        draw.line((x, middle - high * reach, x, middle - low * reach), _shaded(colour))
        draw.line((x, middle - level * reach, x, middle + level * reach), colour)
    draw.line((_SIDE, middle, WIDTH - _SIDE, middle), _FAINT)


def _draw_scene(draw: ImageDraw.ImageDraw, index: int, left: int, right: int) -> None:
    if index:
        for y in range(_TOP, HEIGHT - _BOTTOM, 8):
            draw.line((left, y, left, y + 3), _INK)
    if right - left >= _LABEL_MIN:
        position = ((left + right) / 2, _TOP - 4)
        draw.text(position, f"{index + 1}", _INK, font=_font(_TEXT), anchor="ms")


def _draw_hatch(draw: ImageDraw.ImageDraw, left: int, right: int) -> None:
    for x in range(left, right, _HATCH):
        draw.line((x, HEIGHT - _BOTTOM - 1, min(x + _HATCH, right), _TOP + 1), _FAINT)


def _draw_seam(draw: ImageDraw.ImageDraw, seam: SeamMark, x: int) -> None:
    colour = _SPLICE if seam.kind == "splice" else _FADE
    draw.line((x, _TOP, x, HEIGHT - _BOTTOM), colour)
    draw.polygon([(x - _MARK, _TOP - 2), (x + _MARK, _TOP - 2), (x, _TOP + _MARK + 2)], colour)


def _draw_times(draw: ImageDraw.ImageDraw, total: int, *, tempo: float) -> None:
    length_s = total / SAMPLE_RATE_HZ / tempo
    step_s = next((s for s in _TICK_STEPS_S if length_s / s <= _TICKS_MAX), _TICK_STEPS_S[-1])
    base = HEIGHT - _BOTTOM
    for second in range(0, int(length_s) + 1, step_s):
        x = _column(round(second * SAMPLE_RATE_HZ * tempo), total)
        draw.line((x, base, x, base + 6), _FAINT)
        draw.text((x, base + 10), _time(second, length_s), _INK, font=_font(_SMALL), anchor="ma")


def _time(second: int, length_s: float) -> str:
    if length_s < 2 * _MINUTE_S:
        return f"{second} s"
    return f"{second // _MINUTE_S}:{second % _MINUTE_S:02}"


def _legend(envelope: Envelope, timeline: Timeline) -> list[tuple[str, Colour]]:
    """Return the texts and colours of what the image has."""
    kinds = {seam.kind for seam in timeline.seams}
    end = _end_of_shorter(envelope, timeline)
    entries = [
        ("peaks", _shaded(_COLOURS[0]), True),
        ("level (RMS)", _COLOURS[0], True),
        ("number: scene, dashed: its start", _INK, True),
        ("splice: the music continues", _SPLICE, "splice" in kinds),
        ("fade: other music begins", _FADE, "fade" in kinds),
        ("hatched: silence instead of music", _INK, bool(timeline.silent_scenes)),
        ("end of the film", _END, end is not None and end == timeline.film_samples),
        ("end of the music", _END, end is not None and end != timeline.film_samples),
    ]
    return [(text, colour) for text, colour, is_shown in entries if is_shown]


def _end_of_shorter(envelope: Envelope, timeline: Timeline) -> int | None:
    """Return where the shorter of film and track ends; None if their columns are the same."""
    if timeline.film_samples is None:
        return None
    end = min(timeline.film_samples, envelope.track_samples)
    is_same = _column(end, envelope.samples) == _column(envelope.samples, envelope.samples)
    return None if is_same else end


def _draw_text(draw: ImageDraw.ImageDraw, title: str, legend: Sequence[tuple[str, Colour]]) -> None:
    font = _font(_SMALL)
    draw.text((_SIDE, 8), title, _INK, font=font)
    x = _SIDE
    for text, colour in legend:
        draw.rectangle((x, HEIGHT - 26, x + 10, HEIGHT - 14), colour)
        draw.text((x + 16, HEIGHT - 30), text, _INK, font=font)
        x += int(font.getlength(text)) + 44


def _column(sample: int, total: int) -> int:
    return _SIDE + round(sample / total * (COLUMNS - 1))


def _shaded(colour: Colour) -> Colour:
    red, green, blue = (round(part * _SHADE) for part in colour)
    return (red, green, blue)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

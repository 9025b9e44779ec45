"""Draws a track as an image, with its scenes and seams marked.

Both channels are drawn in one strip: peaks light, RMS level dark, one colour per scene. A scene
boundary is a thin line with the scene's number; a seam is a mark on top, green where the music
continues (splice), orange where it fades.

Shapes: audio is float32 `(channels, samples)`. Units: samples at 48 kHz; pixels. Pure.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.media.samples import SAMPLE_RATE_HZ, Audio

WIDTH, HEIGHT = 1600, 420
_TOP, _BOTTOM, _SIDE = 56, 44, 24
_BACK, _INK, _FAINT = (16, 18, 24), (226, 230, 238), (78, 84, 98)
_SPLICE, _FADE = (84, 214, 140), (255, 166, 77)
_COLOURS = ((96, 165, 250), (196, 132, 252), (244, 114, 182), (250, 204, 21), (45, 212, 191))
_MARK = 8  # half the width of a mark
_LABEL_MIN = 34  # pixels of a scene that has a label
_TICKS_MAX = 12
_TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_TEXT, _SMALL = 20, 16
_SHADE = 0.55  # of a scene's colour, for the peaks behind the RMS level
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamMark:
    """The seam between a scene and the one before it."""

    at_samples: int
    kind: str  #: "splice" or "fade"


def draw_waveform(
    track: Audio, *, scene_starts: Sequence[int], seams: Sequence[SeamMark], title: str = ""
) -> Image.Image:
    """Return the image of `track`; `scene_starts` are samples, the first is 0."""
    assert track.shape[1] > 0, "a track has at least one sample"
    image = Image.new("RGB", (WIDTH, HEIGHT), _BACK)
    draw = ImageDraw.Draw(image)
    total = track.shape[1]
    starts = [*scene_starts, total]
    _draw_wave(draw, track, scene_starts)
    for index, (start, end) in enumerate(pairwise(starts)):
        _draw_scene(draw, index, _column(start, total), _column(end, total))
    for seam in seams:
        _draw_seam(draw, seam, _column(seam.at_samples, total))
    _draw_times(draw, total)
    _draw_legend(draw, title)
    return image


def _draw_wave(draw: ImageDraw.ImageDraw, track: Audio, starts: Sequence[int]) -> None:
    edges = np.linspace(0, track.shape[1], WIDTH - 2 * _SIDE + 1).astype(int)
    middle, reach = (_TOP + HEIGHT - _BOTTOM) / 2, (HEIGHT - _TOP - _BOTTOM) / 2 - 4
    for column, (start, end) in enumerate(pairwise(edges)):
        block = track[:, start : max(end, start + 1)]
        scene = bisect_right(starts, int(start)) - 1
        colour = _COLOURS[scene % len(_COLOURS)]
        level = float(np.sqrt(np.mean(np.square(block, dtype=np.float64))))
        x = _SIDE + column
        high, low = float(block.max()), float(block.min())
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


def _draw_seam(draw: ImageDraw.ImageDraw, seam: SeamMark, x: int) -> None:
    colour = _SPLICE if seam.kind == "splice" else _FADE
    draw.line((x, _TOP, x, HEIGHT - _BOTTOM), colour)
    draw.polygon([(x - _MARK, _TOP - 2), (x + _MARK, _TOP - 2), (x, _TOP + _MARK + 2)], colour)


def _draw_times(draw: ImageDraw.ImageDraw, total: int) -> None:
    length_s = total / SAMPLE_RATE_HZ
    step_s = next((s for s in _TICK_STEPS_S if length_s / s <= _TICKS_MAX), _TICK_STEPS_S[-1])
    base = HEIGHT - _BOTTOM
    for second in range(0, int(length_s) + 1, step_s):
        x = _column(second * SAMPLE_RATE_HZ, total)
        draw.line((x, base, x, base + 6), _FAINT)
        draw.text((x, base + 10), f"{second} s", _INK, font=_font(_SMALL), anchor="ma")


def _draw_legend(draw: ImageDraw.ImageDraw, title: str) -> None:
    font = _font(_SMALL)
    draw.text((_SIDE, 8), title, _INK, font=font)
    x = WIDTH - _SIDE
    for label, colour in (("fade", _FADE), ("splice: the music continues", _SPLICE)):
        draw.text((x, 8), label, colour, font=font, anchor="ra")
        x -= int(font.getlength(label)) + 28


def _column(sample: int, total: int) -> int:
    return _SIDE + round(sample / total * (WIDTH - 2 * _SIDE - 1))


def _shaded(colour: Colour) -> Colour:
    red, green, blue = (round(part * _SHADE) for part in colour)
    return (red, green, blue)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""Describes a scene from measurements: words, a mood and an energy. Pure.

The measurements are means over the scene's slices. Brightness, contrast, colour and movement come
from the picture, speech and level from the sound. Each of the five moods gets a score; the highest
is the scene's mood, `PROFESSIONAL` if none stands out.

Units: `brightness`, `saturation` and `speech` are shares, 0 to 1; `hue` is degrees, 0 red, 120
green, 240 blue; `level_db` is dBFS.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.contract.prompt import Mood
from shared.scene_detection.slices import SILENCE_DB, Slice

_STANDS_OUT = 0.35  # score of a mood
_ALWAYS = float("inf")
#: upper limits of a measurement, and the words below them
_LIGHT = ((0.22, "dark"), (0.36, "dim"), (0.55, "evenly lit"), (_ALWAYS, "bright"))
_HUES = (
    (20, "reds"),
    (45, "oranges"),
    (70, "yellows"),
    (165, "greens"),
    (200, "cyans"),
    (260, "blues"),
    (300, "purples"),
    (345, "pinks"),
    (_ALWAYS, "reds"),
)
_STRENGTH = ((0.15, "pale "), (0.4, ""), (_ALWAYS, "vivid "))
_MOVEMENT = (
    (0.04, "still"),
    (0.25, "slow movement"),
    (0.6, "movement"),
    (_ALWAYS, "fast movement"),
)
_SPEECH = ((0.1, "no speech"), (0.5, "some speech"), (_ALWAYS, "speech"))
_BLACK = 0.06
_GREY = 0.06  # saturation
_DAYLIGHT, _SKY, _LAWN = 0.36, 0.3, 0.12
_SKY_LUMA, _SKY_RED, _SKY_BLUE = 120, 16, -4  # a bright cell, grey to blue
_FAST_CUTS = 25  # a minute
_SILENT_DB = -60.0


_Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What was measured in one scene."""

    brightness: float
    contrast: float  #: standard deviation of luma / 64, at most 1
    saturation: float
    hue: float
    warmth: float  #: -1 blue to 1 orange
    motion: float  #: 0 still to 1 fast
    cuts_per_minute: float
    speech: float  #: share of the scene
    level_db: float  #: of the sound; -70: none
    sky: float  #: share of the upper picture that is bright and grey or blue


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The words, mood and energy of a scene."""

    text: str
    mood: Mood
    moods: dict[str, float]  #: score of each mood, 0 to 1, by its name
    energy: float  #: 0 to 1


def measure(slices: Sequence[Slice], *, cuts: int, length_s: float) -> Measurements:
    """Return the measurements of the scene that these slices form."""
    pictures = np.array([one.picture for one in slices])
    red, green, blue = _rgb(pictures)
    saturation = float(
        (np.maximum.reduce([red, green, blue]) - np.minimum.reduce([red, green, blue])).mean()
    )
    mean_rgb = [float(channel.mean()) for channel in (red, green, blue)]
    power = [10 ** (one.level_db / 10) for one in slices if one.level_db > SILENCE_DB]
    luma, chroma_blue = pictures[:, 0, :2], pictures[:, 1, :2] - 128
    is_neutral = np.abs(pictures[:, 2, :2] - 128) < _SKY_RED
    sky = (luma > _SKY_LUMA) & (chroma_blue > _SKY_BLUE) & is_neutral
    return Measurements(
        brightness=float(pictures[:, 0].mean()) / 255,
        contrast=min(float(np.mean([one.contrast for one in slices])) / 64, 1.0),
        saturation=min(saturation / 255, 1.0),
        hue=colorsys.rgb_to_hsv(*(value / 255 for value in mean_rgb))[0] * 360,
        warmth=max(min((mean_rgb[0] - mean_rgb[2]) / 96, 1.0), -1.0),
        motion=min(float(np.mean([one.motion for one in slices])) / 0.2, 1.0),
        cuts_per_minute=60 * cuts / length_s,
        speech=min(float(np.mean([one.speech for one in slices])), 1.0),
        level_db=10 * math.log10(sum(power) / len(slices)) if power else SILENCE_DB,
        sky=float(sky.mean()),
    )


def describe(measured: Measurements) -> Description:
    """Return the description of a scene with these measurements."""
    moods = _mood_scores(measured)
    best = max(moods, key=lambda mood: moods[mood])
    mood = best if moods[best] >= _STANDS_OUT else Mood.PROFESSIONAL
    return Description(
        text=", ".join(
            [
                " ".join(filter(None, [_light(measured), _place(measured), _colour(measured)])),
                _movement(measured),
                _sound(measured),
            ]
        ),
        mood=mood,
        moods={mood.name.lower(): round(score, 3) for mood, score in moods.items()},
        energy=round(_energy(measured), 3),
    )


def _energy(measured: Measurements) -> float:
    pace = min(measured.cuts_per_minute / 40, 1.0)
    loud = min(max((measured.level_db + 45) / 35, 0.0), 1.0)
    return min(0.5 * measured.motion + 0.35 * pace + 0.15 * loud, 1.0)


def _mood_scores(measured: Measurements) -> dict[Mood, float]:
    energy = _energy(measured)
    bright, dark = measured.brightness, 1 - measured.brightness
    slow = 1 - measured.motion
    colourful = min(measured.saturation / 0.4, 1.0)
    cool = max(-measured.warmth, 0.0)
    warm = max(measured.warmth, 0.0)
    darkness = min(max((dark - 0.55) / 0.3, 0.0), 1.0)
    scores = {
        Mood.EXCITING: energy * (0.5 + 0.3 * colourful + 0.2 * bright) * 1.2 * (1 - 0.6 * darkness),
        Mood.CALM: (1 - energy) ** 2
        * slow
        * (0.35 + 0.3 * bright + 0.2 * (1 - measured.contrast))
        * (1 - 0.7 * darkness),
        Mood.DRAMATIC: darkness * (0.45 + 0.25 * measured.contrast + 0.2 * cool + 0.4 * energy),
        Mood.ELEGANT: slow * warm * (0.3 + 0.4 * min(dark / 0.6, 1.0)) * (1 - energy),
        Mood.PROFESSIONAL: 0.3 * measured.speech + 0.15 * slow,
    }
    return {mood: min(score, 1.0) for mood, score in scores.items()}


def _words(table: Sequence[tuple[float, str]], value: float) -> str:
    return next(words for limit, words in table if value < limit)


def _light(measured: Measurements) -> str:
    if max(measured.brightness, measured.contrast) < _BLACK:
        return "black"
    return _words(_LIGHT, measured.brightness)


def _place(measured: Measurements) -> str:
    is_green = measured.saturation > _LAWN and _words(_HUES, measured.hue) == "greens"
    is_outdoor = measured.brightness > _DAYLIGHT and (measured.sky > _SKY or is_green)
    return "outdoor shot" if is_outdoor else "shot"


def _colour(measured: Measurements) -> str:
    if measured.saturation < _GREY:
        return "in greys"
    return f"in {_words(_STRENGTH, measured.saturation)}{_words(_HUES, measured.hue)}"


def _movement(measured: Measurements) -> str:
    if measured.cuts_per_minute > _FAST_CUTS:
        return "fast cuts"
    return _words(_MOVEMENT, measured.motion)


def _sound(measured: Measurements) -> str:
    return "silent" if measured.level_db < _SILENT_DB else _words(_SPEECH, measured.speech)


def _rgb(pictures: _Array) -> tuple[_Array, _Array, _Array]:
    """Return red, green and blue (0 to 255) of YUV pictures (n, 3, rows, columns), BT.601."""
    luma = (pictures[:, 0] - 16) * 1.164
    u, v = pictures[:, 1] - 128, pictures[:, 2] - 128
    channels = (luma + 1.596 * v, luma - 0.392 * u - 0.813 * v, luma + 2.017 * u)
    red, green, blue = (np.clip(channel, 0, 255) for channel in channels)
    return red, green, blue

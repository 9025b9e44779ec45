"""Defines each mood's harmony, key and metre for the synth provider.

One bar lasts two seconds in every mood; a mood divides it into 2, 3, 4, 6 or 8 beats. So a
change of tempo is a change of division, beats of neighbours meet on every whole second, and a
clip, which begins and ends on whole seconds, always joins on a beat. The keys of all moods are
neighbours of one tonic on the circle of fifths, so notes that still ring fit the new section.

Units: pitch in MIDI semitones (60 is middle C), time in seconds. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from shared.contract.prompt import Mood

BAR_S = 2  # whole seconds: every seam falls on a beat
_VOICES = 4  # of a chord, beside the bass
_CENTRE = 62  # a choir's middle: voicings gather around it
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True, slots=True)
class Chord:
    """A chord over the tonic: where its root stands and what is stacked on it, in semitones."""

    root: int
    tones: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The musical parameters of a mood."""

    beats: int  #: in a bar
    level: float  #: relative loudness; the clip is normalised, not the mood
    shift: int  #: semitones from the piece's tonic to the mood's own
    scale: tuple[int, ...]  #: semitones above the mood's tonic, for melodies
    progressions: tuple[tuple[Chord, ...], ...]  #: one chord a bar; a theme chooses one


def _chords(text: str) -> tuple[Chord, ...]:
    """Parse chords from "root:quality" words."""
    pairs = (word.split(":") for word in text.split())
    return tuple(Chord(int(root), _QUALITIES[quality]) for root, quality in pairs)


_QUALITIES: Mapping[str, tuple[int, ...]] = {
    "add9": (0, 4, 7, 14),
    "maj7": (0, 4, 7, 11),
    "maj9": (4, 7, 11, 14),
    "six": (0, 4, 7, 9),
    "min": (0, 3, 7, 12),
    "min7": (0, 3, 7, 10),
    "min9": (3, 7, 10, 14),
    "maj": (0, 4, 7, 12),
    "dom9": (4, 7, 10, 14),
    "sus2": (0, 2, 7, 12),
    "sus4": (0, 5, 7, 10),
    "dom7": (0, 4, 7, 10),
}

STYLES: Mapping[Mood, Style] = {
    Mood.CALM: Style(
        beats=2,
        level=0.66,
        shift=0,
        scale=(0, 2, 4, 7, 9),
        progressions=(
            _chords("0:maj9 9:min9 5:maj9 7:sus4"),
            _chords("0:maj9 4:min7 5:maj9 2:min9"),
            _chords("5:maj9 0:add9 2:min9 7:sus4"),
        ),
    ),
    Mood.ELEGANT: Style(
        beats=3,
        level=0.8,
        shift=5,
        scale=_MAJOR,
        progressions=(
            _chords("0:maj7 9:min7 2:min9 7:dom9"),
            _chords("2:min9 7:dom9 0:maj9 9:min7"),
            _chords("0:six 4:min7 5:maj7 7:dom9"),
        ),
    ),
    Mood.PROFESSIONAL: Style(
        beats=4,
        level=0.92,
        shift=0,
        scale=(0, 2, 4, 7, 9),
        progressions=(
            _chords("0:add9 7:maj 9:min7 5:add9"),
            _chords("5:add9 9:min7 0:add9 7:sus4"),
            _chords("0:sus2 5:add9 9:min7 7:sus4"),
        ),
    ),
    Mood.DRAMATIC: Style(
        beats=6,
        level=1.0,
        shift=-3,
        scale=_MINOR,
        progressions=(
            _chords("0:min 8:maj 5:min 7:dom7"),
            _chords("0:min 3:maj 8:maj 7:maj"),
            _chords("0:min 10:maj 8:maj7 7:dom7"),
        ),
    ),
    Mood.EXCITING: Style(
        beats=8,
        level=1.05,
        shift=-5,
        scale=(0, 2, 4, 7, 9),
        progressions=(
            _chords("0:add9 7:maj 9:min7 5:add9"),
            _chords("9:min7 5:add9 0:add9 7:maj"),
            _chords("5:add9 7:maj 9:min7 0:maj"),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmony:
    """One bar's chord as it sounds, in MIDI pitches."""

    bass: int
    voices: tuple[int, ...]  #: upwards; moved as little as possible from the bar before
    scale: frozenset[int]  #: pitch classes a melody may use
    chord: frozenset[int]  #: pitch classes of the chord


def harmony(mood: Mood, *, tonic: int, theme: int, bar: int) -> Harmony:
    """Return the harmony of the `bar`-th bar of a mood's progression."""
    cycle = _voiced(mood, tonic, theme % len(STYLES[mood].progressions))
    return cycle[bar % len(cycle)]


@cache
def _voiced(mood: Mood, tonic: int, theme: int) -> tuple[Harmony, ...]:
    """Return a progression with voice leading: each voice takes the nearest next tone."""
    style = STYLES[mood]
    key = tonic + style.shift
    scale = frozenset((key + step) % 12 for step in style.scale)
    before: tuple[int, ...] = tuple(_CENTRE + step for step in (-6, -2, 2, 6))
    cycle = []
    for chord in style.progressions[theme]:
        classes = [(key + chord.root + tone) % 12 for tone in chord.tones]
        before = _lead(before, classes)
        cycle.append(
            Harmony(
                bass=_nearest([key + chord.root], 40),
                voices=before,
                scale=_without_clashes(scale, frozenset(classes)),
                chord=frozenset(classes),
            )
        )
    return tuple(cycle)


def _without_clashes(scale: frozenset[int], chord: frozenset[int]) -> frozenset[int]:
    """Return the scale without tones a semitone from a chord tone."""
    beside = {(tone + step) % 12 for tone in chord for step in (-1, 1)}
    return chord | (scale - beside)


def _lead(before: tuple[int, ...], classes: list[int]) -> tuple[int, ...]:
    """Return the voicing of `classes` nearest to the previous chord and the centre."""
    distinct = list(dict.fromkeys(classes))
    # a triad doubles the tone that lets the voices move least
    doubled = [[*distinct, tone] for tone in distinct] if len(distinct) < _VOICES else [distinct]
    voicings = [_stacked(low, tones) for tones in doubled for low in range(_CENTRE - 12, _CENTRE)]
    return min(voicings, key=lambda voicing: (_moved(before, voicing), voicing))


def _stacked(low: int, classes: list[int]) -> tuple[int, ...]:
    """Return the pitch classes stacked closely from `low` upwards."""
    left, pitches, at = list(classes), list[int](), low
    while left:
        distance, tone = min(((tone - at) % 12, tone) for tone in left)
        left.remove(tone)
        pitches.append(at + distance)
        at += distance + 1
    return tuple(pitches)


def _moved(before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Return the cost of a voice change: squared steps, and distance from the centre."""
    steps = sum((a - b) ** 2 for a, b in zip(before, after, strict=True))
    return steps + 2 * abs(sum(after) / len(after) - _CENTRE)


def nearest(classes: Iterable[int], pitch: int) -> int:
    """Return the nearest pitch to `pitch` of these pitch classes; the lower one at a tie."""
    return _nearest(list(classes), pitch)


def _nearest(classes: list[int], pitch: int) -> int:
    candidates = [pitch + ((c - pitch + 6) % 12) - 6 for c in classes]
    return min(candidates, key=lambda c: (abs(c - pitch), c))

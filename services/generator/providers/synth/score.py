"""Generates the notes of a piece of the synth provider for an interval of time.

A piece is a list of sections on one timeline; each clip added one section. Sections of the same
mood share a theme and a bar grid, so the music continues in mid-bar; their seeds vary the melody.
A section of another mood starts its own bar grid. Every note is a function of its section and its
bar alone, so any interval can be generated again later, to the sample.

Units: seconds on the piece's timeline, pitch in MIDI semitones, velocity full scale 1.0. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from services.generator.providers.synth import theory
from services.generator.providers.synth.theory import BAR_S, Harmony
from services.generator.providers.synth.voices import Note, Voice
from shared.contract.prompt import Mood

TIMELINE_S_MAX = 10_000_000  # a piece of months: the most that a clip's comment may contain
_SECTIONS_MAX = 8
_PHRASE_BARS = 4
_MELODY_CENTRE = 76

_Second = Annotated[int, Field(ge=0, le=TIMELINE_S_MAX)]
_Seed = Annotated[int, Field(ge=0, lt=2**64)]
_Figures = Sequence[Sequence[tuple[float, float]]]  #: rhythms: (beat, beats) of each note


class Section(BaseModel):
    """The part of a piece that one clip added."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_s: _Second
    grid_s: _Second  #: start of its first bar; before `start_s` if it continues a mood
    mood: Mood
    theme: _Seed  #: chooses the progression; kept as long as the mood lasts
    seed: _Seed  #: varies melody and figures


class Piece(BaseModel):
    """A key and the latest sections: enough to continue the music."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tonic: Annotated[int, Field(ge=0, lt=12)]
    sections: Annotated[tuple[Section, ...], Field(max_length=_SECTIONS_MAX)] = ()

    def followed_by(self, mood: Mood, *, seed: int, start_s: int) -> "Piece":
        """Return the piece with a new section that replaces everything from `start_s` on."""
        earlier = tuple(s for s in self.sections if s.start_s < start_s)[1 - _SECTIONS_MAX :]
        last = earlier[-1] if earlier else None
        same = last is not None and last.mood is mood
        section = Section(
            start_s=start_s,
            grid_s=last.grid_s if last and same else start_s,
            mood=mood,
            theme=last.theme if last and same else seed,
            seed=seed,
        )
        return Piece(tonic=self.tonic, sections=(*earlier, section))


class _Bar:
    """One bar: its start, its harmony and its own random generators."""

    def __init__(self, section: Section, index: int, tonic: int) -> None:
        self.start_s = section.grid_s + index * BAR_S
        self.index = index
        self.harmony: Harmony = theory.harmony(
            section.mood, tonic=tonic, theme=section.theme, bar=index
        )
        self.chance = np.random.default_rng([section.seed, index])
        self.phrase = np.random.default_rng([section.seed, index // _PHRASE_BARS, 1])
        style = theory.STYLES[section.mood]
        self.step_s = BAR_S / style.beats
        # Scenes differ in loudness, and a phrase grows: neighbouring clips differ in level.
        force = np.random.default_rng([section.seed, 2]).uniform(0.82, 1.18)
        self.level = style.level * float(force) * (1 + 0.05 * (index % _PHRASE_BARS))

    def note(
        self, voice: Voice, beat: float, pitch: int, beats: float, level: float, pan: float = 0.0
    ) -> Note:
        """Return a note `beat` beats into the bar."""
        return Note(
            voice=voice,
            start_s=self.start_s + beat * self.step_s,
            pitch=pitch,
            length_s=beats * self.step_s,
            velocity=self.level * level * (1 + 0.06 * float(self.chance.uniform(-1, 1))),
            pan=pan,
        )

    def melody(self, voice: Voice, figures: _Figures, level: float) -> Iterator[Note]:
        """Yield a melody over the bar: one rhythm per phrase, its pitches led through the chord."""
        figure = figures[int(self.phrase.integers(len(figures)))]
        arch = (0, 3, 5, -2)[self.index % _PHRASE_BARS]
        at = theory.nearest(self.harmony.chord, _MELODY_CENTRE + arch)
        for place, (beat, beats) in enumerate(figure):
            steady = place % 2 == 0  # every other note rests on the chord, the rest may pass
            classes = self.harmony.chord if steady else self.harmony.scale
            at = theory.nearest(classes, at + int(self.chance.integers(-3, 4)))
            at = min(max(at, _MELODY_CENTRE - 9), _MELODY_CENTRE + 12)
            yield self.note(voice, beat, at, beats, level, pan=0.12)


class _Pattern(Protocol):
    def __call__(self, bar: _Bar) -> Iterator[Note]: ...


def notes(piece: Piece, *, start_s: int, stop_s: int) -> Iterator[Note]:
    """Yield the notes that begin in `[start_s, stop_s)`."""
    sections = piece.sections
    for section, following in pairwise([*sections, None]):
        assert section is not None, "only the last has no follower"
        until_s = following.start_s if following else stop_s
        continues = following is None or following.grid_s == section.grid_s
        for note in _section_notes(section, piece.tonic, max(start_s, section.start_s), stop_s):
            if note.start_s < until_s:
                yield note if continues else note.ending_by(until_s)


def _section_notes(section: Section, tonic: int, start_s: int, stop_s: int) -> Iterator[Note]:
    first = (start_s - section.grid_s) // BAR_S
    last = -((section.grid_s - stop_s) // BAR_S)
    for index in range(max(first, 0), last):
        for note in _PATTERNS[section.mood](_Bar(section, index, tonic)):
            if start_s <= note.start_s < stop_s:
                yield note


def _calm(bar: _Bar) -> Iterator[Note]:
    """A pad that breathes, a felt piano's broken chord, a bell now and then."""
    sound = bar.harmony
    for place, pitch in enumerate(sound.voices):
        yield bar.note(Voice.PAD, 0, pitch, 2, 0.30, pan=(-0.5, 0.4, -0.3, 0.5)[place])
    yield bar.note(Voice.SUB, 0, sound.bass, 1.9, 0.28)
    order = bar.phrase.permutation(4)
    for place, voice in enumerate(order):
        pitch = sound.voices[int(voice)] + (12 if place % 2 else 0)
        yield bar.note(Voice.FELT, place / 2, pitch, 1.2, (0.50, 0.36, 0.42, 0.34)[place], -0.2)
    figures: _Figures = [[(0.5, 1.5)], [(1, 1)], [(0, 1), (1.5, 0.5)]]
    yield from bar.melody(Voice.BELL, figures, 0.20)


def _elegant(bar: _Bar) -> Iterator[Note]:
    """A waltz: bass on one, harp on two and three, strings that sing above."""
    sound = bar.harmony
    yield bar.note(Voice.BASS, 0, sound.bass, 2.7, 0.46)
    for beat in (1, 2):
        for place, pitch in enumerate(sound.voices):
            late = 0.03 * place  # strummed, not struck at once
            yield bar.note(Voice.HARP, beat + late, pitch, 1.0, 0.30, -0.45 + 0.3 * place)
    for place, pitch in enumerate(sound.voices[1:3]):
        yield bar.note(Voice.PAD, 0, pitch, 3, 0.16, pan=(-0.4, 0.4)[place])
    figures: _Figures = [
        [(0, 2), (2, 1)],
        [(0, 1.5), (1.5, 0.5), (2, 1)],
        [(0, 1), (1, 1), (2, 0.5), (2.5, 0.5)],
        [(0, 3)],
    ]
    yield from bar.melody(Voice.STRINGS, figures, 0.34)
    yield bar.note(Voice.FELT, 0, sound.voices[-1] + 12, 1.0, 0.22, 0.3)
    for beat in (1, 2):
        yield bar.note(Voice.SHAKER, beat, 60, 0.5, 0.10, 0.25)


def _professional(bar: _Bar) -> Iterator[Note]:
    """A muted pluck in eighths over a clear pad, a light pulse, a few keys of melody."""
    sound = bar.harmony
    for place, pitch in enumerate(sound.voices):
        yield bar.note(Voice.WIDE, 0, pitch, 4, 0.20, pan=(-0.5, 0.4, -0.3, 0.5)[place])
    shape = ((0, 2, 1, 3, 2, 1, 3, 2), (0, 1, 2, 3, 2, 3, 1, 2))[int(bar.phrase.integers(2))]
    for place, voice in enumerate(shape):
        accent = 0.44 if place % 4 == 0 else 0.31
        pan = -0.35 if place % 2 else 0.35
        yield bar.note(Voice.PLUCK, place / 2, sound.voices[voice] + 12, 0.6, 1.3 * accent, pan)
    for beat, beats in ((0, 1.4), (1.5, 0.5), (2, 1.4), (3.5, 0.5)):
        yield bar.note(Voice.BASS, beat, sound.bass, beats, 0.36)
    figures: _Figures = [[(0.5, 1.5), (2, 1)], [(1, 1), (2, 1.5)], [(0, 1.5), (1.5, 0.5), (2, 2)]]
    yield from bar.melody(Voice.FELT, figures, 0.42)
    for beat in (0, 2):
        yield bar.note(Voice.KICK, beat, 36, 1, 0.42)
    for beat in range(8):
        yield bar.note(Voice.SHAKER, beat / 2, 60, 0.3, 0.10 if beat % 2 else 0.06, -0.2)


def _dramatic(bar: _Bar) -> Iterator[Note]:
    """Low strings in driving sixes, drums on the halves, brass that swells through the bar."""
    sound = bar.harmony
    low = sorted(sound.voices)[:2]
    figure = (0, 1, 0, 2, 1, 0)
    for half in range(12):
        base = sound.bass + 12
        pitch = (base, low[0], low[1])[figure[half % 6]] if half % 2 == 0 else base
        accent = (0.50, 0.27, 0.33)[half % 3]
        yield bar.note(Voice.SPICCATO, half / 2, pitch, 0.45, accent, -0.3)
    yield bar.note(Voice.BASS, 0, sound.bass - 12 + 12 * (sound.bass < 36), 5.5, 0.42)  # noqa: PLR2004
    for place, pitch in enumerate(sound.voices):
        yield bar.note(Voice.BRASS, 0, pitch - 12 * (place == 0), 5.6, 0.24, 0.35 - 0.2 * place)
    figures: _Figures = [[(0, 3), (3, 3)], [(0, 4), (4, 2)], [(0, 3), (3, 2), (5, 1)]]
    yield from bar.melody(Voice.STRINGS, figures, 0.36)
    for beat, level in ((0, 0.58), (3, 0.40), (5, 0.20), (5.5, 0.26)):
        yield bar.note(Voice.TAIKO, beat, 36, 1, level, -0.1)


def _exciting(bar: _Bar) -> Iterator[Note]:
    """Four on the floor, a bright arpeggio in sixteenths, bass in eighths, a horn hook."""
    sound = bar.harmony
    for beat in range(0, 8, 2):
        yield bar.note(Voice.KICK, beat, 36, 1, 0.78)
        yield bar.note(Voice.SHAKER, beat + 1, 60, 0.5, 0.20, 0.2)
    for beat in (2, 6):
        yield bar.note(Voice.CLAP, beat, 60, 0.5, 0.34)
    for half in range(8):
        octave = 12 if half in {3, 7} else 0
        yield bar.note(Voice.BASS, half, sound.bass + octave, 0.8, 0.36)
        yield bar.note(Voice.SHAKER, half + 0.5, 60, 0.3, 0.12, -0.3)
    rise = ((0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 2))[int(bar.phrase.integers(3))]
    for sixteenth in range(16):
        pitch = sound.voices[rise[sixteenth % 4]] + (24 if sixteenth % 8 >= 4 else 12)  # noqa: PLR2004
        accent = 0.36 if sixteenth % 4 == 0 else 0.24
        pan = 0.5 if sixteenth % 2 else -0.5
        yield bar.note(Voice.PLUCK, sixteenth / 2, pitch, 0.5, 1.4 * accent, pan)
    for place, pitch in enumerate(sound.voices):
        yield bar.note(Voice.WIDE, 0, pitch, 8, 0.22, pan=(-0.5, 0.4, -0.3, 0.5)[place])
    figures: _Figures = [
        [(0, 1.5), (1.5, 1.5), (3, 1), (4, 3)],
        [(0, 3), (3, 1.5), (4.5, 1.5), (6, 2)],
        [(0.0, 1), (1.5, 1), (3, 1), (4, 1), (5.5, 2)],
    ]
    yield from bar.melody(Voice.BRASS, figures, 0.40)


_PATTERNS: Mapping[Mood, _Pattern] = {
    Mood.CALM: _calm,
    Mood.ELEGANT: _elegant,
    Mood.PROFESSIONAL: _professional,
    Mood.DRAMATIC: _dramatic,
    Mood.EXCITING: _exciting,
}

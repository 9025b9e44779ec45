"""Summarises a film in slices of half a second: what is seen, what is heard. Pure.

A slice has the mean picture as a grid of 8x4 cells, its movement, and the level and speech of its
sound. Scenes are grouped and described from slices, so a film of ten hours needs 72,000 of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.scene_detection.frame import HEIGHT, WIDTH, Frame

SLICE_S = 0.5
SOUND_RATE = 16_000  #: Hz; what the speech detector reads
SILENCE_DB = -70.0
_ROWS, _COLUMNS = 4, 8


@dataclass(frozen=True, slots=True)
class Slice:
    """Half a second of the film."""

    start_s: float  #: time of its first frame
    picture: npt.NDArray[np.float32]  #: (3, 4, 8): mean of Y, U, V
    contrast: float  #: standard deviation of luma
    motion: float  #: mean dissimilarity of neighbouring frames at 25 frames a second
    level_db: float  #: RMS of the sound, dBFS
    speech: float  #: share of speech, 0 to 1


class Slices:
    """Collects frames and sound, in any order, into slices."""

    def __init__(self) -> None:
        self._pictures: list[npt.NDArray[np.float32]] = []
        self._contrasts: list[float] = []
        self._motions: list[float] = []
        self._counts: list[int] = []
        self._starts: list[float] = []
        self._powers: list[float] = []
        self._last: Frame | None = None

    def add_frame(self, frame: Frame) -> None:
        """Add the next frame."""
        index = int(frame.time_s / SLICE_S)
        while len(self._counts) <= index:
            self._pictures.append(np.zeros((3, _ROWS, _COLUMNS), np.float32))
            self._contrasts.append(0.0)
            self._motions.append(0.0)
            self._counts.append(0)
            self._starts.append(frame.time_s)
        cells = frame.planes.reshape(3, _ROWS, HEIGHT // _ROWS, _COLUMNS, WIDTH // _COLUMNS)
        self._pictures[index] += cells.mean((2, 4))
        self._contrasts[index] += frame.std
        if self._last is not None:
            change = float(np.abs(frame.luma - self._last.luma).mean())
            elapsed_s = max(frame.time_s - self._last.time_s, 1e-3)
            self._motions[index] += min(change * min(0.04 / elapsed_s, 2.0), 1.0)
        self._counts[index] += 1
        self._last = frame

    def add_sound(self, start_s: float, samples: npt.NDArray[np.float32]) -> None:
        """Add sound that begins at `start_s`."""
        slice_samples = int(SLICE_S * SOUND_RATE)
        at = round(start_s * SOUND_RATE)
        taken = 0
        while taken < len(samples):
            index, offset = divmod(at + taken, slice_samples)
            part = samples[taken : taken + slice_samples - offset]
            while len(self._powers) <= index:
                self._powers.append(0.0)
            self._powers[index] += float(np.square(part, dtype=np.float64).sum()) / slice_samples
            taken += len(part)

    def finished(self, length_s: float, speech: Sequence[tuple[float, float]]) -> list[Slice]:
        """Return the slices of a film of `length_s`; `speech` are its passages of speech."""
        count = max(int(np.ceil(length_s / SLICE_S)), 1)
        shares = _speech_shares(count, speech)
        slices: list[Slice] = []
        for index in range(count):
            frames = self._counts[index] if index < len(self._counts) else 0
            if frames == 0 and slices:  # a still picture: the frame of the slice before lasts
                picture, contrast, motion = slices[-1].picture, slices[-1].contrast, 0.0
            elif frames == 0:
                picture, contrast, motion = _GREY, 0.0, 0.0
            else:
                picture = self._pictures[index] / np.float32(frames)
                contrast, motion = self._contrasts[index] / frames, self._motions[index] / frames
            power = self._powers[index] if index < len(self._powers) else 0.0
            level_db = max(10 * np.log10(power), SILENCE_DB) if power > 0 else SILENCE_DB
            start_s = self._starts[index] if frames else index * SLICE_S
            slices.append(Slice(start_s, picture, contrast, motion, float(level_db), shares[index]))
        return slices


_GREY = np.full((3, _ROWS, _COLUMNS), 128, np.float32)


def _speech_shares(count: int, speech: Sequence[tuple[float, float]]) -> list[float]:
    shares = [0.0] * count
    for start_s, end_s in speech:
        for index in range(int(start_s / SLICE_S), min(int(end_s / SLICE_S) + 1, count)):
            inside_s = min(end_s, (index + 1) * SLICE_S) - max(start_s, index * SLICE_S)
            shares[index] += max(inside_s, 0.0) / SLICE_S
    return [min(share, 1.0) for share in shares]

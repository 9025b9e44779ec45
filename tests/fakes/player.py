"""Clips that continue one known piece, in the form that a test chooses.

A source is read as the model does, by the seconds of its file, padding included. So the position
of every sample of the piece on the track is known, however many clips there are.

Units: samples at 32 kHz.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from services.generator.providers import CompositionRequest
from tests.support.audio_builders import PROVIDER_RATE_HZ, mp3, music

_LATE_SAMPLES = 1105  # delay of a file whose header does not give it
Shape = Literal["window", "no_window", "clip_so_far", "track_so_far"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of one clip."""

    shape: Shape = "window"
    header: bool = True
    gain_db: float = 0.0


@dataclass(kw_only=True)
class Player:
    """`clip_of` for a `LedgerProvider`; one form per request, the last one repeats."""

    folder: Path  #: of the store
    forms: Sequence[Form] = (Form(),)
    requests: int = 0
    #: position in the piece of the first decoded sample of a file
    _positions: dict[str, int] = field(default_factory=dict)

    def clip_of(self, request: CompositionRequest) -> bytes:
        """Return the next clip."""
        form = self.forms[min(self.requests, len(self.forms) - 1)]
        self.requests += 1
        start, end = self._span(request, form)
        sound = music(np.arange(start, end), rate_hz=PROVIDER_RATE_HZ)
        file = mp3(sound * np.float32(10 ** (form.gain_db / 20)), header=form.header)
        self._positions[_name(file)] = start - (0 if form.header else _LATE_SAMPLES)
        return file

    def _span(self, request: CompositionRequest, form: Form) -> tuple[int, int]:
        """Return the start and end of the clip in the piece."""
        window = request.window
        if window is None:
            return 0, request.duration_s * PROVIDER_RATE_HZ
        source = self._positions[_name((self.folder / window.clip_key).read_bytes())]
        stop = source + window.end_s * PROVIDER_RATE_HZ
        start = {
            "window": stop - window.length_s * PROVIDER_RATE_HZ,
            "no_window": stop,
            "clip_so_far": source,
            "track_so_far": 0,
        }[form.shape]
        return start, stop + (request.duration_s - window.length_s) * PROVIDER_RATE_HZ


def _name(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()

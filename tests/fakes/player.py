"""A provider that plays one known piece on, in whatever form a test asks for.

It hears a source as a model does, by the seconds of its file, padding included. So it is known
where on the track each sample of the piece belongs, however many clips it takes to get there.

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

_LATE_SAMPLES = 1105  # of a file that does not tell its encoder's delay
Shape = Literal["window", "no_window", "clip_so_far", "track_so_far"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one clip comes."""

    shape: Shape = "window"
    header: bool = True
    gain_db: float = 0.0


@dataclass(kw_only=True)
class Player:
    """`clip_of` for a `LedgerProvider`; `forms` in the order of the requests, the last stays."""

    folder: Path  #: of the store
    forms: Sequence[Form] = (Form(),)
    asked: int = 0
    #: where in the piece the first decoded sample of a file lies
    _places: dict[str, int] = field(default_factory=dict)

    def clip_of(self, request: CompositionRequest) -> bytes:
        """The next clip."""
        form = self.forms[min(self.asked, len(self.forms) - 1)]
        self.asked += 1
        begin, end = self._span(request, form)
        sound = music(np.arange(begin, end), rate_hz=PROVIDER_RATE_HZ)
        file = mp3(sound * np.float32(10 ** (form.gain_db / 20)), header=form.header)
        self._places[_name(file)] = begin - (0 if form.header else _LATE_SAMPLES)
        return file

    def _span(self, request: CompositionRequest, form: Form) -> tuple[int, int]:
        """From where to where the piece is played."""
        window = request.window
        if window is None:
            return 0, request.duration_s * PROVIDER_RATE_HZ
        source = self._places[_name((self.folder / window.clip_key).read_bytes())]
        stop = source + window.end_s * PROVIDER_RATE_HZ
        begin = {
            "window": stop - window.length_s * PROVIDER_RATE_HZ,
            "no_window": stop,
            "clip_so_far": source,
            "track_so_far": 0,
        }[form.shape]
        return begin, stop + (request.duration_s - window.length_s) * PROVIDER_RATE_HZ


def _name(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()

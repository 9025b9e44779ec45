"""Composes clips offline and repeatably, in the form in which the model returns them.

A clip is a section of a piece. The piece (key, sections, position on its timeline) is stored as a
comment in the clip, so a request with a window of that clip continues the piece: same bars, same
chords, and another character from the seam on if the prompt asks for another mood. The comment
is used only if the audio agrees with it; after music from elsewhere a new piece begins in the
detected key while the old music fades in the reverb.

Like the model's, a clip begins with the window, encoded once more, and is normalised to -14 LUFS
as a whole, so the window returns at another level.

Shapes: float32 `(channels, samples)` at 32 kHz. I/O: the store; the work runs in threads.
"""

import hashlib
import warnings
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from services.generator.providers import CompositionRequest, mp3
from services.generator.providers.local import LocalProvider
from services.generator.providers.synth import key_detection, mixing
from services.generator.providers.synth.score import TIMELINE_S_MAX, Piece
from shared.contract.prompt import mood_of
from shared.errors import MediaError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ, SILENT_RMS, Audio, rms, silence
from shared.storage import ObjectStore, StandInWarning

DURATION_S_MAX = 300  # a whole clip is held in memory
_SIGNATURE = "segue-synth-1 "
_SEAM_S = 0.04  # overlap of window and new music before the seam: no click, no dip
_SHORT_S_MAX = 0.02  # a decoder may drop the rest of the last frame; more is an error
_AGREEMENT_MIN = 0.6  # the audio matches the piece in the comment; encoding costs a few hundredths
_OWN_RMS = 0.13  # about the level of our own mixes; music from elsewhere is scaled to it
#: share of music from elsewhere that is sent to the reverb, to ring past the seam
_THROW = np.float32(0.5)


class _Comment(BaseModel):
    """The metadata that a clip carries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin_s: Annotated[int, Field(ge=0, le=TIMELINE_S_MAX)]  #: where in the piece the clip begins
    piece: Piece


class SynthProvider(LocalProvider):
    """A `MusicProvider` that composes. Equal requests get equal bytes."""

    name = "synth"
    model: str | None = "segue-synth-1"

    def __init__(self, store: ObjectStore, *, slots: int = 2) -> None:
        super().__init__(store, slots=slots)
        warnings.warn(
            StandInWarning("music comes from the built-in synthesizer, not from a model"),
            stacklevel=2,
        )

    @override
    async def submit(self, request: CompositionRequest) -> str:
        """Return the id derived from the request; reject one that is too long."""
        if request.duration_s > DURATION_S_MAX:
            raise ProviderRejectedError(
                f"clip too long: {request.duration_s} s; the maximum is {DURATION_S_MAX} s"
            )
        return await super().submit(request)

    @override
    def compose(self, request: CompositionRequest, source: bytes | None) -> bytes:
        """Return the clip of the module's `compose`."""
        return compose(request, source)


def compose(request: CompositionRequest, source: bytes | None) -> bytes:
    """Return the clip for a request; `source` is the clip that contains its window.

    Raises:
        ProviderRejectedError: the window is not in `source`, or `source` is no audio.
    """
    if source is None:
        comment = _added(request, Piece(tonic=request.seed % 12), origin_s=0, seam_s=0)
        audio = mixing.render(comment.piece, start_s=0, stop_s=request.duration_s)
    else:
        audio, comment = _continued(request, source)
    level = np.float32(mixing.normalising_gain(audio))
    return mp3.encode(audio * level, comment=_SIGNATURE + comment.model_dump_json())


def _continued(request: CompositionRequest, source: bytes) -> tuple[Audio, _Comment]:
    """Return the repeated window with the music after it, and the clip's metadata."""
    window = request.window
    assert window is not None, "a source implies a window"
    window_audio = mp3.recoded(_cut(source, window.start_s, window.end_s, key=window.clip_key))
    before = _comment_in(source)
    if before is not None:
        origin_s = before.origin_s + window.start_s
        comment = _added(
            request, before.piece, origin_s=origin_s, seam_s=origin_s + window.length_s
        )
        played = mixing.render(
            comment.piece, start_s=origin_s, stop_s=origin_s + request.duration_s
        )
        last = slice(window_audio.shape[1] - CLIP_RATE_HZ, window_audio.shape[1])
        correlation, level = key_detection.agreement(played[:, last], window_audio[:, last])
        if correlation >= _AGREEMENT_MIN:
            return _joined(window_audio * np.float32(level), played), comment
    piece = Piece(tonic=key_detection.tonic_of(window_audio))
    comment = _added(request, piece, origin_s=0, seam_s=window.length_s)
    played = mixing.render(comment.piece, start_s=0, stop_s=request.duration_s)
    if (loud := rms(window_audio)) > SILENT_RMS:
        window_audio = window_audio * np.float32(_OWN_RMS / loud)
    ringing = silence(played.shape[1])
    ringing[:, : window_audio.shape[1]] = window_audio * _THROW
    return _joined(window_audio, played + mixing.reverberate(ringing)), comment


def _added(request: CompositionRequest, piece: Piece, *, origin_s: int, seam_s: int) -> _Comment:
    """Return the piece with the section that this request adds."""
    fingerprint = hashlib.sha256(f"{request.seed}\n{request.prompt}".encode()).digest()
    seed = int.from_bytes(fingerprint[:8])
    mood = mood_of(request.prompt)
    return _Comment(origin_s=origin_s, piece=piece.followed_by(mood, seed=seed, start_s=seam_s))


def _joined(window_audio: Audio, played: Audio) -> Audio:
    """Return `played` with its head replaced by `window_audio`, blended before the seam."""
    seam, blend = window_audio.shape[1], int(_SEAM_S * CLIP_RATE_HZ)
    rise = np.linspace(0, 1, blend, endpoint=False, dtype=np.float32)
    rise = rise * rise * (3 - 2 * rise)
    audio = played.copy()
    audio[:, : seam - blend] = window_audio[:, : seam - blend]
    edge = slice(seam - blend, seam)
    audio[:, edge] = window_audio[:, edge] * (1 - rise) + played[:, edge] * rise
    return audio


def _cut(source: bytes, start_s: int, end_s: int, *, key: str) -> Audio:
    try:
        audio = decode(source, rate_hz=CLIP_RATE_HZ)
    except MediaError as error:
        raise ProviderRejectedError(f"clip {key} cannot be continued: {error.reason}") from error
    missing = end_s * CLIP_RATE_HZ - audio.shape[1]
    if missing > _SHORT_S_MAX * CLIP_RATE_HZ:
        raise ProviderRejectedError(
            f"clip {key} lasts {audio.shape[1] / CLIP_RATE_HZ:.2f} s, "
            f"but its window ends at {end_s} s"
        )
    if missing > 0:
        audio = np.concatenate([audio, silence(missing)], axis=1)
    return audio[:, start_s * CLIP_RATE_HZ : end_s * CLIP_RATE_HZ]


def _comment_in(source: bytes) -> _Comment | None:
    """Return the metadata of a clip of this provider; None for other music."""
    text = mp3.comment_of(source)
    if not text.startswith(_SIGNATURE):
        return None
    try:
        return _Comment.model_validate_json(text.removeprefix(_SIGNATURE))
    except ValidationError:
        return None

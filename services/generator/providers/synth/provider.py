"""Synth: music made here, offline and repeatable, in the shape in which the model sends it.

A clip is one more stretch of a piece. The piece (key, sections, place on its timeline) travels
as a comment in the clip, so that whoever sends a window of it back hears it go on from there:
same bars, same chords, and another character from the joint on where the prompt asks for
another mood. The comment is believed only where the sound agrees with it; after anybody else's
music a new piece begins, in the key that is heard, while the old music dies away in the room.

As the model's, a clip begins with the window, coded once more, and is brought to -14 LUFS as
a whole, so the window comes back at a level of its own.

Shapes: float32 `(channels, samples)` at 32 kHz. I/O: the store; the work runs in threads.
"""

import asyncio
import hashlib
import time
import warnings
from datetime import datetime
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.generator.providers import Clip, CompositionRequest, mp3
from services.generator.providers.synth import key_detection, mixing
from services.generator.providers.synth.score import TIMELINE_S_MAX, Piece
from services.generator.providers.synth.voices import RATE_HZ
from shared.contract.prompt import mood_of
from shared.errors import MediaError, NotFoundError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import Audio, rms, silence
from shared.storage import ObjectStore, StandInWarning

DURATION_S_MAX = 300  # a clip is made in memory whole
_SIGNATURE = "segue-synth-1 "
_JOINT_S = 0.04  # window and new music overlap so long before the joint: no click, no dip
_SHORT_S_MAX = 0.02  # a decoder may miss a frame's rest at the end; more is not the window
_AGREEMENT_MIN = 0.6  # the piece in the comment is what sounds; coding costs a few hundredths
_OWN_RMS = 0.13  # about the level of our own mixes, for music from elsewhere
_THROW = np.float32(0.5)  # of music from elsewhere into the room, to ring past the joint


class _Comment(BaseModel):
    """What a clip says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin_s: Annotated[int, Field(ge=0, le=TIMELINE_S_MAX)]  #: where in the piece it begins
    piece: Piece


class SynthProvider:
    """A `MusicProvider` that composes. Equal requests get equal bytes."""

    name = "synth"
    model: str | None = "segue-synth-1"
    makes_silence = False

    def __init__(self, store: ObjectStore, *, slots: int = 2) -> None:
        warnings.warn(
            StandInWarning("music comes from the built-in synthesizer, not from a model"),
            stacklevel=2,
        )
        self._store = store
        self._slots = asyncio.Semaphore(slots)

    @property
    def paused(self) -> str | None:
        """Nobody is ever refused."""
        return None

    async def check(self) -> None:
        """There is nobody to ask."""

    async def ready(self, *, within_s: float) -> None:
        """It is always one's turn."""

    async def submit(self, request: CompositionRequest) -> str:
        """The id that the request's own fields make; nothing runs before it is collected."""
        if request.duration_s > DURATION_S_MAX:
            raise ProviderRejectedError(
                f"a clip of {request.duration_s} s was asked for, at most {DURATION_S_MAX} s"
                " can be made"
            )
        return mp3.prediction_id(self.name, request)

    async def find(
        self,
        request: CompositionRequest,
        *,
        since: datetime | None = None,  # noqa: ARG002 - it is computed, not looked up
    ) -> str | None:
        """The same id as from `submit`: nothing that was submitted can be lost."""
        return mp3.prediction_id(self.name, request)

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Compose the clip."""
        if prediction_id != await self.submit(request):
            raise ProviderRejectedError(f"prediction {prediction_id} is not of this request")
        source = await self._source(request)
        async with self._slots:
            begun_s = time.perf_counter()
            data = await asyncio.to_thread(compose, request, source)
        return Clip(
            data=data,
            content_type=mp3.CONTENT_TYPE,
            output_url=None,
            generation_s=time.perf_counter() - begun_s,
            cost_usd=0.0,
        )

    async def cancel(self, prediction_id: str) -> None:
        """Nothing runs that is not being collected."""

    def nudge(self, prediction_id: str) -> None:
        """Nobody waits for news here."""

    async def close(self) -> None:
        """Nothing is held open."""

    async def _source(self, request: CompositionRequest) -> bytes | None:
        if request.window is None:
            return None
        try:
            return await self._store.get(request.window.clip_key)
        except NotFoundError as error:
            raise ProviderRejectedError(
                f"there is no clip {request.window.clip_key} to continue from"
            ) from error


def compose(request: CompositionRequest, source: bytes | None) -> bytes:
    """The clip for a request; `source` is the clip that its window lies in.

    Raises:
        ProviderRejectedError: the window is not in `source`, or that is no sound.
    """
    if source is None:
        comment = _added(request, Piece(tonic=request.seed % 12), origin_s=0, joint_s=0)
        audio = mixing.render(comment.piece, start_s=0, stop_s=request.duration_s)
    else:
        audio, comment = _continued(request, source)
    level = np.float32(mixing.normalising_gain(audio))
    return mp3.encode(audio * level, comment=_SIGNATURE + comment.model_dump_json())


def _continued(request: CompositionRequest, source: bytes) -> tuple[Audio, _Comment]:
    """The window again, and what follows it."""
    window = request.window
    assert window is not None, "there is a source only where there is a window"
    heard = mp3.recoded(_cut(source, window.start_s, window.end_s, key=window.clip_key))
    before = _comment_in(source)
    if before is not None:
        origin_s = before.origin_s + window.start_s
        comment = _added(
            request, before.piece, origin_s=origin_s, joint_s=origin_s + window.length_s
        )
        played = mixing.render(
            comment.piece, start_s=origin_s, stop_s=origin_s + request.duration_s
        )
        last = slice(heard.shape[1] - RATE_HZ, heard.shape[1])
        alike, level = key_detection.agreement(played[:, last], heard[:, last])
        if alike >= _AGREEMENT_MIN:
            return _joined(heard * np.float32(level), played), comment
    piece = Piece(tonic=key_detection.tonic_of(heard))
    comment = _added(request, piece, origin_s=0, joint_s=window.length_s)
    played = mixing.render(comment.piece, start_s=0, stop_s=request.duration_s)
    if (loud := rms(heard)) > mixing.QUIET_RMS:
        heard = heard * np.float32(_OWN_RMS / loud)
    ringing = silence(played.shape[1])
    ringing[:, : heard.shape[1]] = heard * _THROW
    return _joined(heard, played + mixing.in_room(ringing)), comment


def _added(request: CompositionRequest, piece: Piece, *, origin_s: int, joint_s: int) -> _Comment:
    """The piece with the section that this request adds."""
    fingerprint = hashlib.sha256(f"{request.seed}\n{request.prompt}".encode()).digest()
    seed = int.from_bytes(fingerprint[:8])
    mood = mood_of(request.prompt)
    return _Comment(origin_s=origin_s, piece=piece.followed_by(mood, seed=seed, start_s=joint_s))


def _joined(heard: Audio, played: Audio) -> Audio:
    """`heard` in place of the head of `played`, blended over the last moment before the joint."""
    joint, blend = heard.shape[1], int(_JOINT_S * RATE_HZ)
    rise = np.linspace(0, 1, blend, endpoint=False, dtype=np.float32)
    rise = rise * rise * (3 - 2 * rise)
    audio = played.copy()
    audio[:, : joint - blend] = heard[:, : joint - blend]
    edge = slice(joint - blend, joint)
    audio[:, edge] = heard[:, edge] * (1 - rise) + played[:, edge] * rise
    return audio


def _cut(source: bytes, start_s: int, end_s: int, *, key: str) -> Audio:
    try:
        audio = decode(source, rate_hz=RATE_HZ)
    except MediaError as error:
        raise ProviderRejectedError(f"clip {key} cannot be continued: {error.reason}") from error
    missing = end_s * RATE_HZ - audio.shape[1]
    if missing > _SHORT_S_MAX * RATE_HZ:
        raise ProviderRejectedError(
            f"clip {key} lasts {audio.shape[1] / RATE_HZ:.2f} s, its window would end at {end_s} s"
        )
    if missing > 0:
        audio = np.concatenate([audio, silence(missing)], axis=1)
    return audio[:, start_s * RATE_HZ : end_s * RATE_HZ]


def _comment_in(source: bytes) -> _Comment | None:
    """What one of our clips says of itself; None for music from elsewhere."""
    text = mp3.comment_of(source)
    if not text.startswith(_SIGNATURE):
        return None
    try:
        return _Comment.model_validate_json(text.removeprefix(_SIGNATURE))
    except ValidationError:
        return None

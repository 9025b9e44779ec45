"""Defines the `MusicProvider` port: one request in, one clip out, paid for once.

Adapters: `local.py` for those that compose on this machine (`silence.py`, `synth/`) and
`replicate/` (MusicGen over HTTP).

Every provider returns 32 kHz stereo of `duration_s` whole seconds, window included, without
clipped peaks, and silent only if `makes_silence`. The same id always returns the same clip, and
requests that differ in anything audible get different ids.

`services/generator/clip/quality.py` is the acceptance check of every clip. It also accepts clips
without the window and cumulative tracks, and measures where the new music begins; the caller
never assumes it.

`synth` also imitates MusicGen, so that the callers are tested with its output: an MP3 of 96 kb/s
that begins with a re-synthesis of the window and is normalised to -14 LUFS as a whole, so that the
window returns at another level. Another provider need not. `tests/contract/test_music_provider.py`
tests both parts separately.

Only `submit` costs money. It is separate from the other steps so that a claim can be created
before it and an id stored after it (`services/generator/composition/claims.py`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

WINDOW_S_MAX = 30  #: MusicGen rejects longer windows (its training length)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationWindow:
    """The part `[start_s, end_s)` of an earlier clip that the new clip continues."""

    clip_key: str  #: key of the clip in our store, as the provider sent it
    clip_url: str | None  #: the provider's own URL of the clip; expires after an hour
    start_s: int  #: whole seconds into the clip
    end_s: int  #: whole seconds; at most the clip's measured length
    #: when `clip_url` was created, Unix seconds; None: unknown, so check before use
    clip_url_born_at: float | None = None
    clip_sha256: str | None = None  #: hash of the clip's bytes; None: not recorded

    @property
    def length_s(self) -> int:
        """Return the seconds of old music at the head of the clip to come."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionRequest:
    """A request for one clip. Equal requests may get equal clips."""

    prompt: str  #: text; the audio to continue is the window
    duration_s: int  #: whole seconds of the clip, window included
    window: ContinuationWindow | None  #: None: nothing is continued
    seed: int  #: 1 to 2**32 - 1, unique per attempt: identifies a prediction whose id was lost
    #: reject the request if the window's clip cannot be sent
    must_continue: bool = False
    job_id: str = ""  #: for webhooks only; has no influence on the music

    def __post_init__(self) -> None:
        """Reject values for which the model fails after it was paid."""
        window_s = 0
        if self.window is not None:
            window_s = self.window.length_s
            start, end = self.window.start_s, self.window.end_s
            if start < 0 or not 0 < window_s <= WINDOW_S_MAX:
                raise ValueError(f"window [{start}, {end}) s is empty, too long or negative")
        if self.duration_s <= window_s:
            raise ValueError(
                f"duration {self.duration_s} s leaves nothing after a {window_s} s window"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip as the provider returned it, with the provider's metadata."""

    data: bytes
    content_type: str
    output_url: str | None  #: the provider's temporary URL of the clip; None: there is none
    generation_s: float | None  #: compute seconds the provider reported
    cost_usd: float | None  #: what the provider charged; None: unknown
    #: when `output_url` was created, Unix seconds; None: unknown
    output_url_born_at: float | None = None
    is_foreign: bool = False  #: it was downloaded: its bytes are untrusted
    #: False: the window could not be sent, so the clip repeats nothing; see `warnings`
    continued: bool = True
    warnings: tuple[str, ...] = ()  #: deviations from the request, for the job's status


class MusicProvider(Protocol):
    """Composes clips. Safe to call from many lanes at once."""

    name: str  #: as in events and settings
    model: str | None  #: the model's version, as in events
    makes_silence: bool  #: its clips are silent: they are not continued and need no music check

    @property
    def paused(self) -> str | None:
        """Return why the provider rejects all requests (no key, no credit); None if it does not."""
        ...

    async def check(self) -> None:
        """Check whether a pause is over, if there is one and the check is due; free of charge.

        Raises:
            ProviderPausedError: it is not over.
            ProviderBusyError: the provider did not answer.
        """
        ...

    async def ready(self, *, within_s: float) -> None:
        """Wait for a permit to submit; free of charge. Called before the claim is created.

        Raises:
            ProviderBusyError: no permit in time, or the provider is paused.
        """
        ...

    async def submit(self, request: CompositionRequest) -> str:
        """Start the composition and return the prediction's id. This step costs money.

        Raises:
            ProviderBusyError: retryable; nothing was started.
            ProviderRejectedError: this request can never succeed.
        """
        ...

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """Return the id of the prediction submitted for this request; None if there is none.

        Used when the response to `submit` was lost; `since` is when the claim was created.
        """
        ...

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Wait for the prediction and return its clip; free of charge, may be repeated.

        Raises:
            ProviderBusyError: retryable; the prediction still runs or its output still exists.
            ProviderRejectedError: the prediction failed, timed out, or its output is gone.
        """
        ...

    async def cancel(self, prediction_id: str) -> None:
        """Cancel a running prediction; do nothing if it ended already."""
        ...

    def nudge(self, prediction_id: str) -> None:
        """Poll the prediction now: a webhook reported its end. The report is not trusted."""
        ...

    async def close(self) -> None:
        """Close connections and threads."""
        ...

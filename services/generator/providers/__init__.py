"""Music providers: one request in, one clip out, paid for once.

Adapters: `synth` (offline, repeatable, audible), `silence` (the right length of nothing) and
`replicate` (MusicGen over HTTP). All pass `tests/contract/test_music_provider.py` and
keep MusicGen's contract: whole seconds only; `duration_s` counts the window; what comes back
begins with a re-synthesis of the window at a level of its own; 32 kHz stereo MP3, normalised
per clip. Whoever joins clips measures; nobody assumes.

The paid step stands alone: `submit` costs money, everything else is free, so that a claim can
be made before it and an id written down after it (`services/generator/composition/claims.py`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

WINDOW_S_MAX = 30  #: longer windows MusicGen refuses (its training length)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationWindow:
    """The stretch of an earlier clip that the new one continues: `[start_s, end_s)` of it."""

    clip_key: str  #: the clip in our store, as the provider sent it
    clip_url: str | None  #: where the provider may still have it; dies after an hour
    start_s: int  #: whole seconds into the clip
    end_s: int  #: whole seconds; at most the clip's measured length
    #: since when the provider has it, seconds of Unix time; None: unknown, so ask before use
    clip_url_born_at: float | None = None
    clip_sha256: str | None = None  #: of the clip's bytes; None: not written down

    @property
    def length_s(self) -> int:
        """Seconds of old music at the head of what will come back."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionRequest:
    """What one clip is asked for. Equal requests may be answered by equal clips."""

    prompt: str  #: text; the audio a clip continues is the window, never "prompt"
    duration_s: int  #: whole seconds of what comes back, window included
    window: ContinuationWindow | None  #: None: begin anew
    seed: int  #: 1 to 2**32 - 1, unique to this try: a lost prediction is found by it
    #: refuse rather than begin anew where the window's clip cannot be sent
    must_continue: bool = False
    job_id: str = ""  #: whose it is, for news of it; says nothing about the music

    def __post_init__(self) -> None:
        """Refuse what the model would answer with an obscure fault, before it costs anything."""
        window_s = 0
        if self.window is not None:
            window_s = self.window.length_s
            start, end = self.window.start_s, self.window.end_s
            if start < 0 or not 0 < window_s <= WINDOW_S_MAX:
                raise ValueError(f"window [{start}, {end}) s is empty, long or negative")
        if self.duration_s <= window_s:
            raise ValueError(
                f"duration {self.duration_s} s leaves nothing after a {window_s} s window"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a provider sent: the bytes, and what it said of them."""

    data: bytes
    content_type: str
    output_url: str | None  #: where the provider keeps it for a while; None: nowhere
    generation_s: float | None  #: seconds of work the provider counted
    cost_usd: float | None  #: what it charged, as far as known
    #: since when it lies at `output_url`, seconds of Unix time; None: unknown
    output_url_born_at: float | None = None
    #: False: the window could not be sent, so nothing in front is a repeat; `warnings` say why
    continued: bool = True
    warnings: tuple[str, ...] = ()  #: for the status: what was done otherwise than asked


class MusicProvider(Protocol):
    """Makes music. Safe to call from many lanes at once."""

    name: str  #: as it stands in events and settings
    model: str | None  #: which model answers, for the record
    makes_silence: bool  #: its clips are nothing to continue from

    @property
    def paused(self) -> str | None:
        """Why everyone is refused until a person acts; None: nobody is, as far as is known."""
        ...

    async def check(self) -> None:
        """Ask whether a refusal still holds, if there is one and it is time to ask; free.

        Raises:
            ProviderPausedError: it does.
            ProviderBusyError: nobody answered.
        """
        ...

    async def ready(self, *, within_s: float) -> None:
        """Wait for a turn to submit; free, and before the claim, so that no claim grows old.

        Raises:
            ProviderBusyError: no turn came in time, or everyone is refused.
        """
        ...

    async def submit(self, request: CompositionRequest) -> str:
        """Start the composition; the id of the prediction. This is what costs.

        Raises:
            ProviderBusyError: retryable; nothing was started.
            ProviderRejectedError: this request can never succeed.
        """
        ...

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """The id of a prediction that was submitted for exactly this request; None: there is none.

        For the case that the answer to `submit` was lost; `since` is when it was claimed.
        """
        ...

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Wait for the prediction and fetch its clip; may be repeated, costs nothing.

        Raises:
            ProviderBusyError: retryable; the prediction is still running or still there.
            ProviderRejectedError: the prediction failed, timed out, or its output is gone.
        """
        ...

    async def cancel(self, prediction_id: str) -> None:
        """Stop a running prediction; nothing happens when it ended already."""
        ...

    def nudge(self, prediction_id: str) -> None:
        """Somebody says that it ended: whoever waits for it looks now. Believed in nothing else."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...

"""The common part of the providers that compose on this machine: free, never paused, not limited.

A new one is a name and a `compose`; `silence.py` is the shortest example. The id of a prediction
is derived from its request, so a prediction cannot be lost; the clip is composed when it is
collected.

I/O: the store; `compose` runs in threads.
"""

import asyncio
import hashlib
import json
import time
from abc import abstractmethod
from datetime import datetime

from typing_extensions import override

from services.generator.providers import Clip, CompositionRequest, MusicProvider, mp3
from shared.errors import NotFoundError, ProviderRejectedError
from shared.storage import ObjectStore


class LocalProvider(MusicProvider):
    """Implements `MusicProvider` except for the name, the model and `compose`."""

    makes_silence = False

    def __init__(self, store: ObjectStore | None = None, *, slots: int = 2) -> None:
        """`store` None: windows are ignored; `slots`: clips composed at the same time."""
        self._store = store
        self._slots = asyncio.Semaphore(slots)

    @abstractmethod
    def compose(self, request: CompositionRequest, source: bytes | None) -> bytes:
        """Return the clip, an MP3 file; equal arguments give equal bytes. Runs in a thread.

        `source` is the clip that contains the request's window; None if nothing is continued.

        Raises:
            ProviderRejectedError: the window cannot be continued.
        """

    @property
    @override
    def paused(self) -> str | None:
        """Return None: this provider is never paused."""
        return None

    @override
    async def check(self) -> None:
        """Do nothing: there is no remote service."""

    @override
    async def ready(self, *, within_s: float) -> None:
        """Return at once: there is no rate limit."""

    @override
    async def submit(self, request: CompositionRequest) -> str:
        """Return the id derived from the request; nothing runs before `collect`."""
        return self._prediction_id(request)

    @override
    async def find(
        self,
        request: CompositionRequest,
        *,
        since: datetime | None = None,
    ) -> str | None:
        """Return the same id as `submit`."""
        return self._prediction_id(request)

    @override
    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Compose and return the clip.

        Raises:
            ProviderRejectedError: the prediction belongs to another request, or the clip to
                continue is missing or unusable.
        """
        if prediction_id != await self.submit(request):
            raise ProviderRejectedError(
                f"prediction {prediction_id} does not belong to this request"
            )
        source = await self._source(request)
        async with self._slots:
            started_s = time.perf_counter()
            data = await asyncio.to_thread(self.compose, request, source)
        return Clip(
            data=data,
            content_type=mp3.CONTENT_TYPE,
            output_url=None,
            generation_s=0.0 if self.makes_silence else time.perf_counter() - started_s,
            cost_usd=0.0,
        )

    @override
    async def cancel(self, prediction_id: str) -> None:
        """Do nothing: a prediction only runs while it is collected."""

    @override
    def nudge(self, prediction_id: str) -> None:
        """Do nothing: nothing is polled."""

    @override
    async def close(self) -> None:
        """Do nothing: no resource is held open."""

    async def _source(self, request: CompositionRequest) -> bytes | None:
        if request.window is None or self._store is None:
            return None
        try:
            return await self._store.get(request.window.clip_key)
        except NotFoundError as error:
            raise ProviderRejectedError(
                f"clip to continue not found: {request.window.clip_key}"
            ) from error

    def _prediction_id(self, request: CompositionRequest) -> str:
        """Return an id unique to this request; other URLs of its window do not change it."""
        window = request.window
        span = [window.clip_key, window.start_s, window.end_s] if window else None
        fields = json.dumps([request.prompt, request.duration_s, request.seed, span])
        return f"{self.name}-{hashlib.sha256(fields.encode()).hexdigest()[:32]}"

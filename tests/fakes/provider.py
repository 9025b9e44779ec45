"""A scripted music provider that records every charge."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from services.generator.providers import Clip, CompositionRequest
from shared.errors import ProviderRejectedError


@dataclass
class LedgerProvider:
    """Returns `clip_of(request)`; `charged` lists every request that was paid for.

    `before_submit` and `after_submit` are called around the charge, so that a test can block,
    reject, or lose the response; `forgets` makes `find` return None.
    """

    clip_of: Callable[[CompositionRequest], bytes]
    name: str = "ledger"
    model: str | None = "ledger-1"
    makes_silence: bool = False
    forgets: bool = False
    charged: list[CompositionRequest] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    nudged: list[str] = field(default_factory=list)
    reject: dict[int, ProviderRejectedError] = field(default_factory=dict)
    before_submit: Callable[[], object] | None = None
    after_submit: Callable[[], object] | None = None

    @property
    def paused(self) -> str | None:
        """Return None: every request is accepted."""
        return None

    async def check(self) -> None:
        """Return at once: it is available."""

    async def ready(self, *, within_s: float) -> None:
        """Return at once: there is no rate limit."""

    async def submit(self, request: CompositionRequest) -> str:
        """Charge the request and return its id."""
        if self.before_submit is not None:
            self.before_submit()
        self.charged.append(request)
        if self.after_submit is not None:
            self.after_submit()
        return f"prediction-{request.seed}"

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """Return the id if the seed was charged."""
        is_charged = any(paid.seed == request.seed for paid in self.charged)
        return f"prediction-{request.seed}" if is_charged and not self.forgets else None

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Return the clip; raise the error that `reject` has for the n-th charge."""
        await asyncio.sleep(0)
        self.collected.append(prediction_id)
        paid = [f"prediction-{charged.seed}" for charged in self.charged]
        number = paid.index(prediction_id) + 1
        if number in self.reject:
            raise self.reject[number]
        return Clip(
            data=self.clip_of(request),
            content_type="audio/mpeg",
            output_url=None,
            generation_s=1.0,
            cost_usd=0.01,
        )

    async def cancel(self, prediction_id: str) -> None:
        """Record the call."""
        self.cancelled.append(prediction_id)

    def nudge(self, prediction_id: str) -> None:
        """Record the call."""
        self.nudged.append(prediction_id)

    async def close(self) -> None:
        """Nothing to close."""

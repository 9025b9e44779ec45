"""A scripted music provider with a ledger of what was charged."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from services.generator.providers import Clip, CompositionRequest
from shared.errors import ProviderRejectedError


@dataclass
class LedgerProvider:
    """Answers with `clip_of(request)`; `charged` lists every request that was paid for.

    `before_submit` and `after_submit` are awaited around the charge, so that a test can freeze,
    refuse, or lose the answer; `forgets` makes `find` find nothing.
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
        """Nobody is refused."""
        return None

    async def check(self) -> None:
        """There is nobody to ask."""

    async def ready(self, *, within_s: float) -> None:
        """It is always one's turn."""

    async def submit(self, request: CompositionRequest) -> str:
        """Charge, and answer with the id."""
        if self.before_submit is not None:
            self.before_submit()
        self.charged.append(request)
        if self.after_submit is not None:
            self.after_submit()
        return f"prediction-{request.seed}"

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """The id, if the seed was charged."""
        known = any(paid.seed == request.seed for paid in self.charged)
        return f"prediction-{request.seed}" if known and not self.forgets else None

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """The clip, or what the script says; the n-th charge is rejected if `reject` has n."""
        await asyncio.sleep(0)
        self.collected.append(prediction_id)
        paid = [f"prediction-{one.seed}" for one in self.charged]
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
        """Note it."""
        self.cancelled.append(prediction_id)

    def nudge(self, prediction_id: str) -> None:
        """Note it."""
        self.nudged.append(prediction_id)

    async def close(self) -> None:
        """Nothing is held."""

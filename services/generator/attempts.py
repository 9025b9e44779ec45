"""Attempts: from a request to a clip that passes, paid for once and not given up lightly.

Each attempt has a claim and a seed of its own. A provider that is busy is waited for; a
prediction that failed, or a clip that cannot be used, is tried again with a new seed; a run
that is no longer wanted stops at once and its prediction is cancelled.

I/O: the provider, through claims.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from services.generator.claims import Claims, Prediction, SceneRef
from services.generator.inspection import AskedFor, Inspection
from services.generator.interrupts import Interrupts
from services.generator.providers import Clip, MusicProvider
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.errors import (
    JobError,
    ProviderBusyError,
    ProviderPausedError,
    ProviderRejectedError,
)
from shared.retry import RetryPolicy
from shared.telemetry.log import Logger
from shared.telemetry.metrics import PREDICTIONS_TOTAL

Step = Callable[[], Awaitable[None]]
BUSY = RetryPolicy(first_s=1.0, max_s=30.0)
CLAIMS_MAX = 1000  # of one scene: a provider that was busy so often is down


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A clip that passed, and how it came about."""

    clip: Clip
    clip_samples: int
    old_samples: int  #: where the new music begins in the clip, as measured
    prediction: Prediction
    attempt: int
    cost_usd: float | None  #: of all attempts, the failed ones included
    failed: tuple[str, ...] = ()  #: why earlier attempts were not taken


@dataclass(kw_only=True)
class Attempts:
    """Makes clips; safe to call from many lanes at once."""

    provider: MusicProvider
    claims: Claims
    interrupts: Interrupts
    inspection: Inspection
    settings: GeneratorSettings
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Bound what is under way at the provider."""
        self._slots = asyncio.Semaphore(self.settings.slots)

    async def clip(self, scene: SceneRef, asked: AskedFor, *, before_paying: Step) -> Made:
        """A clip for what is asked, from as many attempts as it takes.

        Raises:
            ProviderRejectedError: it cannot be made, or not in time.
            RunEndedError: the run is no longer wanted.
        """
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        failed: list[str] = []
        busy, attempt, spent_usd = 0, 1, 0.0
        while attempt <= CLAIMS_MAX:
            try:
                async with self._slots:
                    made = await self._attempt(scene, attempt, asked, before_paying)
            except ProviderBusyError as error:
                busy += 1  # the same attempt again: a claim it may have left is void, and passed by
                await self._wait(error, busy, deadline)
                continue
            except JobError as error:
                failed.append(f"attempt {len(failed) + 1}: {error.reason}")
                spent_usd += getattr(error, "cost_usd", None) or 0.0
                if not error.retryable or len(failed) >= self.settings.scene_attempts_max:
                    raise
                attempt += 1
                continue
            if made is not None:
                cost_usd = (made.cost_usd or 0.0) + spent_usd if spent_usd else made.cost_usd
                return replace(made, failed=tuple(failed), cost_usd=cost_usd)
            attempt += 1
        raise ProviderRejectedError(f"no answer in {CLAIMS_MAX} attempts", retryable=True)

    async def _attempt(
        self, scene: SceneRef, attempt: int, asked: AskedFor, before_paying: Step
    ) -> Made | None:
        """One claim followed to its clip; None if it led to nothing."""
        prediction = await self.claims.prediction(
            scene, attempt, asked.request, before_paying=before_paying
        )
        if prediction is None:
            return None
        if prediction.adopted:
            self.log.info(
                "prediction taken up again",
                action="scene.reattached",
                job_id=scene.job_id,
                run=scene.run,
                scene_index=scene.scene_index,
            )
        else:
            PREDICTIONS_TOTAL.labels(self.provider.name).inc()
        clip = await self.interrupts.unless_ended(
            scene.job_id,
            scene.run,
            self._collect(prediction),
            on_end=lambda: self.provider.cancel(prediction.id),
        )
        measured, found = await self.inspection.passed(
            clip, asked, musical=not self.provider.makes_silence
        )
        return Made(
            clip=clip,
            clip_samples=measured,
            old_samples=found.old_samples,
            prediction=prediction,
            attempt=attempt,
            cost_usd=clip.cost_usd,
        )

    async def _collect(self, prediction: Prediction) -> Clip:
        """The clip of a prediction that exists; a busy provider is asked again for the same."""
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        busy = 0
        while True:
            try:
                return await self.provider.collect(prediction.id, prediction.request)
            except ProviderBusyError as error:
                busy += 1
                await self._wait(error, busy, deadline)

    async def _wait(self, error: ProviderBusyError, busy: int, deadline: float) -> None:
        """Wait as long as was asked for, or our own backoff, but not beyond the deadline."""
        delay_s = BUSY.delay_s(busy, asked_s=error.retry_after_s, chance=self.chance)
        if isinstance(error, ProviderPausedError):  # a person is needed: no deadline helps
            self.log.warning(
                "provider refuses everyone", action="provider.paused", reason=str(error)
            )
        elif self.clock.monotonic() + delay_s > deadline:
            raise ProviderRejectedError(str(error), retryable=True) from error
        await self.clock.sleep(delay_s)

"""Attempts: from a request to a clip that passes, paid for once and not given up lightly.

Each attempt has a claim and a seed of its own. A provider that is busy is waited for; a
prediction that failed, or a clip that cannot be used, is tried again with a new seed; a run
that is no longer wanted stops at once and its prediction is cancelled.

I/O: the provider, through claims.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from services.generator.clip.inspection import AskedFor, Inspection
from services.generator.clip.quality import Recognised, Shape
from services.generator.composition.cancellation import Interrupts
from services.generator.composition.claims import Claims, Prediction
from services.generator.composition.delay_notices import Delays
from services.generator.providers import Clip, MusicProvider
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.cost_estimate import estimate, fits_budget
from shared.errors import (
    JobError,
    ProviderBusyError,
    ProviderPausedError,
    ProviderRejectedError,
)
from shared.processing.retry import RetryPolicy
from shared.processing.slots import Slots
from shared.telemetry import trace
from shared.telemetry.log import Logger
from shared.telemetry.metrics import (
    CALLS_TOTAL,
    COST_USD_TOTAL,
    PREDICTIONS_IN_FLIGHT,
    PREDICTIONS_TOTAL,
    SCENES_WAITING,
    WAITED_SECONDS_TOTAL,
    WORK_DEDUPLICATED_TOTAL,
)

Step = Callable[[], Awaitable[None]]
BUSY = RetryPolicy(first_s=1.0, max_s=30.0)
CLAIMS_MAX = 1000  # of one scene: a provider that was busy so often is down


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A clip that passed, and how it came about."""

    clip: Clip
    clip_samples: int
    old_samples: int  #: where the new music begins in the clip, as measured
    padding_samples: int = 0  #: of them, nothing: the file does not tell how much to cut off
    replaces: bool = False  #: a cumulative track
    prediction: Prediction
    attempt: int
    cost_usd: float | None  #: of all attempts, the failed ones included
    failed: tuple[str, ...] = ()  #: why earlier attempts were not taken


@dataclass(slots=True, kw_only=True)
class Spending:
    """What a run has spent, and may; grows with each attempt that is not taken."""

    max_usd: float | None = None  #: None: as much as it takes
    spent_usd: float = 0.0  #: by the scenes before
    scene_usd: float | None = None  #: by failed attempts at this one; None: nothing known

    def paid(self, usd: float | None) -> None:
        """An attempt that is not taken cost so much."""
        if usd is not None:
            self.scene_usd = (self.scene_usd or 0.0) + usd

    def check(self, next_usd: float) -> None:
        """Return if one more attempt may be paid for.

        Raises:
            MaxCostError: it may not.
        """
        spent = self.spent_usd + (self.scene_usd or 0.0)
        if not fits_budget(self.max_usd, spent_usd=spent, next_usd=next_usd):
            raise MaxCostError(
                f"max_cost of ${self.max_usd:.4f} is reached: ${spent:.4f} are spent, and the next"
                f" clip may cost ${next_usd:.4f}"
            )


class MaxCostError(JobError):
    """The run may not spend as much as it would take."""

    code = "max_cost_reached"


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
    delays: Delays | None = None  #: None: waits are nobody's business
    chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Bound what is under way at the provider; the first dollar is to be an increase."""
        COST_USD_TOTAL.labels(self.provider.name)
        self.slots = Slots(self.settings.slots)

    async def has_begun(self, scene: SceneRef) -> bool:
        """Whether an attempt was claimed: its prediction may be paid for."""
        return await self.claims.is_claimed(scene, 1)

    async def clip(
        self,
        scene: SceneRef,
        asked: AskedFor,
        *,
        before_paying: Step,
        spending: Spending | None = None,
    ) -> Made:
        """A clip for what is asked, from as many attempts as it takes.

        Raises:
            ProviderRejectedError: it cannot be made, or not in time.
            MaxCostError: it would cost more than the run may spend.
            RunEndedError: the run is no longer wanted.
        """
        spending = spending or Spending()
        try:
            made = await self._made(scene, asked, before_paying, spending)
        except JobError as error:
            error.cost_usd = spending.scene_usd
            raise
        finally:
            COST_USD_TOTAL.labels(self.provider.name).inc(spending.scene_usd or 0.0)
        COST_USD_TOTAL.labels(self.provider.name).inc(made.cost_usd or 0.0)
        if spending.scene_usd is None:
            return made
        return replace(made, cost_usd=(made.cost_usd or 0.0) + spending.scene_usd)

    async def _made(
        self, scene: SceneRef, asked: AskedFor, before_paying: Step, spending: Spending
    ) -> Made:
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        failed: list[str] = []
        busy, attempt = 0, 1
        while attempt <= CLAIMS_MAX:
            await self._afford(scene, attempt, asked, spending)
            tried = self.clock.monotonic()
            try:
                async with self.slots:
                    deadline += self.clock.monotonic() - tried  # our own line is not the provider
                    tried = self.clock.monotonic()
                    made = await self._attempt(scene, attempt, asked, before_paying)
            except ProviderBusyError as error:
                self._count("paused" if isinstance(error, ProviderPausedError) else "busy")
                busy += 1  # the same attempt again: a claim it may have left is void, and passed by
                deadline = await self._wait(scene, error, busy, deadline, since=tried)
                continue
            except JobError as error:
                self._count("failed")
                failed.append(f"attempt {len(failed) + 1}: {error.reason}")
                spending.paid(error.cost_usd)
                if not error.retryable or len(failed) >= self.settings.scene_attempts_max:
                    raise
                attempt += 1
                continue
            self._count("void" if made is None else "made")
            if made is not None:
                return replace(made, failed=tuple(failed))
            attempt += 1
        raise ProviderRejectedError(f"no answer in {CLAIMS_MAX} attempts", retryable=True)

    async def _afford(
        self, scene: SceneRef, attempt: int, asked: AskedFor, spending: Spending
    ) -> None:
        """Return if this attempt may be paid for; what was claimed may be paid for already.

        Before the claim, and before the provider is asked for a turn: neither is to be wasted.
        """
        if spending.max_usd is None or await self.claims.is_claimed(scene, attempt):
            return
        one_clip = estimate(
            [asked.request.duration_s],
            window_s=0,
            provider=self.provider.name,
            usd_per_s=self.settings.replicate.usd_per_s,
        )
        spending.check(one_clip.cost_usd)

    async def _attempt(
        self, scene: SceneRef, attempt: int, asked: AskedFor, before_paying: Step
    ) -> Made | None:
        """One claim followed to its clip; None if it led to nothing."""
        prediction = await self.claims.prediction(
            scene, attempt, asked.request, before_paying=before_paying
        )
        if prediction is None:
            return None
        if self.delays is not None:
            await self.delays.goes_on(scene)
        if prediction.adopted:
            WORK_DEDUPLICATED_TOTAL.labels("generator", "adopted").inc()
            self.log.info(
                "prediction taken up again",
                action="scene.reattached",
                job_id=scene.job_id,
                run=scene.run,
                scene_index=scene.scene_index,
            )
        else:
            PREDICTIONS_TOTAL.labels(self.provider.name).inc()
        with PREDICTIONS_IN_FLIGHT.labels(self.provider.name).track_inprogress():
            clip = await self.interrupts.unless_ended(
                scene.job_id,
                scene.run,
                self._collect(scene, prediction),
                on_end=lambda: self.provider.cancel(prediction.id),
            )
        try:
            measured, found = await self.inspection.passed(
                clip, asked, musical=not self.provider.makes_silence
            )
        except JobError as error:
            error.cost_usd = clip.cost_usd  # of no use, and paid for
            raise
        self._tell(clip, measured, found)
        return Made(
            clip=clip,
            clip_samples=measured,
            old_samples=found.old_samples,
            padding_samples=found.padding_samples,
            replaces=found.shape is Shape.CUMULATIVE,
            prediction=prediction,
            attempt=attempt,
            cost_usd=clip.cost_usd,
        )

    def _tell(self, clip: Clip, samples: int, found: Recognised) -> None:
        self.log.debug(
            "clip can be used",
            action="clip.measured",
            size_bytes=len(clip.data),
            samples=samples,
            shape=found.shape.value,
            old_samples=found.old_samples,
            padding_samples=found.padding_samples,
        )

    async def _collect(self, scene: SceneRef, prediction: Prediction) -> Clip:
        """The clip of a prediction that exists; a busy provider is asked again for the same."""
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        busy = 0
        while True:
            try:
                with trace.span("provider collect", {"segue.provider": self.provider.name}):
                    clip = await self.provider.collect(prediction.id, prediction.request)
            except ProviderBusyError as error:
                busy += 1
                now = self.clock.monotonic()
                deadline = await self._wait(scene, error, busy, deadline, since=now)
            else:
                if self.delays is not None:
                    await self.delays.goes_on(scene)
                return clip

    async def _wait(
        self, scene: SceneRef, error: ProviderBusyError, busy: int, deadline: float, *, since: float
    ) -> float:
        """Wait as long as was asked for, or our own backoff, but not beyond the deadline.

        The deadline from here on: a pause moves it, for a person is needed, and it would be over
        when the provider serves again and everyone comes at once.
        """
        delay_s = BUSY.delay_s(busy, asked_s=error.retry_after_s, chance=self.chance)
        paused = isinstance(error, ProviderPausedError)
        if paused:
            self.log.warning(
                "provider refuses everyone", action="provider.paused", reason=str(error)
            )
        elif self.clock.monotonic() + delay_s > deadline:
            raise ProviderRejectedError(str(error), retryable=True) from error
        if self.delays is not None:
            await self.delays.waits(scene, error, for_s=delay_s, since=since)
        why = "paused" if paused else "busy"
        WAITED_SECONDS_TOTAL.labels(self.provider.name, why).inc(delay_s)
        with SCENES_WAITING.labels(self.provider.name, why).track_inprogress():
            await self.clock.sleep(delay_s)
        return deadline + (self.clock.monotonic() - since if paused else 0.0)

    def _count(self, outcome: str) -> None:
        CALLS_TOTAL.labels(self.provider.name, outcome).inc()

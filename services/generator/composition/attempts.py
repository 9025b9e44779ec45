"""Composes a usable clip for a request, in as many paid attempts as allowed.

Each attempt has its own claim and seed. A busy provider is retried; a failed prediction or an
unusable clip is retried with a new seed; if the run ends, its prediction is cancelled at once.

I/O: the provider, through claims.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from services.generator.clip.inspection import ClipInspector, ClipSpec
from services.generator.clip.quality import RecognisedClip, Shape
from services.generator.composition.claims import Claims, Prediction
from services.generator.composition.delay_notices import DelayNotices
from services.generator.providers import Clip, MusicProvider
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.cost_estimate import dollars, estimate, fits_budget
from shared.errors import (
    JobError,
    ProviderBusyError,
    ProviderPausedError,
    ProviderRejectedError,
)
from shared.processing.cancellation import RunCancellation
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

BeforePaying = Callable[[], Awaitable[None]]
BUSY = RetryPolicy(first_s=1.0, max_s=30.0)
CLAIMS_MAX = 1000  # of one scene; more busy responses mean that the provider is down


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedClip:
    """A usable clip, with its attempts and cost."""

    clip: Clip
    clip_samples: int
    old_samples: int  #: where the new music begins in the clip, measured
    padding_samples: int = 0  #: of them, padding that the file does not declare
    replaces: bool = False  #: a cumulative track
    prediction: Prediction
    attempt: int
    cost_usd: float | None  #: of all attempts, including failed ones
    failed: tuple[str, ...] = ()  #: why earlier attempts failed


@dataclass(slots=True, kw_only=True)
class RunBudget:
    """The budget of a run, and what it has spent so far."""

    max_usd: float | None = None  #: None: unlimited
    spent_usd: float = 0.0  #: by earlier scenes
    scene_usd: float | None = None  #: by failed attempts at this scene; None: unknown

    def add_failed_attempt(self, usd: float | None) -> None:
        """Add the cost of a failed attempt."""
        if usd is not None:
            self.scene_usd = (self.scene_usd or 0.0) + usd

    def check(self, next_usd: float) -> None:
        """Return if the budget covers one more attempt.

        Raises:
            MaxCostError: it does not.
        """
        spent = self.spent_usd + (self.scene_usd or 0.0)
        if not fits_budget(self.max_usd, spent_usd=spent, next_usd=next_usd):
            raise MaxCostError(
                f"max_cost of {dollars(self.max_usd or 0.0)} is reached: {dollars(spent)} are "
                f"spent, and the next clip may cost {dollars(next_usd)}"
            )


class MaxCostError(JobError):
    """The run's budget does not cover the next attempt."""

    code = "max_cost_reached"


@dataclass(kw_only=True)
class Attempts:
    """Composes clips. Safe to call from many lanes at once."""

    provider: MusicProvider
    claims: Claims
    cancellation: RunCancellation
    inspector: ClipInspector
    settings: GeneratorSettings
    clock: Clock
    log: Logger
    delay_notices: DelayNotices | None = None  #: None: waits are not reported
    chance: random.Random = field(default_factory=random.Random)
    shared_slots: Slots | None = None  #: of the attempts with another provider

    def __post_init__(self) -> None:
        """Limit the predictions in flight; create the cost metric at 0 for increase()."""
        COST_USD_TOTAL.labels(self.provider.name)
        self.slots = self.shared_slots or Slots(self.settings.slots)

    async def has_claim(self, scene: SceneRef) -> bool:
        """Return whether a first attempt is claimed: its prediction may be paid for."""
        return await self.claims.is_claimed(scene, 1)

    async def compose(
        self,
        scene: SceneRef,
        spec: ClipSpec,
        *,
        before_paying: BeforePaying,
        budget: RunBudget | None = None,
    ) -> ComposedClip:
        """Return a usable clip for `spec`.

        Raises:
            ProviderRejectedError: no attempt succeeded, or not in time.
            MaxCostError: the run's budget does not cover it.
            RunEndedError: the run ended.
        """
        budget = budget or RunBudget()
        try:
            composed = await self._compose(scene, spec, before_paying, budget)
        except JobError as error:
            error.cost_usd = budget.scene_usd
            raise
        finally:
            COST_USD_TOTAL.labels(self.provider.name).inc(budget.scene_usd or 0.0)
        COST_USD_TOTAL.labels(self.provider.name).inc(composed.cost_usd or 0.0)
        if budget.scene_usd is None:
            return composed
        return replace(composed, cost_usd=(composed.cost_usd or 0.0) + budget.scene_usd)

    async def _compose(
        self, scene: SceneRef, spec: ClipSpec, before_paying: BeforePaying, budget: RunBudget
    ) -> ComposedClip:
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        failed: list[str] = []
        busy, attempt = 0, 1
        while attempt <= CLAIMS_MAX:
            await self._check_budget(scene, attempt, spec, budget)
            started = self.clock.monotonic()
            try:
                async with self.slots:
                    # the wait for our own slot does not count
                    deadline += self.clock.monotonic() - started
                    started = self.clock.monotonic()
                    composed = await self._attempt(scene, attempt, spec, before_paying)
            except ProviderBusyError as error:
                self._count("paused" if isinstance(error, ProviderPausedError) else "busy")
                busy += 1  # retry the same attempt: a claim it left behind is void and skipped
                wait = self._wait(scene, error, busy, deadline, since=started)
                deadline = await self.cancellation.unless_ended(
                    scene.job_id, scene.run, wait, on_end=_no_cleanup
                )
                continue
            except JobError as error:
                self._count("failed")
                failed.append(f"attempt {len(failed) + 1}: {error.reason}")
                budget.add_failed_attempt(error.cost_usd)
                if not error.retryable or len(failed) >= self.settings.scene_attempts_max:
                    raise
                attempt += 1
                continue
            self._count("void" if composed is None else "made")
            if composed is not None:
                return replace(composed, failed=tuple(failed))
            attempt += 1
        raise ProviderRejectedError(f"no clip in {CLAIMS_MAX} attempts", retryable=True)

    async def _check_budget(
        self, scene: SceneRef, attempt: int, spec: ClipSpec, budget: RunBudget
    ) -> None:
        """Return if the budget covers this attempt; a claimed one may be paid for already.

        Called before the permit is acquired and the claim is created: neither must be wasted.
        """
        if budget.max_usd is None:
            return
        one_clip = estimate(
            [spec.request.duration_s],
            window_s=0,
            provider=self.provider.name,
            usd_per_s=self.settings.replicate.usd_per_s,
        )
        if one_clip.cost_usd > 0 and not await self.claims.is_claimed(scene, attempt):
            budget.check(one_clip.cost_usd)

    async def _attempt(
        self, scene: SceneRef, attempt: int, spec: ClipSpec, before_paying: BeforePaying
    ) -> ComposedClip | None:
        """Return the clip of one claim; None if the claim is void."""
        prediction = await self.claims.prediction(
            scene, attempt, spec.request, before_paying=before_paying
        )
        if prediction is None:
            return None
        if self.delay_notices is not None:
            await self.delay_notices.report_resumed(scene)
        if prediction.adopted:
            WORK_DEDUPLICATED_TOTAL.labels("generator", "adopted").inc()
            self.log.info(
                "prediction adopted",
                action="scene.reattached",
                job_id=scene.job_id,
                run=scene.run,
                scene_index=scene.scene_index,
            )
        else:
            PREDICTIONS_TOTAL.labels(self.provider.name).inc()
        with PREDICTIONS_IN_FLIGHT.labels(self.provider.name).track_inprogress():
            clip = await self.cancellation.unless_ended(
                scene.job_id,
                scene.run,
                self._collect(scene, prediction),
                on_end=lambda: self.provider.cancel(prediction.id),
            )
        try:
            samples, recognised = await self.inspector.inspect(
                clip, spec, musical=not self.provider.makes_silence
            )
        except JobError as error:
            error.cost_usd = clip.cost_usd  # unusable, but paid for
            raise
        self._log_clip(clip, samples, recognised)
        return ComposedClip(
            clip=clip,
            clip_samples=samples,
            old_samples=recognised.old_samples,
            padding_samples=recognised.padding_samples,
            replaces=recognised.shape is Shape.CUMULATIVE,
            prediction=prediction,
            attempt=attempt,
            cost_usd=clip.cost_usd,
        )

    def _log_clip(self, clip: Clip, samples: int, recognised: RecognisedClip) -> None:
        self.log.debug(
            "clip accepted",
            action="clip.measured",
            size_bytes=len(clip.data),
            samples=samples,
            shape=recognised.shape.value,
            old_samples=recognised.old_samples,
            padding_samples=recognised.padding_samples,
        )

    async def _collect(self, scene: SceneRef, prediction: Prediction) -> Clip:
        """Return the clip of a submitted prediction; retry while the provider is busy."""
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
                if self.delay_notices is not None:
                    await self.delay_notices.report_resumed(scene)
                return clip

    async def _wait(
        self, scene: SceneRef, error: ProviderBusyError, busy: int, deadline: float, *, since: float
    ) -> float:
        """Wait for the requested delay or our backoff, at most until the deadline; return it.

        A pause extends the deadline: a person must act, and when the provider resumes, all
        scenes retry at once.
        """
        delay_s = BUSY.delay_s(busy, asked_s=error.retry_after_s, chance=self.chance)
        paused = isinstance(error, ProviderPausedError)
        if paused:
            self.log.warning(
                "provider rejects all requests", action="provider.paused", reason=str(error)
            )
        elif self.clock.monotonic() + delay_s > deadline:
            raise ProviderRejectedError(str(error), retryable=True) from error
        if self.delay_notices is not None:
            await self.delay_notices.report_wait(scene, error, for_s=delay_s, since=since)
        reason = "paused" if paused else "busy"
        WAITED_SECONDS_TOTAL.labels(self.provider.name, reason).inc(delay_s)
        with SCENES_WAITING.labels(self.provider.name, reason).track_inprogress():
            await self.clock.sleep(delay_s)
        return deadline + (self.clock.monotonic() - since if paused else 0.0)

    def _count(self, outcome: str) -> None:
        CALLS_TOTAL.labels(self.provider.name, outcome).inc()


async def _no_cleanup() -> None:
    """Nothing is running at the provider while a scene waits for it."""

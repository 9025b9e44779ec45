"""Handles one record: decides which run is current, which scene is next and what is republished.

`faust_app` consumes the records and `generate.py` makes the music; this module connects them with
plain values.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from services.generator.clip.inspection import ClipInspector
from services.generator.composition.attempts import Attempts
from services.generator.composition.claims import Claims
from services.generator.composition.delay_notices import DelayNotices
from services.generator.providers import MusicProvider
from services.generator.providers.by_name import Providers
from services.generator.scene.cache import SceneCache
from services.generator.scene.film_check import build_film_check
from services.generator.scene.generate import SceneGenerator
from services.generator.scene.plan import Continuation
from services.generator.scene.run_generators import RunGenerators
from services.generator.scene.style_sample import build_style_samples
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.contract.events import (
    JobCancelled,
    JobFailed,
    PredictionEnded,
    SceneRequested,
    SegmentGenerated,
    Stage,
)
from shared.errors import JobError, SceneGapError
from shared.kafka.codec import Envelope
from shared.kafka.producer import EventPublisher
from shared.media.samples import exact_seconds
from shared.media.sandbox import MediaSandbox
from shared.processing.active_runs import ActiveRuns
from shared.processing.cancellation import RunCancellation, RunEndedError
from shared.processing.slots import Slots
from shared.settings import RunLimitSettings
from shared.storage import ObjectStore
from shared.telemetry.log import Logger
from shared.telemetry.metrics import SKIPPED_TOTAL, WORK_DEDUPLICATED_TOTAL


class ContinuationTable(Protocol):
    """Stores the state of each job; `faust_app` implements it with a Faust table."""

    def get(self, job_id: str) -> Continuation | None:
        """Return the state of the job; None if there is none."""
        ...

    async def put(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Store the state; return when the broker has confirmed it."""
        ...


@dataclass(frozen=True, kw_only=True)
class SceneHandler:
    """Generates scenes in the order of their job (`shared.kafka.handler.Handler`)."""

    topics: ClassVar = (SceneRequested.kind, JobCancelled.kind, PredictionEnded.kind)

    generators: RunGenerators
    continuations: ContinuationTable
    publisher: EventPublisher
    cancellation: RunCancellation
    nudge: Callable[[str], None]
    delay_notices: DelayNotices
    wait_until_owned: Callable[[], Awaitable[None]]
    limits: RunLimitSettings
    log: Logger

    @property
    def generator(self) -> SceneGenerator:
        """Return the generator with the service's own provider."""
        return self.generators.own

    def on_received(self, envelope: Envelope) -> None:
        """Observe the event's run, so that an older run stops spending at once."""
        event = envelope.event
        if isinstance(event, PredictionEnded):
            self.nudge(event.prediction_id)
            return
        active_runs = self.cancellation.active_runs
        if isinstance(event, JobCancelled):
            active_runs.cancel(event.job_id, event.run)
            self.log.info(
                "run cancelled", action="job.cancelled", job_id=event.job_id, run=event.run
            )
        elif isinstance(event, SceneRequested):
            active_runs.observe(event.job_id, event.run)
        self.cancellation.wake_ended(event.job_id)

    async def handle(self, envelope: Envelope) -> None:
        """Generate the scene of a `scene.requested`; ignore other events.

        Raises:
            SceneGapError: an earlier scene of the run is missing.
            JobError: the scene failed, and the run must stop.
        """
        scene = envelope.event
        if not isinstance(scene, SceneRequested):
            return  # on_received has applied it
        state = self.continuations.get(scene.job_id)
        if not self._is_current(scene, state):
            self._skip(scene)
            return
        if state is None or state.run < scene.run:
            state = Continuation(run=scene.run)
        if state.failure is not None and scene.scene_index > state.scene_done:
            if scene.scene_index == state.scene_done + 1:
                raise _error_of(state.failure)
            self._skip(scene)  # the run ended before this scene
            return
        await self._continue(scene, state, envelope)

    async def _continue(
        self, scene: SceneRequested, state: Continuation, envelope: Envelope
    ) -> None:
        if scene.scene_index <= state.scene_done:
            segment = await self.generator.stored_segment(
                scene.job_id, scene.run, scene.scene_index
            )
            if segment is not None:
                WORK_DEDUPLICATED_TOTAL.labels("generator", "already_stored").inc()
                self.log.info(
                    "segment exists; event republished",
                    action="segment.republished",
                    job_id=scene.job_id,
                    run=scene.run,
                    scene_index=scene.scene_index,
                )
                await self._publish(segment, envelope)
                return
            state = Continuation(run=scene.run)  # the segment was deleted: generate it again
        if scene.scene_index > state.scene_done + 1:
            rebuilt = await self.generator.rebuild_state(scene)
            if rebuilt is None:
                raise SceneGapError(
                    f"received scene {scene.scene_index + 1} before scene {state.scene_done + 2}"
                    f" of run {scene.run} is finished; key the records of a job by job_id and"
                    " publish them in scene order"
                )
            state = rebuilt
        partition = envelope.record.partition
        generator = await self.generators.of_run(scene, state)
        try:
            self._check_limits(scene, state)
            async with self.delay_notices.track(
                SceneRef.of(scene), traceparent=envelope.traceparent
            ):
                segment = await generator.generate(
                    scene, state, before_paying=lambda: self._check_current(scene)
                )
        except RunEndedError:
            self._skip(scene)
            return
        except JobError as error:
            ended = state.ended(_failure(scene, error))
            await self.continuations.put(scene.job_id, ended, partition=partition)
            raise
        await self.wait_until_owned()
        await self._publish(segment, envelope)
        await self.continuations.put(scene.job_id, state.after(segment), partition=partition)
        self.log.debug("state stored", action="state.stored", scene_done=segment.scene_index)

    def _check_limits(self, scene: SceneRequested, state: Continuation) -> None:
        """Raise if the run exceeds a limit; the request may not have come from the api.

        Raises:
            JobError: the message names the limit and its setting.
        """
        exceeded = self.limits.exceeded_by(
            scene_count=scene.scene_count,
            scene_s=scene.duration_s,
            run_s=float(state.elapsed + exact_seconds(scene.duration_s)),
        )
        if exceeded is not None:
            raise JobError(exceeded, code="limit_exceeded")

    def _is_current(self, scene: SceneRequested, state: Continuation | None) -> bool:
        stale = state is not None and state.run > scene.run
        return not stale and self.cancellation.active_runs.is_current(scene.job_id, scene.run)

    async def _check_current(self, scene: SceneRequested) -> None:
        await self.wait_until_owned()
        if not self.cancellation.active_runs.is_current(scene.job_id, scene.run):
            raise RunEndedError(f"run {scene.run} was cancelled or superseded")

    async def _publish(self, segment: SegmentGenerated, envelope: Envelope) -> None:
        await self.publisher.publish(segment, traceparent=envelope.traceparent)

    def _skip(self, scene: SceneRequested) -> None:
        SKIPPED_TOTAL.labels("generator", scene.kind).inc()
        self.log.info(
            "scene of an ended run skipped",
            action="record.skipped",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
        )


def _failure(scene: SceneRequested, error: JobError) -> JobFailed:
    return JobFailed(
        job_id=scene.job_id,
        run=scene.run,
        stage=Stage.GENERATION,
        code=error.code,
        message=error.reason,
        scene_index=scene.scene_index,
        retryable=error.retryable,
        cost_usd=error.cost_usd,
    )


def _error_of(failure: JobFailed) -> JobError:
    """Return the error of a stored failure, for a redelivered record."""
    return JobError(
        failure.message,
        code=failure.code,
        retryable=failure.retryable,
        cost_usd=failure.cost_usd,
    )


def build_scene_handler(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    providers: Providers,
    publisher: EventPublisher,
    continuations: ContinuationTable,
    wait_until_owned: Callable[[], Awaitable[None]],
    clock: Clock,
    log: Logger,
) -> SceneHandler:
    """Return the scene handler, built from the settings."""
    cancellation = RunCancellation(ActiveRuns())
    delay_notices = DelayNotices(
        publisher,
        wait_until_owned=wait_until_owned,
        after_s=settings.delay_notice_after_s,
        clock=clock,
        log=log,
    )

    def build(provider: MusicProvider, slots: Slots | None = None) -> SceneGenerator:
        return _build_generator(
            settings,
            cancellation,
            delay_notices,
            store=store,
            provider=provider,
            slots=slots,
            clock=clock,
            log=log,
        )

    own = build(providers.own)
    return SceneHandler(
        generators=RunGenerators(
            own=own,
            providers=providers,
            build=lambda provider: build(provider, own.attempts.slots),
        ),
        continuations=continuations,
        publisher=publisher,
        cancellation=cancellation,
        nudge=providers.nudge,
        delay_notices=delay_notices,
        wait_until_owned=wait_until_owned,
        limits=settings.limits,
        log=log,
    )


def _build_generator(
    settings: GeneratorSettings,
    cancellation: RunCancellation,
    delay_notices: DelayNotices,
    *,
    store: ObjectStore,
    provider: MusicProvider,
    slots: Slots | None,
    clock: Clock,
    log: Logger,
) -> SceneGenerator:
    sandbox = MediaSandbox(settings.media)
    lease_s, settle_s = settings.claim_lease_s, settings.claim_settle_s
    attempts = Attempts(
        provider=provider,
        claims=Claims(store, provider, clock=clock, lease_s=lease_s, settle_s=settle_s),
        cancellation=cancellation,
        inspector=ClipInspector(store=store, sandbox=sandbox),
        settings=settings,
        clock=clock,
        log=log,
        delay_notices=delay_notices,
        shared_slots=slots,
    )
    style_samples = build_style_samples(
        settings,
        store=store,
        provider=provider,
        cancellation=cancellation,
        sandbox=sandbox,
        clock=clock,
        log=log,
    )
    return SceneGenerator(
        store=store,
        provider=provider,
        attempts=attempts,
        cache=_build_cache(settings, store=store, provider=provider, clock=clock, log=log),
        film_check=build_film_check(
            settings, store=store, cancellation=cancellation, sandbox=sandbox, clock=clock, log=log
        ),
        style_samples=style_samples,
        window_s=settings.window_s,
        log=log,
        silence_reason=settings.silence_reason,
    )


def _build_cache(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    provider: MusicProvider,
    clock: Clock,
    log: Logger,
) -> SceneCache:
    return SceneCache(
        store=store,
        provider=provider,
        scope=settings.scene_cache,
        source=settings.replicate.base_url,
        clock=clock,
        log=log,
    )

"""Work: what the generator does with one record, given and giving plain values.

`app.py` knows Faust and nothing of music, `generate.py` music and nothing of records; this
file holds the rules between them: which run counts, which scene is next, what is said again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from services.generator.clip.inspection import Inspection
from services.generator.composition.attempts import Attempts
from services.generator.composition.cancellation import Interrupts, RunEndedError
from services.generator.composition.claims import Claims
from services.generator.composition.delay_notices import Delays
from services.generator.providers import MusicProvider
from services.generator.scene.cache import SceneCache
from services.generator.scene.generate import Generate
from services.generator.scene.plan import Continuation
from services.generator.scene.style_sample import build_styles
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
from shared.processing.active_runs import ActiveRuns
from shared.storage import ObjectStore
from shared.telemetry.log import Logger
from shared.telemetry.metrics import SKIPPED_TOTAL, WORK_DEDUPLICATED_TOTAL

Gate = Callable[[], Awaitable[None]]


class Memory(Protocol):
    """What is remembered of each job; `app.py` keeps it in a Faust table."""

    def recall(self, job_id: str) -> Continuation | None:
        """The state of the job; None if nothing is known of it."""
        ...

    async def keep(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Write the state down; returns when the broker has it."""
        ...


@dataclass(frozen=True, kw_only=True)
class SceneHandler:
    """Generates scenes in the order of their job (`shared.kafka.handler.Handler`)."""

    topics: ClassVar = (SceneRequested.kind, JobCancelled.kind, PredictionEnded.kind)

    generate: Generate
    memory: Memory
    publisher: EventPublisher
    interrupts: Interrupts
    nudge: Callable[[str], None]
    delays: Delays
    gate: Gate
    log: Logger

    def on_received(self, envelope: Envelope) -> None:
        """Observe the event's run, so that an older run stops spending at once."""
        event = envelope.event
        if isinstance(event, PredictionEnded):
            self.nudge(event.prediction_id)
            return
        active_runs = self.interrupts.active_runs
        if isinstance(event, JobCancelled):
            active_runs.cancel(event.job_id, event.run)
        elif isinstance(event, SceneRequested):
            active_runs.observe(event.job_id, event.run)
        self.interrupts.look(event.job_id)

    async def handle(self, envelope: Envelope) -> None:
        """Generate the scene of a `scene.requested`; ignore other events.

        Raises:
            SceneGapError: an earlier scene of the run was never finished.
            JobError: the scene failed, and the run asks to stop then.
        """
        scene = envelope.event
        if not isinstance(scene, SceneRequested):
            return  # on_received has applied it
        state = self.memory.recall(scene.job_id)
        if not self._wanted(scene, state):
            self._skip(scene)
            return
        if state is None or state.run < scene.run:
            state = Continuation(run=scene.run)
        if state.failure is not None and scene.scene_index > state.scene_done:
            if scene.scene_index == state.scene_done + 1:
                raise _again(state.failure)
            self._skip(scene)  # the run ended before this scene
            return
        await self._continue(scene, state, envelope)

    async def _continue(
        self, scene: SceneRequested, state: Continuation, envelope: Envelope
    ) -> None:
        if scene.scene_index <= state.scene_done:
            segment = await self.generate.recall(scene.job_id, scene.run, scene.scene_index)
            if segment is not None:
                WORK_DEDUPLICATED_TOTAL.labels("generator", "already_stored").inc()
                self.log.info(
                    "segment exists; event republished",
                    action="segment.republished",
                    job_id=scene.job_id,
                    run=scene.run,
                    scene_index=scene.scene_index,
                )
                await self._say(segment, envelope)
                return
            state = Continuation(run=scene.run)  # the store lost it: as if never made
        if scene.scene_index > state.scene_done + 1:
            rebuilt = await self.generate.rebuild(scene)
            if rebuilt is None:
                raise SceneGapError(
                    f"scene {scene.scene_index} came, but of run {scene.run} only"
                    f" {state.scene_done + 1} scenes are finished: records of a job must be keyed"
                    " by job_id and published in the order of their scenes"
                )
            state = rebuilt
        partition = envelope.record.partition
        try:
            async with self.delays.of(SceneRef.of(scene), traceparent=envelope.traceparent):
                segment = await self.generate.scene(
                    scene, state, before_paying=lambda: self._before(scene)
                )
        except RunEndedError:
            self._skip(scene)
            return
        except JobError as error:
            ended = state.ended(_failure(scene, error))
            await self.memory.keep(scene.job_id, ended, partition=partition)
            raise
        await self.gate()
        await self._say(segment, envelope)
        await self.memory.keep(scene.job_id, state.after(segment), partition=partition)
        self.log.debug("state stored", action="state.stored", scene_done=segment.scene_index)

    def _wanted(self, scene: SceneRequested, state: Continuation | None) -> bool:
        stale = state is not None and state.run > scene.run
        return not stale and self.interrupts.active_runs.is_current(scene.job_id, scene.run)

    async def _before(self, scene: SceneRequested) -> None:
        await self.gate()
        if not self.interrupts.active_runs.is_current(scene.job_id, scene.run):
            raise RunEndedError(f"run {scene.run} is no longer wanted")

    async def _say(self, segment: SegmentGenerated, envelope: Envelope) -> None:
        await self.publisher.publish(segment, traceparent=envelope.traceparent)

    def _skip(self, scene: SceneRequested) -> None:
        SKIPPED_TOTAL.labels("generator", scene.kind).inc()
        self.log.info(
            "scene of a run that ended",
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


def _again(failure: JobFailed) -> JobError:
    """The error as it was, for a record that is read again."""
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
    provider: MusicProvider,
    publisher: EventPublisher,
    memory: Memory,
    gate: Gate,
    clock: Clock,
    log: Logger,
) -> SceneHandler:
    """Return the scene handler, built from the settings."""
    interrupts = Interrupts(ActiveRuns())
    delays = Delays(
        publisher, gate=gate, said_after_s=settings.delay_said_after_s, clock=clock, log=log
    )
    generate = _build_generate(
        settings, interrupts, delays, store=store, provider=provider, clock=clock, log=log
    )
    return SceneHandler(
        generate=generate,
        memory=memory,
        publisher=publisher,
        interrupts=interrupts,
        nudge=provider.nudge,
        delays=delays,
        gate=gate,
        log=log,
    )


def _build_generate(
    settings: GeneratorSettings,
    interrupts: Interrupts,
    delays: Delays,
    *,
    store: ObjectStore,
    provider: MusicProvider,
    clock: Clock,
    log: Logger,
) -> Generate:
    attempts = Attempts(
        provider=provider,
        claims=Claims(
            store,
            provider,
            clock=clock,
            lease_s=settings.claim_lease_s,
            settle_s=settings.claim_settle_s,
        ),
        interrupts=interrupts,
        inspection=Inspection(store=store),
        settings=settings,
        clock=clock,
        log=log,
        delays=delays,
    )
    return Generate(
        store=store,
        provider=provider,
        attempts=attempts,
        cache=SceneCache(
            store=store,
            provider=provider,
            scope=settings.scene_cache,
            source=settings.replicate.base_url,
            clock=clock,
            log=log,
        ),
        styles=build_styles(
            settings,
            store=store,
            provider=provider,
            interrupts=interrupts,
            clock=clock,
            log=log,
        ),
        window_s=settings.window_s,
        log=log,
        why_silent=settings.why_silent,
    )

"""Generate: one scene to one segment: recall, ask, check, store, say so.

Everything is a function of (job, run, scene): what exists already is said again, never paid
again. Order within a scene: clip stored, segment stored, `segment.generated` confirmed by the
broker; the caller then writes the state and acks.

I/O: the object store, the provider, the publisher.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.generator.claims import Claims, Prediction, SceneRef
from services.generator.continuation import Continuation, ScenePlan, plan_scene
from services.generator.prompts import prompt_for
from services.generator.providers import Clip, CompositionRequest, MusicProvider
from services.generator.settings import GeneratorSettings
from shared.audio import INVALID_OUTPUT, decode
from shared.clock import Clock
from shared.errors import (
    JobError,
    MediaError,
    NotFoundError,
    ProviderBusyError,
    ProviderRejectedError,
    SegueError,
)
from shared.events import ErrorStrategy, Origin, SceneRequested, SegmentGenerated
from shared.media import SAMPLE_RATE_HZ
from shared.retry import RetryPolicy
from shared.storage import ObjectStore
from shared.storage.keys import clip_key, segment_key
from shared.telemetry.log import Logger
from shared.telemetry.metrics import GENERATION_SECONDS, PREDICTIONS_TOTAL, SCENES_TOTAL

Step = Callable[[], Awaitable[None]]
BUSY = RetryPolicy(first_s=1.0, max_s=30.0)
CLAIMS_MAX = 1000  # of one scene: a provider that was busy so often is down


class RunEndedError(SegueError):
    """The run was superseded or cancelled while its scene was being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A clip that passed, and how it came about."""

    clip: Clip
    clip_samples: int
    prediction: Prediction
    attempt: int
    failed: tuple[str, ...]  #: why earlier attempts were not taken


@dataclass(kw_only=True)
class Generate:
    """Makes segments. `scene` is safe to call from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    claims: Claims
    settings: GeneratorSettings
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Bound what is under way at the provider."""
        self._slots = asyncio.Semaphore(self.settings.slots)

    async def recall(self, job_id: str, run: int, scene_index: int) -> SegmentGenerated | None:
        """The segment as it was stored; None if the scene was never finished."""
        try:
            stored = await self.store.get(segment_key(job_id, run, scene_index))
        except NotFoundError:
            return None
        return SegmentGenerated.model_validate_json(stored)

    async def rebuild(self, scene: SceneRequested) -> Continuation | None:
        """The state before `scene`, from what lies in the store; None if scenes are missing.

        For the case that the table forgot: every earlier scene is read once.
        """
        state = Continuation(run=scene.run)
        for index in range(scene.scene_index):
            segment = await self.recall(scene.job_id, scene.run, index)
            if segment is None:
                return None
            state = state.after(segment)
        return state

    async def scene(
        self, scene: SceneRequested, state: Continuation, *, before_paying: Step
    ) -> SegmentGenerated:
        """The stored segment of `scene`, which follows `state`.

        Raises:
            JobError: it cannot be made, and the run asks to stop then.
            RunEndedError: `before_paying` said that the run is no longer wanted.
        """
        stored = await self.recall(scene.job_id, scene.run, scene.scene_index)
        if stored is not None:
            return stored
        plan = plan_scene(state, scene, window_s=self.settings.window_s)
        try:
            segment = await self._compose(scene, plan, before_paying)
        except JobError as error:
            if scene.params.fail_on_error or scene.params.error_strategy is ErrorStrategy.HALT:
                raise
            segment = self._silenced(scene, plan, error)
        return await self._keep(segment)

    async def _compose(
        self, scene: SceneRequested, plan: ScenePlan, before_paying: Step
    ) -> SegmentGenerated:
        request = CompositionRequest(
            prompt=_prompt(scene),
            duration_s=plan.duration_s,
            window=plan.window,
            seed=1,  # each attempt's claim brings its own
        )
        with GENERATION_SECONDS.labels(self.provider.name).time():
            made = await self._attempts(scene, request, before_paying)
        key = clip_key(scene.job_id, scene.run, scene.scene_index, made.attempt)
        await self.store.put(key, made.clip.data, content_type=made.clip.content_type)
        if self.provider.makes_silence:
            origin, reason = Origin.SILENCE, f"the {self.provider.name} provider makes no music"
        elif plan.window is not None:
            origin, reason = Origin.CONTINUED, None
        else:
            origin = Origin.FRESH
            reason = "nothing to continue from" if scene.scene_index else None
        return SegmentGenerated(
            **_common(scene, plan),
            origin=origin,
            reason=reason,
            object_key=key,
            content_type=made.clip.content_type,
            sha256=hashlib.sha256(made.clip.data).hexdigest(),
            size_bytes=len(made.clip.data),
            clip_samples=made.clip_samples,
            window_samples=plan.window_samples,
            join_samples=plan.join_samples,
            prompt=request.prompt,
            seed=made.prediction.request.seed,
            provider=self.provider.name,
            model=self.provider.model,
            prediction_id=made.prediction.id,
            output_url=made.clip.output_url,
            attempts=len(made.failed) + 1,
            generation_s=made.clip.generation_s,
            cost_usd=made.clip.cost_usd,
            warnings=made.failed,
        )

    async def _attempts(
        self, scene: SceneRequested, request: CompositionRequest, before_paying: Step
    ) -> _Made:
        """Try until a clip passes: with a new seed if it does not, patiently if nobody answers."""
        ref = SceneRef(job_id=scene.job_id, run=scene.run, scene_index=scene.scene_index)
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        failed: list[str] = []
        busy = 0
        for attempt in range(1, CLAIMS_MAX + 1):
            try:
                async with self._slots:
                    made = await self._attempt(ref, attempt, request, before_paying)
            except ProviderBusyError as error:
                busy += 1
                delay_s = BUSY.delay_s(busy, asked_s=error.retry_after_s, chance=self.chance)
                if self.clock.monotonic() + delay_s > deadline:
                    raise ProviderRejectedError(str(error), retryable=True) from error
                await self.clock.sleep(delay_s)
                continue
            except JobError as error:
                failed.append(f"attempt {len(failed) + 1}: {error.reason}")
                if not error.retryable or len(failed) >= self.settings.scene_attempts_max:
                    raise
                continue
            if made is not None:
                prediction, clip, samples = made
                return _Made(
                    clip=clip,
                    clip_samples=samples,
                    prediction=prediction,
                    attempt=attempt,
                    failed=tuple(failed),
                )
        raise ProviderRejectedError(f"no answer in {CLAIMS_MAX} attempts", retryable=True)

    async def _attempt(
        self, ref: SceneRef, attempt: int, request: CompositionRequest, before_paying: Step
    ) -> tuple[Prediction, Clip, int] | None:
        """One claim followed to its clip; None if it led to nothing."""
        prediction = await self.claims.prediction(
            ref, attempt, request, before_paying=before_paying
        )
        if prediction is None:
            return None
        if prediction.adopted:
            self.log.info(
                "prediction taken up again",
                action="scene.reattached",
                job_id=ref.job_id,
                run=ref.run,
                scene_index=ref.scene_index,
            )
        else:
            PREDICTIONS_TOTAL.labels(self.provider.name).inc()
        clip = await self._collect(prediction)
        return prediction, clip, await self._measured(clip, request)

    async def _collect(self, prediction: Prediction) -> Clip:
        """The clip of a prediction that exists; a busy provider is asked again for the same."""
        deadline = self.clock.monotonic() + self.settings.scene_deadline_s
        attempt = 1
        while True:
            try:
                return await self.provider.collect(prediction.id, prediction.request)
            except ProviderBusyError as error:
                delay_s = BUSY.delay_s(attempt, asked_s=error.retry_after_s, chance=self.chance)
                if self.clock.monotonic() + delay_s > deadline:
                    raise ProviderRejectedError(str(error), retryable=True) from error
                await self.clock.sleep(delay_s)
                attempt += 1

    async def _measured(self, clip: Clip, request: CompositionRequest) -> int:
        """Samples of the clip, decoded; it must be as long as was asked for."""
        try:
            audio = await asyncio.to_thread(decode, clip.data)
        except MediaError as error:
            raise ProviderRejectedError(error.reason, retryable=True) from error
        samples = int(audio.shape[1])
        if abs(samples - request.duration_s * SAMPLE_RATE_HZ) > SAMPLE_RATE_HZ // 4:
            raise ProviderRejectedError(
                f"{INVALID_OUTPUT}: {samples / SAMPLE_RATE_HZ:.2f} s instead of"
                f" {request.duration_s} s",
                retryable=True,
            )
        return samples

    def _silenced(
        self, scene: SceneRequested, plan: ScenePlan, error: JobError
    ) -> SegmentGenerated:
        self.log.warning(
            "scene becomes silence",
            action="scene.silenced",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            reason=error.reason,
        )
        return SegmentGenerated(
            **_common(scene, plan),
            origin=Origin.SILENCE,
            reason=error.reason,
            object_key=None,
            clip_samples=0,
            join_samples=plan.start_samples,
            prompt=_prompt(scene),
            provider=self.provider.name,
            model=self.provider.model,
        )

    async def _keep(self, segment: SegmentGenerated) -> SegmentGenerated:
        """Store the segment; if another process was first, its segment counts."""
        key = segment_key(segment.job_id, segment.run, segment.scene_index)
        if not await self.store.put_if_absent(key, segment.model_dump_json().encode()):
            first = await self.recall(segment.job_id, segment.run, segment.scene_index)
            assert first is not None, "segments are never deleted while their run is made"
            return first
        SCENES_TOTAL.labels(segment.origin.value).inc()
        self.log.info(
            "segment stored",
            action="segment.stored",
            job_id=segment.job_id,
            run=segment.run,
            scene_index=segment.scene_index,
            origin=segment.origin.value,
            seconds=round(segment.samples / SAMPLE_RATE_HZ, 3),
        )
        return segment


def _prompt(scene: SceneRequested) -> str:
    return prompt_for(
        description=scene.description,
        mood=scene.mood,
        scene_prompt=scene.prompt,
        run_prompt=scene.params.prompt,
    )


def _common(scene: SceneRequested, plan: ScenePlan) -> dict[str, object]:
    return {
        "job_id": scene.job_id,
        "run": scene.run,
        "scene_index": scene.scene_index,
        "scene_count": scene.scene_count,
        "duration_s": scene.duration_s,
        "start_samples": plan.start_samples,
        "samples": plan.samples,
        "params": scene.params,
        "video": scene.video,
    }

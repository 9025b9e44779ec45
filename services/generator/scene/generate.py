"""Generates the segment of one scene: reuse, compose, inspect and store it.

Every step is a function of (job, run, scene): an existing segment is returned and never paid for
again. Order within a scene: store the clip, store the segment, publish `segment.generated`; the
caller then stores the state and commits.

I/O: the object store, the provider, the publisher.
"""

from dataclasses import dataclass

from services.generator.clip.inspection import ClipSpec
from services.generator.composition.attempts import Attempts, BeforePaying, ComposedClip, RunBudget
from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.scene.cache import SceneCache
from services.generator.scene.film_check import FilmCheck
from services.generator.scene.kept_scene import copy_kept_segment
from services.generator.scene.plan import Continuation, ScenePlan, plan_scene
from services.generator.scene.segment_events import SegmentBuilder
from services.generator.scene.style_sample import StyleSamples
from services.generator.scene_ref import NO_ATTEMPT, SceneRef
from shared.contract.events import Origin, SceneRequested, SegmentGenerated
from shared.contract.params import ErrorStrategy
from shared.errors import JobError, NotFoundError
from shared.media.samples import SAMPLE_RATE_HZ
from shared.storage import ObjectStore
from shared.storage.keys import segment_key
from shared.telemetry.log import Logger
from shared.telemetry.metrics import (
    GENERATION_SECONDS,
    SAVED_USD_TOTAL,
    SCENES_TOTAL,
    WORK_DEDUPLICATED_TOTAL,
)


@dataclass(frozen=True, kw_only=True)
class SceneGenerator:
    """Generates segments. Safe to call from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    attempts: Attempts
    cache: SceneCache
    film_check: FilmCheck
    style_samples: StyleSamples
    window_s: int
    log: Logger
    silence_reason: str  #: reason in every segment of a provider that makes silence

    def __post_init__(self) -> None:
        """Create the metric of every origin at 0, so that increase() sees the first."""
        for origin in Origin:
            SCENES_TOTAL.labels(origin.value)

    async def stored_segment(
        self, job_id: str, run: int, scene_index: int
    ) -> SegmentGenerated | None:
        """Return the stored segment; None if the scene is not finished."""
        try:
            stored = await self.store.get(segment_key(job_id, run, scene_index))
        except NotFoundError:
            return None
        return SegmentGenerated.model_validate_json(stored)

    async def rebuild_state(self, scene: SceneRequested) -> Continuation | None:
        """Return the state before `scene`, from stored segments; None if one is missing.

        Used if the table lost the state: every earlier segment is read once.
        """
        state = Continuation(run=scene.run)
        for index in range(scene.scene_index):
            segment = await self.stored_segment(scene.job_id, scene.run, index)
            if segment is None:
                return None
            state = state.after(segment)
        return state

    async def generate(
        self, scene: SceneRequested, state: Continuation, *, before_paying: BeforePaying
    ) -> SegmentGenerated:
        """Return the stored segment of `scene`, which follows `state`.

        Raises:
            JobError: the scene failed and the run must stop, its kept segment is missing, or the
                run's video cannot be scored.
            RunEndedError: `before_paying` found that the run has ended.
        """
        stored = await self.stored_segment(scene.job_id, scene.run, scene.scene_index)
        if stored is not None:
            WORK_DEDUPLICATED_TOTAL.labels("generator", "already_stored").inc()
            return stored
        if scene.kept is not None:
            return await self._store_segment(await copy_kept_segment(self.store, scene, scene.kept))
        await self._begin(scene)
        style = await self.style_samples.resolve(scene, state, required=_must_stop(scene))
        plan = plan_scene(state, scene, window_s=self.window_s, style=style.sample)
        self._log_plan(plan)
        builder = SegmentBuilder(
            scene=scene, plan=plan, provider=self.provider, style_fault=style.fault
        )
        spec = _clip_spec(builder)
        digest = self.cache.digest_of(spec.request, job_id=scene.job_id)
        cached = await self._cached_segment(builder, spec, digest)
        if cached is not None:
            return await self._store_segment(cached)
        budget = RunBudget(max_usd=scene.params.max_cost, spent_usd=state.spent_usd)
        try:
            composed = await self._compose(scene, spec, before_paying, budget)
        except JobError as error:
            if _must_stop(scene):
                raise
            return await self._silent_segment(builder, error)
        key = SceneRef.of(scene).clip_key(composed.attempt)
        clip = composed.clip
        await self.store.put(key, clip.data, content_type=clip.content_type)
        self.log.debug("clip stored", action="clip.stored", key=key, size_bytes=len(clip.data))
        segment = await self._store_segment(
            builder.composed(composed, key=key, silence_reason=self.silence_reason)
        )
        if digest is not None and segment.object_key == key:
            await self.cache.put(digest, composed, needed_samples=spec.needed_samples)
        return segment

    async def _begin(self, scene: SceneRequested) -> None:
        """Check what the run needs before anything is paid."""
        self.log.debug(
            "scene started",
            action="scene.started",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
        )
        await self.film_check.require(scene, has_claim=self.attempts.has_claim)

    async def _cached_segment(
        self, builder: SegmentBuilder, spec: ClipSpec, digest: str | None
    ) -> SegmentGenerated | None:
        """Return the segment from the cache; None if it must be composed.

        A scene with a claim uses its own prediction, which may be paid for.
        """
        scene = builder.scene
        if digest is None or not scene.params.use_cache or scene.anew:
            return None
        if await self.attempts.has_claim(SceneRef.of(scene)):
            return None
        hit = await self.cache.find(digest, needed_samples=spec.needed_samples)
        if hit is None:
            return None
        key = SceneRef.of(scene).clip_key(NO_ATTEMPT)
        await self.store.put(key, hit.data, content_type=hit.facts.content_type)
        self.log.info(
            "scene taken from the cache",
            action="scene.cached",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            entry=digest,
            made_at=hit.facts.made_at,
            saved_usd=hit.facts.cost_usd,
        )
        return builder.cached(hit, key=key)

    def _log_plan(self, plan: ScenePlan) -> None:
        window = plan.window
        self.log.debug(
            "scene planned",
            action="scene.planned",
            duration_s=plan.duration_s,
            window_s=None if window is None else [window.start_s, window.end_s],
            start_samples=plan.start_samples,
            join_samples=plan.join_samples,
            samples=plan.samples,
        )

    async def _compose(
        self, scene: SceneRequested, spec: ClipSpec, before_paying: BeforePaying, budget: RunBudget
    ) -> ComposedClip:
        with GENERATION_SECONDS.labels(self.provider.name).time():
            return await self.attempts.compose(
                SceneRef.of(scene), spec, before_paying=before_paying, budget=budget
            )

    async def _silent_segment(self, builder: SegmentBuilder, error: JobError) -> SegmentGenerated:
        scene = builder.scene
        self.log.warning(
            "scene failed; replaced by silence",
            action="scene.silenced",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            reason=error.reason,
        )
        return await self._store_segment(builder.silent(error))

    async def _store_segment(self, segment: SegmentGenerated) -> SegmentGenerated:
        """Store the segment; return the one of another process if that was first."""
        key = segment_key(segment.job_id, segment.run, segment.scene_index)
        if not await self.store.put_if_absent(key, segment.model_dump_json().encode()):
            first = await self.stored_segment(segment.job_id, segment.run, segment.scene_index)
            assert first is not None, "segments are not deleted while their run is generated"
            return first
        SCENES_TOTAL.labels("kept" if segment.kept else segment.origin.value).inc()
        SAVED_USD_TOTAL.labels(segment.provider).inc(segment.saved_usd or 0.0)
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


def _clip_spec(builder: SegmentBuilder) -> ClipSpec:
    plan = builder.plan
    request = CompositionRequest(
        prompt=builder.prompt,
        duration_s=plan.duration_s,
        window=plan.window,
        seed=1,  # replaced by each attempt's own seed
        must_continue=_must_stop(builder.scene),
        job_id=builder.scene.job_id,
    )
    return ClipSpec(
        request=request,
        so_far_samples=plan.join_samples,
        needed_samples=plan.start_samples + plan.samples - plan.join_samples,
    )


def _must_stop(scene: SceneRequested) -> bool:
    """Return whether the run must stop if the scene fails."""
    return scene.params.fail_on_error or scene.params.error_strategy is ErrorStrategy.HALT

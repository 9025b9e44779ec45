"""Generate: one scene to one segment: recall, ask, check, store, say so.

Everything is a function of (job, run, scene): what exists already is said again, never paid
again. Order within a scene: clip stored, segment stored, `segment.generated` confirmed by the
broker; the caller then writes the state and acks.

I/O: the object store, the provider, the publisher.
"""

from dataclasses import dataclass

from services.generator.clip.inspection import AskedFor
from services.generator.composition.attempts import Attempts, Made, Spending, Step
from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.scene.cache import SceneCache
from services.generator.scene.kept_scene import taken
from services.generator.scene.plan import Continuation, ScenePlan, plan_scene
from services.generator.scene.segment_events import Segments
from services.generator.scene.style_sample import Styles
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
class Generate:
    """Makes segments. `scene` is safe to call from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    attempts: Attempts
    cache: SceneCache
    styles: Styles
    window_s: int
    log: Logger
    why_silent: str  #: told of every scene where the provider makes no music

    def __post_init__(self) -> None:
        """Show every origin from the start: the first silence is to be an increase."""
        for origin in Origin:
            SCENES_TOTAL.labels(origin.value)

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
            JobError: it cannot be made, and the run asks to stop then; or it was to be kept and
                is not there.
            RunEndedError: `before_paying` said that the run is no longer wanted.
        """
        stored = await self.recall(scene.job_id, scene.run, scene.scene_index)
        if stored is not None:
            WORK_DEDUPLICATED_TOTAL.labels("generator", "already_stored").inc()
            return stored
        if scene.kept is not None:
            return await self._keep(await taken(self.store, scene, scene.kept))
        self.log.debug(
            "scene begins",
            action="scene.started",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
        )
        opening = await self.styles.opening(scene, state, must_have=_stops(scene))
        plan = plan_scene(state, scene, window_s=self.window_s, style=opening.sample)
        self._tell(plan)
        segments = Segments(
            scene=scene, plan=plan, provider=self.provider, style_fault=opening.fault
        )
        asked = _asked(segments)
        digest = self.cache.digest_of(asked.request, job_id=scene.job_id)
        cached = await self._cached(segments, asked, digest)
        if cached is not None:
            return await self._keep(cached)
        spending = Spending(max_usd=scene.params.max_cost, spent_usd=state.spent_usd)
        try:
            made = await self._compose(scene, asked, before_paying, spending)
        except JobError as error:
            if _stops(scene):
                raise
            return await self._silence(segments, error)
        key = SceneRef.of(scene).clip_key(made.attempt)
        await self.store.put(key, made.clip.data, content_type=made.clip.content_type)
        self.log.debug(
            "clip is stored", action="clip.stored", key=key, size_bytes=len(made.clip.data)
        )
        segment = await self._keep(segments.made(made, key=key, why_silent=self.why_silent))
        if digest is not None and segment.object_key == key:
            await self.cache.keep(digest, made, needed_samples=asked.needed_samples)
        return segment

    async def _cached(
        self, segments: Segments, asked: AskedFor, digest: str | None
    ) -> SegmentGenerated | None:
        """The segment from the cache; None if it must be composed.

        A scene that was begun goes on with its own prediction, which may be paid for.
        """
        scene = segments.scene
        if digest is None or not scene.params.use_cache or scene.anew:
            return None
        if await self.attempts.has_begun(SceneRef.of(scene)):
            return None
        hit = await self.cache.find(digest, needed_samples=asked.needed_samples)
        if hit is None:
            return None
        key = SceneRef.of(scene).clip_key(NO_ATTEMPT)
        await self.store.put(key, hit.data, content_type=hit.facts.content_type)
        self.log.info(
            "scene found in the cache",
            action="scene.cached",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            entry=digest,
            made_at=hit.facts.made_at,
            saved_usd=hit.facts.cost_usd,
        )
        return segments.cached(hit, key=key)

    def _tell(self, plan: ScenePlan) -> None:
        window = plan.window
        self.log.debug(
            "scene is planned",
            action="scene.planned",
            duration_s=plan.duration_s,
            window_s=None if window is None else [window.start_s, window.end_s],
            start_samples=plan.start_samples,
            join_samples=plan.join_samples,
            samples=plan.samples,
        )

    async def _compose(
        self, scene: SceneRequested, asked: AskedFor, before_paying: Step, spending: Spending
    ) -> Made:
        with GENERATION_SECONDS.labels(self.provider.name).time():
            return await self.attempts.clip(
                SceneRef.of(scene), asked, before_paying=before_paying, spending=spending
            )

    async def _silence(self, segments: Segments, error: JobError) -> SegmentGenerated:
        scene = segments.scene
        self.log.warning(
            "scene becomes silence",
            action="scene.silenced",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            reason=error.reason,
        )
        return await self._keep(segments.silent(error))

    async def _keep(self, segment: SegmentGenerated) -> SegmentGenerated:
        """Store the segment; if another process was first, its segment counts."""
        key = segment_key(segment.job_id, segment.run, segment.scene_index)
        if not await self.store.put_if_absent(key, segment.model_dump_json().encode()):
            first = await self.recall(segment.job_id, segment.run, segment.scene_index)
            assert first is not None, "segments are never deleted while their run is made"
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


def _asked(segments: Segments) -> AskedFor:
    plan = segments.plan
    request = CompositionRequest(
        prompt=segments.prompt,
        duration_s=plan.duration_s,
        window=plan.window,
        seed=1,  # each attempt's claim brings its own
        must_continue=_stops(segments.scene),
        job_id=segments.scene.job_id,
    )
    return AskedFor(
        request=request,
        so_far_samples=plan.join_samples,
        needed_samples=plan.start_samples + plan.samples - plan.join_samples,
    )


def _stops(scene: SceneRequested) -> bool:
    """Whether the run ends where a scene cannot be made as it was asked for."""
    return scene.params.fail_on_error or scene.params.error_strategy is ErrorStrategy.HALT

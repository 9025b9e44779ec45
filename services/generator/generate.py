"""Generate: one scene to one segment: recall, ask, check, store, say so.

Everything is a function of (job, run, scene): what exists already is said again, never paid
again. Order within a scene: clip stored, segment stored, `segment.generated` confirmed by the
broker; the caller then writes the state and acks.

I/O: the object store, the provider, the publisher.
"""

import hashlib
from dataclasses import dataclass

from services.generator.attempts import Attempts, Made, Step
from services.generator.claims import SceneRef
from services.generator.continuation import Continuation, ScenePlan, plan_scene
from services.generator.inspection import AskedFor
from services.generator.prompts import prompt_for
from services.generator.providers import CompositionRequest, MusicProvider
from shared.brief import ErrorStrategy
from shared.errors import JobError, NotFoundError
from shared.events import Origin, SceneRequested, SegmentGenerated
from shared.media import SAMPLE_RATE_HZ
from shared.storage import ObjectStore
from shared.storage.keys import clip_key, segment_key
from shared.telemetry.log import Logger
from shared.telemetry.metrics import GENERATION_SECONDS, SCENES_TOTAL


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Makes segments. `scene` is safe to call from many lanes at once."""

    store: ObjectStore
    provider: MusicProvider
    attempts: Attempts
    window_s: int
    log: Logger
    why_silent: str  #: told of every scene where the provider makes no music

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
        self.log.debug(
            "scene begins",
            action="scene.started",
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
        )
        plan = plan_scene(state, scene, window_s=self.window_s)
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
        wants_no_gap = scene.params.error_strategy is ErrorStrategy.HALT
        request = CompositionRequest(
            prompt=_prompt(scene),
            duration_s=plan.duration_s,
            window=plan.window,
            seed=1,  # each attempt's claim brings its own
            must_continue=wants_no_gap or scene.params.fail_on_error,
        )
        asked = AskedFor(
            request=request,
            so_far_samples=plan.join_samples,
            needed_samples=plan.start_samples + plan.samples - plan.join_samples,
        )
        ref = SceneRef(job_id=scene.job_id, run=scene.run, scene_index=scene.scene_index)
        with GENERATION_SECONDS.labels(self.provider.name).time():
            made = await self.attempts.clip(ref, asked, before_paying=before_paying)
        key = clip_key(scene.job_id, scene.run, scene.scene_index, made.attempt)
        await self.store.put(key, made.clip.data, content_type=made.clip.content_type)
        origin, reason = self._origin(scene, plan, made)
        continues = origin is Origin.CONTINUED
        return SegmentGenerated(
            **_common(scene, plan),
            origin=origin,
            reason=reason,
            object_key=key,
            content_type=made.clip.content_type,
            sha256=hashlib.sha256(made.clip.data).hexdigest(),
            size_bytes=len(made.clip.data),
            clip_samples=made.clip_samples,
            window_samples=made.old_samples if continues else 0,
            join_samples=plan.join_samples if continues else plan.start_samples,
            prompt=request.prompt,
            seed=made.prediction.request.seed,
            provider=self.provider.name,
            model=self.provider.model,
            prediction_id=made.prediction.id,
            output_url=made.clip.output_url,
            output_url_born_at=made.clip.output_url_born_at,
            attempts=len(made.failed) + 1,
            generation_s=made.clip.generation_s,
            cost_usd=made.cost_usd,
            warnings=(*made.failed, *made.clip.warnings),
        )

    def _origin(
        self, scene: SceneRequested, plan: ScenePlan, made: Made
    ) -> tuple[Origin, str | None]:
        """How the segment was made, and why if that needs saying."""
        if self.provider.makes_silence:
            return Origin.SILENCE, self.why_silent
        if plan.window is None:
            return Origin.FRESH, "nothing to continue from" if scene.scene_index else None
        if not made.clip.continued:
            return Origin.FRESH, "; ".join(made.clip.warnings) or "made without continuation"
        return Origin.CONTINUED, None

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

"""Builds the `segment.generated` event of a finished scene."""

import hashlib
from dataclasses import dataclass

from services.generator.composition.attempts import ComposedClip
from services.generator.providers import MusicProvider
from services.generator.scene.cache import CachedClip
from services.generator.scene.plan import ScenePlan
from shared.contract.events import Origin, SceneRequested, SegmentGenerated
from shared.contract.prompt import prompt_for
from shared.errors import JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentBuilder:
    """Builds the segment of one scene."""

    scene: SceneRequested
    plan: ScenePlan
    provider: MusicProvider
    style_fault: str | None = None  #: why the requested style sample is not continued

    @property
    def prompt(self) -> str:
        """Return the scene's prompt."""
        return prompt_for(
            description=self.scene.description,
            mood=self.scene.mood,
            scene_prompt=self.scene.prompt,
            run_prompt=self.scene.params.prompt,
            style=self.scene.params.prompt_style,
        )

    def composed(
        self, composed: ComposedClip, *, key: str, silence_reason: str
    ) -> SegmentGenerated:
        """Return the segment of a clip that was composed now."""
        origin, reason = self._origin(composed, silence_reason)
        continues = origin is Origin.CONTINUED
        clip = composed.clip
        return SegmentGenerated(
            **self._common(),
            origin=origin,
            reason=reason,
            object_key=key,
            content_type=clip.content_type,
            sha256=hashlib.sha256(clip.data).hexdigest(),
            size_bytes=len(clip.data),
            clip_samples=composed.clip_samples,
            window_samples=composed.old_samples if continues else composed.padding_samples,
            padding_samples=composed.padding_samples,
            replaces=composed.replaces and continues,
            join_samples=self.plan.join_samples if continues else self.plan.start_samples,
            seed=composed.prediction.request.seed,
            prediction_id=composed.prediction.id,
            output_url=clip.output_url,
            output_url_born_at=clip.output_url_born_at,
            attempts=len(composed.failed) + 1,
            generation_s=clip.generation_s,
            cost_usd=composed.cost_usd,
            warnings=(*self._style_warnings, *composed.failed, *clip.warnings),
        )

    def cached(self, hit: CachedClip, *, key: str) -> SegmentGenerated:
        """Return the segment of a cached clip."""
        continues = self.plan.window is not None
        facts = hit.facts
        return SegmentGenerated(
            **self._common(),
            origin=Origin.CACHED,
            reason=f"composed at {facts.made_at}",
            object_key=key,
            content_type=facts.content_type,
            sha256=facts.sha256,
            size_bytes=len(hit.data),
            clip_samples=facts.clip_samples,
            window_samples=facts.old_samples if continues else facts.padding_samples,
            padding_samples=facts.padding_samples,
            join_samples=self.plan.join_samples if continues else self.plan.start_samples,
            seed=facts.seed,
            prediction_id=facts.prediction_id,
            cost_usd=0.0,
            saved_usd=facts.cost_usd,
            warnings=self._style_warnings,
        )

    def silent(self, error: JobError) -> SegmentGenerated:
        """Return the silent segment of a scene that failed in a run that continues."""
        return SegmentGenerated(
            **self._common(),
            origin=Origin.SILENCE,
            reason=error.reason,
            object_key=None,
            clip_samples=0,
            join_samples=self.plan.start_samples,
            cost_usd=error.cost_usd,
            warnings=self._style_warnings,
        )

    def _origin(self, composed: ComposedClip, silence_reason: str) -> tuple[Origin, str | None]:
        """Return the origin of the segment, and its reason if it is unusual."""
        if self.provider.makes_silence:
            return Origin.SILENCE, silence_reason
        if self.plan.window is None:
            reason = "nothing to continue from" if self.scene.scene_index else None
            return Origin.FRESH, self.style_fault or reason
        if not composed.clip.continued:
            return Origin.FRESH, "; ".join(composed.clip.warnings) or "made without continuation"
        return Origin.CONTINUED, "continues the style sample" if self.plan.continues_style else None

    @property
    def _style_warnings(self) -> tuple[str, ...]:
        return (self.style_fault,) if self.style_fault else ()

    def _common(self) -> dict[str, object]:
        scene, plan = self.scene, self.plan
        return {
            "job_id": scene.job_id,
            "run": scene.run,
            "scene_index": scene.scene_index,
            "scene_count": scene.scene_count,
            "duration_s": scene.duration_s,
            "start_samples": plan.start_samples,
            "samples": plan.samples,
            "prompt": self.prompt,
            "provider": self.provider.name,
            "model": self.provider.model,
            "params": scene.params,
            "video": scene.video,
        }

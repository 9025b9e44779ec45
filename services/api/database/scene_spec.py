"""Reads and writes the `spec` column of a scene: its `SceneSpec`, and what a redrive decided.

The only place that maps this column; its fields are those of `SceneSpec`, with `kept` and `anew`.
"""

from collections.abc import Mapping
from typing import Any

from services.api.domain.redrive import PreviousScene
from shared.contract.events import SceneRequested
from shared.contract.params import AudioParams, Kept, Scene, SceneSpec, VideoRef

_FIELDS = {*SceneSpec.model_fields, "kept"}


def to_column(request: SceneRequested) -> dict[str, Any]:
    """Return the column of a requested scene; fields at null are left out."""
    column = request.model_dump(mode="json", include=_FIELDS, exclude_none=True)
    return {**column, "anew": True} if request.anew else column


def scene_from(column: Mapping[str, Any]) -> Scene:
    """Return the scene of a column."""
    return Scene.model_validate(column)


def previous_scene(column: Mapping[str, Any], *, is_done: bool) -> PreviousScene:
    """Return the scene of a column as a redrive reads it."""
    return PreviousScene(
        scene=scene_from(column),
        is_done=is_done,
        kept=_kept(column),
        skip_cache=_skip_cache(column),
    )


def to_request(
    column: Mapping[str, Any],
    *,
    job_id: str,
    run: int,
    scene_index: int,
    scene_count: int,
    params: AudioParams,
    video: VideoRef | None,
    provider: str | None,
) -> SceneRequested:
    """Return the request that a column was written from."""
    return SceneRequested.of(
        scene_from(column),
        job_id=job_id,
        run=run,
        scene_index=scene_index,
        scene_count=scene_count,
        params=params,
        video=video,
        kept=_kept(column),
        skip_cache=_skip_cache(column),
        provider=provider,
    )


def _kept(column: Mapping[str, Any]) -> Kept | None:
    return Kept.model_validate(column["kept"]) if "kept" in column else None


def _skip_cache(column: Mapping[str, Any]) -> bool:
    return bool(column.get("anew", False))

"""Copies the segment of an earlier run into this one, for a redrive that keeps the scene.

A redrive generates a part of a run again and keeps the rest. A kept clip is copied and not
referenced, because the earlier run may be deleted. The copy names the run it comes from, costs
nothing, and is continued by the next scene.

I/O: the object store.
"""

from services.generator.scene_ref import NO_ATTEMPT, SceneRef
from shared.contract.events import SceneRequested, SegmentGenerated
from shared.contract.params import Kept
from shared.errors import JobError, NotFoundError
from shared.storage import DEFAULT_CONTENT_TYPE, ObjectStore
from shared.storage.keys import segment_key

_WARNING_PREFIX = "kept from run"


class KeptMissingError(JobError):
    """The segment to keep is not stored any more; it is not generated without a request."""

    code = "kept_missing"


async def copy_kept_segment(
    store: ObjectStore, scene: SceneRequested, kept: Kept
) -> SegmentGenerated:
    """Copy the clip that the run in `kept` has for `scene`; return its segment.

    Raises:
        KeptMissingError: that run has no such segment, or its clip was deleted.
    """
    try:
        stored = await store.get(segment_key(scene.job_id, kept.run, scene.scene_index))
        segment = SegmentGenerated.model_validate_json(stored)
        key = await _copy_clip(store, segment, scene)
    except NotFoundError as error:
        raise KeptMissingError(
            f"scene {scene.scene_index + 1} of run {kept.run} is not stored any more; "
            f"generate it again: segue redrive --from {scene.scene_index + 1}"
        ) from error
    return kept_segment(segment, scene, kept, key=key)


async def _copy_clip(
    store: ObjectStore, segment: SegmentGenerated, scene: SceneRequested
) -> str | None:
    """Copy the segment's clip; return its key in this run, None for silence."""
    if segment.object_key is None:
        return None
    data = await store.get(segment.object_key)
    key = SceneRef.of(scene).clip_key(NO_ATTEMPT)
    await store.put(key, data, content_type=segment.content_type or DEFAULT_CONTENT_TYPE)
    return key


def kept_segment(
    segment: SegmentGenerated, scene: SceneRequested, kept: Kept, *, key: str | None
) -> SegmentGenerated:
    """Return an earlier run's `segment` as the segment of `scene`, with its clip at `key`.

    A bridged segment stays bridged: its window still repeats other music.
    """
    was_bridged = segment.kept is not None and segment.kept.bridged
    bridged = kept.bridged or was_bridged
    others = tuple(text for text in segment.warnings if not text.startswith(_WARNING_PREFIX))
    warning = f"{_WARNING_PREFIX} {kept.run}"
    if bridged:
        warning += ", bridged: the music before it was generated again"
    return segment.model_copy(
        update={
            "run": scene.run,
            "object_key": key,
            "cost_usd": 0.0,
            "saved_usd": segment.saved_usd if segment.cost_usd is None else _original_cost(segment),
            "warnings": (warning, *others),
            "params": scene.params,
            "video": scene.video,
            "kept": kept.model_copy(update={"bridged": bridged}),
        }
    )


def _original_cost(segment: SegmentGenerated) -> float:
    """Return the cost of the original generation, also of a kept or cached segment."""
    return round((segment.cost_usd or 0.0) + (segment.saved_usd or 0.0), 6)

"""Keeping: a scene that an earlier run made, taken into this one as it is.

A redrive makes a part of a run again and keeps the rest. What is kept is copied, never referred
to: the earlier run may be swept, and this one stays whole. It says which run it is from, costs
nothing, and is what the next scene continues.

I/O: the object store.
"""

from services.generator.scene_ref import NO_ATTEMPT, SceneRef
from shared.contract.events import SceneRequested, SegmentGenerated
from shared.contract.params import Kept
from shared.errors import JobError, NotFoundError
from shared.storage import DEFAULT_CONTENT_TYPE, ObjectStore
from shared.storage.keys import segment_key

_WORDS = "kept from run"


class KeptMissingError(JobError):
    """What was to be kept is not in the store any more: nothing is made in its place unasked."""

    code = "kept_missing"


async def taken(store: ObjectStore, scene: SceneRequested, kept: Kept) -> SegmentGenerated:
    """The segment of `scene`, its clip stored, as the run in `kept` has it.

    Raises:
        KeptMissingError: that run has no such segment, or its clip was swept.
    """
    try:
        stored = await store.get(segment_key(scene.job_id, kept.run, scene.scene_index))
        segment = SegmentGenerated.model_validate_json(stored)
        key = await _copied(store, segment, scene)
    except NotFoundError as error:
        raise KeptMissingError(
            f"scene {scene.scene_index} was to be kept from run {kept.run}, and is not in the "
            f"store any more: make it anew (segue redrive --from {scene.scene_index})"
        ) from error
    return kept_segment(segment, scene, kept, key=key)


async def _copied(
    store: ObjectStore, segment: SegmentGenerated, scene: SceneRequested
) -> str | None:
    """Where this run has the clip; None of silence."""
    if segment.object_key is None:
        return None
    data = await store.get(segment.object_key)
    key = SceneRef.of(scene).clip_key(NO_ATTEMPT)
    await store.put(key, data, content_type=segment.content_type or DEFAULT_CONTENT_TYPE)
    return key


def kept_segment(
    segment: SegmentGenerated, scene: SceneRequested, kept: Kept, *, key: str | None
) -> SegmentGenerated:
    """`segment` of an earlier run as the segment of `scene`, with its clip at `key`.

    What was bridged once stays bridged: its window still repeats other music.
    """
    before = segment.kept is not None and segment.kept.bridged
    bridged = kept.bridged or before
    own = tuple(said for said in segment.warnings if not said.startswith(_WORDS))
    said = f"{_WORDS} {kept.run}" + (", bridged: the music before it was made anew" * bridged)
    return segment.model_copy(
        update={
            "run": scene.run,
            "object_key": key,
            "cost_usd": 0.0,
            "saved_usd": segment.saved_usd if segment.cost_usd is None else _worth(segment),
            "warnings": (said, *own),
            "params": scene.params,
            "video": scene.video,
            "kept": kept.model_copy(update={"bridged": bridged}),
        }
    )


def _worth(segment: SegmentGenerated) -> float:
    """What it cost when it was made, whatever was kept or cached since."""
    return round((segment.cost_usd or 0.0) + (segment.saved_usd or 0.0), 6)

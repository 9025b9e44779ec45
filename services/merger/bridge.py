"""Places a kept clip over new music that its window does not repeat.

The window of the kept clip repeats the music of an earlier run, so there is nothing to splice to;
but the window leads into the kept music without a seam. Both clips sound together over as much
of the window as there is, for at most the run's fade duration, at constant power (`crossfade`).
The bridge ends where a splice would end, and at least half of the new clip sounds alone.

Shapes: float32 `(channels, samples)`. Units: places and lengths are samples of the track. Pure.
"""

from services.merger.crossfade import match
from services.merger.placed_clip import (
    EARLY_SAMPLES_MAX,
    EDGE_SAMPLES,
    PlacedClip,
    build_seam,
    clip_start_of,
    splice_clip,
)
from shared.contract.events import Seam, SegmentGenerated
from shared.media.samples import Audio


def is_bridged(segment: SegmentGenerated) -> bool:
    """Return whether `segment` was kept while the music before it was generated again."""
    return segment.kept is not None and segment.kept.bridged


def place_bridged(
    current: PlacedClip, segment: SegmentGenerated, clip: Audio, *, blend_samples_max: int
) -> tuple[PlacedClip, Seam, int] | None:
    """Return the placed clip, its seam and the bridge's length; None if too short.

    As in a splice, its level follows the music before it: both are music for the same scene.
    """
    start = clip_start_of(segment)
    begin = max(current.begin, min(current.clip_end, segment.join_samples))
    both_from = max(start + segment.padding_samples, current.music_start, current.begin)
    available = min(begin - both_from, (begin - current.begin) // 2)
    blend_samples = min(blend_samples_max, available)
    if blend_samples < EDGE_SAMPLES or begin < segment.start_samples - EARLY_SAMPLES_MAX:
        return None
    leaving = current.clip[:, both_from - current.start : begin - current.start]
    entering = clip[:, both_from - start : begin - start]
    matched = match(leaving, entering, lag_max=0)
    placed, step_db = splice_clip(current, segment, clip, start=start, begin=begin, matched=matched)
    seam = build_seam(placed, "fade", matched, step_db)
    return placed, seam.model_copy(update={"bridge_samples": blend_samples}), blend_samples

"""Bridge: a kept clip enters over music that was made anew, where nothing repeats.

The window of the kept clip repeats what was there in an earlier run. So it is no splice; but the
window is there, and it leads without a joint into the music that is kept. The new music turns
into it: both sound together over as much of the window as there is, and at most as long as the
run's fades, with the power of both held (`crossfade`). It ends where a splice would. At least
half of what the new clip has to say is heard alone.

Shapes: float32 `(channels, samples)`. Units: places and lengths are samples of the track. Pure.
"""

from services.merger.crossfade import match
from services.merger.placed_clip import (
    EARLY_SAMPLES_MAX,
    EDGE_SAMPLES,
    PlacedClip,
    build_seam,
    clip_start_of,
    continued_gain,
)
from shared.contract.events import Seam, SegmentGenerated
from shared.media.samples import Audio


def is_bridged(segment: SegmentGenerated) -> bool:
    """Whether `segment` was kept, and the music before it was not."""
    return segment.kept is not None and segment.kept.bridged


def place_bridged(
    now: PlacedClip, segment: SegmentGenerated, clip: Audio, *, wanted_samples: int
) -> tuple[PlacedClip, Seam, int] | None:
    """The clip of `segment` entering over `now`, and how long both sound; None: there is no room.

    Its level follows that of the music before it, as in a splice: both stand for the same scene.
    """
    start = clip_start_of(segment)
    begin = max(now.begin, min(now.clip_end, segment.join_samples))
    both_from = max(start + segment.padding_samples, now.music_start, now.begin)
    room = min(begin - both_from, (begin - now.begin) // 2)
    blend_samples = min(wanted_samples, room)
    if blend_samples < EDGE_SAMPLES or begin < segment.start_samples - EARLY_SAMPLES_MAX:
        return None
    leaving = now.clip[:, both_from - now.start : begin - now.start]
    entering = clip[:, both_from - start : begin - start]
    found = match(leaving, entering, lag_max=0)
    level, step_db = continued_gain(now, begin, found)
    placed = PlacedClip(
        segment=segment,
        clip=clip,
        start=start,
        begin=begin,
        level=level,
        fade_in=0,
        spliced=True,
    )
    seam = build_seam(placed, "fade", found, step_db)
    seam = seam.model_copy(update={"bridge_samples": blend_samples})
    return placed, seam, blend_samples

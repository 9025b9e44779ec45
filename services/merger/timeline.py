"""Checks the segments of a run and decides which clips the track plays.

Before its new music, a cumulative clip holds earlier music: the whole track so far, or as much of
it as was in the clip that was sent. From its start on it replaces the segments before it, at one
level and without their seams. It enters where the first replaced segment would enter, in the
same way: at the start of the track, spliced to music that it does not hold, or faded in. A silent
scene stays silent, so a cumulative clip replaces nothing before it; nor does it replace scenes
that were generated again before a kept scene, because it holds an earlier run's music there.

Where segments fade into each other, each keeps its scene and its fades, and plays its part of the
cumulative clip.

Units: places and lengths are samples of the track. Pure.
"""

from collections.abc import Sequence

from services.merger.assembly import WINDOW_SAMPLES_MIN
from services.merger.bridge import is_bridged
from services.merger.placed_clip import EDGE_SAMPLES
from shared.contract.events import SegmentGenerated
from shared.errors import InvalidEventError
from shared.media.samples import SAMPLE_RATE_HZ


def check_run(segments: Sequence[SegmentGenerated]) -> None:
    """Check that the segments are one complete run in order.

    Raises:
        InvalidEventError: a segment does not fit; the message says which and why.
    """
    first, place = segments[0], 0
    for index, segment in enumerate(segments):
        run = (segment.job_id, segment.run, segment.scene_count)
        if run != (first.job_id, first.run, len(segments)) or segment.scene_index != index:
            raise InvalidEventError(
                f"the segment of scene {index + 1} of run {first.run} is marked as scene "
                f"{segment.scene_index + 1} of {segment.scene_count} in run {segment.run}"
            )
        if segment.start_samples != place:
            raise InvalidEventError(
                f"scene {index + 1} starts at sample {segment.start_samples}, "
                f"the one before it ends at {place}"
            )
        place += segment.samples


def build_timeline(
    segments: Sequence[SegmentGenerated], *, separate: bool
) -> list[SegmentGenerated]:
    """Return the segments that the track plays; `separate` keeps one segment per scene."""
    parts: list[SegmentGenerated] = []
    index = len(segments) - 1
    while index >= 0:
        last = segments[index]
        first = _first_replaced(segments, index, separate=separate) if last.replaces else index
        if last.replaces and separate:
            parts += [_with_clip_of(last, segments[k]) for k in range(index, first - 1, -1)]
        elif last.replaces:
            after_music = first > 0 and segments[first - 1].object_key is not None
            parts.append(_merge_segments(segments[first], last, after_music=after_music))
        else:
            parts.append(last)
        index = first - 1
    return parts[::-1]


def _first_replaced(segments: Sequence[SegmentGenerated], index: int, *, separate: bool) -> int:
    """Return the first segment that the cumulative clip of segment `index` replaces."""
    begin = _music_start(segments[index])
    first = index
    while first > 0 and segments[first - 1].object_key is not None:
        if is_bridged(segments[first]):
            break  # the music before this scene was generated again
        earlier = segments[first - 1]
        follows = first > 1 and segments[first - 2].object_key is not None
        if separate or not follows or _window(earlier) < WINDOW_SAMPLES_MIN:
            holds = begin <= earlier.start_samples + EDGE_SAMPLES
        else:
            holds = begin + WINDOW_SAMPLES_MIN <= earlier.join_samples
        if not holds:
            break
        first -= 1
    return first


def _merge_segments(
    first: SegmentGenerated, last: SegmentGenerated, *, after_music: bool
) -> SegmentGenerated:
    """Return one segment from `first` to `last` that plays the clip of `last`."""
    join = max(first.join_samples, _music_start(last))
    repeats = after_music and not is_bridged(first)
    if repeats:  # splice as early as possible into music that it repeats
        join = min(join, _music_start(last) + SAMPLE_RATE_HZ)
    start = min(first.start_samples, join) if repeats else first.start_samples
    return last.model_copy(
        update={
            "scene_index": first.scene_index,
            "start_samples": start,
            "samples": last.start_samples + last.samples - start,
            "join_samples": join,
            "window_samples": join - _clip_start(last),
            "kept": first.kept,
        }
    )


def _with_clip_of(last: SegmentGenerated, segment: SegmentGenerated) -> SegmentGenerated:
    """Return `segment` with the clip of `last`."""
    join = max(segment.join_samples, _music_start(last))
    return segment.model_copy(
        update={
            "object_key": last.object_key,
            "sha256": last.sha256,
            "clip_samples": last.clip_samples,
            "padding_samples": last.padding_samples,
            "join_samples": join,
            "window_samples": join - _clip_start(last),
        }
    )


def _clip_start(segment: SegmentGenerated) -> int:
    return segment.join_samples - segment.window_samples


def _music_start(segment: SegmentGenerated) -> int:
    return _clip_start(segment) + segment.padding_samples


def _window(segment: SegmentGenerated) -> int:
    return segment.window_samples - segment.padding_samples

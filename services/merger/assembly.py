"""Joins the clips of a run into its track, block by block.

A continued clip is spliced where its window repeats the music that is playing: levels matched,
crossfaded inside the window, the rest of the window dropped. All other clips fade out and in. The
scenes' durations decide the length of the track, whatever the clips hold. A clip is kept until
the next one arrives, because its end depends on what follows; so at most two are in memory. Clips
that a cumulative clip replaces are not passed in (`timeline.py`).

Seam             | position                                         | audible part of the window
splice           | `join_samples`, shifted with the music before it | the crossfade at its end
bridge           | `join_samples`                                   | the crossfade at its end
fade from music  | the scene's start                                | everything after that start
fade from silence| `join_samples`                                   | nothing

Shapes: float32 `(channels, samples)`. Units: places and lengths are samples of the track. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.merger.bridge import is_bridged, place_bridged
from services.merger.crossfade import (
    LAG_SAMPLES_MAX,
    SAME_MUSIC,
    Match,
    crossfade,
    fade_in_curve,
    match,
)
from services.merger.placed_clip import (
    EARLY_SAMPLES_MAX,
    EDGE_SAMPLES,
    GAIN_DB_MAX,
    JOIN_GAIN_DB_MAX,
    GainCurve,
    PlacedClip,
    apply_curve,
    build_seam,
    clip_start_of,
    splice_clip,
)
from shared.contract.events import Seam, SegmentGenerated
from shared.contract.params import Transition
from shared.media.samples import SAMPLE_RATE_HZ, Audio, seconds_at, silence

#: 50 ms of common music: level and lag cannot be measured on less
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 20
_BLOCK_SAMPLES = 5 * SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """How the segments of one run are joined."""

    transition: Transition
    fade_samples: int  #: of each fade, where a segment does not continue the one before it
    crossfade_samples: int  #: of the crossfade inside a window


class Assembly:
    """Builds the track of one run: add every segment in order, then finish."""

    def __init__(self, segments: Sequence[SegmentGenerated], rules: JoinRules) -> None:
        self.samples = segments[-1].start_samples + segments[-1].samples
        self.seams: list[Seam] = []
        self.warnings: list[str] = []
        self._segments = segments
        self._rules = replace(rules, fade_samples=max(EDGE_SAMPLES, rules.fade_samples))
        self._latest_begins = self._find_latest_begins()
        # A bridge lasts as long as a fade; the end of the rendered audio is held back that long.
        self._blend_samples_max = rules.crossfade_samples
        if any(is_bridged(segment) for segment in segments):
            self._blend_samples_max = max(self._blend_samples_max, self._rules.fade_samples)
        self._current: PlacedClip | None = None  # the clip that is playing; None: silence
        self._previous: PlacedClip | None = None  # the clip before the silence
        self._silent_from = 0
        self._last_skipped = -1  # the last scene that ended before its clip could enter
        self._rendered_until = 0  # the place up to which the track is rendered
        self._pending = silence(0)  # rendered, but the next clip may still blend into it

    def add(self, index: int, clip: Audio | None) -> Iterator[Audio]:
        """Add a clip (None for silence); yield the finished part of the track."""
        segment = self._segments[index]
        if clip is None:
            yield from self._fall_silent(segment)
            return
        placed, seam, blend_samples = (
            self._splice(index, clip) or self._bridge(index, clip) or self._fade(index, clip)
        )
        follows_skipped = self._last_skipped == index - 1 and self._may_splice(index)
        if follows_skipped or placed.begin + EDGE_SAMPLES > self._latest_begins[index]:
            self._last_skipped = index
            self.warnings.append(
                f"scene {segment.scene_index + 1} ends before its music could enter"
            )
            return
        fade_out = 0 if blend_samples else self._rules.fade_samples
        yield from self._render(placed.begin, fade_out=fade_out)
        if blend_samples:
            before = self._pending[:, -blend_samples:]
            entering = placed.render(placed.begin - blend_samples, placed.begin)
            self._pending[:, -blend_samples:] = crossfade(before, entering)
        if seam is not None:
            self.seams.append(seam)
            if is_bridged(segment):
                self.warnings.append(_bridge_warning(segment, seam))
        self._current, self._previous = placed, None

    def finish(self) -> Iterator[Audio]:
        """Yield the rest of the track."""
        yield from self._render(self.samples, fade_out=EDGE_SAMPLES)
        yield self._pending

    def _find_latest_begins(self) -> list[int]:
        """Return, per scene, the place before which its clip must have entered."""
        limits, limit = [], self.samples
        for index in reversed(range(len(self._segments))):
            limits.append(limit)
            if not self._may_splice(index):
                limit = min(limit, self._fade_begin(index))
        return limits[::-1]

    def _may_splice(self, index: int) -> bool:
        segment = self._segments[index]
        return (
            self._rules.transition is Transition.AUTO
            and index > 0
            and segment.window_samples - segment.padding_samples >= WINDOW_SAMPLES_MIN
            and segment.object_key is not None
            and self._segments[index - 1].object_key is not None
            and not is_bridged(segment)
        )

    def _fade_begin(self, index: int) -> int:
        segment = self._segments[index]
        if segment.object_key is None:
            return segment.start_samples
        after_music = index > 0 and self._segments[index - 1].object_key is not None
        window = segment.window_samples - segment.padding_samples
        return max(segment.start_samples, segment.join_samples - (window if after_music else 0))

    def _splice(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam, int] | None:
        """Place the clip where its window ends; None if it cannot be spliced."""
        current, segment = self._current, self._segments[index]
        if current is None or not self._may_splice(index):
            return None
        if current.segment is not self._segments[index - 1]:
            return None
        window_at, matched = _match_window(current, segment, clip)
        if matched is None:
            return None
        start = current.start + window_at - matched.lag_samples
        end = min(current.clip_end, current.start + window_at + segment.window_samples)
        begin = max(current.begin, end)
        # A spliced clip continues the music before it; other clips begin at their own place.
        earliest = 0 if current.spliced else current.begin
        both_from = max(start + segment.padding_samples, current.music_start, earliest, 0)
        blend_samples = min(self._rules.crossfade_samples, begin - both_from)
        if blend_samples < EDGE_SAMPLES or begin < segment.start_samples - EARLY_SAMPLES_MAX:
            return None
        placed, step_db = splice_clip(
            current, segment, clip, start=start, begin=begin, matched=matched
        )
        return placed, build_seam(placed, "splice", matched, step_db), blend_samples

    def _bridge(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam, int] | None:
        """Place a kept clip over new music; None if it must fade in."""
        current, segment = self._current, self._segments[index]
        automatic = self._rules.transition is Transition.AUTO
        if current is None or not is_bridged(segment) or not automatic:
            return None
        if current.segment is not self._segments[index - 1]:
            return None
        return place_bridged(current, segment, clip, blend_samples_max=self._blend_samples_max)

    def _fade(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam | None, int]:
        """Place the clip with a fade-in; music from before a silence keeps its level."""
        segment = self._segments[index]
        matched, gain_db = self._match_before_silence(segment, clip)
        begin = max(self._rendered_until, self._fade_begin(index))
        fade_in = self._rules.fade_samples
        if index == 0:  # a clip with a window is cut, so it needs a short fade
            has_window = segment.window_samples > segment.padding_samples
            fade_in = EDGE_SAMPLES if has_window else 0
        placed = PlacedClip(
            segment=segment,
            clip=clip,
            start=clip_start_of(segment) - (matched.lag_samples if matched else 0),
            begin=begin,
            gain=GainCurve(start_db=gain_db, start_samples=begin),
            fade_in=fade_in,
            spliced=False,
        )
        return placed, build_seam(placed, "fade", matched, None) if index > 0 else None, 0

    def _match_before_silence(
        self, segment: SegmentGenerated, clip: Audio
    ) -> tuple[Match | None, float]:
        """Return the match with the music before the silence, and the gain."""
        last, window = self._previous, segment.window_samples - segment.padding_samples
        automatic = self._rules.transition is Transition.AUTO
        if last is None or window < WINDOW_SAMPLES_MIN or not automatic:
            return None, 0.0
        before_db = last.gain.db_at(self._silent_from)
        _, matched = _match_window(last, segment, clip)
        if matched is None or matched.correlation < SAME_MUSIC or matched.gain_db is None:
            return None, before_db
        applied_db = float(np.clip(matched.gain_db, -JOIN_GAIN_DB_MAX, JOIN_GAIN_DB_MAX))
        return matched, float(np.clip(before_db + applied_db, -GAIN_DB_MAX, GAIN_DB_MAX))

    def _fall_silent(self, segment: SegmentGenerated) -> Iterator[Audio]:
        if self._current is None:
            return
        begin = max(self._rendered_until, segment.start_samples)
        yield from self._render(begin, fade_out=self._rules.fade_samples)
        self._previous, self._current, self._silent_from = self._current, None, begin
        self.seams.append(Seam(scene_index=segment.scene_index, at_samples=begin, kind="fade"))

    def _render(self, until: int, *, fade_out: int) -> Iterator[Audio]:
        """Render the current clip up to `until`, fading out at its end."""
        placed = self._current
        if placed is None:
            for start in range(self._rendered_until, until, _BLOCK_SAMPLES):
                yield from self._push(silence(min(_BLOCK_SAMPLES, until - start)))
            self._rendered_until = until
            return
        end = max(placed.begin, min(until, placed.clip_end))
        if end < until:  # the clip is too short and may stop in the middle of a bar
            fade_out = self._rules.fade_samples
            self._warn_short(placed.segment, until - end)
        requested_fade_out = fade_out
        fade_in, fade_out = self._fit_fades(placed, fade_out, end - placed.begin)
        up, down = fade_in_curve(fade_in), fade_in_curve(fade_out)[::-1]
        for start in range(placed.begin, until, _BLOCK_SAMPLES):
            stop = min(until, start + _BLOCK_SAMPLES)
            block = placed.render(start, stop)
            apply_curve(block, up, at=placed.begin - start)
            apply_curve(block, down, at=end - fade_out - start)
            yield from self._push(block)
        if requested_fade_out > 0 and fade_out < EDGE_SAMPLES:  # fade the pending audio instead
            apply_curve(
                self._pending,
                fade_in_curve(EDGE_SAMPLES)[::-1],
                at=self._pending.shape[1] - EDGE_SAMPLES,
            )
        self._rendered_until = until

    def _fit_fades(self, placed: PlacedClip, fade_out: int, samples: int) -> tuple[int, int]:
        """Return the fades, shortened in proportion if they overlap."""
        total = placed.fade_in + fade_out
        if total <= samples:
            return placed.fade_in, fade_out
        if max(placed.fade_in, fade_out) > EDGE_SAMPLES:
            self.warnings.append(
                f"scene {placed.segment.scene_index + 1}: its music of {seconds_at(samples):.2f} s "
                f"is shorter than its fades; they were shortened"
            )
        return placed.fade_in * samples // total, fade_out * samples // total

    def _warn_short(self, segment: SegmentGenerated, missing: int) -> None:
        if missing >= EDGE_SAMPLES:
            self.warnings.append(
                f"scene {segment.scene_index + 1}: its clip is {seconds_at(missing):.2f} s "
                "too short; the rest is silent"
            )

    def _push(self, block: Audio) -> Iterator[Audio]:
        """Hold back what the next clip may blend into; yield the rest."""
        rendered = np.concatenate([self._pending, block], axis=1)
        finished = max(0, rendered.shape[1] - self._blend_samples_max)
        self._pending = rendered[:, finished:].copy()
        if finished:
            yield rendered[:, :finished]


def _match_window(
    last: PlacedClip, segment: SegmentGenerated, clip: Audio
) -> tuple[int, Match | None]:
    """Return the place of the window in the last clip, and the match.

    The window ends at the join or, if the last clip ends before it, at its last whole second,
    because providers take whole seconds only.
    """
    whole = last.segment.clip_samples // SAMPLE_RATE_HZ * SAMPLE_RATE_HZ
    end = min(segment.join_samples - clip_start_of(last.segment), whole)
    window_at = end - segment.window_samples
    # Padding is not music: it would make a window seem quieter than it is.
    first = max(last.segment.padding_samples, window_at + segment.padding_samples)
    tail = last.clip[:, first : max(0, end)]
    if tail.shape[1] < WINDOW_SAMPLES_MIN:
        return window_at, None
    # A clip of an unexpected length has lost its header and may be late by the difference.
    reach = LAG_SAMPLES_MAX + min(SAMPLE_RATE_HZ, abs(clip.shape[1] - segment.clip_samples))
    head = clip[:, first - window_at :][:, : tail.shape[1] + reach]
    return window_at, match(tail, head, lag_max=reach)


def _bridge_warning(segment: SegmentGenerated, seam: Seam) -> str:
    joined = (
        f"bridged over {seconds_at(seam.bridge_samples):.2f} s" if seam.bridge_samples else "faded"
    )
    return (
        f"scene {segment.scene_index + 1} is kept, but the music before it was generated again: "
        f"{joined} instead of continued"
    )

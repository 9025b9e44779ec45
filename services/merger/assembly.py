"""Assembly: the segments of a run, laid one after another into its track.

A continued clip is spliced where its window repeats the music that is playing: level matched,
blended inside the window, the rest of the window dropped. Everything else meets by fading out
and in. The scenes' spans decide the length, whatever the clips hold. One clip is kept until the
next is there, because how it ends depends on what follows; so at most two are in memory. What
a cumulative track replaces is never laid: `segments.py` says so beforehand.

Joint            | where it lies                                       | what is heard of the window
splice           | `join_samples`, moved with the music before it      | the blend at its end
bridge           | `join_samples`                                      | the blend at its end
fade from music  | the scene's start                                   | what lies after that start
fade from silence| `join_samples`                                      | nothing

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
    continued_gain,
)
from shared.contract.events import Seam, SegmentGenerated
from shared.contract.params import Transition
from shared.media.samples import SAMPLE_RATE_HZ, Audio, seconds_at, silence

#: 50 ms of common music: less says nothing about level and lag
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 20
_BLOCK_SAMPLES = 5 * SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """How segments of one run meet."""

    transition: Transition
    fade_samples: int  #: of each fade, where two segments do not continue each other
    crossfade_samples: int  #: of the blend inside a window


class Assembly:
    """Makes the track of one run: add every segment in order, then finish."""

    def __init__(self, segments: Sequence[SegmentGenerated], rules: JoinRules) -> None:
        self.samples = segments[-1].start_samples + segments[-1].samples
        self.seams: list[Seam] = []
        self.warnings: list[str] = []
        self._segments = segments
        self._rules = replace(rules, fade_samples=max(EDGE_SAMPLES, rules.fade_samples))
        self._limits = self._latest_begins()
        #: a bridge takes as long as a fade, and so long the end of what is rendered is kept
        self._blend_samples_max = rules.crossfade_samples
        if any(is_bridged(segment) for segment in segments):
            self._blend_samples_max = max(self._blend_samples_max, self._rules.fade_samples)
        self._current: PlacedClip | None = None  # what sounds now
        self._previous: PlacedClip | None = None  # what sounded before the silence
        self._silent_from = 0
        self._last_skipped = -1  # the last scene whose clip came too late to be heard
        self._rendered_until = 0  # everything before it is rendered
        self._pending = silence(0)  # rendered, but a splice may still blend into it

    def add(self, index: int, clip: Audio | None) -> Iterator[Audio]:
        """Lay the clip of a segment, None for silence; yields the track that is now sure."""
        segment = self._segments[index]
        if clip is None:
            yield from self._fall_silent(segment)
            return
        entry = self._splice(index, clip) or self._bridge(index, clip) or self._fade(index, clip)
        placed, seam, blend_samples = entry
        follows_skipped = self._last_skipped == index - 1 and self._may_splice(index)
        if follows_skipped or placed.begin + EDGE_SAMPLES > self._limits[index]:
            self._last_skipped = index
            self.warnings.append(
                f"scene {segment.scene_index} is over before its music could enter"
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
        """Yields the rest of the track."""
        yield from self._render(self.samples, fade_out=EDGE_SAMPLES)
        yield self._pending

    def _latest_begins(self) -> list[int]:
        """Where, at the latest, something else than a splice takes over from each scene."""
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
        heard = segment.window_samples - segment.padding_samples
        return max(segment.start_samples, segment.join_samples - (heard if after_music else 0))

    def _splice(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam, int] | None:
        """Enter where the window ends; None when there is nothing to splice to."""
        now, segment = self._current, self._segments[index]
        if now is None or not self._may_splice(index):
            return None
        if now.segment is not self._segments[index - 1]:
            return None
        window_at, found = _match_window(now, segment, clip)
        if found is None:
            return None
        start = now.start + window_at - found.lag_samples
        end = min(now.clip_end, now.start + window_at + segment.window_samples)
        begin = max(now.begin, end)
        # A clip that was spliced in goes on from what was there before it; others begin.
        earliest = 0 if now.spliced else now.begin
        both_from = max(start + segment.padding_samples, now.music_start, earliest, 0)
        blend_samples = min(self._rules.crossfade_samples, begin - both_from)
        if blend_samples < EDGE_SAMPLES or begin < segment.start_samples - EARLY_SAMPLES_MAX:
            return None
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
        return placed, build_seam(placed, "splice", found, step_db), blend_samples

    def _bridge(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam, int] | None:
        """Enter a kept clip over other music than its window repeats; None: it fades in."""
        now, segment = self._current, self._segments[index]
        automatic = self._rules.transition is Transition.AUTO
        if now is None or not is_bridged(segment) or not automatic:
            return None
        if now.segment is not self._segments[index - 1]:
            return None
        return place_bridged(now, segment, clip, wanted_samples=self._blend_samples_max)

    def _fade(self, index: int, clip: Audio) -> tuple[PlacedClip, Seam | None, int]:
        """Enter by fading in; music heard before a silence comes back at its old level."""
        segment = self._segments[index]
        found, gain_db = self._match_before_silence(segment, clip)
        begin = max(self._rendered_until, self._fade_begin(index))
        fade_in = self._rules.fade_samples
        if index == 0:  # a clip's own beginning is a beginning; a cut behind a window is not
            begun_before = segment.window_samples > segment.padding_samples
            fade_in = EDGE_SAMPLES if begun_before else 0
        placed = PlacedClip(
            segment=segment,
            clip=clip,
            start=clip_start_of(segment) - (found.lag_samples if found else 0),
            begin=begin,
            level=GainCurve(start_db=gain_db, start_samples=begin),
            fade_in=fade_in,
            spliced=False,
        )
        return placed, build_seam(placed, "fade", found, None) if index > 0 else None, 0

    def _match_before_silence(
        self, segment: SegmentGenerated, clip: Audio
    ) -> tuple[Match | None, float]:
        """Where the window repeats the music before the silence, and the gain that follows."""
        last, window = self._previous, segment.window_samples - segment.padding_samples
        automatic = self._rules.transition is Transition.AUTO
        if last is None or window < WINDOW_SAMPLES_MIN or not automatic:
            return None, 0.0
        before_db = last.level.db_at(self._silent_from)
        _, found = _match_window(last, segment, clip)
        if found is None or found.correlation < SAME_MUSIC or found.gain_db is None:
            return None, before_db
        given_db = float(np.clip(found.gain_db, -JOIN_GAIN_DB_MAX, JOIN_GAIN_DB_MAX))
        return found, float(np.clip(before_db + given_db, -GAIN_DB_MAX, GAIN_DB_MAX))

    def _fall_silent(self, segment: SegmentGenerated) -> Iterator[Audio]:
        if self._current is None:
            return
        begin = max(self._rendered_until, segment.start_samples)
        yield from self._render(begin, fade_out=self._rules.fade_samples)
        self._previous, self._current, self._silent_from = self._current, None, begin
        self.seams.append(Seam(scene_index=segment.scene_index, at_samples=begin, kind="fade"))

    def _render(self, until: int, *, fade_out: int) -> Iterator[Audio]:
        """Render what sounds now up to `until`, fading out over its last `fade_out` samples."""
        placed = self._current
        if placed is None:
            for start in range(self._rendered_until, until, _BLOCK_SAMPLES):
                yield from self._push(silence(min(_BLOCK_SAMPLES, until - start)))
            self._rendered_until = until
            return
        end = max(placed.begin, min(until, placed.clip_end))
        if end < until:  # the clip stops by itself, perhaps in the middle of a bar
            fade_out = self._rules.fade_samples
            self._warn_short(placed.segment, until - end)
        wanted_out = fade_out
        fade_in, fade_out = self._fit_fades(placed, fade_out, end - placed.begin)
        up, down = fade_in_curve(fade_in), fade_in_curve(fade_out)[::-1]
        for start in range(placed.begin, until, _BLOCK_SAMPLES):
            stop = min(until, start + _BLOCK_SAMPLES)
            block = placed.render(start, stop)
            apply_curve(block, up, at=placed.begin - start)
            apply_curve(block, down, at=end - fade_out - start)
            yield from self._push(block)
        if wanted_out > 0 and fade_out < EDGE_SAMPLES:  # what came before must end as well
            apply_curve(
                self._pending,
                fade_in_curve(EDGE_SAMPLES)[::-1],
                at=self._pending.shape[1] - EDGE_SAMPLES,
            )
        self._rendered_until = until

    def _fit_fades(self, placed: PlacedClip, fade_out: int, samples: int) -> tuple[int, int]:
        """The fades at both ends of `samples`, shortened in proportion where they would meet."""
        wanted = placed.fade_in + fade_out
        if wanted <= samples:
            return placed.fade_in, fade_out
        if max(placed.fade_in, fade_out) > EDGE_SAMPLES:
            self.warnings.append(
                f"scene {placed.segment.scene_index}: its music of {seconds_at(samples):.2f} s "
                f"is shorter than its fades, which are shortened"
            )
        return placed.fade_in * samples // wanted, fade_out * samples // wanted

    def _warn_short(self, segment: SegmentGenerated, missing: int) -> None:
        if missing >= EDGE_SAMPLES:
            self.warnings.append(
                f"scene {segment.scene_index}: its clip is {seconds_at(missing):.2f} s short, "
                f"silence fills"
            )

    def _push(self, block: Audio) -> Iterator[Audio]:
        """Hold back as much as the next splice may blend into; yield the rest."""
        held = np.concatenate([self._pending, block], axis=1)
        sure = max(0, held.shape[1] - self._blend_samples_max)
        self._pending = held[:, sure:].copy()
        if sure:
            yield held[:, :sure]


def _match_window(
    last: PlacedClip, segment: SegmentGenerated, clip: Audio
) -> tuple[int, Match | None]:
    """Where in the last clip the head of `clip` was taken, and how the two match.

    The window ended at the join; or, where the last clip ended before that, at its last whole
    second, because providers know no others.
    """
    whole = last.segment.clip_samples // SAMPLE_RATE_HZ * SAMPLE_RATE_HZ
    end = min(segment.join_samples - clip_start_of(last.segment), whole)
    window_at = end - segment.window_samples
    # Padding is no music: it would make a window seem quieter than it is.
    first = max(last.segment.padding_samples, window_at + segment.padding_samples)
    tail = last.clip[:, first : max(0, end)]
    if tail.shape[1] < WINDOW_SAMPLES_MIN:
        return window_at, None
    # A clip of another length than promised has lost its header, and may come that much later.
    reach = LAG_SAMPLES_MAX + min(SAMPLE_RATE_HZ, abs(clip.shape[1] - segment.clip_samples))
    head = clip[:, first - window_at :][:, : tail.shape[1] + reach]
    return window_at, match(tail, head, lag_max=reach)


def _bridge_warning(segment: SegmentGenerated, seam: Seam) -> str:
    how = (
        f"bridged over {seconds_at(seam.bridge_samples):.2f} s" if seam.bridge_samples else "faded"
    )
    return (
        f"scene {segment.scene_index} is kept, and the music before it was made anew: "
        f"{how}, not continued"
    )

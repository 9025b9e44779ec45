"""Analyses a film: its cuts, scenes and measurements.

I/O: reads the film, blocking; `progress` is called with the time that was read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shared.media.video import VideoInfo
from shared.scene_detection.cuts import Cut, CutDetector
from shared.scene_detection.description import Description, Measurements, describe, measure
from shared.scene_detection.film import Sound, read_film
from shared.scene_detection.scenes import SceneLimits, scene_starts
from shared.scene_detection.slices import SLICE_S, Slice, Slices
from shared.scene_detection.speech import SpeechDetector

_TIME_DIGITS = 6  # microseconds, as FFmpeg counts


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedScene:
    """A scene of the film. The scenes' lengths add up to the film's."""

    start_s: float
    duration_s: float
    shots: int
    speech_s: float
    measurements: Measurements
    description: Description


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was found in a film."""

    duration_s: float
    fps: float  #: mean of the film
    cuts: Sequence[Cut]
    speech: Sequence[tuple[float, float]]  #: start and end of each passage, seconds
    scenes: Sequence[DetectedScene]


def analyse(
    path: Path,
    info: VideoInfo,
    limits: SceneLimits,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> Analysis:
    """Return the analysis of the film in `path`; `info` is its probe.

    Raises:
        MediaError: the picture cannot be decoded.
        ValueError: the limits do not allow scenes for a film of this length.
    """
    detector, slices, speech = CutDetector(), Slices(), SpeechDetector()
    cuts: list[Cut] = []
    frames = 0
    for part in read_film(path, info):
        if isinstance(part, Sound):
            slices.add_sound(part.start_s, part.samples)
            speech.push(part.start_s, part.samples)
            continue
        frames += 1
        cuts += detector.push(part)
        slices.add_frame(part)
        progress(part.time_s)
    cuts += detector.finish()
    length_s = round(info.duration_s, _TIME_DIGITS)
    passages = [
        (start_s, min(end_s, length_s)) for start_s, end_s in speech.finish() if start_s < length_s
    ]
    found = slices.finished(length_s, passages)
    starts = scene_starts(cuts, found, length_s, limits)
    return Analysis(
        duration_s=length_s,
        fps=round(frames / length_s, 3),
        cuts=cuts,
        speech=passages,
        scenes=_scenes(starts, cuts, found, passages, length_s),
    )


def _scenes(
    starts: Sequence[float],
    cuts: Sequence[Cut],
    slices: Sequence[Slice],
    speech: Sequence[tuple[float, float]],
    length_s: float,
) -> list[DetectedScene]:
    edges = [round(start_s, _TIME_DIGITS) for start_s in starts] + [length_s]
    scenes = []
    for start_s, end_s in pairwise(edges):
        inside = sum(start_s < cut.time_s < end_s for cut in cuts)
        first = min(round(start_s / SLICE_S), len(slices) - 1)
        last = max(round(end_s / SLICE_S), first + 1)
        duration_s = round(end_s - start_s, _TIME_DIGITS)
        measured = measure(slices[first:last], cuts=inside, length_s=duration_s)
        scenes.append(
            DetectedScene(
                start_s=start_s,
                duration_s=duration_s,
                shots=inside + 1,
                speech_s=round(_overlap_s(speech, start_s, end_s), 3),
                measurements=measured,
                description=describe(measured),
            )
        )
    return scenes


def _overlap_s(passages: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    return sum(max(min(end, end_s) - max(start, start_s), 0.0) for start, end in passages)

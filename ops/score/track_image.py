"""Draws the track of a run as `track.png`.

The track is decoded in blocks, so that a film of hours needs no more memory than one of seconds.

Units: samples at 48 kHz. I/O: reads the track, writes the image.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np

from ops.score.waveform import SeamMark, Timeline, draw_waveform, envelope_of
from services.api.http.schemas import StatusResponse
from shared.media.paths import media_path
from shared.media.samples import SAMPLE_RATE_HZ, Audio, exact_seconds, samples_at

_BLOCK_SAMPLES = 5 * SAMPLE_RATE_HZ


def draw_track(track: Path, image: Path, status: StatusResponse) -> None:
    """Write the image of the run's track over the whole film."""
    facts, video = status.track, status.video
    assert facts is not None, "only a run with a track is drawn"
    tempo = video.tempo if video else 1.0
    film = round(samples_at(video.duration_s) * tempo) if video else None
    envelope = envelope_of(
        _blocks(track),
        samples=max(facts.samples, film or 0, 1),
        track_samples=facts.samples,
    )
    loudness = "" if facts.loudness_lufs is None else f", {facts.loudness_lufs:.1f} LUFS"
    scenes = status.progress.scenes
    image_of_track = draw_waveform(
        envelope,
        Timeline(
            scene_starts=_scene_starts([scene.duration_s or 0.0 for scene in scenes]),
            seams=[
                SeamMark(at_samples=seam["at_samples"], kind=seam["kind"]) for seam in facts.seams
            ],
            silent_scenes=status.silent_scenes,
            film_samples=film,
            tempo=tempo,
        ),
        title=f"{status.job_id}, run {status.run}: {facts.duration_s:.3f} s of music{loudness}",
    )
    image_of_track.save(image, format="PNG")


def _blocks(track: Path) -> Iterator[Audio]:
    """Yield the track in blocks of a few seconds."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE_HZ)
    parts: list[Audio] = []
    with av.open(media_path(track), format="mp3") as container:
        for frame in container.decode(audio=0):
            frame.pts = None  # the resampler counts its own
            parts += _arrays(resampler.resample(frame))
            if sum(part.shape[1] for part in parts) >= _BLOCK_SAMPLES:
                yield np.concatenate(parts, axis=1)
                parts = []
        parts += _arrays(resampler.resample(None))
    if parts:
        yield np.concatenate(parts, axis=1)


def _arrays(frames: Sequence[av.AudioFrame]) -> list[Audio]:
    return [frame.to_ndarray().astype(np.float32, copy=False) for frame in frames]


def _scene_starts(lengths_s: Sequence[float]) -> list[int]:
    """Return where each scene starts, in samples: start times are rounded, not lengths."""
    exact = [exact_seconds(length_s) for length_s in lengths_s]
    return [samples_at(start_s) for start_s in accumulate(exact[:-1], initial=Fraction())]

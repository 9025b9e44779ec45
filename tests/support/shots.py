"""Builds shots of known content, as 64x36 planes: textures that move, fade and dissolve.

Shapes: a shot is float32 (frames, 3, 36, 64), Y, U and V, 0 to 255.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from shared.scene_detection.cuts import Cut, CutDetector
from shared.scene_detection.frame import HEIGHT, WIDTH, frame_of

FPS = 25
Shot = npt.NDArray[np.float32]


def still(seed: int, frames: int, *, mean: float = 120, contrast: float = 40) -> Shot:
    """Return a shot whose picture does not move."""
    return np.repeat(_texture(seed, WIDTH, mean, contrast)[None], frames, axis=0)


def pan(seed: int, frames: int, *, cells_per_frame: float = 1.0) -> Shot:
    """Return a shot whose camera moves to the right."""
    columns = [round(index * cells_per_frame) for index in range(frames)]
    wide = _texture(seed, WIDTH + columns[-1], 120, 40)
    return np.array([wide[:, :, at : at + WIDTH] for at in columns])


def plain(value: float, frames: int) -> Shot:
    """Return a shot in one grey."""
    shot = np.full((frames, 3, HEIGHT, WIDTH), 128, np.float32)
    shot[:, 0] = value
    return shot


def dissolve(first: Shot, second: Shot, frames: int) -> Shot:
    """Return both shots, the first dissolving into the second over `frames`."""
    share = (np.arange(frames, dtype=np.float32) + 1)[:, None, None, None] / (frames + 1)
    mixed = first[-frames:] * (1 - share) + second[:frames] * share
    return np.concatenate([first[:-frames], mixed, second[frames:]])


def flash(shot: Shot, at: int, frames: int = 2) -> Shot:
    """Return the shot with a white flash."""
    flashed = shot.copy()
    flashed[at : at + frames, 0] = 235
    flashed[at : at + frames, 1:] = 128
    return flashed


def cuts_of(*shots: Shot, times: Sequence[float] | None = None) -> list[Cut]:
    """Return the cuts that the detector finds in these shots, shown one after the other."""
    return list(_cuts(np.concatenate(shots), times))


def _cuts(frames: Shot, times: Sequence[float] | None) -> Iterable[Cut]:
    detector = CutDetector()
    for index, planes in enumerate(frames):
        time_s = index / FPS if times is None else times[index]
        yield from detector.push(frame_of(time_s, planes))
    yield from detector.finish()


def _texture(seed: int, width: int, mean: float, contrast: float) -> Shot:
    """Return a picture (3, 36, width) with the spectrum of natural pictures."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(
        np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT, np.fft.fftfreq(width)[None] * width
    )
    frequency[0, 0] = 1
    planes = []
    for centre, deviation in ((mean, contrast), (128, 12), (128, 12)):
        noise = np.fft.fft2(rng.standard_normal((HEIGHT, width)))
        plane = np.fft.ifft2(noise / frequency**1.2).real
        planes.append(np.clip(centre + deviation * plane / plane.std(), 0, 255))
    return np.array(planes, dtype=np.float32)

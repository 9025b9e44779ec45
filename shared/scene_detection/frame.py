"""A frame of the film, reduced to what the detector compares. Pure.

Shapes: `planes` is float32 (3, 36, 64): Y, U and V, each 0 to 255. The picture is scaled to this
grid whatever its aspect ratio. `luma` and `chroma` are normalised: luma to mean 0 and standard
deviation 1, so that exposure and contrast do not count; chroma around 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HEIGHT = 36
WIDTH = 64
PLAIN_STD = 2.5  #: below this deviation of luma a frame has no content: black, white, one colour
_STD_MIN = 4.0  # noise of a plain frame is not content
_CHROMA_UNIT = 12.0
_SEARCH_Y, _SEARCH_X = 4, 6  # motion between two frames, in cells of the grid
_BLOCK_Y, _BLOCK_X = 9, 8

_STILL = 0.2
_COLOUR_FREE, _COLOUR_WEIGHT, _COLOUR_MAX = 0.5, 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: when it is shown, and what it shows."""

    time_s: float
    planes: npt.NDArray[np.float32]
    luma: npt.NDArray[np.float32]
    std: float  #: of luma

    @property
    def is_plain(self) -> bool:
        """Return whether the frame shows one colour only."""
        return self.std < PLAIN_STD


def frame_of(time_s: float, planes: npt.NDArray[np.float32]) -> Frame:
    """Return the frame shown at `time_s`, from its planes (3, 36, 64)."""
    luma = planes[0]
    mean, std = float(luma.mean()), float(luma.std())
    return Frame(time_s, planes, (luma - mean) / max(std, _STD_MIN), std)


def contrast_energy(frame: Frame) -> float:
    """Return the mean squared difference of neighbouring cells of luma."""
    luma = frame.planes[0]
    return float((np.diff(luma, axis=0) ** 2).mean() + (np.diff(luma, axis=1) ** 2).mean())


def dissimilarity(first: Frame, second: Frame) -> float:
    """Return how much of `second` is not `first` moved: 0 the same, about 0.7 another picture.

    Each block of 9x8 cells is searched in `first` up to 6 cells to the side and 4 up or down, so
    that camera and object movement do not count. The result is the mean absolute difference of
    normalised luma, plus a share of the difference in colour.
    """
    colour = _colour_difference(first, second)
    still = np.abs(first.luma - second.luma)
    if still.mean() < _STILL:  # the search could only lower it
        return float(still.mean()) + colour
    padded = np.pad(first.luma, ((_SEARCH_Y, _SEARCH_Y), (_SEARCH_X, _SEARCH_X)), mode="edge")
    shifted = np.lib.stride_tricks.sliding_window_view(padded, (HEIGHT, WIDTH))
    shifts = (2 * _SEARCH_Y + 1) * (2 * _SEARCH_X + 1)
    differences = np.abs(shifted - second.luma).reshape(
        shifts, HEIGHT // _BLOCK_Y, _BLOCK_Y, WIDTH // _BLOCK_X, _BLOCK_X
    )
    best = differences.mean((2, 4)).reshape(shifts, -1).min(0)
    return float(best.mean()) + colour


def _colour_difference(first: Frame, second: Frame) -> float:
    distance = float(np.abs(first.planes[1:] - second.planes[1:]).mean()) / _CHROMA_UNIT
    return min(max(distance - _COLOUR_FREE, 0.0) * _COLOUR_WEIGHT, _COLOUR_MAX)

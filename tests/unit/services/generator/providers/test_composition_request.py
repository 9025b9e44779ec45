"""Checks which requests to a music provider are valid."""

from dataclasses import replace

import pytest

from services.generator.providers import WINDOW_S_MAX, CompositionRequest, ContinuationWindow

WINDOW = ContinuationWindow(clip_key="jobs/a/clip-1.mp3", clip_url=None, start_s=4, end_s=6)
FRESH = CompositionRequest(prompt="calm", duration_s=6, window=None, seed=1)
CONTINUED = replace(FRESH, window=WINDOW)


@pytest.mark.parametrize(
    ("start_s", "end_s", "duration_s"),
    [(4, 6, 2), (4, 6, 1), (4, 4, 5), (5, 4, 5), (-1, 1, 5), (0, WINDOW_S_MAX + 1, 60)],
)
def test_a_request_on_which_the_model_fails_is_rejected(
    start_s: int, end_s: int, duration_s: int
) -> None:
    """No new music, or a window that is empty, negative or too long."""
    window = replace(WINDOW, start_s=start_s, end_s=end_s)

    with pytest.raises(ValueError, match="window"):
        replace(CONTINUED, window=window, duration_s=duration_s)


@pytest.mark.parametrize("duration_s", [0, -3])
def test_a_request_without_duration_is_rejected(duration_s: int) -> None:
    """A clip lasts at least a second."""
    with pytest.raises(ValueError, match="duration"):
        replace(FRESH, duration_s=duration_s)

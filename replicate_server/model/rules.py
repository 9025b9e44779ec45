"""The model's rules for its inputs, and its error messages.

From its source: the output is `duration` whole seconds and begins with the window. The window is
`input_audio[int(rate * start) : int(rate * end)]`, so an end beyond the file is not an error but
shortens the window. What the model does not check fails later, with a message that says little.

Units: whole seconds, samples at 32 kHz. Pure.
"""

from replicate_server.http.request_schema import Inputs
from shared.media.samples import CLIP_RATE_HZ

PROMPT_S_MAX = 30  #: the model's training length
SEED_MAX = 2**32 - 1
EMPTY_WINDOW = "integer division or modulo by zero"


class ModelError(Exception):
    """The prediction fails with this `error`."""


def check(inputs: Inputs, *, duration_s_max: int) -> None:
    """Check the inputs as the model does before it reads audio.

    Raises:
        ModelError: the model's error.
    """
    if inputs.prompt is None and inputs.input_audio is None:
        raise ModelError("Must provide either prompt or input_audio")
    if inputs.continuation and not inputs.input_audio:
        raise ModelError("Must provide `input_audio` if continuation is `True`.")
    takes_melody = "melody" in inputs.model_version
    if inputs.input_audio and not inputs.continuation and not takes_melody:
        raise ModelError(
            "`stereo-large` and `large` model does not support melody input. Set"
            " `model_version='stereo-melody-large'` or `model_version='melody-large'` to"
            " condition on audio input."
        )
    if inputs.multi_band_diffusion and is_stereo(inputs):
        raise ModelError("Multi-Band Diffusion is only available with non-stereo models.")
    if inputs.seed is not None and not -1 <= inputs.seed <= SEED_MAX:
        raise ModelError("Seed must be between 0 and 2**32 - 1")
    if inputs.duration <= 0:
        raise ModelError("")  # a bare assertion
    if inputs.duration > duration_s_max:
        raise ModelError("CUDA out of memory (code: E1001)")


def is_stereo(inputs: Inputs) -> bool:
    """Return whether the requested model is stereo."""
    return "stereo" in inputs.model_version


def wants_random_seed(inputs: Inputs) -> bool:
    """Return whether the model chooses the seed: none, -1 or 0."""
    return inputs.seed in {None, -1, 0}


def window_of(inputs: Inputs, *, samples: int) -> tuple[int, int]:
    """Return the window `[start, stop)` in an input of `samples` samples.

    Raises:
        ModelError: the model's error.
    """
    end_s = samples / CLIP_RATE_HZ if inputs.continuation_end is None else inputs.continuation_end
    if inputs.continuation_start > end_s:
        raise ModelError("`continuation_start` must be less than or equal to `continuation_end`")
    start = min(CLIP_RATE_HZ * inputs.continuation_start, samples)
    stop = min(int(CLIP_RATE_HZ * end_s), samples)
    if start == stop:
        raise ModelError(EMPTY_WINDOW)
    longest = min(inputs.duration, PROMPT_S_MAX) * CLIP_RATE_HZ
    if stop - start > longest:
        raise ModelError("Prompt is longer than audio to generate")
    if stop - start == longest:
        raise ModelError("")  # a bare assertion: there would be no new music
    return start, stop

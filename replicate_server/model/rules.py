"""Rules: what the model makes of its inputs, and the words with which it fails.

As read in its source: the output is `duration` whole seconds with the window at its head; the
window is `input_audio[int(rate * start) : int(rate * end)]`, so an end beyond the file is no
error, it shortens the window; what the model does not catch fails deep inside, with a text
that says little or nothing.

Units: whole seconds, samples at 32 kHz. Pure.
"""

from replicate_server.http.request_schema import Inputs
from services.generator.providers.synth.voices import RATE_HZ

PROMPT_S_MAX = 30  #: the model's training length
SEED_MAX = 2**32 - 1
EMPTY_WINDOW = "integer division or modulo by zero"


class ModelError(Exception):
    """The prediction fails; the message is its `error`."""


def check(inputs: Inputs, *, duration_s_max: int) -> None:
    """Refuse what the model refuses before it hears anything.

    Raises:
        ModelError: with the model's words.
    """
    if inputs.prompt is None and inputs.input_audio is None:
        raise ModelError("Must provide either prompt or input_audio")
    if inputs.continuation and not inputs.input_audio:
        raise ModelError("Must provide `input_audio` if continuation is `True`.")
    hears_melody = "melody" in inputs.model_version
    if inputs.input_audio and not inputs.continuation and not hears_melody:
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
    """Whether the model that was asked for has two channels."""
    return "stereo" in inputs.model_version


def wants_random_seed(inputs: Inputs) -> bool:
    """Whether the model draws a seed itself: no seed, -1, and 0 too."""
    return inputs.seed in {None, -1, 0}


def window_of(inputs: Inputs, *, samples: int) -> tuple[int, int]:
    """The window in an input of `samples` samples: `[start, stop)`.

    Raises:
        ModelError: with the model's words.
    """
    end_s = samples / RATE_HZ if inputs.continuation_end is None else inputs.continuation_end
    if inputs.continuation_start > end_s:
        raise ModelError("`continuation_start` must be less than or equal to `continuation_end`")
    start = min(RATE_HZ * inputs.continuation_start, samples)
    stop = min(int(RATE_HZ * end_s), samples)
    if start == stop:
        raise ModelError(EMPTY_WINDOW)
    longest = min(inputs.duration, PROMPT_S_MAX) * RATE_HZ
    if stop - start > longest:
        raise ModelError("Prompt is longer than audio to generate")
    if stop - start == longest:
        raise ModelError("")  # a bare assertion, where nothing would be left to make
    return start, stop

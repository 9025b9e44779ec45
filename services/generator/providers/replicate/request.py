"""Rules: what is sent to MusicGen, whose a prediction is, and what its end means.

A scene longer than the model's 30 s is asked for in one piece: beyond them the model slides its
own window (30 s with 12 s of context), which holds the music together better than several
clips joined by us, and is one prediction to pay, find and cancel instead of several.

Pure.
"""

import re
from dataclasses import dataclass
from typing import Any

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.models import PredictionAnswer
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.errors import ProviderRejectedError

TIMED_OUT = "Audio generation timed out"
_FIXED = {
    "model_version": "stereo-large",
    "output_format": "mp3",
    "normalization_strategy": "loudness",
}
_SEED_MAX = 2**32 - 1  # 0 means "random", more than this crashes the model
_DEADLINE_SHARE = 0.95  # ended so close to our deadline, it was the deadline
# What a second try can mend: the platform's own troubles, and files that could not be fetched.
_PASSING = re.compile(
    r"\bE1000\b|\bE6716\b|code: PA\b|interrupted|please retry|timed? ?out|connection|download"
    r"|http ?error|temporarily|unavailable",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Audio that the model can read, and the window in it."""

    url: str
    start_s: int
    end_s: int
    kind: str  #: `output`, `link` or `inside`


class PredictionEndedError(ProviderRejectedError):
    """A prediction ended without a clip; it may have cost something all the same."""

    code = "prediction_failed"

    def __init__(
        self,
        reason: str,
        *,
        retryable: bool,
        generation_s: float | None = None,
        cost_usd: float | None = None,
    ) -> None:
        super().__init__(reason, retryable=retryable, cost_usd=cost_usd)
        self.generation_s = generation_s


def body_for(
    request: CompositionRequest,
    source: Source | None,
    *,
    version: str,
    webhook: str | None,
) -> dict[str, Any]:
    """The whole body of the request that costs; other keys than these the API refuses.

    Raises:
        ProviderRejectedError: the model would answer it with a fault, after being paid.
    """
    told: dict[str, Any] = {
        "prompt": request.prompt,
        **_FIXED,
        "duration": request.duration_s,
        "seed": request.seed,
    }
    if source is not None:
        told |= {
            "input_audio": source.url,
            "continuation": True,
            "continuation_start": source.start_s,
            "continuation_end": source.end_s,
        }
    _check(told)
    body: dict[str, Any] = {"version": version, "input": told}
    if webhook is not None:
        body |= {"webhook": webhook, "webhook_events_filter": ["completed"]}
    return body


def is_of(answer: PredictionAnswer, request: CompositionRequest) -> bool:
    """Whether a prediction was made for this request; False where its input is gone."""
    told = answer.input
    return (told.get("seed"), told.get("prompt"), told.get("duration")) == (
        request.seed,
        request.prompt,
        request.duration_s,
    )


def poll_s(number: int, settings: ReplicateSettings) -> float:
    """Seconds before look `number`, from 0: 1, 2, 4, 8, then 10."""
    return min(settings.poll_max_s, settings.poll_first_s * 2.0 ** min(number, 20))


def ending(
    answer: PredictionAnswer, *, cost_usd: float | None, deadline_s: float
) -> PredictionEndedError:
    """What a prediction that ended without success is to its scene."""
    reason, retryable = _why(answer, deadline_s)
    return PredictionEndedError(
        reason, retryable=retryable, generation_s=answer.work_s, cost_usd=cost_usd
    )


def _why(answer: PredictionAnswer, deadline_s: float) -> tuple[str, bool]:
    words = (answer.error or "").strip()
    if answer.status == "failed":
        if not words:
            return "MusicGen failed and gave no reason", True
        return f"MusicGen failed: {words[:500]}", _PASSING.search(words) is not None
    if answer.created_at is not None and answer.completed_at is not None:
        lasted_s = (answer.completed_at - answer.created_at).total_seconds()
        if lasted_s >= deadline_s * _DEADLINE_SHARE:
            return f"{TIMED_OUT}: {answer.status} by the provider after {lasted_s:.0f} s", True
    return f"the prediction was {answer.status}: {words or 'no reason given'}", True


def _check(told: dict[str, Any]) -> None:
    """Refuse what is known to fail obscurely: it is a fault of ours."""
    wrong = []
    numbers = ("duration", "seed", "continuation_start", "continuation_end")
    if any(type(told[name]) is not int for name in numbers if name in told):
        wrong.append("seconds and seeds must be whole numbers")
    elif not 1 <= told["seed"] <= _SEED_MAX:
        wrong.append(f"seed {told['seed']} means another one, or none")
    elif "input_audio" in told:
        start, end, duration = (told[name] for name in (*numbers[2:], "duration"))
        if not 0 <= start < end:
            wrong.append(f"window [{start}, {end}) s is empty or negative")
        if end - start >= duration:
            wrong.append(f"a window of {end - start} s leaves nothing of {duration} s")
    elif told["duration"] < 1:
        wrong.append(f"a duration of {told['duration']} s")
    if not told["prompt"].strip():
        wrong.append("the prompt is empty")
    if wrong:
        raise ProviderRejectedError(f"not sent to MusicGen: {'; '.join(wrong)}")

"""Builds MusicGen requests, matches predictions to requests and interprets how they ended.

A scene longer than the model's 30 s is requested as one prediction: the model slides its own
window (30 s with 12 s of context), which keeps the music more coherent than several joined clips,
and there is one prediction to pay, find and cancel instead of several.

Pure.
"""

import re
from dataclasses import dataclass
from typing import Any

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.models import ApiPrediction
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.errors import ProviderRejectedError

TIMED_OUT = "Audio generation timed out"
_FIXED = {
    "model_version": "stereo-large",
    "output_format": "mp3",
    "normalization_strategy": "loudness",
}
_SEED_MAX = 2**32 - 1  # 0 means "random", more than this crashes the model
_DEADLINE_SHARE = 0.95  # a prediction cancelled this close to our deadline timed out
# Errors after which a retry may succeed: faults of the platform, and failed downloads.
_TRANSIENT = re.compile(
    r"\bE1000\b|\bE6716\b|code: PA\b|interrupted|please retry|timed? ?out|connection|download"
    r"|http ?error|temporarily|unavailable",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """A URL from which the model can read audio, and the window in that audio."""

    url: str
    start_s: int
    end_s: int
    kind: str  #: `output`, `link` or `inline`


class PredictionEndedError(ProviderRejectedError):
    """A prediction ended without a clip; it may have cost money."""

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


def build_body(
    request: CompositionRequest,
    source: AudioSource | None,
    *,
    version: str,
    webhook: str | None,
) -> dict[str, Any]:
    """Return the body of the paid request; the API rejects any other key.

    Raises:
        ProviderRejectedError: the model would fail on it after being paid.
    """
    fields: dict[str, Any] = {
        "prompt": request.prompt,
        **_FIXED,
        "duration": request.duration_s,
        "seed": request.seed,
    }
    if source is not None:
        fields |= {
            "input_audio": source.url,
            "continuation": True,
            "continuation_start": source.start_s,
            "continuation_end": source.end_s,
        }
    _check(fields)
    body: dict[str, Any] = {"version": version, "input": fields}
    if webhook is not None:
        body |= {"webhook": webhook, "webhook_events_filter": ["completed"]}
    return body


def matches_request(prediction: ApiPrediction, request: CompositionRequest) -> bool:
    """Return whether a prediction was made for this request; False if its input is purged."""
    fields = prediction.input
    return (fields.get("seed"), fields.get("prompt"), fields.get("duration")) == (
        request.seed,
        request.prompt,
        request.duration_s,
    )


def poll_delay_s(number: int, settings: ReplicateSettings) -> float:
    """Return the seconds before poll `number`, from 0: 1, 2, 4, 8, then 10."""
    return min(settings.poll_max_s, settings.poll_first_s * 2.0 ** min(number, 20))


def ended_error(
    prediction: ApiPrediction, *, cost_usd: float | None, deadline_s: float
) -> PredictionEndedError:
    """Return the error for a prediction that ended without success."""
    reason, retryable = _reason(prediction, deadline_s)
    return PredictionEndedError(
        reason, retryable=retryable, generation_s=prediction.work_s, cost_usd=cost_usd
    )


def _reason(prediction: ApiPrediction, deadline_s: float) -> tuple[str, bool]:
    message = (prediction.error or "").strip()
    if prediction.status == "failed":
        if not message:
            return "MusicGen failed, no reason given", True
        return f"MusicGen failed: {message[:500]}", _TRANSIENT.search(message) is not None
    if prediction.created_at is not None and prediction.completed_at is not None:
        lasted_s = (prediction.completed_at - prediction.created_at).total_seconds()
        if lasted_s >= deadline_s * _DEADLINE_SHARE:
            return f"{TIMED_OUT}: {prediction.status} by the provider after {lasted_s:.0f} s", True
    return f"the prediction was {prediction.status}: {message or 'no reason given'}", True


def _check(fields: dict[str, Any]) -> None:
    """Reject input that is known to make the model fail: it is a bug in our code."""
    problems = []
    numbers = ("duration", "seed", "continuation_start", "continuation_end")
    if any(type(fields[name]) is not int for name in numbers if name in fields):
        problems.append("seconds and seeds must be whole numbers")
    elif not 1 <= fields["seed"] <= _SEED_MAX:
        problems.append(f"seed {fields['seed']} is out of range")
    elif "input_audio" in fields:
        start, end, duration = (fields[name] for name in (*numbers[2:], "duration"))
        if not 0 <= start < end:
            problems.append(f"window [{start}, {end}) s is empty or negative")
        if end - start >= duration:
            problems.append(f"a window of {end - start} s leaves nothing of {duration} s")
    elif fields["duration"] < 1:
        problems.append(f"a duration of {fields['duration']} s")
    if not fields["prompt"].strip():
        problems.append("the prompt is empty")
    if problems:
        raise ProviderRejectedError(f"not sent to MusicGen: {'; '.join(problems)}")

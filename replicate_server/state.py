"""State shared by the parts of the emulator.

Units: seconds, US dollars.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from replicate_server.emulated_time import EmulatedTime
from replicate_server.faults import Faults
from replicate_server.http.token_bucket import TokenBucket
from replicate_server.ledger import Ledger
from replicate_server.predictions.files import InputPolicy, OutputStore
from replicate_server.predictions.prediction import Prediction
from replicate_server.predictions.webhooks import WebhookPolicy, Webhooks
from replicate_server.settings import EmulatorSettings


@dataclass(slots=True, kw_only=True)
class State:
    """Everything that outlives a request."""

    settings: EmulatorSettings
    time: EmulatedTime
    origin: str  #: `http://127.0.0.1:PORT`
    webhooks: Webhooks
    outputs: OutputStore
    creations: TokenBucket
    others: TokenBucket
    credit_usd: float | None
    ledger: Ledger = field(default_factory=Ledger)
    faults: Faults = field(default_factory=Faults)
    #: in the order of creation
    predictions: dict[str, Prediction] = field(default_factory=dict)
    #: responses by place and status code; 0: no response
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    is_revoked: bool = False
    down_until_s: float = -math.inf
    unavailable_until_s: float = -math.inf

    @property
    def api_url(self) -> str:
        """The base URL of the API."""
        return f"{self.origin}/v1"

    @property
    def input_policy(self) -> InputPolicy:
        """Which inputs may be fetched."""
        return InputPolicy(
            origin=self.origin,
            bytes_max=self.settings.input_bytes_max,
            loopback=self.settings.reaches_loopback,
        )

    @property
    def webhook_policy(self) -> WebhookPolicy:
        """How webhooks are sent."""
        return WebhookPolicy(
            secret=self.settings.webhook_secret,
            timeout_s=self.settings.webhook_timeout_s,
            delays_s=self.settings.webhook_delays_s,
        )

    def tune(self, settings: EmulatorSettings) -> None:
        """Replace the settings; limits and credit restart where they changed."""
        before, self.settings = self.settings, settings
        if _creation_limit(before) != _creation_limit(settings):
            self.creations = creation_bucket(settings)
        if _request_limit(before) != _request_limit(settings):
            self.others = request_bucket(settings)
        if before.credit_usd != settings.credit_usd:
            self.credit_usd = settings.credit_usd

    def sweep(self) -> None:
        """Remove expired outputs, data and predictions."""
        now_s = self.time.monotonic()
        self.outputs.sweep(now_s)
        for prediction in self.predictions.values():
            removal_s = (prediction.ended_s or 0.0) + self.settings.retention_s
            if prediction.has_ended and not prediction.is_removed and now_s >= removal_s:
                remove_data(prediction)
        surplus = len(self.predictions) - self.settings.predictions_max
        ended = [id_ for id_, prediction in self.predictions.items() if prediction.has_ended]
        for id_ in ended[: max(surplus, 0)]:
            del self.predictions[id_]


def remove_data(prediction: Prediction) -> None:
    """Remove the input, output and logs of a prediction."""
    prediction.is_removed = True
    prediction.input, prediction.output, prediction.logs = {}, None, ""


def creation_bucket(settings: EmulatorSettings) -> TokenBucket:
    """Return the limit of new predictions."""
    return TokenBucket(per_min=settings.creations_per_min, burst=settings.creation_burst)


def request_bucket(settings: EmulatorSettings) -> TokenBucket:
    """Return the limit of all other requests."""
    return TokenBucket(per_min=settings.requests_per_min, burst=settings.request_burst)


def _creation_limit(settings: EmulatorSettings) -> tuple[float, int | None]:
    return settings.creations_per_min, settings.creation_burst


def _request_limit(settings: EmulatorSettings) -> tuple[float, int | None]:
    return settings.requests_per_min, settings.request_burst

"""Creates predictions (the paid request) and maps every outcome to a domain error.

| response                                | outcome                                         |
|-----------------------------------------|-------------------------------------------------|
| 2xx with an id                          | started                                         |
| not sent, 429                           | busy: nothing was started, all lanes slow down  |
| 401, 403, 402                           | paused: all requests wait until a person acts   |
| other 4xx                               | rejected, with the provider's message           |
| 5xx, no response, unreadable response   | searched by seed; found: started                |
| … not found, the API itself failed      | busy: nothing was started                       |
| … not found, no response or a gateway's | unknown: `find` settles the claim later         |

I/O: HTTP, the clock.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import (
    ApiError,
    NotSentError,
    ReplicateApi,
    ResponseError,
)
from services.generator.providers.replicate.models import ApiPrediction
from services.generator.providers.replicate.rate_limiter import RateLimiter
from services.generator.providers.replicate.request import matches_request
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.errors import ProviderBusyError, ProviderRejectedError, RetryableError, SegueError
from shared.telemetry.metrics import THROTTLED_TOTAL

NO_KEY = "No Replicate API key configured"
REJECTED_KEY = "Replicate rejected the API key (REPLICATE_API_KEY)"
LIST_DELAYS_S = (0.0, 1.0, 2.0, 4.0)  # before each read of the list, which may lag
#: how far the provider's clock may be behind ours; the seed decides, not the time
CLOCK_SKEW_S = 3600.0 + 300.0
PAGES_MAX = 100
_CANCEL_AFTER_EXTRA_S = 30.0  # the provider's own deadline is after ours
_REJECTED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
# Responses of a gateway: the server behind it may still process the request.
_GATEWAY = {502, 504, 520, 522, 524}
_SERVER_FAULT = 500
_FAILED = {"failed", "canceled", "aborted"}


class PredictionCreator:
    """Creates predictions, and finds predictions that were created."""

    def __init__(
        self, settings: ReplicateSettings, *, api: ReplicateApi, limiter: RateLimiter, clock: Clock
    ) -> None:
        self._settings = settings
        self._api = api
        self._clock = clock
        self.limiter = limiter

    def require_key(self) -> None:
        """Raise if no key is configured."""
        if not self._settings.key.get_secret_value():
            raise self.limiter.record_refusal(NO_KEY)

    async def create(self, request: CompositionRequest, body: Mapping[str, Any]) -> ApiPrediction:
        """Start a prediction and return it, even if the response was lost.

        Raises:
            ProviderBusyError: nothing was started.
            RetryableError: it is unknown whether a prediction was started.
            ProviderRejectedError: rejected permanently; nothing was started.
        """
        requested_at = self._clock.now()
        cancel_after_s = self._settings.deadline_s + _CANCEL_AFTER_EXTRA_S
        try:
            prediction = await self._api.create(body, cancel_after_s=cancel_after_s)
        except NotSentError as error:
            raise self.to_domain_error(error) from error
        except ResponseError as error:
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                THROTTLED_TOTAL.labels("replicate").inc()
                wait_s = self.limiter.record_throttled(error.retry_after_s)
                raise ProviderBusyError(str(error), retry_after_s=wait_s) from error
            if not _is_ambiguous(error.status):
                raise self.to_domain_error(error) from error
            prediction = await self._reconcile(request, error, since=requested_at)
        except ApiError as error:
            prediction = await self._reconcile(request, error, since=requested_at)
        self.limiter.record_accepted()
        return prediction

    async def find_created(
        self, request: CompositionRequest, *, since: datetime
    ) -> ApiPrediction | None:
        """Return the prediction created for this request after `since`; prefer one not failed.

        Raises:
            ApiError: the list could not be read completely.
        """
        oldest = since - timedelta(seconds=CLOCK_SKEW_S)
        failed: ApiPrediction | None = None
        async for prediction in self._api.list_since(oldest, pages_max=PAGES_MAX):
            if not matches_request(prediction, request):
                continue
            if prediction.status not in _FAILED:
                return prediction
            failed = failed or prediction
        return failed

    def to_domain_error(self, error: ApiError) -> SegueError:
        """Return the domain error for a failed request, and make the other lanes wait too."""
        if isinstance(error, ResponseError):
            if error.status in _REJECTED:
                return self.limiter.record_refusal(f"{REJECTED_KEY}: {error}")
            if error.status == HTTPStatus.PAYMENT_REQUIRED:
                return self.limiter.record_refusal(
                    f"Replicate wants credit: {error}", for_credit=True
                )
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                THROTTLED_TOTAL.labels("replicate").inc()
                wait_s = (
                    self.limiter.record_error()
                    if error.retry_after_s is None
                    else self.limiter.pause(error.retry_after_s)
                )
                return ProviderBusyError(str(error), retry_after_s=wait_s)
            if not _is_ambiguous(error.status):
                return ProviderRejectedError(f"Replicate rejected the request: {error}")
        retry_after_s = error.retry_after_s if isinstance(error, ResponseError) else None
        return ProviderBusyError(str(error), retry_after_s=self.limiter.record_error(retry_after_s))

    async def _reconcile(
        self, request: CompositionRequest, error: ApiError, *, since: datetime
    ) -> ApiPrediction:
        """Return the prediction whose response was lost.

        Raises:
            ProviderBusyError: none was started.
            RetryableError: it is unknown whether one was started.
        """
        list_is_complete = False
        for pause_s in LIST_DELAYS_S:
            await self._clock.sleep(pause_s)
            try:
                prediction = await self.find_created(request, since=since)
            except ApiError:
                list_is_complete = False
                continue
            if prediction is not None:
                return prediction
            list_is_complete = True
        wait_s = self.limiter.record_error()
        api_failed = isinstance(error, ResponseError) and error.status not in _GATEWAY
        if list_is_complete and api_failed:
            raise ProviderBusyError(
                f"nothing was started: {error}", retry_after_s=wait_s
            ) from error
        raise RetryableError(
            f"unknown whether a prediction was started: {error}", retry_after_s=wait_s
        ) from error


def _is_ambiguous(status: int) -> bool:
    """Return whether the status leaves open if the request was processed."""
    return (
        status >= _SERVER_FAULT
        or status < HTTPStatus.BAD_REQUEST
        or status == HTTPStatus.REQUEST_TIMEOUT
    )

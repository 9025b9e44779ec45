"""Paying: the one request that costs, and what is made of every way in which it can end.

| what happened                          | what it is                                      |
|----------------------------------------|-------------------------------------------------|
| 2xx with an id                         | started                                         |
| never sent, 429                        | busy: nothing was started, everyone slows down  |
| 401, 403, 402                          | paused: everyone is refused until a person acts |
| other 4xx                              | rejected, in the provider's words               |
| 5xx, no answer, one that says nothing  | looked up by seed; found: started               |
| … not found, the API itself failed     | busy: nothing was started                       |
| … not found, nobody or a gateway spoke | unknown: the claim is settled by `find`, later  |

I/O: HTTP, the clock.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import (
    AnswerError,
    ApiError,
    NotSentError,
    ReplicateApi,
)
from services.generator.providers.replicate.models import PredictionAnswer
from services.generator.providers.replicate.rate_limiter import Limiter
from services.generator.providers.replicate.request import is_of
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.errors import ProviderBusyError, ProviderRejectedError, RetryableError, SegueError
from shared.telemetry.metrics import THROTTLED_TOTAL

NO_KEY = "No Replicate API key configured"
LOOKS_S = (0.0, 1.0, 2.0, 4.0)  # before each look at the list: it may lag behind what was made
#: by which theirs may be behind ours: an hour, should ours jump; the seed decides, not the time
CLOCKS_DIFFER_S = 3600.0 + 300.0
PAGES_MAX = 100
_CANCEL_AFTER_EXTRA_S = 30.0  # the provider's own deadline comes after ours
_NO_KEY = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
# A gateway's own answers: what is behind it may be at work all the same.
_GATEWAY = {502, 504, 520, 522, 524}
_SERVER_FAULT = 500
_ENDED_BADLY = {"failed", "canceled", "aborted"}


class Payments:
    """Creates predictions and finds those that were created."""

    def __init__(
        self, settings: ReplicateSettings, *, api: ReplicateApi, limiter: Limiter, clock: Clock
    ) -> None:
        self._settings = settings
        self._api = api
        self._clock = clock
        self.limiter = limiter

    def require_key(self) -> None:
        """Raise if there is no key at all: nothing needs to be asked then."""
        if not self._settings.key.get_secret_value():
            raise self.limiter.refused(NO_KEY)

    async def create(
        self, request: CompositionRequest, body: Mapping[str, Any]
    ) -> PredictionAnswer:
        """The prediction that was started, whatever became of the answer.

        Raises:
            ProviderBusyError: nothing was started.
            RetryableError: it is not known.
            ProviderRejectedError: refused for good; nothing was started.
        """
        asked_at = self._clock.now()
        cancel_after_s = self._settings.deadline_s + _CANCEL_AFTER_EXTRA_S
        try:
            answer = await self._api.create(body, cancel_after_s=cancel_after_s)
        except NotSentError as error:
            raise self.kind_of(error) from error
        except AnswerError as error:
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                THROTTLED_TOTAL.labels("replicate").inc()
                wait_s = self.limiter.throttled(error.retry_after_s)
                raise ProviderBusyError(str(error), retry_after_s=wait_s) from error
            if not _is_unclear(error.status):
                raise self.kind_of(error) from error
            answer = await self._reconciled(request, error, since=asked_at)
        except ApiError as error:
            answer = await self._reconciled(request, error, since=asked_at)
        self.limiter.accepted()
        return answer

    async def listed(
        self, request: CompositionRequest, *, since: datetime
    ) -> PredictionAnswer | None:
        """The prediction that was made for this request after `since`; a good one if it has two.

        Raises:
            ApiError: the list was not read to its end.
        """
        from_then = since - timedelta(seconds=CLOCKS_DIFFER_S)
        spoilt: PredictionAnswer | None = None
        async for found in self._api.since(from_then, pages_max=PAGES_MAX):
            if not is_of(found, request):
                continue
            if found.status not in _ENDED_BADLY:
                return found
            spoilt = spoilt or found
        return spoilt

    def kind_of(self, error: ApiError) -> SegueError:
        """What an unsuccessful request is to a lane; everyone else is told to wait as well."""
        if isinstance(error, AnswerError):
            if error.status in _NO_KEY:
                return self.limiter.refused(f"{NO_KEY} that is accepted: {error}")
            if error.status == HTTPStatus.PAYMENT_REQUIRED:
                return self.limiter.refused(f"Replicate wants credit: {error}", for_money=True)
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                THROTTLED_TOTAL.labels("replicate").inc()
                asked_s = error.retry_after_s
                wait_s = self.limiter.troubled() if asked_s is None else self.limiter.pause(asked_s)
                return ProviderBusyError(str(error), retry_after_s=wait_s)
            if not _is_unclear(error.status):
                return ProviderRejectedError(f"Replicate refused: {error}")
        asked_s = error.retry_after_s if isinstance(error, AnswerError) else None
        return ProviderBusyError(str(error), retry_after_s=self.limiter.troubled(asked_s))

    async def _reconciled(
        self, request: CompositionRequest, error: ApiError, *, since: datetime
    ) -> PredictionAnswer:
        """The prediction whose answer was lost.

        Raises:
            ProviderBusyError: there is none, and can be none.
            RetryableError: there is none yet, or nobody says.
        """
        was_told = False
        for pause_s in LOOKS_S:
            await self._clock.sleep(pause_s)
            try:
                found = await self.listed(request, since=since)
            except ApiError:
                was_told = False
                continue
            if found is not None:
                return found
            was_told = True
        wait_s = self.limiter.troubled()
        spoke = isinstance(error, AnswerError) and error.status not in _GATEWAY
        if was_told and spoke:
            raise ProviderBusyError(
                f"nothing was started: {error}", retry_after_s=wait_s
            ) from error
        raise RetryableError(
            f"it is not known yet whether a prediction was started: {error}", retry_after_s=wait_s
        ) from error


def _is_unclear(status: int) -> bool:
    """Whether such an answer leaves open what was done."""
    return (
        status >= _SERVER_FAULT
        or status < HTTPStatus.BAD_REQUEST
        or status == HTTPStatus.REQUEST_TIMEOUT
    )

"""Polls a prediction until it ends or its deadline passes.

Polls come after 1, 2, 4, 8, then every 10 s. A failed poll does not fail the prediction. If the
provider does not respond at the deadline, the prediction is not cancelled and can be polled
again: a paid prediction is abandoned only if the provider reports that it has not succeeded.

I/O: HTTP, the clock.
"""

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import ApiError, ReplicateApi, ResponseError
from services.generator.providers.replicate.models import TERMINAL, ApiPrediction
from services.generator.providers.replicate.request import (
    TIMED_OUT,
    PredictionEndedError,
    matches_request,
    poll_delay_s,
)
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.replicate.submit import PredictionCreator
from shared.clock import Clock
from shared.cost_estimate import cost_usd
from shared.errors import ProviderPausedError, ProviderRejectedError
from shared.processing.wait import completes_first
from shared.telemetry.log import logger_of

NOT_FOUND_MAX = 5  # polls in a row that do not find the prediction
NO_OUTPUT_MAX = 3  # polls in a row that report success without an output
NUDGES_MAX = 5  # per wait: each causes an additional poll


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionPoller:
    """Waits for predictions, any number at once."""

    settings: ReplicateSettings
    api: ReplicateApi
    creator: PredictionCreator
    clock: Clock
    nudges: dict[str, asyncio.Event] = field(default_factory=dict)

    def nudge(self, prediction_id: str) -> None:
        """Poll the prediction now if a lane waits for it."""
        if (nudge := self.nudges.get(prediction_id)) is not None:
            nudge.set()

    async def wait(
        self, prediction_id: str, request: CompositionRequest, *, poll_first: bool
    ) -> ApiPrediction:
        """Return the prediction once it ended; `poll_first` if it may have ended long ago.

        Raises:
            ProviderBusyError: the provider does not respond.
            ProviderRejectedError: it timed out, is not found, or belongs to another request.
        """
        nudge = self.nudges.setdefault(prediction_id, asyncio.Event())
        try:
            return await _Wait(self, prediction_id, request, nudge).run(poll_first=poll_first)
        finally:
            self.nudges.pop(prediction_id, None)


class _Wait:
    """One wait for one prediction."""

    def __init__(
        self,
        poller: PredictionPoller,
        prediction_id: str,
        request: CompositionRequest,
        nudge: asyncio.Event,
    ) -> None:
        self._settings = poller.settings
        self._api = poller.api
        self._creator = poller.creator
        self._clock = poller.clock
        self._id = prediction_id
        self._request = request
        self._nudge = nudge
        self._log = logger_of("generator")
        self._error: ApiError | None = None
        self._not_found = self._no_output = self._nudges = 0

    async def run(self, *, poll_first: bool) -> ApiPrediction:
        started = self._clock.monotonic()
        if poll_first and (prediction := await self._poll()) is not None:
            return prediction
        polls = 0
        while polls < self._settings.polls_max:
            left_s = self._settings.deadline_s - (self._clock.monotonic() - started)
            if left_s <= 0:
                break
            polls += not await self._pause(min(left_s, self._delay_s(polls)))
            if (prediction := await self._poll()) is not None:
                return prediction
        if self._error is not None:
            raise self._creator.to_domain_error(self._error)
        return await self._cancel(self._clock.monotonic() - started)

    def _delay_s(self, polls: int) -> float:
        error = self._error
        retry_after_s = error.retry_after_s if isinstance(error, ResponseError) else None
        return max(poll_delay_s(polls, self._settings), retry_after_s or 0.0)

    async def _pause(self, seconds: float) -> bool:
        """Wait; return whether a nudge ended the wait."""
        if self._nudges >= NUDGES_MAX:
            await self._clock.sleep(seconds)
            return False
        woken = await completes_first(self._nudge.wait(), self._clock.sleep(seconds))
        self._nudge.clear()
        self._nudges += woken
        return woken

    async def _poll(self) -> ApiPrediction | None:
        """Return the prediction if it has ended; None if not, or if the poll failed."""
        try:
            prediction = await self._api.get(self._id)
        except ApiError as error:
            self._record_failed_poll(error)
            return None
        self._error, self._not_found = None, 0
        self._log.debug("prediction polled", action="prediction.polled", status=prediction.status)
        self._creator.limiter.record_response()
        if prediction.input and not matches_request(prediction, self._request):
            raise ProviderRejectedError(f"prediction {self._id} does not belong to this request")
        if prediction.status not in TERMINAL:
            return None
        if (
            prediction.status == "succeeded"
            and prediction.output is None
            and not prediction.data_removed
        ):
            self._no_output += 1
            return prediction if self._no_output >= NO_OUTPUT_MAX else None
        return prediction

    def _record_failed_poll(self, error: ApiError) -> None:
        self._error = error
        if not isinstance(error, ResponseError):
            return
        if error.status == HTTPStatus.NOT_FOUND:
            self._not_found += 1
            if self._not_found >= NOT_FOUND_MAX:
                raise ProviderRejectedError(
                    f"prediction not found at Replicate: {self._id}", retryable=True
                ) from error
        elif isinstance(raised := self._creator.to_domain_error(error), ProviderPausedError):
            raise raised from error

    async def _cancel(self, waited_s: float) -> ApiPrediction:
        """Cancel the prediction; return it if it succeeded in the last moment."""
        prediction: ApiPrediction | None = None
        try:
            prediction = await self._api.cancel(self._id)
            prediction = await self._api.get(self._id)
        except ApiError:
            pass  # the provider's own deadline ends it
        if prediction is not None and prediction.status == "succeeded":
            return prediction
        work_s = prediction.work_s if prediction is not None else None
        raise PredictionEndedError(
            f"{TIMED_OUT}: cancelled after {waited_s:.0f} s",
            retryable=True,
            generation_s=work_s,
            cost_usd=cost_usd(work_s, usd_per_s=self._settings.usd_per_s),
        )

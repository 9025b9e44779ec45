"""Waiting: until a prediction ends, for as long as it may take, whatever happens on the way.

Looks come after 1, 2, 4, 8, then every 10 s. A look that failed says nothing of the prediction;
when the time is over and the provider does not answer, the prediction is left as it is, to be
looked at again: what was paid for is given up only when the provider itself says that it is
not done.

I/O: HTTP, the clock.
"""

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

from services.generator.providers import CompositionRequest
from services.generator.providers.replicate.client import AnswerError, ApiError, ReplicateApi
from services.generator.providers.replicate.models import TERMINAL, PredictionAnswer
from services.generator.providers.replicate.request import (
    TIMED_OUT,
    PredictionEndedError,
    is_of,
    poll_s,
)
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.replicate.submit import Payments
from shared.clock import Clock
from shared.cost_estimate import cost_usd
from shared.errors import ProviderPausedError, ProviderRejectedError
from shared.processing.wait import completes_first
from shared.telemetry.log import logger_of

UNKNOWN_MAX = 5  # looks in a row that know no such prediction
NULL_MAX = 3  # looks in a row at a success that has no output yet
NUDGES_MAX = 5  # of one wait: each is a look of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Waits for predictions, any number at once."""

    settings: ReplicateSettings
    api: ReplicateApi
    payments: Payments
    clock: Clock
    nudges: dict[str, asyncio.Event] = field(default_factory=dict)

    def nudge(self, prediction_id: str) -> None:
        """Whoever waits for it looks now."""
        if (nudged := self.nudges.get(prediction_id)) is not None:
            nudged.set()

    async def ended(
        self, prediction_id: str, request: CompositionRequest, *, look_first: bool
    ) -> PredictionAnswer:
        """The prediction in a terminal status; with `look_first` it may have ended long ago.

        Raises:
            ProviderBusyError: the provider does not answer.
            ProviderRejectedError: it is not done in time, unknown, or of another request.
        """
        nudged = self.nudges.setdefault(prediction_id, asyncio.Event())
        try:
            return await _Wait(self, prediction_id, request, nudged).through(look_first=look_first)
        finally:
            self.nudges.pop(prediction_id, None)


class _Wait:
    """One wait for one prediction."""

    def __init__(
        self,
        waiting: Waiting,
        prediction_id: str,
        request: CompositionRequest,
        nudged: asyncio.Event,
    ) -> None:
        self._settings = waiting.settings
        self._api = waiting.api
        self._payments = waiting.payments
        self._clock = waiting.clock
        self._id = prediction_id
        self._request = request
        self._nudged = nudged
        self._log = logger_of("generator")
        self._trouble: ApiError | None = None
        self._unknown = self._nulls = self._nudges = 0

    async def through(self, *, look_first: bool) -> PredictionAnswer:
        begun = self._clock.monotonic()
        if look_first and (answer := await self._look()) is not None:
            return answer
        polls = 0
        while polls < self._settings.polls_max:
            left_s = self._settings.deadline_s - (self._clock.monotonic() - begun)
            if left_s <= 0:
                break
            polls += not await self._pause(min(left_s, self._delay_s(polls)))
            if (answer := await self._look()) is not None:
                return answer
        if self._trouble is not None:
            raise self._payments.kind_of(self._trouble)
        return await self._given_up(self._clock.monotonic() - begun)

    def _delay_s(self, polls: int) -> float:
        asked_s = self._trouble.retry_after_s if isinstance(self._trouble, AnswerError) else None
        return max(poll_s(polls, self._settings), asked_s or 0.0)

    async def _pause(self, seconds: float) -> bool:
        """Wait; whether a nudge cut it short."""
        if self._nudges >= NUDGES_MAX:
            await self._clock.sleep(seconds)
            return False
        woken = await completes_first(self._nudged.wait(), self._clock.sleep(seconds))
        self._nudged.clear()
        self._nudges += woken
        return woken

    async def _look(self) -> PredictionAnswer | None:
        """The prediction if it has ended; None: not yet, or nobody says."""
        try:
            answer = await self._api.get(self._id)
        except ApiError as error:
            self._not_seen(error)
            return None
        self._trouble, self._unknown = None, 0
        self._log.debug("prediction polled", action="prediction.polled", status=answer.status)
        self._payments.limiter.answered()
        if answer.input and not is_of(answer, self._request):
            raise ProviderRejectedError(f"prediction {self._id} is not of this request")
        if answer.status not in TERMINAL:
            return None
        if answer.status == "succeeded" and answer.output is None and not answer.data_removed:
            self._nulls += 1
            return answer if self._nulls >= NULL_MAX else None
        return answer

    def _not_seen(self, error: ApiError) -> None:
        self._trouble = error
        if not isinstance(error, AnswerError):
            return
        if error.status == HTTPStatus.NOT_FOUND:
            self._unknown += 1
            if self._unknown >= UNKNOWN_MAX:
                raise ProviderRejectedError(
                    f"Replicate knows no prediction {self._id}", retryable=True
                ) from error
        elif isinstance(kind := self._payments.kind_of(error), ProviderPausedError):
            raise kind from error

    async def _given_up(self, waited_s: float) -> PredictionAnswer:
        """Cancel; if it was done in the last moment, it is taken all the same."""
        answer: PredictionAnswer | None = None
        try:
            answer = await self._api.cancel(self._id)
            answer = await self._api.get(self._id)
        except ApiError:
            pass  # the provider's own deadline follows ours
        if answer is not None and answer.status == "succeeded":
            return answer
        work_s = answer.work_s if answer is not None else None
        raise PredictionEndedError(
            f"{TIMED_OUT}: cancelled after {waited_s:.0f} s",
            retryable=True,
            generation_s=work_s,
            cost_usd=cost_usd(work_s, usd_per_s=self._settings.usd_per_s),
        )

"""Replicate: MusicGen as a service, judged like a payment client.

What costs is one request, made once. When its answer is lost the provider's list is looked
through for the seed before anything else happens: found, it is ours; not found, `submit` says
`ProviderBusyError` only if nothing can have been started, and otherwise leaves the claim to be
settled by `find`. Everything after that is free and may be repeated.

Polling is the truth; a webhook (`nudge`) only shortens the wait. One limiter per key holds the
pace of all lanes. Scenes longer than the model's 30 s are one prediction all the same, see
`replicate_rules.py`.

I/O: HTTP, the store, the clock.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.replicate.audio_source import NoSourceError, Sources
from services.generator.providers.replicate.client import ApiError, ReplicateApi
from services.generator.providers.replicate.download import OutputGoneError, fetched
from services.generator.providers.replicate.poll import Waiting
from services.generator.providers.replicate.rate_limiter import Limiter
from services.generator.providers.replicate.request import Source, body_for, ending
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.replicate.submit import Payments
from shared.clock import Clock
from shared.cost_estimate import cost_usd
from shared.errors import JobError, ProviderBusyError, StoreUnavailableError
from shared.telemetry.log import Logger

SUBMIT_WAIT_S = 2.0  # a turn is had before the claim; without one we do not wait long
START_WITHIN_S = 10.0  # from being asked to asking: who was frozen meanwhile must not ask any more
FORGET_EXTRA_S = 60.0  # after our deadline and the provider's, nothing of ours is under way
FIND_BACK_S = 3600.0 + 300.0  # older predictions have lost their input, and their output
_KEPT_MAX = 10_000
Webhook = Callable[[str], str]  #: where news of a job's prediction is taken


class ReplicateProvider:
    """A `MusicProvider` that costs money."""

    name = "replicate"
    makes_silence = False

    def __init__(
        self,
        settings: ReplicateSettings,
        *,
        api: ReplicateApi,
        sources: Sources,
        clock: Clock,
        log: Logger,
        webhook: Webhook | None = None,
    ) -> None:
        self.model: str | None = settings.version
        self._settings = settings
        self._api = api
        self._sources = sources
        self._clock = clock
        self._log = log
        self._webhook = webhook
        self._limiter = Limiter(
            clock=clock,
            starts_per_s=settings.starts_per_s,
            in_flight_max=settings.in_flight_max,
            forget_s=settings.deadline_s + FORGET_EXTRA_S,
            probe_s=settings.probe_s,
        )
        self._payments = Payments(settings, api=api, limiter=self._limiter, clock=clock)
        self._waiting = Waiting(settings=settings, api=api, payments=self._payments, clock=clock)
        # what was done otherwise than asked, of predictions that are not collected yet
        self._warnings: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    @property
    def paused(self) -> str | None:
        """Why nobody is served; None: all is well. For `readyz`."""
        return self._limiter.refusal

    async def ready(self, *, within_s: float) -> None:
        """Wait for a turn to submit; before the claim is made, so that it does not grow old.

        Raises:
            ProviderPausedError: everyone is refused.
            ProviderBusyError: no turn came in time.
        """
        await self.check()
        await self._limiter.turn(within_s=within_s)

    async def check(self) -> None:
        """Ask whether a refused key works again, if that is due; free.

        Raises:
            ProviderPausedError: it does not.
        """
        self._payments.require_key()
        if not self._limiter.question_due():
            return
        try:
            await self._api.account()
        except ApiError as error:
            raise self._payments.kind_of(error) from error
        self._limiter.answered()
        self._log.info("provider serves again", action="provider.resumed")

    async def submit(self, request: CompositionRequest) -> str:
        """Start the composition; the id of the prediction. This is what costs.

        Raises:
            ProviderBusyError: nothing was started.
            RetryableError: something may have been: `find` will tell, later.
            ProviderRejectedError: this request can never succeed; nothing was started.
        """
        asked_at = self._clock.monotonic()
        self._payments.require_key()
        if not self._limiter.use_turn():
            await self.ready(within_s=SUBMIT_WAIT_S)
            self._limiter.use_turn()
        place = f"posting-{request.seed}"
        self._limiter.started(place)
        try:
            source, warnings = await self._source(request)
            webhook = self._webhook(request.job_id) if self._webhook is not None else None
            body = body_for(request, source, version=self._settings.version, webhook=webhook)
            if self._clock.monotonic() - asked_at > START_WITHIN_S:
                raise ProviderBusyError("too long between claim and request", retry_after_s=0.0)
            answer = await self._payments.create(request, body)
        finally:
            self._limiter.ended(place)
        self._limiter.started(answer.id)
        self._warnings[answer.id] = warnings
        while len(self._warnings) > _KEPT_MAX:
            self._warnings.popitem(last=False)
        return answer.id

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """The id of the prediction for this request, made after `since` (an hour ago, if None).

        Raises:
            RetryableError: the list could not be read to its end, so nothing is known.
        """
        self._payments.require_key()
        since = since or self._clock.now() - timedelta(seconds=FIND_BACK_S)
        try:
            found = await self._payments.listed(request, since=since)
        except ApiError as error:
            raise self._payments.kind_of(error) from error
        return found.id if found is not None else None

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Wait for the prediction and fetch its clip.

        Raises:
            ProviderBusyError: it is still running or still there, but the provider is not.
            ProviderRejectedError: it failed, timed out, or its output is gone.
        """
        self._payments.require_key()
        self._limiter.started(prediction_id)
        fresh = prediction_id in self._warnings
        try:
            answer = await self._waiting.ended(prediction_id, request, look_first=not fresh)
        except (JobError, asyncio.CancelledError):  # whoever has its lane now counts it
            self._limiter.ended(prediction_id)
            raise
        self._limiter.ended(prediction_id)
        cost = cost_usd(answer.work_s, usd_per_s=self._settings.usd_per_s)
        if answer.status != "succeeded":
            raise ending(answer, cost_usd=cost, deadline_s=self._settings.deadline_s)
        url = answer.output_url
        if url is None:
            gone = answer.data_removed
            raise OutputGoneError("deleted by the provider" if gone else f"{answer.output!r:.80}")
        data, content_type = await fetched(url, request, api=self._api, clock=self._clock)
        self._log.debug("clip is fetched", action="clip.fetched", size_bytes=len(data))
        continued = request.window is None or bool(answer.input.get("continuation"))
        warnings = self._warnings.pop(prediction_id, ())
        kept, born = self._api.is_ours(url), answer.completed_at or answer.created_at
        return Clip(
            data=data,
            content_type=content_type,
            output_url=url if kept else None,
            output_url_born_at=born.timestamp() if kept and born else None,
            generation_s=answer.work_s,
            cost_usd=cost,
            continued=continued,
            warnings=warnings or (() if continued else ("made without continuation",)),
        )

    async def cancel(self, prediction_id: str) -> None:
        """Stop a running prediction; nothing happens when it ended already.

        If nobody answers, the provider's own deadline (Cancel-After) ends it.
        """
        self._limiter.ended(prediction_id)
        try:
            await self._api.cancel(prediction_id)
        except ApiError as error:
            self._log.info(
                "prediction not cancelled",
                action="prediction.cancel_failed",
                prediction_id=prediction_id,
                reason=str(error),
            )

    def nudge(self, prediction_id: str) -> None:
        """A webhook says that it ended: look now. Believed in nothing else."""
        self._waiting.nudge(prediction_id)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._api.close()

    async def _source(self, request: CompositionRequest) -> tuple[Source | None, tuple[str, ...]]:
        """What to continue from, and what must be said if there is nothing."""
        if request.window is None:
            return None, ()
        try:
            source = await self._sources.of(request.window)
        except StoreUnavailableError as error:
            raise ProviderBusyError(f"nothing was started: {error}") from error
        if isinstance(source, Source):
            self._log.debug(
                "continuation is chosen", action="continuation.chosen", kind=source.kind
            )
            return source, ()
        self._log.warning(
            "continuation unavailable", action="continuation.unavailable", reason=source
        )
        if request.must_continue:
            raise NoSourceError(f"cannot continue: {source}")
        return None, (f"made without continuation: {source}",)

"""Implements `MusicProvider` with MusicGen on Replicate.

Only one request costs money, and it is sent once. If its response is lost, the provider's list of
predictions is searched for the seed: a match is used; without a match, `submit` raises
`ProviderBusyError` only if nothing can have been started, and otherwise leaves the claim to be
settled by `find`. Every later step is free and may be repeated.

Only polling decides how a prediction ended; a webhook (`nudge`) shortens the wait. One rate
limiter per key serves all lanes. A scene longer than the model's 30 s is one prediction, too
(see `request.py`).

I/O: HTTP, the store, the clock.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.replicate.audio_source import AudioSources, NoSourceError
from services.generator.providers.replicate.client import ApiError, ReplicateApi
from services.generator.providers.replicate.download import OutputGoneError, fetch_output
from services.generator.providers.replicate.poll import PredictionPoller
from services.generator.providers.replicate.rate_limiter import RateLimiter
from services.generator.providers.replicate.request import AudioSource, build_body, ended_error
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.replicate.submit import PredictionCreator
from shared.clock import Clock
from shared.cost_estimate import cost_usd
from shared.errors import JobError, ProviderBusyError, StoreUnavailableError
from shared.media.sandbox import MediaSandbox
from shared.telemetry.log import Logger

SUBMIT_WAIT_S = 2.0  # a permit is acquired before the claim; without one the wait is short
START_WITHIN_S = 10.0  # from `submit` to the request: a process that was suspended must not send it
FORGET_EXTRA_S = 60.0  # after both deadlines the prediction has ended
FIND_BACK_S = 3600.0 + 300.0  # older predictions have lost their input and output
_WARNINGS_MAX = 10_000
WebhookUrl = Callable[[str], str]  #: job id to webhook URL


class ReplicateProvider:
    """A `MusicProvider` that charges for predictions."""

    makes_silence = False

    def __init__(
        self,
        settings: ReplicateSettings,
        *,
        api: ReplicateApi,
        sources: AudioSources,
        sandbox: MediaSandbox,
        clock: Clock,
        log: Logger,
        webhook: WebhookUrl | None = None,
        name: str = "replicate",  #: or the name of an emulator
    ) -> None:
        self.name = name
        self.model: str | None = settings.version
        self._settings = settings
        self._api = api
        self._sources = sources
        self._sandbox = sandbox
        self._clock = clock
        self._log = log
        self._webhook = webhook
        self._limiter = RateLimiter(
            clock=clock,
            starts_per_s=settings.starts_per_s,
            in_flight_max=settings.in_flight_max,
            forget_s=settings.deadline_s + FORGET_EXTRA_S,
            probe_s=settings.probe_s,
        )
        self._creator = PredictionCreator(settings, api=api, limiter=self._limiter, clock=clock)
        self._poller = PredictionPoller(
            settings=settings, api=api, creator=self._creator, clock=clock
        )
        # deviations from the request, of predictions that are not collected yet
        self._warnings: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    @property
    def paused(self) -> str | None:
        """Return why all requests are rejected; None if they are not."""
        return self._limiter.refusal

    async def ready(self, *, within_s: float) -> None:
        """Wait for a permit to submit; called before the claim is created.

        Raises:
            ProviderPausedError: all requests are rejected.
            ProviderBusyError: no permit in time.
        """
        await self.check()
        await self._limiter.acquire(within_s=within_s)

    async def check(self) -> None:
        """Probe whether a refused key works again, if a probe is due; free of charge.

        Raises:
            ProviderPausedError: it does not.
        """
        self._creator.require_key()
        if not self._limiter.take_probe():
            return
        try:
            await self._api.account()
        except ApiError as error:
            raise self._creator.to_domain_error(error) from error
        self._limiter.record_response()
        self._log.info("provider accepts the key again", action="provider.resumed")

    async def submit(self, request: CompositionRequest) -> str:
        """Start the composition and return the prediction's id. This step costs money.

        Raises:
            ProviderBusyError: nothing was started.
            RetryableError: unknown whether a prediction was started; use `find` later.
            ProviderRejectedError: this request can never succeed; nothing was started.
        """
        called_at = self._clock.monotonic()
        self._creator.require_key()
        if not self._limiter.consume_permit():
            await self.ready(within_s=SUBMIT_WAIT_S)
            self._limiter.consume_permit()
        placeholder = f"posting-{request.seed}"
        self._limiter.add_in_flight(placeholder)
        try:
            source, warnings = await self._source(request)
            webhook = self._webhook(request.job_id) if self._webhook is not None else None
            body = build_body(request, source, version=self._settings.version, webhook=webhook)
            if self._clock.monotonic() - called_at > START_WITHIN_S:
                raise ProviderBusyError(
                    "too long between claim and request; nothing was sent", retry_after_s=0.0
                )
            prediction = await self._creator.create(request, body)
        finally:
            self._limiter.remove_in_flight(placeholder)
        self._limiter.add_in_flight(prediction.id)
        self._warnings[prediction.id] = warnings
        while len(self._warnings) > _WARNINGS_MAX:
            self._warnings.popitem(last=False)
        return prediction.id

    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """Return the id of this request's prediction created after `since` (default: an hour ago).

        Raises:
            RetryableError: the list could not be read completely.
        """
        self._creator.require_key()
        since = since or self._clock.now() - timedelta(seconds=FIND_BACK_S)
        try:
            prediction = await self._creator.find_created(request, since=since)
        except ApiError as error:
            raise self._creator.to_domain_error(error) from error
        return prediction.id if prediction is not None else None

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Wait for the prediction and return its clip.

        Raises:
            ProviderBusyError: the provider does not respond; the prediction may still succeed.
            ProviderRejectedError: the prediction failed, timed out, or its output is gone.
        """
        self._creator.require_key()
        self._limiter.add_in_flight(prediction_id)
        fresh = prediction_id in self._warnings
        try:
            prediction = await self._poller.wait(prediction_id, request, poll_first=not fresh)
        except (JobError, asyncio.CancelledError):  # the process that collects it next counts it
            self._limiter.remove_in_flight(prediction_id)
            raise
        self._limiter.remove_in_flight(prediction_id)
        cost = cost_usd(prediction.work_s, usd_per_s=self._settings.usd_per_s)
        if prediction.status != "succeeded":
            raise ended_error(prediction, cost_usd=cost, deadline_s=self._settings.deadline_s)
        url = prediction.output_url
        if url is None:
            gone = prediction.data_removed
            raise OutputGoneError(
                "deleted by the provider" if gone else f"{prediction.output!r:.80}"
            )
        data, content_type = await fetch_output(
            url, request, api=self._api, sandbox=self._sandbox, clock=self._clock
        )
        self._log.debug("clip downloaded", action="clip.fetched", size_bytes=len(data))
        continued = request.window is None or bool(prediction.input.get("continuation"))
        warnings = self._warnings.pop(prediction_id, ())
        is_hosted = self._api.is_provider_host(url)
        created_at = prediction.completed_at or prediction.created_at
        return Clip(
            data=data,
            content_type=content_type,
            output_url=url if is_hosted else None,
            is_foreign=True,
            output_url_born_at=created_at.timestamp() if is_hosted and created_at else None,
            generation_s=prediction.work_s,
            cost_usd=cost,
            continued=continued,
            warnings=warnings or (() if continued else ("made without continuation",)),
        )

    async def cancel(self, prediction_id: str) -> None:
        """Cancel a running prediction; do nothing if it ended already.

        If the provider does not respond, its own deadline (Cancel-After) ends the prediction.
        """
        self._limiter.remove_in_flight(prediction_id)
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
        """Poll the prediction now: a webhook reported its end. The report is not trusted."""
        self._poller.nudge(prediction_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _source(
        self, request: CompositionRequest
    ) -> tuple[AudioSource | None, tuple[str, ...]]:
        """Return the source to continue from, and the warnings if there is none."""
        if request.window is None:
            return None, ()
        try:
            source = await self._sources.select(request.window)
        except StoreUnavailableError as error:
            raise ProviderBusyError(f"nothing was started: {error}") from error
        if isinstance(source, AudioSource):
            self._log.debug(
                "continuation source selected", action="continuation.chosen", kind=source.kind
            )
            return source, ()
        self._log.warning(
            "continuation unavailable", action="continuation.unavailable", reason=source
        )
        if request.must_continue:
            raise NoSourceError(f"cannot continue: {source}")
        return None, (f"made without continuation: {source}",)

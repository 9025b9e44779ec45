"""Publishes `scene.delayed` while a scene waits for its provider, and when it continues.

One notice per reason: at once if the provider rejects all requests, because a person must act;
for a busy provider only after `after_s`. A notice is optional: if it cannot be published, the
scene continues without it, and the next wait publishes it.

A process that dies forgets its notices. The next process publishes its own, and the segment ends
them all.

Units: seconds. I/O: the publisher.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.generator.scene_ref import SceneRef
from shared.clock import Clock
from shared.contract.events import SceneDelayed, WaitCode
from shared.errors import (
    ProviderPausedError,
    RetryableError,
    StoreUnavailableError,
)
from shared.kafka.producer import EventPublisher
from shared.telemetry.log import Logger

PUBLISH_TIMEOUT_S = 5.0
REASON_CHARS_MAX = 500
_SCENES_MAX = 10_000


@dataclass(slots=True)
class _Wait:
    """The wait of one scene."""

    traceparent: str | None
    since: float | None = None  #: None: the scene does not wait
    notice: SceneDelayed | None = None  #: the notice that the job shows now


class DelayNotices:
    """Publishes the delays of this process's scenes."""

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        wait_until_owned: Callable[[], Awaitable[None]],
        after_s: float,
        clock: Clock,
        log: Logger,
        publish_timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        self._publisher = publisher
        self._wait_until_owned = wait_until_owned
        self._after_s = after_s
        self._publish_timeout_s = publish_timeout_s
        self._clock = clock
        self._log = log
        self._waits: OrderedDict[SceneRef, _Wait] = OrderedDict()

    @asynccontextmanager
    async def track(self, scene: SceneRef, *, traceparent: str | None) -> AsyncIterator[None]:
        """Track `scene` while it is generated; a retry of the record continues its wait."""
        self._waits.setdefault(scene, _Wait(traceparent))
        while len(self._waits) > _SCENES_MAX:
            self._waits.popitem(last=False)
        try:
            yield
        except RetryableError as error:
            if not isinstance(error, StoreUnavailableError):
                await self.report_wait(scene, error, for_s=error.retry_after_s or 0.0)
            raise
        except BaseException:
            self._waits.pop(scene, None)
            raise
        self._waits.pop(scene, None)

    async def report_wait(
        self, scene: SceneRef, error: RetryableError, *, for_s: float, since: float | None = None
    ) -> None:
        """Report that `scene` waits `for_s` because of `error`; its attempt began at `since`."""
        wait = self._waits.get(scene)
        if wait is None:
            return
        now = self._clock.monotonic()
        if wait.since is None:
            wait.since = now if since is None else since
        paused = isinstance(error, ProviderPausedError)
        if not paused and now + for_s - wait.since < self._after_s:
            return
        reason = str(error)[:REASON_CHARS_MAX]
        code = WaitCode.PROVIDER_PAUSED if paused else WaitCode.PROVIDER_BUSY
        last = wait.notice
        # a busy provider's message differs each time without a new meaning
        if last is not None and last.code is code and (not paused or last.reason == reason):
            return
        notice = SceneDelayed(
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            code=code,
            reason=reason,
        )
        if await self._publish(notice, wait):
            wait.notice = notice

    async def report_resumed(self, scene: SceneRef) -> None:
        """Report that `scene` no longer waits, if its wait was published."""
        wait = self._waits.get(scene)
        if wait is None:
            return
        notice, wait.since, wait.notice = wait.notice, None, None
        if notice is not None:
            await self._publish(notice.model_copy(update={"over": True}), wait)

    async def _publish(self, event: SceneDelayed, wait: _Wait) -> bool:
        await self._wait_until_owned()
        try:
            async with asyncio.timeout(self._publish_timeout_s):
                await self._publisher.publish(event, traceparent=wait.traceparent)
        except (RetryableError, TimeoutError) as error:
            self._log.warning(
                "delay notice not published",
                action="event.not_published",
                job_id=event.job_id,
                run=event.run,
                scene_index=event.scene_index,
                reason=str(error) or f"not confirmed within {self._publish_timeout_s:g} s",
            )
            return False
        self._log.info(
            "scene resumed" if event.over else "scene waits for the provider",
            action="scene.delayed",
            job_id=event.job_id,
            run=event.run,
            scene_index=event.scene_index,
            code=event.code.value,
            reason=event.reason,
        )
        return True

"""Delays: a scene that waits for its provider says so, and says so again when it goes on.

Said once per reason: at once where everyone is refused, because a person must act; of a busy
provider only when the wait is longer than a person wonders about. It is news, not work: where it
cannot be published, the scene goes on without it, and says it at its next wait.

A process that dies takes its delays along; whoever goes on says its own, and the segment ends
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

SAY_S = 5.0
REASON_CHARS_MAX = 500
_KEPT_MAX = 10_000


@dataclass(slots=True)
class _Wait:
    """Of one scene."""

    traceparent: str | None
    since: float | None = None  #: None: it does not wait
    said: SceneDelayed | None = None  #: what its job shows now


class Delays:
    """What the scenes of this process wait for."""

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        gate: Callable[[], Awaitable[None]],
        said_after_s: float,
        clock: Clock,
        log: Logger,
    ) -> None:
        self._publisher = publisher
        self._gate = gate
        self._said_after_s = said_after_s
        self._clock = clock
        self._log = log
        self._waits: OrderedDict[SceneRef, _Wait] = OrderedDict()

    @asynccontextmanager
    async def of(self, scene: SceneRef, *, traceparent: str | None) -> AsyncIterator[None]:
        """While `scene` is made; where its lane comes back to it, its wait goes on."""
        self._waits.setdefault(scene, _Wait(traceparent))
        while len(self._waits) > _KEPT_MAX:
            self._waits.popitem(last=False)
        try:
            yield
        except RetryableError as error:
            if not isinstance(error, StoreUnavailableError):
                await self.waits(scene, error, for_s=error.retry_after_s or 0.0)
            raise
        except BaseException:
            self._waits.pop(scene, None)
            raise
        self._waits.pop(scene, None)

    async def waits(
        self, scene: SceneRef, error: RetryableError, *, for_s: float, since: float | None = None
    ) -> None:
        """`scene` waits because of `error`, `for_s` from now; its try began at `since`."""
        wait = self._waits.get(scene)
        if wait is None:
            return
        now = self._clock.monotonic()
        if wait.since is None:
            wait.since = now if since is None else since
        paused = isinstance(error, ProviderPausedError)
        if not paused and now + for_s - wait.since < self._said_after_s:
            return
        reason = str(error)[:REASON_CHARS_MAX]
        code = WaitCode.PROVIDER_PAUSED if paused else WaitCode.PROVIDER_BUSY
        said = wait.said
        # a busy provider has new words each time, and they mean the same
        if said is not None and said.code is code and (not paused or said.reason == reason):
            return
        delayed = SceneDelayed(
            job_id=scene.job_id,
            run=scene.run,
            scene_index=scene.scene_index,
            code=code,
            reason=reason,
        )
        if await self._say(delayed, wait):
            wait.said = delayed

    async def goes_on(self, scene: SceneRef) -> None:
        """`scene` waits no longer."""
        wait = self._waits.get(scene)
        if wait is None:
            return
        said, wait.since, wait.said = wait.said, None, None
        if said is not None:
            await self._say(said.model_copy(update={"over": True}), wait)

    async def _say(self, event: SceneDelayed, wait: _Wait) -> bool:
        await self._gate()
        try:
            async with asyncio.timeout(SAY_S):
                await self._publisher.publish(event, traceparent=wait.traceparent)
        except (RetryableError, TimeoutError) as error:
            self._log.warning(
                "delay notice not published",
                action="event.not_published",
                job_id=event.job_id,
                run=event.run,
                scene_index=event.scene_index,
                reason=str(error) or f"not confirmed within {SAY_S:g} s",
            )
            return False
        self._log.info(
            "scene waits no longer" if event.over else "scene waits",
            action="scene.delayed",
            job_id=event.job_id,
            run=event.run,
            scene_index=event.scene_index,
            code=event.code.value,
            reason=event.reason,
        )
        return True

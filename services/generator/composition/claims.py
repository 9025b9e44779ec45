"""Claims: whoever creates the claim may pay; everyone else joins what it led to.

Before a prediction is submitted, `claim-<attempt>` is created in the object store if absent.
It holds the seed and a nonce; `prediction-<attempt>` with the prediction's id is written beside
it right after. Whoever finds a claim takes up the prediction by that id. A claim is used once:

1. created, and used within its lease: one request, whose id is written down; or
2. void, in its owner's own words: the provider started nothing, or the owner slept past its
   lease between claim and request and must not ask any more; or
3. silent: its owner died, or the answer was lost. The provider is looked through for its seed;
   only when nothing is found, after the owner can no longer be about to ask (`settle_s`: lease
   plus the provider's own deadline), does the claim count as having led to nothing.

After void or nothing the next attempt is claimed, by create-if-absent again. So a frozen
process that thaws, a split group or a replay cannot pay twice: the store decides, not the
consumer group.

I/O: the object store and the provider.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.scene_ref import SceneRef
from shared.clock import Clock
from shared.errors import NotFoundError, ProviderBusyError, ProviderRejectedError
from shared.storage import ObjectStore
from shared.telemetry import trace
from shared.telemetry.log import logger_of

READY_S = 30.0  # longer than that in line, and the lane goes back to its backoff
_VOID = b""  # no provider names a prediction by nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A composition that was submitted: by us, or by whoever claimed it first."""

    id: str
    request: CompositionRequest
    adopted: bool  #: somebody else's, or our own from before a crash


class Claims:
    """Leads every attempt at a scene to at most one prediction."""

    def __init__(
        self,
        store: ObjectStore,
        provider: MusicProvider,
        *,
        clock: Clock,
        lease_s: float,
        settle_s: float,
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._lease_s = lease_s
        self._settle_s = settle_s
        self._log = logger_of("generator")
        self._ours: dict[str, bytes] = {}  # claims whose creation was not confirmed yet

    async def is_claimed(self, scene: SceneRef, attempt: int) -> bool:
        """Whether somebody claimed this attempt."""
        return await self._store.stat(scene.claim_key(attempt)) is not None

    async def prediction(
        self,
        scene: SceneRef,
        attempt: int,
        request: CompositionRequest,
        *,
        before_paying: Callable[[], Awaitable[None]],
    ) -> Prediction | None:
        """The one prediction of this attempt; None if its claim led to nothing.

        `before_paying` is awaited between claim and request: a gate that may wait for the
        partition, or raise because the run is no longer wanted.

        Raises:
            ProviderBusyError: nothing was started; make the next attempt after a while.
            ProviderRejectedError: this request can never succeed.
        """
        request = replace(request, seed=scene.seed(attempt))
        if not await self.is_claimed(scene, attempt):
            await self._provider.ready(within_s=READY_S)
        lease_from = self._clock.monotonic()
        if not await self._create(scene, attempt):
            self._log.debug("another attempt holds the claim", action="claim.held", attempt=attempt)
            found = await self._led_to(scene, attempt, request)
            return Prediction(id=found, request=request, adopted=True) if found else None
        self._log.debug("claim created", action="claim.created", attempt=attempt)
        try:
            await before_paying()
        except BaseException:  # also where the task is cancelled: nothing was started
            await self._store.put(scene.prediction_key(attempt), _VOID)
            raise
        if self._clock.monotonic() - lease_from > self._lease_s:
            await self._store.put(scene.prediction_key(attempt), _VOID)
            return None
        try:
            with trace.span("provider submit", {"segue.provider": self._provider.name}):
                submitted = await self._provider.submit(request)
        except (ProviderBusyError, ProviderRejectedError):  # nothing was started
            await self._store.put(scene.prediction_key(attempt), _VOID)
            raise
        self._log.debug(
            "prediction submitted",
            action="prediction.submitted",
            attempt=attempt,
            prediction_id=submitted,
            duration_s=request.duration_s,
        )
        await self._store.put(scene.prediction_key(attempt), submitted.encode())
        return Prediction(id=submitted, request=request, adopted=False)

    async def _create(self, scene: SceneRef, attempt: int) -> bool:
        """Whether the claim is ours to use; a claim whose answer was lost is known by its nonce."""
        key = scene.claim_key(attempt)
        told = {
            "seed": scene.seed(attempt),
            "nonce": secrets.token_hex(16),
            "claimed_at": self._clock.now().isoformat(),
            "provider": self._provider.name,
        }
        data = self._ours.setdefault(key, json.dumps(told).encode())
        created = await self._store.put_if_absent(key, data)
        del self._ours[key]  # answered: from here on the claim is used once, or is not ours
        return created

    async def _led_to(
        self, scene: SceneRef, attempt: int, request: CompositionRequest
    ) -> str | None:
        """The prediction that an existing claim led to; None: nothing, for good."""
        written = await self._written(scene, attempt)
        if written is None:
            claim = json.loads(await self._store.get(scene.claim_key(attempt)))
            claimed_at = datetime.fromisoformat(claim["claimed_at"])
            written = await self._provider.find(request, since=claimed_at)
            if written is None:
                # From now, not from when it was claimed: clocks of two machines differ, and jump.
                await self._clock.sleep(self._settle_s)
                written = await self._written(scene, attempt)
            if written is None:
                written = await self._provider.find(request, since=claimed_at)
        return written or None

    async def _written(self, scene: SceneRef, attempt: int) -> str | None:
        """The id beside the claim; empty: void; None: nothing was written."""
        try:
            return (await self._store.get(scene.prediction_key(attempt))).decode()
        except NotFoundError:
            return None

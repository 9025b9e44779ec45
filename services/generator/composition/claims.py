"""Ensures that each attempt at a scene is paid for at most once, by claims in the object store.

Before a prediction is submitted, the process creates `claim-<attempt>` if it is absent. The claim
holds the seed and a nonce; `prediction-<attempt>` with the prediction's id is stored next to it
afterwards. A process that finds a claim adopts the prediction by that id. A claim is used once:

1. used: created, and used for one request within its lease; the prediction's id is stored; or
2. void, as marked by its owner: the provider started nothing, or the owner was suspended past its
   lease between claim and request and must not send it any more; or
3. unresolved: its owner died, or the response was lost. The provider is searched for the seed;
   the claim counts as void only if nothing is found after the owner can no longer send the
   request (`settle_s`: the lease plus the provider's own deadline).

After a void claim the next attempt is claimed, again by create-if-absent. So a suspended process
that resumes, a split consumer group or a replay cannot pay twice: the store decides, not the
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

READY_S = 30.0  # longest wait for a permit; then the lane backs off
_VOID = b""  # no prediction has an empty id


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A submitted composition."""

    id: str
    request: CompositionRequest
    adopted: bool  #: submitted by another process, or by this one before a crash


class Claims:
    """Submits at most one prediction per attempt at a scene."""

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
        self._unconfirmed: dict[str, bytes] = {}  # claims whose creation was not confirmed yet

    async def is_claimed(self, scene: SceneRef, attempt: int) -> bool:
        """Return whether this attempt is claimed."""
        return await self._store.stat(scene.claim_key(attempt)) is not None

    async def claimed_provider(self, scene: SceneRef) -> str | None:
        """Return the provider of the first claim; None if the scene is not claimed."""
        try:
            claim = json.loads(await self._store.get(scene.claim_key(1)))
        except NotFoundError:
            return None
        name = claim.get("provider")
        return name if isinstance(name, str) else None

    async def prediction(
        self,
        scene: SceneRef,
        attempt: int,
        request: CompositionRequest,
        *,
        before_paying: Callable[[], Awaitable[None]],
    ) -> Prediction | None:
        """Return the only prediction of this attempt; None if its claim is void.

        `before_paying` is awaited between claim and request: it may wait until the partition is
        owned, or raise because the run has ended.

        Raises:
            ProviderBusyError: nothing was started; try the next attempt later.
            ProviderRejectedError: this request can never succeed.
        """
        request = replace(request, seed=scene.seed(attempt))
        if not await self.is_claimed(scene, attempt):
            await self._provider.ready(within_s=READY_S)
        lease_start = self._clock.monotonic()
        if not await self._create(scene, attempt):
            self._log.debug("claim exists already", action="claim.held", attempt=attempt)
            adopted = await self._find_prediction(scene, attempt, request)
            return Prediction(id=adopted, request=request, adopted=True) if adopted else None
        self._log.debug("claim created", action="claim.created", attempt=attempt)
        try:
            await before_paying()
        except BaseException:  # including cancellation: nothing was started
            await self._void(scene, attempt)
            raise
        if self._clock.monotonic() - lease_start > self._lease_s:
            await self._void(scene, attempt)
            return None
        try:
            with trace.span("provider submit", {"segue.provider": self._provider.name}):
                prediction_id = await self._provider.submit(request)
        except (ProviderBusyError, ProviderRejectedError):  # nothing was started
            await self._void(scene, attempt)
            raise
        self._log.debug(
            "prediction submitted",
            action="prediction.submitted",
            prediction_id=prediction_id,
            attempt=attempt,
            duration_s=request.duration_s,
        )
        await self._store.put(scene.prediction_key(attempt), prediction_id.encode())
        return Prediction(id=prediction_id, request=request, adopted=False)

    async def _create(self, scene: SceneRef, attempt: int) -> bool:
        """Return whether this process created the claim; the nonce settles a lost response."""
        key = scene.claim_key(attempt)
        claim = {
            "seed": scene.seed(attempt),
            "nonce": secrets.token_hex(16),
            "claimed_at": self._clock.now().isoformat(),
            "provider": self._provider.name,
        }
        data = self._unconfirmed.setdefault(key, json.dumps(claim).encode())
        created = await self._store.put_if_absent(key, data)
        # confirmed: the claim is used once from here on, or belongs to another process
        del self._unconfirmed[key]
        return created

    async def _void(self, scene: SceneRef, attempt: int) -> None:
        await self._store.put(scene.prediction_key(attempt), _VOID)

    async def _find_prediction(
        self, scene: SceneRef, attempt: int, request: CompositionRequest
    ) -> str | None:
        """Return the id of an existing claim's prediction; None if the claim is void."""
        prediction_id = await self._stored_id(scene, attempt)
        if prediction_id is None:
            claim = json.loads(await self._store.get(scene.claim_key(attempt)))
            claimed_at = datetime.fromisoformat(claim["claimed_at"])
            prediction_id = await self._provider.find(request, since=claimed_at)
            if prediction_id is None:
                # Counted from now, not from `claimed_at`: clocks differ, and may jump.
                await self._clock.sleep(self._settle_s)
                prediction_id = await self._stored_id(scene, attempt)
            if prediction_id is None:
                prediction_id = await self._provider.find(request, since=claimed_at)
        return prediction_id or None

    async def _stored_id(self, scene: SceneRef, attempt: int) -> str | None:
        """Return the stored id; empty if the claim is void, None if nothing is stored."""
        try:
            return (await self._store.get(scene.prediction_key(attempt))).decode()
        except NotFoundError:
            return None

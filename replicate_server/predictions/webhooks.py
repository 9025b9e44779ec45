"""Sends webhooks, signed by the Standard Webhooks specification.

`completed` is sent again until the receiver responds with 2xx; other events are sent once. A
resend has the `webhook-id` of the first attempt and its own timestamp.

I/O: HTTP. Units: seconds.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import secrets
from dataclasses import dataclass
from typing import Any

import httpx

from replicate_server.emulated_time import EmulatedTime
from replicate_server.faults import Fault, FaultKind

_WAITING_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """One event for a receiver."""

    url: str
    event: str
    body: dict[str, Any]  #: the current view of the prediction
    faults: dict[FaultKind, Fault]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookPolicy:
    """Signature, timeout and retry delays of webhooks."""

    secret: str
    timeout_s: float
    delays_s: tuple[float, ...]


def signature(secret: str, *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends messages concurrently; those of one prediction may arrive out of order."""

    def __init__(self, time: EmulatedTime) -> None:
        self._time = time
        self._client: httpx.AsyncClient | None = None
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """The number of messages in flight."""
        return len(self._sending)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The running tasks."""
        return list(self._sending)

    def send(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        """Send a message in the background."""
        if FaultKind.WEBHOOK_LOST in message.faults or len(self._sending) >= _WAITING_MAX:
            return
        task = asyncio.create_task(self._deliver(message, policy))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Cancel all messages."""
        sending = self.tasks
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _deliver(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        faults = message.faults
        if late := faults.get(FaultKind.WEBHOOK_LATE):
            await self._time.sleep_until(self._time.monotonic() + late.seconds)
        if FaultKind.WEBHOOK_FORGED in faults:
            await self._forge(message, policy)
        webhook_id = _new_id()
        delays_s = policy.delays_s if message.event == "completed" else ()
        first_s = self._time.monotonic()
        for after_s in itertools.accumulate((0.0, *delays_s)):
            await self._time.sleep_until(first_s + after_s)
            is_accepted = await self._post(message, policy, webhook_id)
            if FaultKind.WEBHOOK_DOUBLED in faults:
                await self._post(message, policy, webhook_id)
            if is_accepted:
                return

    async def _post(self, message: WebhookMessage, policy: WebhookPolicy, webhook_id: str) -> bool:
        """Send a message once; return whether the receiver accepted it."""
        body = json.dumps(message.body).encode()
        stamp = int(self._time.now().timestamp())
        if stale := message.faults.get(FaultKind.WEBHOOK_STALE):
            stamp -= int(stale.seconds)
        signed = signature(policy.secret, webhook_id=webhook_id, timestamp=stamp, body=body)
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": signed,
        }
        return await self._send_request(message.url, body, headers, policy.timeout_s)

    async def _forge(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        """Send a `failed` webhook signed with another secret."""
        forged = {**message.body, "status": "failed", "error": "forged", "output": None}
        body, webhook_id = json.dumps(forged).encode(), _new_id()
        stamp = int(self._time.now().timestamp())
        wrong_secret = base64.b64encode(secrets.token_bytes(24)).decode()
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": signature(
                wrong_secret, webhook_id=webhook_id, timestamp=stamp, body=body
            ),
        }
        await self._send_request(message.url, body, headers, policy.timeout_s)

    async def _send_request(
        self, url: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> bool:
        self._client = self._client or httpx.AsyncClient(follow_redirects=False)
        try:
            response = await self._client.post(
                url, content=body, headers=headers, timeout=timeout_s
            )
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return response.is_success


def _new_id() -> str:
    return "msg_" + secrets.token_urlsafe(20)

"""Webhooks: what happened, told to whoever asked, signed the Standard Webhooks way.

`completed` is sent again while nobody answers 2xx; the others are sent once. A resend has the
`webhook-id` of the first try and a stamp of its own.

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
    """One thing to tell."""

    url: str
    event: str
    body: dict[str, Any]  #: the prediction, as it is now
    faults: dict[FaultKind, Fault]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookPolicy:
    """How messages are sent."""

    secret: str
    timeout_s: float
    delays_s: tuple[float, ...]


def signature(secret: str, *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends messages, each in its own time; those of one prediction may overtake each other."""

    def __init__(self, time: EmulatedTime) -> None:
        self._time = time
        self._client: httpx.AsyncClient | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self.attempts = 0  #: requests that were sent

    @property
    def waiting(self) -> int:
        """Messages that are not done with."""
        return len(self._sending)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being told."""
        return list(self._sending)

    def send(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        """Tell it, in the background."""
        if FaultKind.WEBHOOK_LOST in message.faults or len(self._sending) >= _WAITING_MAX:
            return
        task = asyncio.create_task(self._deliver(message, policy))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Tell nothing more."""
        sending = self.tasks
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _deliver(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        faults = message.faults
        if late := faults.get(FaultKind.WEBHOOK_LATE):
            await self._time.until(self._time.monotonic() + late.seconds)
        if FaultKind.WEBHOOK_FORGED in faults:
            await self._forge(message, policy)
        webhook_id = _new_id()
        delays_s = policy.delays_s if message.event == "completed" else ()
        first_s = self._time.monotonic()
        for after_s in itertools.accumulate((0.0, *delays_s)):
            await self._time.until(first_s + after_s)
            answered = await self._post(message, policy, webhook_id)
            if FaultKind.WEBHOOK_DOUBLED in faults:
                await self._post(message, policy, webhook_id)
            if answered:
                return

    async def _post(self, message: WebhookMessage, policy: WebhookPolicy, webhook_id: str) -> bool:
        """Send it once; whether it was taken."""
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
        return await self._sent(message.url, body, headers, policy.timeout_s)

    async def _forge(self, message: WebhookMessage, policy: WebhookPolicy) -> None:
        """What somebody might send who does not know the secret."""
        lie = {**message.body, "status": "failed", "error": "forged", "output": None}
        body, webhook_id = json.dumps(lie).encode(), _new_id()
        stamp = int(self._time.now().timestamp())
        wrong = base64.b64encode(secrets.token_bytes(24)).decode()
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": signature(
                wrong, webhook_id=webhook_id, timestamp=stamp, body=body
            ),
        }
        await self._sent(message.url, body, headers, policy.timeout_s)

    async def _sent(self, url: str, body: bytes, headers: dict[str, str], timeout_s: float) -> bool:
        self.attempts += 1
        self._client = self._client or httpx.AsyncClient(follow_redirects=False)
        try:
            answer = await self._client.post(url, content=body, headers=headers, timeout=timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return answer.is_success


def _new_id() -> str:
    return "msg_" + secrets.token_urlsafe(20)

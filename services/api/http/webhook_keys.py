"""Webhook keys: what the provider signs its messages with.

The ones that the environment names, or else the account's own, asked of the provider with its
key and kept. When a message fits none of them, they are asked for again, now and then: somebody
may have changed them.

Units: seconds. I/O: HTTP.
"""

import asyncio
import math
from collections.abc import Mapping

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from shared.clock import Clock
from shared.errors import RetryableError
from shared.pricing import ReplicateAccount
from shared.security.webhook_signatures import WebhookRefusedError, secret_of, verify

ASK_S = 10.0
AGAIN_S = 60.0  # between two questions, whoever sends us what
ANSWER_BYTES_MAX = 65_536
_NO_KEY = (
    "no key to verify webhooks with: set REPLICATE_WEBHOOK_SECRET, or REPLICATE_API_KEY"
    " for the api to ask for it"
)
_NOT_TOLD = (
    "no key to verify webhooks with: Replicate did not tell it; it is asked again, or set"
    " REPLICATE_WEBHOOK_SECRET"
)


class NoWebhookKeyError(RetryableError):
    """There is no key, so nothing can be verified."""


class _Told(BaseModel):
    key: SecretStr


class WebhookKeys:
    """The keys of one account."""

    def __init__(self, named: SecretStr, account: ReplicateAccount, *, clock: Clock) -> None:
        told = named.get_secret_value().split(",")
        self._named = [key.strip() for key in told if key.strip()]
        self._account = account
        self._clock = clock
        self._asking = asyncio.Lock()
        self._known: str | None = None
        self._asked_at = -math.inf

    async def verified(self, headers: Mapping[str, str], body: bytes) -> str:
        """The id of a message that the provider signed.

        Raises:
            WebhookRefusedError: it did not, or not now.
            NoWebhookKeyError: nobody can tell.
        """
        keys = await self._keys()
        try:
            return self._verify(headers, body, keys)
        except WebhookRefusedError:
            if self._named:
                raise
            await self._ask()
            if (changed := await self._keys()) == keys:
                raise
        return self._verify(headers, body, changed)

    def _verify(self, headers: Mapping[str, str], body: bytes, keys: list[str]) -> str:
        return verify(headers, body, keys=keys, now_s=self._clock.now().timestamp())

    async def _keys(self) -> list[str]:
        if self._named:
            return self._named
        if self._known is None:
            await self._ask()
        if self._known is None:
            has_key = bool(self._account.key.get_secret_value())
            raise NoWebhookKeyError(_NOT_TOLD if has_key else _NO_KEY, retry_after_s=AGAIN_S)
        return [self._known]

    async def _ask(self) -> None:
        """Ask the provider, unless that was just done; a key that was known is kept."""
        async with self._asking:
            now = self._clock.monotonic()
            if self._account.key.get_secret_value() and now - self._asked_at >= AGAIN_S:
                self._asked_at = now
                self._known = await self._asked() or self._known

    async def _asked(self) -> str | None:
        url = f"{self._account.base_url.rstrip('/')}/webhooks/default/secret"
        bearer = {"Authorization": f"Bearer {self._account.key.get_secret_value()}"}
        try:
            async with (
                asyncio.timeout(ASK_S),
                httpx.AsyncClient(timeout=ASK_S, follow_redirects=False) as client,
                client.stream("GET", url, headers=bearer) as answer,
            ):
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        return None
            if not answer.is_success:
                return None
            key = _Told.model_validate_json(body).key.get_secret_value()
            secret_of(key)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return None  # nobody answers
        except (ValidationError, WebhookRefusedError):
            return None  # what they say is no key
        return key

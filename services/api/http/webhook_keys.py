"""Verifies the signatures of the provider's webhooks.

The keys come from the environment, or else from the provider, which returns the account's key to
its API key. If a signature matches none of them, the key is read again, at most once per
`AGAIN_S`, because it may have been rotated.

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

READ_S = 10.0
AGAIN_S = 60.0  # minimum interval between two requests for the key
RESPONSE_BYTES_MAX = 65_536
_NO_KEY = (
    "no key to verify webhooks: set REPLICATE_WEBHOOK_SECRET, or REPLICATE_API_KEY so that"
    " the api can read it"
)
_UNREADABLE = (
    "no key to verify webhooks: Replicate did not return it; the api retries, or set"
    " REPLICATE_WEBHOOK_SECRET"
)


class NoWebhookKeyError(RetryableError):
    """No key is available, so no webhook can be verified."""


class _SecretBody(BaseModel):
    key: SecretStr


class WebhookKeys:
    """The keys of one account."""

    def __init__(self, named: SecretStr, account: ReplicateAccount, *, clock: Clock) -> None:
        keys = named.get_secret_value().split(",")
        self._named = [key.strip() for key in keys if key.strip()]
        self._account = account
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: str | None = None
        self._read_at = -math.inf

    async def verified(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of a message that the provider signed.

        Raises:
            WebhookRefusedError: the signature is missing, invalid or expired.
            NoWebhookKeyError: no key is available.
        """
        keys = await self._keys()
        try:
            return self._verify(headers, body, keys)
        except WebhookRefusedError:
            if self._named:
                raise
            await self._refresh()
            if (changed := await self._keys()) == keys:
                raise
        return self._verify(headers, body, changed)

    def _verify(self, headers: Mapping[str, str], body: bytes, keys: list[str]) -> str:
        return verify(headers, body, keys=keys, now_s=self._clock.now().timestamp())

    async def _keys(self) -> list[str]:
        if self._named:
            return self._named
        if self._known is None:
            await self._refresh()
        if self._known is None:
            has_key = bool(self._account.key.get_secret_value())
            raise NoWebhookKeyError(_UNREADABLE if has_key else _NO_KEY, retry_after_s=AGAIN_S)
        return [self._known]

    async def _refresh(self) -> None:
        """Read the key again, at most once per `AGAIN_S`; keep the known one on failure."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._account.key.get_secret_value() and now - self._read_at >= AGAIN_S:
                self._read_at = now
                self._known = await self._read_key() or self._known

    async def _read_key(self) -> str | None:
        url = f"{self._account.base_url.rstrip('/')}/webhooks/default/secret"
        bearer = {"Authorization": f"Bearer {self._account.key.get_secret_value()}"}
        try:
            async with (
                asyncio.timeout(READ_S),
                httpx.AsyncClient(timeout=READ_S, follow_redirects=False) as client,
                client.stream("GET", url, headers=bearer) as response,
            ):
                body = b""
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > RESPONSE_BYTES_MAX:
                        return None
            if not response.is_success:
                return None
            key = _SecretBody.model_validate_json(body).key.get_secret_value()
            secret_of(key)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return None  # unreachable
        except (ValidationError, WebhookRefusedError):
            return None  # not a key
        return key

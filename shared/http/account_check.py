"""Checks at a start that Replicate accepts the key, so that no job waits for a wrong one.

One authenticated GET of the account, free of charge. A missing or rejected key ends the start with
instructions; a Replicate that does not answer is only reported, because it may come back.

Units: seconds. I/O: HTTP.
"""

import asyncio
from http import HTTPStatus

import httpx

from shared.errors import SettingsError
from shared.music_providers import KEY_VARIABLE, ProviderChoice
from shared.pricing import ReplicateAccount

CHECK_S = 10.0
KEYS_PAGE = "https://replicate.com/account/api-tokens"
_REJECTED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


async def check_account(choice: ProviderChoice, account: ReplicateAccount) -> str | None:
    """Return why the key could not be checked; None if it is accepted or not needed.

    Raises:
        SettingsError: the provider needs a key, and it is missing or rejected.
    """
    if choice.name != "replicate":
        return None
    if not account.has_key:
        raise SettingsError(
            KEY_VARIABLE,
            f"missing, but {choice.reason}: create a key at {KEYS_PAGE} and set "
            f"{KEY_VARIABLE}=r8_…, or use the provider synth, which is free",
        )
    status = await _account_status(account)
    if status in _REJECTED:
        raise SettingsError(
            KEY_VARIABLE,
            f"Replicate rejected the key (HTTP {status}): create a key at {KEYS_PAGE} and set it, "
            "or use the provider synth, which is free",
        )
    if status is None:
        return f"the key was not checked: {account.base_url} did not answer"
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise SettingsError(
            "REPLICATE_BASE_URL",
            f"{account.base_url} redirects (HTTP {status}): set the address that it redirects to",
        )
    if status != HTTPStatus.OK:
        return f"the key was not checked: {account.base_url} answered HTTP {status}"
    return None


async def _account_status(account: ReplicateAccount) -> int | None:
    """Return the status of `GET account`; None without a response."""
    bearer = {"Authorization": f"Bearer {account.key.get_secret_value()}"}
    url = f"{account.base_url.rstrip('/')}/account"
    try:
        async with (
            asyncio.timeout(CHECK_S),
            httpx.AsyncClient(timeout=CHECK_S, follow_redirects=False) as client,
            client.stream("GET", url, headers=bearer) as response,
        ):
            return response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError):
        return None

"""The check of Replicate's key at a start: instructions at once, instead of a job that waits."""

import warnings
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from replicate_server import EmulatorSettings, ReplicateEmulator
from shared.errors import SettingsError
from shared.http.account_check import check_account
from shared.music_providers import ProviderChoice, choose_provider
from shared.pricing import ReplicateAccount
from shared.storage import StandInWarning
from tests.fakes.api import Answer, fake_api

CHOSEN = choose_provider("replicate", has_key=True, wanted_by="--provider")


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """An emulator of Replicate."""
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        emulator = ReplicateEmulator(EmulatorSettings(token="r8_right"))
    async with emulator as started:
        yield started


def account(url: str, key: str) -> ReplicateAccount:
    """Return an account at `url`."""
    return ReplicateAccount(base_url=url, key=key)


async def test_an_accepted_key_costs_one_free_request(replicate: ReplicateEmulator) -> None:
    """Nothing is created."""
    assert await check_account(CHOSEN, account(replicate.base_url, "r8_right")) is None
    assert dict(replicate.requests) == {("account", 200): 1}
    assert replicate.ledger.entries == []


async def test_a_rejected_key_is_reported_as_rejected(replicate: ReplicateEmulator) -> None:
    """With the page that creates keys, and the free alternative."""
    with pytest.raises(SettingsError) as caught:
        await check_account(CHOSEN, account(replicate.base_url, "r8_wrong"))

    assert caught.value.field == "REPLICATE_API_KEY"
    assert "Replicate rejected the key (HTTP 401)" in caught.value.problem
    assert "https://replicate.com/account/api-tokens" in caught.value.problem
    assert "synth" in caught.value.problem


async def test_a_missing_key_is_reported_as_missing_with_who_needs_it() -> None:
    """Without a request."""
    with pytest.raises(SettingsError, match="missing, but --provider is replicate: create a key"):
        await check_account(CHOSEN, account("http://127.0.0.1:9/v1", ""))


@pytest.mark.parametrize("status", [403, 301])
async def test_a_forbidden_key_and_a_moved_address_end_the_start(status: int) -> None:
    """A redirect is not followed: the key must not reach another host."""
    moved = Answer(status=status, headers={"Location": "http://127.0.0.1:9/"})
    with fake_api(moved) as server, pytest.raises(SettingsError) as caught:
        await check_account(CHOSEN, account(server.url, "r8_x"))

    expected = "REPLICATE_API_KEY" if status == HTTPStatus.FORBIDDEN else "REPLICATE_BASE_URL"
    assert caught.value.field == expected


async def test_a_replicate_that_does_not_answer_is_a_note() -> None:
    """It may come back; the jobs wait for it."""
    note = await check_account(CHOSEN, account("http://127.0.0.1:9/v1", "r8_x"))
    with fake_api(Answer(status=503)) as server:
        busy = await check_account(CHOSEN, account(server.url, "r8_x"))

    assert note is not None
    assert "did not answer" in note
    assert busy is not None
    assert "HTTP 503" in busy


@pytest.mark.parametrize("name", ["synth", "silence", "fake-replicate"])
async def test_another_provider_needs_no_key(name: str) -> None:
    """Nothing is requested."""
    choice = ProviderChoice(name=name, reason="it is free")  # type: ignore[arg-type]  # a name

    assert await check_account(choice, account("http://127.0.0.1:9/v1", "")) is None

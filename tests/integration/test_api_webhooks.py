"""The webhook route: a signed message is published once; all others change nothing."""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from replicate_server import EmulatorSettings, ReplicateEmulator
from replicate_server.predictions.webhooks import signature
from services.api.http.routes.webhooks import BODY_BYTES_MAX
from services.api.http.webhook_keys import AGAIN_S
from shared.pricing import PricingSettings, ReplicateAccount
from shared.security.signed_links import WEBHOOK_LIFETIME_S, SegmentLinks, WebhookLinks
from shared.security.webhook_signatures import WEBHOOK_PATH
from shared.storage import StandInWarning
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.servers import Database

pytestmark = pytest.mark.integration
SECRET = "whsec_" + "c2VjcmV0IG9mIHRlc3Rz" * 2
OTHER = "whsec_" + "YW5vdGhlciBzZWNyZXQh" * 2
MESSAGE: dict[str, Any] = {"id": "gm3qorzdhgbfurvjtvhg6dckhu", "status": "succeeded", "output": "x"}


@dataclass
class Sender:
    """Sends webhooks as the provider does."""

    api: ApiFixture
    clock: FakeClock

    def token(self, job_id: str = "film") -> str:
        """Return a token that is sealed as the generator seals it."""
        return WebhookLinks(self.api.context.settings.links, clock=self.clock).seal(job_id)

    async def send(
        self,
        body: bytes | None = None,
        *,
        secret: str = SECRET,
        message: str = "msg_1",
        age_s: int = 0,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send one message; return the response."""
        body = json.dumps(MESSAGE).encode() if body is None else body
        stamp = int(self.clock.now().timestamp()) - age_s
        signed = {
            "webhook-id": message,
            "webhook-timestamp": str(stamp),
            "webhook-signature": signature(secret, webhook_id=message, timestamp=stamp, body=body),
            "content-type": "application/json",
        }
        path = f"{WEBHOOK_PATH}/{token or self.token()}"
        return await self.api.client.post(
            path, content=body, headers=signed if headers is None else headers
        )

    async def published(self) -> list[dict[str, Any]]:
        """Return the events in the outbox, with their topics and keys."""
        rows = await self.api.rows("SELECT topic, key, value FROM outbox ORDER BY id")
        return [
            {"topic": row["topic"], "key": row["key"].decode(), **json.loads(row["value"])}
            for row in rows
        ]


@pytest.fixture
async def sender(postgres: Database, tmp_path: Path) -> AsyncIterator[Sender]:
    """Yield a sender to an api that accepts two keys, as during a key rotation."""
    clock = FakeClock()
    async with api_fixture(
        await postgres(), tmp_path, clock=clock, webhook_secret=f"{SECRET}, {OTHER}"
    ) as fixture:
        yield Sender(fixture, clock)


@pytest.mark.parametrize("secret", [SECRET, OTHER])
async def test_a_webhook_is_published_under_its_job(sender: Sender, secret: str) -> None:
    """The key is the job in the URL; the event has only the prediction's id."""
    answer = await sender.send(secret=secret)

    assert answer.status_code == 204
    (event,) = await sender.published()
    assert event == {
        "topic": "prediction.ended",
        "key": "film",
        "job_id": "film",
        "prediction_id": MESSAGE["id"],
    }


async def test_a_repeated_message_changes_nothing(sender: Sender) -> None:
    """The provider retries until it gets a response, and sometimes sends twice."""
    answers = [await sender.send() for _ in range(3)]
    other = await sender.send(message="msg_2")

    assert [answer.status_code for answer in (*answers, other)] == [204] * 4
    assert len(await sender.published()) == 2


@pytest.mark.parametrize(
    ("given", "status", "detail"),
    [
        ({"secret": "whsec_Zm9yZ2VkIGtleSBvZiBubyBvbmU="}, 401, "no signature matches"),
        ({"age_s": 301}, 401, "more than 300 s"),
        ({"age_s": -301}, 401, "more than 300 s"),
        ({"headers": {"content-type": "application/json"}}, 401, "missing header webhook-id"),
        ({"token": "gAAAAAB" + "x" * 93}, 404, "webhook not found"),
        ({"body": b"{}"}, 422, "id is missing"),
        ({"body": b'{"id": "../../etc"}'}, 422, "id is missing or invalid"),
        ({"body": b"not json"}, 400, "not JSON"),
        ({"body": b" " * (BODY_BYTES_MAX + 1)}, 413, "at most"),
    ],
    ids=["forged", "late", "early", "unsigned", "token", "empty", "id", "no json", "huge"],
)
async def test_an_invalid_message_is_rejected_with_the_reason(
    sender: Sender, given: dict[str, Any], status: int, detail: str
) -> None:
    """Nothing is published; the corrected message is accepted afterwards."""
    answer = await sender.send(**given)

    assert answer.status_code == status, answer.text
    assert detail in answer.json()["detail"]
    assert await sender.published() == []
    assert (await sender.send()).status_code == 204
    assert len(await sender.published()) == 1


async def test_a_webhook_url_expires(sender: Sender) -> None:
    """A segment's token is not a webhook's token either."""
    token = sender.token()
    segment = SegmentLinks(sender.api.context.settings.links, clock=sender.clock).seal("film")
    sender.clock.jump(WEBHOOK_LIFETIME_S + 1)

    assert (await sender.send(token=token)).status_code == 410
    assert (await sender.send(token=segment)).status_code == 404
    assert await sender.published() == []


async def test_the_key_is_fetched_from_the_provider_and_again_after_a_change(
    postgres: Database, tmp_path: Path
) -> None:
    """With the account's key, once; a forger cannot cause more than one request per interval."""
    async with _api_that_fetches_the_key(await postgres(), tmp_path) as (fake, sender):
        assert (await sender.send()).status_code == 204
        fake.tune(webhook_secret=OTHER)
        changed = [await sender.send(secret=OTHER, message="msg_2")]
        sender.clock.jump(AGAIN_S)
        changed.append(await sender.send(secret=OTHER, message="msg_2"))

    assert [answer.status_code for answer in changed] == [401, 204]


async def test_the_key_is_fetched_again_later_if_the_provider_does_not_return_it(
    postgres: Database, tmp_path: Path
) -> None:
    """Meanwhile 503 with the reason, and one request per minute, however many messages come."""
    async with _api_that_fetches_the_key(await postgres(), tmp_path) as (fake, sender):
        fake.fault("wrong_json", place="secret")
        early = await asyncio.gather(*(sender.send(message=f"msg_{n}") for n in range(5)))
        fetched = sum(count for (place, _), count in fake.requests.items() if place == "secret")
        sender.clock.jump(AGAIN_S)
        later = await sender.send(message="msg_0")

    assert [answer.status_code for answer in early] == [503] * 5
    assert "Replicate did not return it" in early[0].json()["detail"]
    assert fetched == 1
    assert later.status_code == 204


async def test_concurrent_messages_after_a_change_of_key_are_all_accepted(
    postgres: Database, tmp_path: Path
) -> None:
    """One of them fetches the new key; the others wait for it."""
    async with _api_that_fetches_the_key(await postgres(), tmp_path) as (fake, sender):
        assert (await sender.send()).status_code == 204
        fake.tune(webhook_secret=OTHER)
        sender.clock.jump(AGAIN_S)
        changed = await asyncio.gather(
            *(sender.send(secret=OTHER, message=f"new_{n}") for n in range(5))
        )

    assert [answer.status_code for answer in changed] == [204] * 5


async def test_without_a_key_no_message_is_accepted(postgres: Database, tmp_path: Path) -> None:
    """503, so that the provider retries; the log names both ways out."""
    clock = FakeClock()
    async with api_fixture(await postgres(), tmp_path, clock=clock) as fixture:
        sender = Sender(fixture, clock)
        with structlog.testing.capture_logs() as entries:
            answer = await sender.send()

        assert answer.status_code == 503
        assert "set REPLICATE_WEBHOOK_SECRET" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) >= AGAIN_S
        assert "set REPLICATE_WEBHOOK_SECRET, or REPLICATE_API_KEY" in str(entries)
        assert await sender.published() == []


@asynccontextmanager
async def _api_that_fetches_the_key(
    database: str, folder: Path
) -> AsyncIterator[tuple[ReplicateEmulator, Sender]]:
    """Yield a provider with a key, and an api that has only the account's API key."""
    clock = FakeClock()
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(webhook_secret=SECRET))
    async with fake:
        account = ReplicateAccount(key=fake.token, base_url=fake.base_url)
        pricing = PricingSettings(replicate=account)
        async with api_fixture(database, folder, clock=clock, pricing=pricing) as fixture:
            yield fake, Sender(fixture, clock)

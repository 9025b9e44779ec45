"""Replicate's webhooks: a fast path that may be lost, doubled, forged or late without harm."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedded.replicate import FakeSettings
from embedded.replicate.serving import Serving
from services.generator.providers import CompositionRequest
from shared.storage.filesystem import FolderStore
from shared.webhooks import Deliveries, WebhookRefusedError, verify
from tests.replicate_line import ReplicateLine, replicate_line

pytestmark = pytest.mark.integration
FRESH = CompositionRequest(prompt="calm", duration_s=1, window=None, seed=7)
POLL_S = 15.0  # so long that only a webhook can be faster


@dataclass
class Inbox:
    """Takes webhooks as the api does, and nudges the provider."""

    line: ReplicateLine
    heard: list[str] = field(default_factory=list)
    deliveries: Deliveries = field(default_factory=Deliveries)

    async def take(self, request: Request) -> Response:
        """One delivery."""
        body = await request.body()
        now_s = time.time()  # noqa: TID251 - the sender's clock is the machine's
        try:
            keys = [self.line.fake.webhook_secret]
            message_id = verify(request.headers, body, keys=keys, now_s=now_s)
        except WebhookRefusedError:
            self.heard.append("refused")
            return Response(status_code=400)
        if self.deliveries.is_new(message_id, now_s=now_s):
            self.heard.append("new")
            self.line.provider.nudge((await request.json())["id"])
        else:
            self.heard.append("again")
        return Response()


@asynccontextmanager
async def _inbox(folder: Path, *, poll_s: float = POLL_S) -> AsyncIterator[Inbox]:
    fake = FakeSettings(work_s=0.3)
    async with replicate_line(
        FolderStore(folder), fake=fake, poll_first_s=poll_s, poll_max_s=poll_s
    ) as line:
        inbox, serving = Inbox(line), Serving()
        line.provider._webhook = serving.bind(0) + "/hook"
        await serving.start(Starlette(routes=[Route("/hook", inbox.take, methods=["POST"])]))
        try:
            yield inbox
        finally:
            await serving.stop()


async def _made_in_s(inbox: Inbox) -> float:
    begun = time.monotonic()
    provider = inbox.line.provider
    await provider.collect(await provider.submit(FRESH), FRESH)
    await inbox.line.fake.settled()
    assert len(inbox.line.fake.ledger.charged) == 1
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        (None, ["new"]),
        ("webhook_doubled", ["again", "new"]),
        ("webhook_forged", ["new", "refused"]),
    ],
)
async def test_a_webhook_makes_the_wait_as_short_as_the_work(
    tmp_path: Path, fault: str | None, heard: list[str]
) -> None:
    """Long before the next look would come; twice the same is once, and a forgery is nothing."""
    async with _inbox(tmp_path) as inbox:
        if fault is not None:
            inbox.line.fake.fault(fault)

        took_s = await _made_in_s(inbox)

        assert sorted(inbox.heard) == heard
        assert took_s < POLL_S


@pytest.mark.parametrize(
    ("fault", "value", "heard"),
    [("webhook_lost", None, []), ("webhook_stale", 600.0, ["refused"])],
)
async def test_without_a_webhook_that_counts_the_next_look_finds_the_end(
    tmp_path: Path, fault: str, value: float | None, heard: list[str]
) -> None:
    """Polling is the truth."""
    async with _inbox(tmp_path, poll_s=1.0) as inbox:
        inbox.line.fake.fault(fault, value=value)
        inbox.line.fake.tune(webhook_delays_s=())

        await _made_in_s(inbox)

        assert inbox.heard == heard


async def test_a_webhook_that_comes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    """Nobody waits for it any more."""
    async with _inbox(tmp_path, poll_s=0.5) as inbox:
        inbox.line.fake.fault("webhook_late", value=1.5)

        await _made_in_s(inbox)

        assert inbox.heard == ["new"]
        assert (await inbox.line.provider.collect(inbox.line.fake.predictions[0]["id"], FRESH)).data

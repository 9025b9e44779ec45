"""Replicate's webhooks may be lost, doubled, forged or late without harm."""

import time
from pathlib import Path

import pytest

from replicate_server import EmulatorSettings
from shared.storage.filesystem import FolderStore
from tests.support.claims_fixture import ClaimsFixture, write_figures
from tests.support.replicate_provider import replicate_fixture
from tests.support.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.integration
WORK_S = 0.5  # of a prediction
POLL_S = 3.0  # until the next poll, if no webhook comes
NEVER_S = 300.0  # so long that only a webhook can come before
LATE_S = 5.0  # after the scene is generated


@pytest.mark.parametrize(
    ("kind", "value", "outcomes", "poll_s"),
    [
        (None, None, ["new"], NEVER_S),
        ("webhook_doubled", None, ["again", "new"], NEVER_S),
        ("webhook_forged", None, ["new", "refused"], NEVER_S),
        ("webhook_lost", None, [], POLL_S),
        ("webhook_late", LATE_S, ["new"], POLL_S),
        ("webhook_stale", 600.0, ["refused"], POLL_S),
    ],
    ids=["delivered", "doubled", "forged", "lost", "late", "stale"],
)
async def test_a_webhook_shortens_the_wait_and_decides_nothing(
    tmp_path: Path,
    kind: str | None,
    value: float | None,
    outcomes: list[str],
    poll_s: float,
) -> None:
    """One charge per scene; one poll, after the webhook if there is one, and none after the end."""
    store, fake = FolderStore(tmp_path), EmulatorSettings(work_s=WORK_S)
    async with (
        webhook_receiver() as receiver,
        replicate_fixture(
            store, fake=fake, webhook=receiver.url, poll_first_s=poll_s, poll_max_s=poll_s
        ) as replicate,
    ):
        receiver.replicate = replicate
        fixture = ClaimsFixture(replicate, store)
        replicate.fake.tune(webhook_delays_s=())
        if kind is not None:
            replicate.fake.fault(kind, value=value)
        started = time.monotonic()

        result = await fixture.scene()

        added_s = time.monotonic() - started - WORK_S
        polls = replicate.fake.requests["get", 200]
        await replicate.fake.settled()  # late webhooks have arrived, too
        assert sorted(receiver.outcomes) == outcomes
        assert (fixture.charged, fixture.posted, result.attempt) == (1, 1, 1)
        assert polls == 1 or poll_s == POLL_S  # a slow machine may need one more poll
        assert replicate.fake.requests["get", 200] == polls
        row = f"{kind or 'webhook delivered'}, polled every {poll_s:g} s"
        write_figures(row, finished=1, requested=1, charged=fixture.charged, added_s=added_s)

"""Tests that every scene is generated and paid for once, whatever fault Replicate has.

The real provider, claims and attempts run against the Replicate emulator over a socket. The clock
runs forty times faster; the timeouts of requests are real. Each test prints a row (`-rP`):
scenes finished, charges per scene, and seconds added to an undisturbed scene.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from replicate_server import EmulatorSettings
from services.generator.providers import mp3
from shared.errors import ProviderPausedError, ProviderRejectedError
from shared.media.samples import CLIP_RATE_HZ
from shared.storage.filesystem import FolderStore
from tests.support.audio_builders import music
from tests.support.claims_fixture import ClaimsFixture, write_figures
from tests.support.replicate_provider import FastClock, replicate_fixture

pytestmark = pytest.mark.integration
FACTOR = 40
CLIP = mp3.encode(
    music(np.arange(CLIP_RATE_HZ), rate_hz=CLIP_RATE_HZ)
)  # composing would count as delay


@pytest.fixture
async def fixture(tmp_path: Path) -> AsyncIterator[ClaimsFixture]:
    """Yield a fast emulator, with a request timeout of half a second."""
    store = FolderStore(tmp_path)
    async with replicate_fixture(
        store,
        clock=FastClock(FACTOR),
        compose=lambda *_: CLIP,
        request_timeout_s=0.5,
        download_timeout_s=1.0,
        starts_per_s=10,
    ) as replicate:
        yield ClaimsFixture(replicate, store)


@pytest.mark.parametrize(
    ("kind", "place", "posted", "attempts"),
    [
        ("lost_answer", "create", 1, 1),
        ("500_after", "create", 1, 1),
        ("hang", "create", 1, 1),
        ("wrong_json", "create", 1, 1),
        ("truncated", "create", 1, 1),
        ("500_before", "create", 2, 2),
        ("dropped", "create", 2, 2),
        ("429", "create", 2, 2),
        ("500_before", "get", 1, 1),
        ("dropped", "get", 1, 1),
        ("wrong_json", "get", 1, 1),
        ("404", "get", 1, 1),
        ("429", "get", 1, 1),
        ("truncated", "delivery", 1, 1),
        ("404", "delivery", 1, 1),
        ("dropped", "delivery", 1, 1),
    ],
)
async def test_a_transport_fault_costs_nothing_twice(
    fixture: ClaimsFixture, kind: str, place: str, posted: int, attempts: int
) -> None:
    """One charge for the scene, whichever response was lost, late, truncated or wrong."""
    calm_s = await fixture.undisturbed_s()
    fixture.replicate.fake.fault(kind, place=place, value=1 if kind == "429" else None)  # type: ignore[arg-type]

    result, took_s = await fixture.timed()

    write_figures(
        f"{kind} at {place}",
        finished=1,
        requested=1,
        charged=fixture.charged,
        added_s=took_s - calm_s,
    )
    assert fixture.replicate.fake.struck[kind] == 1, "the fault never happened"
    assert (fixture.charged, fixture.posted, result.attempt) == (1, posted, attempts)


async def test_a_lost_response_with_a_failing_list_is_settled_later(
    fixture: ClaimsFixture,
) -> None:
    """An unconfirmed prediction is not paid for again: the claim finds it later."""
    calm_s = await fixture.undisturbed_s()
    fixture.replicate.fake.fault("lost_answer")
    fixture.replicate.fake.fault("500_before", place="list", times=4)

    result, took_s = await fixture.timed()

    write_figures(
        "lost answer, then a list that fails four times",
        finished=1,
        requested=1,
        charged=fixture.charged,
        added_s=took_s - calm_s,
    )
    assert (fixture.charged, fixture.posted, result.prediction.adopted) == (1, 1, True)


@pytest.mark.parametrize(
    ("kind", "value", "charged"),
    [
        ("status", "aborted", 1),  # it never started, so it was free
        ("status", "canceled", 2),
        ("fail_with", "Prediction interrupted; please retry (code: PA)", 2),
        ("purged", None, 2),
        ("dead_output", None, 2),
        ("clip_shape", "not_audio", 2),
    ],
)
async def test_a_failed_prediction_is_retried(
    fixture: ClaimsFixture, kind: str, value: str | None, charged: int
) -> None:
    """With a new seed; the provider decides what the first one cost."""
    calm_s = await fixture.undisturbed_s()
    fixture.replicate.fake.fault(kind, value=value)

    result, took_s = await fixture.timed()

    write_figures(
        f"{kind} {value or ''}".rstrip(),
        finished=1,
        requested=1,
        charged=fixture.charged,
        added_s=took_s - calm_s,
    )
    assert fixture.replicate.fake.struck[kind] == 1
    assert (result.attempt, len(result.failed), fixture.charged) == (2, 1, charged)


async def test_an_error_of_the_model_is_reported_and_not_paid_again(
    fixture: ClaimsFixture,
) -> None:
    """A retry of an invalid request cannot succeed."""
    fixture.replicate.fake.fault("fail_with", value="Prompt is longer than audio to generate")

    with pytest.raises(ProviderRejectedError, match="Prompt is longer than audio to generate"):
        await fixture.scene()

    assert fixture.posted == 1


@pytest.mark.parametrize("kind", ["down", "unavailable"])
async def test_an_outage_of_ten_minutes_costs_only_time(fixture: ClaimsFixture, kind: str) -> None:
    """One scene is in progress when it starts, another is requested during it."""
    clock, fake = fixture.replicate.clock, fixture.replicate.fake
    fake.fault("slow_work", value=20)
    first = asyncio.create_task(fixture.scene("job-1"))
    async with asyncio.timeout(20):
        while not fake.predictions:  # noqa: ASYNC110 - the emulator has no event to wait for
            await asyncio.sleep(0.01)
    started = clock.monotonic()
    fake.fault(kind, value=600, place="any")

    results = await asyncio.gather(first, fixture.scene("job-2"))

    took_s = clock.monotonic() - started
    write_figures(
        f"{kind} for 600 s", finished=2, requested=2, charged=fixture.charged, added_s=took_s
    )
    assert {result.attempt for result in results[:1]} == {1}
    assert fixture.charged == 2
    assert 600 <= took_s <= 720


async def test_a_revoked_key_pauses_every_scene_until_it_works_again(
    fixture: ClaimsFixture,
) -> None:
    """It is reported meanwhile; the running prediction is adopted, not paid again."""
    clock, fake = fixture.replicate.clock, fixture.replicate.fake
    fake.fault("slow_work", value=20)
    running = asyncio.create_task(fixture.scene("job-1"))
    async with asyncio.timeout(20):
        while not fake.predictions:  # noqa: ASYNC110 - the emulator has no event to wait for
            await asyncio.sleep(0.01)
    fake.revoke()
    await clock.sleep(45)
    with pytest.raises(ProviderPausedError, match="Replicate rejected the API key"):
        await fixture.replicate.provider.ready(within_s=1)
    assert fixture.replicate.provider.paused is not None
    fake.restore()
    restored = clock.monotonic()

    result = await running
    write_figures(
        "key revoked in the middle, from its return on",
        finished=1,
        requested=1,
        charged=fixture.charged,
        added_s=clock.monotonic() - restored,
    )
    other = await fixture.scene("job-2")

    assert (result.attempt, other.attempt, fixture.charged) == (1, 1, 2)
    assert fixture.replicate.provider.paused is None


async def test_an_empty_account_pauses_until_one_start_succeeds(
    fixture: ClaimsFixture,
) -> None:
    """Meanwhile only one start per half minute is tried."""
    fake, clock = fixture.replicate.fake, fixture.replicate.clock
    fake.credit_usd = 0.0
    scenes = [asyncio.create_task(fixture.scene(f"job-{n}")) for n in range(5)]
    await clock.sleep(100)
    refused = fake.requests["create", 402]
    assert fixture.replicate.provider.paused is not None
    assert fixture.replicate.provider.paused.startswith("Replicate wants credit")
    fake.credit_usd = None
    filled = clock.monotonic()

    await asyncio.gather(*scenes)

    write_figures(
        "no credit, from its return on",
        finished=5,
        requested=5,
        charged=fixture.charged,
        added_s=clock.monotonic() - filled,
    )

    assert refused <= 5 + 4
    assert fixture.charged == 5


async def test_many_429s_slow_every_lane_and_lose_nothing(tmp_path: Path) -> None:
    """A hundred jobs on a key with six starts per minute."""
    fake = EmulatorSettings(work_s=0.0, creations_per_min=6, creation_burst=1)
    clock, store = FastClock(50), FolderStore(tmp_path)
    async with replicate_fixture(
        store, clock=clock, fake=fake, compose=lambda *_: CLIP
    ) as replicate:
        fixture, started = ClaimsFixture(replicate, store), clock.monotonic()

        results = await asyncio.gather(*(fixture.scene(f"job-{number}") for number in range(100)))

        took_s = clock.monotonic() - started
        throttled = replicate.fake.requests["create", 429]
        write_figures(
            f"429 storm: {throttled} times throttled; beyond the 990 s that the key imposes",
            finished=len(results),
            requested=100,
            charged=fixture.charged,
            added_s=took_s - 990,
        )
        assert fixture.charged == 100
        assert throttled <= 25
        assert took_s <= 990 * 1.35  # the 99 waits that the key imposes, and a third


async def test_a_stuck_prediction_is_cancelled_at_the_deadline(fixture: ClaimsFixture) -> None:
    """After ten minutes it is retried with another seed."""
    fixture.replicate.fake.fault("stuck")

    result, took_s = await fixture.timed()

    write_figures(
        "stuck, cancelled at 600 s",
        finished=1,
        requested=1,
        charged=fixture.charged,
        added_s=took_s,
    )
    assert result.attempt == 2
    assert result.failed[0].startswith("attempt 1: Audio generation timed out")
    assert 560 <= took_s <= 900  # its clock runs 40 times faster
    assert [prediction["status"] for prediction in fixture.replicate.fake.predictions] == [
        "canceled",
        "succeeded",
    ]

"""Checks when a prediction is polled, and what ends the wait."""

import asyncio
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from services.generator.providers.replicate.request import PredictionEndedError
from shared.errors import ProviderBusyError, ProviderPausedError, ProviderRejectedError
from tests.fakes.clock import FakeClock
from tests.unit.services.generator.providers.replicate.scripted_replicate import (
    FRESH,
    ScriptedReplicate,
    a_clip,
    a_prediction,
    succeeded,
)

RUNNING = httpx.Response(200, json=a_prediction(status="processing"))


@pytest.fixture
async def fixture(tmp_path: Path) -> ScriptedReplicate:
    """Yield a provider that has just submitted prediction "p1"."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.respond("create", httpx.Response(201, json=a_prediction()))
    fixture.respond("file", httpx.Response(200, content=a_clip()))
    fixture.respond("cancel", httpx.Response(200, json=a_prediction(status="canceled")))
    await fixture.provider.submit(FRESH)
    fixture.clock.slept.clear()
    return fixture


async def test_polls_come_after_1_2_4_8_and_then_every_10_s(fixture: ScriptedReplicate) -> None:
    """Checks the wait before each poll of a new prediction."""
    fixture.respond("get", *[RUNNING] * 6, succeeded())

    await fixture.provider.collect("p1", FRESH)

    assert fixture.clock.slept == [1, 2, 4, 8, 10, 10, 10]


async def test_an_adopted_prediction_is_polled_at_once(fixture: ScriptedReplicate) -> None:
    """It may have ended already."""
    fixture.respond("get", succeeded())
    await fixture.provider.collect("p1", FRESH)
    fixture.clock.slept.clear()

    await fixture.provider.collect("p1", FRESH)

    assert not fixture.clock.slept


async def test_after_sixty_polls_the_prediction_is_cancelled(fixture: ScriptedReplicate) -> None:
    """After ten minutes at most, with the contract's message; a retry may succeed."""
    fixture.respond("get", RUNNING)

    with pytest.raises(PredictionEndedError, match=r"^Audio generation timed out") as caught:
        await fixture.provider.collect("p1", FRESH)

    assert caught.value.retryable
    assert len(fixture.requests_to("get")) == 60 + 1
    assert len(fixture.requests_to("cancel")) == 1
    assert fixture.clock.elapsed_s <= 600


async def test_a_prediction_that_succeeded_before_the_cancel_is_used(
    fixture: ScriptedReplicate,
) -> None:
    """It was paid for, and the cancel came too late."""
    fixture.respond("get", *[RUNNING] * 60, succeeded())

    clip = await fixture.provider.collect("p1", FRESH)

    assert clip.data == a_clip()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(429, json={"retry_after": 1}),
        httpx.ReadTimeout("silence"),
        httpx.ConnectError("refused"),
        httpx.Response(200, text="no json"),
        httpx.Response(404),
        httpx.Response(200, json=a_prediction(status="a status of tomorrow")),
    ],
)
async def test_a_failed_poll_does_not_fail_the_scene(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception
) -> None:
    """The next poll may succeed."""
    fixture.respond("get", answer, answer, succeeded())

    clip = await fixture.provider.collect("p1", FRESH)

    assert clip.data == a_clip()
    assert not fixture.requests_to("cancel")


async def test_an_unavailable_provider_keeps_the_prediction(
    fixture: ScriptedReplicate,
) -> None:
    """It may have succeeded: it is polled again, not cancelled and not paid for again."""
    fixture.respond("get", RUNNING, httpx.Response(503))

    with pytest.raises(ProviderBusyError):
        await fixture.provider.collect("p1", FRESH)

    assert not fixture.requests_to("cancel")


async def test_a_revoked_key_ends_the_wait(fixture: ScriptedReplicate) -> None:
    """Further polls would fail, too."""
    fixture.respond("get", httpx.Response(401))

    with pytest.raises(ProviderPausedError, match="Replicate rejected the API key"):
        await fixture.provider.collect("p1", FRESH)

    assert len(fixture.requests_to("get")) == 1


async def test_a_prediction_that_is_not_found_fails_after_five_polls(
    fixture: ScriptedReplicate,
) -> None:
    """One 404 may come from a lagging replica; five do not."""
    fixture.respond("get", httpx.Response(404))

    with pytest.raises(
        ProviderRejectedError, match="prediction not found at Replicate: p1"
    ) as caught:
        await fixture.provider.collect("p1", FRESH)

    assert caught.value.retryable
    assert len(fixture.requests_to("get")) == 5


@pytest.mark.parametrize(
    ("fields", "reason", "retryable"),
    [
        ({"status": "failed", "error": "Prompt is longer than audio"}, "longer than audio", False),
        ({"status": "failed", "error": "integer division or modulo by zero"}, "modulo", False),
        ({"status": "failed", "error": "E1001: out of memory"}, "E1001", False),
        ({"status": "failed", "error": "Unknown error (E1000)"}, "E1000", True),
        ({"status": "failed", "error": "Timeout starting prediction (E6716)"}, "E6716", True),
        (
            {"status": "failed", "error": "Prediction interrupted; please retry (code: PA)"},
            "PA",
            True,
        ),
        ({"status": "failed", "error": ""}, "no reason", True),
        ({"status": "failed", "error": {"code": 1}}, '"code": 1', False),
        ({"status": "aborted"}, "aborted", True),
        ({"status": "canceled"}, "canceled: no reason given", True),
        ({"status": "canceled", "error": "by its owner"}, "canceled: by its owner", True),
        ({"status": "canceled", "completed_at": "2026-01-01T00:09:29Z"}, "no reason", True),
        (
            {"status": "canceled", "completed_at": "2026-01-01T00:09:30Z"},
            "Audio generation timed out",
            True,
        ),
        (
            {"status": "canceled", "completed_at": "2026-01-01T00:10:00Z"},
            "Audio generation timed out",
            True,
        ),
    ],
)
async def test_every_failure_is_classified(
    fixture: ScriptedReplicate, fields: dict[str, object], reason: str, *, retryable: bool
) -> None:
    """A fault of the platform is retryable; the model's error about the request is not."""
    fixture.respond(
        "get", httpx.Response(200, json=a_prediction(metrics={"predict_time": 10}, **fields))
    )

    with pytest.raises(PredictionEndedError) as caught:
        await fixture.provider.collect("p1", FRESH)

    assert reason in caught.value.reason
    assert caught.value.retryable is retryable
    assert caught.value.cost_usd == pytest.approx(0.014)


class BlockingClock(FakeClock):
    """A clock whose sleeps never end."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: asyncio.Queue[float] = asyncio.Queue()

    @override
    async def sleep(self, seconds: float) -> None:
        await self.waits.put(seconds)
        await asyncio.Event().wait()


async def test_a_nudge_polls_at_once(tmp_path: Path) -> None:
    """A webhook ends the wait; the prediction is polled before it is trusted."""
    clock = BlockingClock()
    fixture = ScriptedReplicate(tmp_path, clock=clock)
    fixture.respond("create", httpx.Response(201, json=a_prediction()))
    fixture.respond("file", httpx.Response(200, content=a_clip()))
    fixture.respond("get", RUNNING, succeeded())
    await fixture.provider.submit(FRESH)
    waiting = asyncio.create_task(fixture.provider.collect("p1", FRESH))
    async with asyncio.timeout(10):
        waits = [await clock.waits.get()]
        fixture.provider.nudge("p1")  # too early, or forged: it still runs
        waits.append(await clock.waits.get())
        fixture.provider.nudge("another prediction")
        fixture.provider.nudge("p1")
        fixture.provider.nudge("p1")
        clip = await waiting

    assert clip.data == a_clip()
    assert len(fixture.requests_to("get")) == 2
    assert waits == [1, 1]  # a nudged poll does not make the next wait longer


async def test_a_cancelled_wait_frees_its_slot_at_the_provider(tmp_path: Path) -> None:
    """The lane moved to another process, which counts the prediction."""
    fixture = ScriptedReplicate(tmp_path, settings={"in_flight_max": 1})
    fixture.respond("create", httpx.Response(201, json=a_prediction()))
    polled = asyncio.Event()

    def running(_request: httpx.Request) -> httpx.Response:
        polled.set()
        return RUNNING

    fixture.respond("get", running)
    prediction = await fixture.provider.submit(FRESH)
    waiting = asyncio.create_task(fixture.provider.collect(prediction, FRESH))
    await polled.wait()
    with pytest.raises(ProviderBusyError):
        await fixture.provider.ready(within_s=0.5)

    waiting.cancel()
    await asyncio.wait([waiting])

    await fixture.provider.ready(within_s=0.5)

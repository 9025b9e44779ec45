"""Replicate's waits: how often is looked, what ends them, and what does not."""

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
    """Prediction "p1" has just been submitted."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.tells("create", httpx.Response(201, json=a_prediction()))
    fixture.tells("file", httpx.Response(200, content=a_clip()))
    fixture.tells("cancel", httpx.Response(200, json=a_prediction(status="canceled")))
    await fixture.provider.submit(FRESH)
    fixture.clock.slept.clear()
    return fixture


async def test_looks_come_after_1_2_4_8_and_then_every_10_s(fixture: ScriptedReplicate) -> None:
    """The waits before each look at a prediction that was just made."""
    fixture.tells("get", *[RUNNING] * 6, succeeded())

    await fixture.provider.collect("p1", FRESH)

    assert fixture.clock.slept == [1, 2, 4, 8, 10, 10, 10]


async def test_what_was_found_again_is_looked_at_at_once(fixture: ScriptedReplicate) -> None:
    """It may have ended while nobody looked."""
    fixture.tells("get", succeeded())
    await fixture.provider.collect("p1", FRESH)
    fixture.clock.slept.clear()

    await fixture.provider.collect("p1", FRESH)

    assert not fixture.clock.slept


async def test_after_sixty_looks_the_prediction_is_cancelled(fixture: ScriptedReplicate) -> None:
    """At most ten minutes, in the contract's words; another try may succeed."""
    fixture.tells("get", RUNNING)

    with pytest.raises(PredictionEndedError, match=r"^Audio generation timed out") as caught:
        await fixture.provider.collect("p1", FRESH)

    assert caught.value.retryable
    assert len(fixture.at("get")) == 60 + 1
    assert len(fixture.at("cancel")) == 1
    assert fixture.clock.elapsed_s <= 600


async def test_what_was_done_in_the_last_moment_is_taken(fixture: ScriptedReplicate) -> None:
    """It was paid for, and cancelling came too late."""
    fixture.tells("get", *[RUNNING] * 60, succeeded())

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
async def test_a_failed_look_is_not_a_failed_scene(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception
) -> None:
    """The next one may tell."""
    fixture.tells("get", answer, answer, succeeded())

    clip = await fixture.provider.collect("p1", FRESH)

    assert clip.data == a_clip()
    assert not fixture.at("cancel")


async def test_a_provider_that_is_silent_to_the_end_keeps_the_prediction(
    fixture: ScriptedReplicate,
) -> None:
    """It may be done: it is looked at again, not cancelled and not paid for again."""
    fixture.tells("get", RUNNING, httpx.Response(503))

    with pytest.raises(ProviderBusyError):
        await fixture.provider.collect("p1", FRESH)

    assert not fixture.at("cancel")


async def test_a_revoked_key_ends_the_wait_by_name(fixture: ScriptedReplicate) -> None:
    """There is no use in looking on."""
    fixture.tells("get", httpx.Response(401))

    with pytest.raises(ProviderPausedError, match="No Replicate API key configured"):
        await fixture.provider.collect("p1", FRESH)

    assert len(fixture.at("get")) == 1


async def test_a_prediction_nobody_knows_is_given_up_after_five_looks(
    fixture: ScriptedReplicate,
) -> None:
    """One look that knows nothing may be a lagging copy; five are not."""
    fixture.tells("get", httpx.Response(404))

    with pytest.raises(ProviderRejectedError, match="knows no prediction p1") as caught:
        await fixture.provider.collect("p1", FRESH)

    assert caught.value.retryable
    assert len(fixture.at("get")) == 5


@pytest.mark.parametrize(
    ("told", "reason", "retryable"),
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
        ({"status": "canceled"}, "canceled", True),
        (
            {"status": "canceled", "completed_at": "2026-01-01T00:10:00Z"},
            "Audio generation timed out",
            True,
        ),
    ],
)
async def test_every_bad_end_is_told_apart(
    fixture: ScriptedReplicate, told: dict[str, object], reason: str, *, retryable: bool
) -> None:
    """The provider's own troubles pass; what the model says of the request does not."""
    fixture.tells(
        "get", httpx.Response(200, json=a_prediction(metrics={"predict_time": 10}, **told))
    )

    with pytest.raises(PredictionEndedError) as caught:
        await fixture.provider.collect("p1", FRESH)

    assert reason in caught.value.reason
    assert caught.value.retryable is retryable
    assert caught.value.cost_usd == pytest.approx(0.014)


class Patient(FakeClock):
    """A clock on which nothing but a nudge ends a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: asyncio.Queue[float] = asyncio.Queue()

    @override
    async def sleep(self, seconds: float) -> None:
        await self.waits.put(seconds)
        await asyncio.Event().wait()


async def test_a_nudge_looks_at_once(tmp_path: Path) -> None:
    """A webhook came: the wait is over, and the prediction is read before it is believed."""
    patient = Patient()
    fixture = ScriptedReplicate(tmp_path, clock=patient)
    fixture.tells("create", httpx.Response(201, json=a_prediction()))
    fixture.tells("file", httpx.Response(200, content=a_clip()))
    fixture.tells("get", RUNNING, succeeded())
    await fixture.provider.submit(FRESH)
    waiting = asyncio.create_task(fixture.provider.collect("p1", FRESH))
    async with asyncio.timeout(10):
        waits = [await patient.waits.get()]
        fixture.provider.nudge("p1")  # too early, or forged: it still runs
        waits.append(await patient.waits.get())
        fixture.provider.nudge("somebody else's")
        fixture.provider.nudge("p1")
        fixture.provider.nudge("p1")
        clip = await waiting

    assert clip.data == a_clip()
    assert len(fixture.at("get")) == 2
    assert waits == [1, 1]  # a nudged look does not make the next wait longer


async def test_who_stops_waiting_gives_its_place_at_the_provider_back(tmp_path: Path) -> None:
    """A lane that moved to another process: the prediction counts there, and here no more."""
    fixture = ScriptedReplicate(tmp_path, settings={"in_flight_max": 1})
    fixture.tells("create", httpx.Response(201, json=a_prediction()))
    looked = asyncio.Event()

    def running(_request: httpx.Request) -> httpx.Response:
        looked.set()
        return RUNNING

    fixture.tells("get", running)
    prediction = await fixture.provider.submit(FRESH)
    waiting = asyncio.create_task(fixture.provider.collect(prediction, FRESH))
    await looked.wait()
    with pytest.raises(ProviderBusyError):
        await fixture.provider.ready(within_s=0.5)

    waiting.cancel()
    await asyncio.wait([waiting])

    await fixture.provider.ready(within_s=0.5)

"""A scene that waits says so: once per reason, never at the price of the scene."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.generator.composition.delay_notices import REASON_CHARS_MAX, Delays
from services.generator.providers import Clip, CompositionRequest
from services.generator.scene_ref import SceneRef
from shared.contract.events import Event, SceneDelayed, WaitCode
from shared.errors import (
    ProviderBusyError,
    ProviderPausedError,
    RetryableError,
    StoreUnavailableError,
)
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.publisher import FakePublisher
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

SCENE = SceneRef(job_id="job-1", run=1, scene_index=0)
NO_MONEY = ProviderPausedError("Replicate wants credit: 402", retry_after_s=30)
BUSY = ProviderBusyError("503")


class DelayFixture:
    """Delays whose word lies in `said`."""

    def __init__(self, **given: Any) -> None:
        self.clock = FakeClock()
        self.publisher = FakePublisher()
        self.delays = Delays(
            self.publisher,
            gate=self._open,
            said_after_s=given.get("said_after_s", 15.0),
            clock=self.clock,
            log=logger_of("test"),
        )

    async def _open(self) -> None:
        """A gate that stands open."""

    @property
    def published(self) -> list[tuple[WaitCode, bool]]:
        """What was said, in short."""
        events = [event for event in self.publisher.events if isinstance(event, SceneDelayed)]
        return [(event.code, event.over) for event in events]


@pytest.fixture
async def fixture() -> AsyncIterator[DelayFixture]:
    """One scene is being made."""
    made = DelayFixture()
    async with made.delays.of(SCENE, traceparent="00-trace"):
        yield made


async def test_a_refusal_of_everyone_is_said_at_once_once_and_with_the_trace(
    fixture: DelayFixture,
) -> None:
    """A person must act; the words are the provider's."""
    for _ in range(5):
        await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]
    [record] = fixture.publisher.records
    assert ("traceparent", b"00-trace") in record.headers
    [event] = fixture.publisher.events
    assert isinstance(event, SceneDelayed)
    assert event.reason == "Replicate wants credit: 402"


async def test_another_refusal_is_said_too(fixture: DelayFixture) -> None:
    """The key was good, now there is no money."""
    await fixture.delays.waits(SCENE, ProviderPausedError("No Replicate API key"), for_s=1.0)
    await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)] * 2


async def test_a_busy_provider_is_said_when_the_wait_is_long_and_not_before(
    fixture: DelayFixture,
) -> None:
    """Fourteen seconds are nobody's business; with new words each time it is said once."""
    await fixture.delays.waits(SCENE, BUSY, for_s=7.0)
    fixture.clock.jump(7.0)
    await fixture.delays.waits(SCENE, BUSY, for_s=7.9)
    short = list(fixture.published)
    fixture.clock.jump(7.9)
    await fixture.delays.waits(SCENE, ProviderBusyError("503 again"), for_s=1.0)
    await fixture.delays.waits(SCENE, ProviderBusyError("and again"), for_s=30.0)

    assert short == []
    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_time_that_a_try_stood_in_line_counts(fixture: DelayFixture) -> None:
    """The turn that never came was waited for, too."""
    begun = fixture.clock.monotonic()
    fixture.clock.jump(30.0)
    await fixture.delays.waits(SCENE, BUSY, for_s=0.5, since=begun)

    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_end_is_said_where_the_wait_was(fixture: DelayFixture) -> None:
    """Once; a wait that nobody heard of ends in silence."""
    await fixture.delays.waits(SCENE, BUSY, for_s=1.0)
    await fixture.delays.goes_on(SCENE)
    unheard = list(fixture.published)
    await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    await fixture.delays.goes_on(SCENE)
    await fixture.delays.goes_on(SCENE)
    await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert unheard == []
    assert [over for _, over in fixture.published] == [False, True, False]


async def test_a_wait_that_cannot_be_said_is_said_at_the_next_one(fixture: DelayFixture) -> None:
    """No broker answers: the scene hears nothing of it."""
    fixture.publisher.busy = 1
    await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    unheard = list(fixture.published)
    await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert unheard == []
    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]


async def test_a_broker_that_hangs_holds_a_scene_up_for_seconds_alone(
    fixture: DelayFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the scene goes on without its word."""
    monkeypatch.setattr("services.generator.composition.delay_notices.SAY_S", 0.05)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    fixture.publisher.publish = hang  # type: ignore[method-assign]  # the script of this test
    async with asyncio.timeout(10):
        await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)


async def test_long_words_are_cut(fixture: DelayFixture) -> None:
    """A status is no place for a whole error page."""
    await fixture.delays.waits(SCENE, ProviderPausedError("x" * 10_000), for_s=1.0)

    [event] = fixture.publisher.events
    assert isinstance(event, SceneDelayed)
    assert len(event.reason) == REASON_CHARS_MAX


async def test_a_lane_that_comes_back_goes_on_waiting() -> None:
    """The claim could not be settled: the router runs the record again, the wait is the same."""
    fixture = DelayFixture()
    unknown = RetryableError("it is not known yet", retry_after_s=10)
    for _ in range(2):
        with pytest.raises(RetryableError):
            async with fixture.delays.of(SCENE, traceparent=None):
                raise unknown
        fixture.clock.jump(10.0)
    async with fixture.delays.of(SCENE, traceparent=None):
        await fixture.delays.goes_on(SCENE)

    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False), (WaitCode.PROVIDER_BUSY, True)]


async def test_a_scene_that_waited_is_said_to_wait_to_go_on_and_to_be_done(tmp_path: Path) -> None:
    """The whole of the generator's work, refused twice before its turn."""
    handler = HandlerFixture(tmp_path)
    _refused(handler, times=2)
    collect = handler.provider.collect
    known: list[str] = []

    async def collected(prediction_id: str, request: CompositionRequest) -> Clip:
        known.extend(event.kind for event in handler.published)
        return await collect(prediction_id, request)

    handler.provider.collect = collected  # type: ignore[method-assign]  # it listens
    await handler.handle(a_scene(0))

    assert known == ["scene.delayed"] * 2, "it goes on when its prediction is there, not its clip"
    assert [(event.kind, getattr(event, "over", None)) for event in handler.published] == [
        ("scene.delayed", False),
        ("scene.delayed", True),
        ("segment.generated", None),
    ]
    assert len(handler.provider.charged) == 1


async def test_a_running_prediction_that_must_be_waited_for_is_said_too(tmp_path: Path) -> None:
    """The key is revoked while it runs; the same prediction is collected, nothing is paid again."""
    handler = HandlerFixture(tmp_path)
    collect, refusals = handler.provider.collect, iter([True, True])

    async def refused(prediction_id: str, request: CompositionRequest) -> Clip:
        if next(refusals, False):
            raise NO_MONEY
        return await collect(prediction_id, request)

    handler.provider.collect = refused  # type: ignore[method-assign]  # the script of this test
    await handler.handle(a_scene(0))

    delays = [event for event in handler.published if isinstance(event, SceneDelayed)]
    assert [event.over for event in delays] == [False, True]
    assert len(handler.provider.charged) == 1


async def test_a_scene_whose_waits_cannot_be_said_is_made_all_the_same(tmp_path: Path) -> None:
    """News is no work."""
    handler = HandlerFixture(tmp_path)
    _refused(handler, times=2)
    publish = handler.publish

    async def unless_news(event: Event, *, traceparent: str | None = None) -> None:
        if isinstance(event, SceneDelayed):
            raise RetryableError("no broker answers")
        await publish(event, traceparent=traceparent)

    handler.publish = unless_news  # type: ignore[method-assign]  # the script of this test
    await handler.handle(a_scene(0))

    assert [event.kind for event in handler.published] == ["segment.generated"]


def _refused(handler: HandlerFixture, *, times: int) -> None:
    refusals = iter([True] * times)

    async def ready(*, within_s: float) -> None:
        if next(refusals, False):
            raise NO_MONEY

    handler.provider.ready = ready  # type: ignore[method-assign]  # the script of these tests


async def test_a_store_that_is_away_is_not_the_providers_delay() -> None:
    """However long it takes."""
    fixture = DelayFixture(said_after_s=0.0)
    with pytest.raises(StoreUnavailableError):
        async with fixture.delays.of(SCENE, traceparent=None):
            raise StoreUnavailableError("connection refused")

    assert fixture.published == []


async def test_a_scene_that_came_to_its_end_is_forgotten() -> None:
    """Its segment says the rest."""
    fixture = DelayFixture()
    async with fixture.delays.of(SCENE, traceparent=None):
        await fixture.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    await fixture.delays.goes_on(SCENE)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]

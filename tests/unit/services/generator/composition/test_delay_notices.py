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
from tests.unit.services.generator.scene.handler_fixture import Bench

SCENE = SceneRef(job_id="job-1", run=1, scene_index=0)
NO_MONEY = ProviderPausedError("Replicate wants credit: 402", retry_after_s=30)
BUSY = ProviderBusyError("503")


class Room:
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
    def said(self) -> list[tuple[WaitCode, bool]]:
        """What was said, in short."""
        events = [event for event in self.publisher.events if isinstance(event, SceneDelayed)]
        return [(event.code, event.over) for event in events]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """One scene is being made."""
    made = Room()
    async with made.delays.of(SCENE, traceparent="00-trace"):
        yield made


async def test_a_refusal_of_everyone_is_said_at_once_once_and_with_the_trace(room: Room) -> None:
    """A person must act; the words are the provider's."""
    for _ in range(5):
        await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert room.said == [(WaitCode.PROVIDER_PAUSED, False)]
    [record] = room.publisher.records
    assert ("traceparent", b"00-trace") in record.headers
    [event] = room.publisher.events
    assert isinstance(event, SceneDelayed)
    assert event.reason == "Replicate wants credit: 402"


async def test_another_refusal_is_said_too(room: Room) -> None:
    """The key was good, now there is no money."""
    await room.delays.waits(SCENE, ProviderPausedError("No Replicate API key"), for_s=1.0)
    await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert room.said == [(WaitCode.PROVIDER_PAUSED, False)] * 2


async def test_a_busy_provider_is_said_when_the_wait_is_long_and_not_before(room: Room) -> None:
    """Fourteen seconds are nobody's business; with new words each time it is said once."""
    await room.delays.waits(SCENE, BUSY, for_s=7.0)
    room.clock.jump(7.0)
    await room.delays.waits(SCENE, BUSY, for_s=7.9)
    short = list(room.said)
    room.clock.jump(7.9)
    await room.delays.waits(SCENE, ProviderBusyError("503 again"), for_s=1.0)
    await room.delays.waits(SCENE, ProviderBusyError("and again"), for_s=30.0)

    assert short == []
    assert room.said == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_time_that_a_try_stood_in_line_counts(room: Room) -> None:
    """The turn that never came was waited for, too."""
    begun = room.clock.monotonic()
    room.clock.jump(30.0)
    await room.delays.waits(SCENE, BUSY, for_s=0.5, since=begun)

    assert room.said == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_end_is_said_where_the_wait_was(room: Room) -> None:
    """Once; a wait that nobody heard of ends in silence."""
    await room.delays.waits(SCENE, BUSY, for_s=1.0)
    await room.delays.goes_on(SCENE)
    unheard = list(room.said)
    await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    await room.delays.goes_on(SCENE)
    await room.delays.goes_on(SCENE)
    await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert unheard == []
    assert [over for _, over in room.said] == [False, True, False]


async def test_a_wait_that_cannot_be_said_is_said_at_the_next_one(room: Room) -> None:
    """No broker answers: the scene hears nothing of it."""
    room.publisher.busy = 1
    await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    unheard = list(room.said)
    await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)

    assert unheard == []
    assert room.said == [(WaitCode.PROVIDER_PAUSED, False)]


async def test_a_broker_that_hangs_holds_a_scene_up_for_seconds_alone(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the scene goes on without its word."""
    monkeypatch.setattr("services.generator.composition.delay_notices.SAY_S", 0.05)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    room.publisher.publish = hang  # type: ignore[method-assign]  # the script of this test
    async with asyncio.timeout(10):
        await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)


async def test_long_words_are_cut(room: Room) -> None:
    """A status is no place for a whole error page."""
    await room.delays.waits(SCENE, ProviderPausedError("x" * 10_000), for_s=1.0)

    [event] = room.publisher.events
    assert isinstance(event, SceneDelayed)
    assert len(event.reason) == REASON_CHARS_MAX


async def test_a_lane_that_comes_back_goes_on_waiting() -> None:
    """The claim could not be settled: the router runs the record again, the wait is the same."""
    room = Room()
    unknown = RetryableError("it is not known yet", retry_after_s=10)
    for _ in range(2):
        with pytest.raises(RetryableError):
            async with room.delays.of(SCENE, traceparent=None):
                raise unknown
        room.clock.jump(10.0)
    async with room.delays.of(SCENE, traceparent=None):
        await room.delays.goes_on(SCENE)

    assert room.said == [(WaitCode.PROVIDER_BUSY, False), (WaitCode.PROVIDER_BUSY, True)]


async def test_a_scene_that_waited_is_said_to_wait_to_go_on_and_to_be_done(tmp_path: Path) -> None:
    """The whole of the generator's work, refused twice before its turn."""
    bench = Bench(tmp_path)
    _refused(bench, times=2)
    collect = bench.provider.collect
    known: list[str] = []

    async def collected(prediction_id: str, request: CompositionRequest) -> Clip:
        known.extend(event.kind for event in bench.said)
        return await collect(prediction_id, request)

    bench.provider.collect = collected  # type: ignore[method-assign]  # it listens
    await bench.ask(a_scene(0))

    assert known == ["scene.delayed"] * 2, "it goes on when its prediction is there, not its clip"
    assert [(event.kind, getattr(event, "over", None)) for event in bench.said] == [
        ("scene.delayed", False),
        ("scene.delayed", True),
        ("segment.generated", None),
    ]
    assert len(bench.provider.charged) == 1


async def test_a_running_prediction_that_must_be_waited_for_is_said_too(tmp_path: Path) -> None:
    """The key is revoked while it runs; the same prediction is collected, nothing is paid again."""
    bench = Bench(tmp_path)
    collect, refusals = bench.provider.collect, iter([True, True])

    async def refused(prediction_id: str, request: CompositionRequest) -> Clip:
        if next(refusals, False):
            raise NO_MONEY
        return await collect(prediction_id, request)

    bench.provider.collect = refused  # type: ignore[method-assign]  # the script of this test
    await bench.ask(a_scene(0))

    delays = [event for event in bench.said if isinstance(event, SceneDelayed)]
    assert [event.over for event in delays] == [False, True]
    assert len(bench.provider.charged) == 1


async def test_a_scene_whose_waits_cannot_be_said_is_made_all_the_same(tmp_path: Path) -> None:
    """News is no work."""
    bench = Bench(tmp_path)
    _refused(bench, times=2)
    publish = bench.publish

    async def unless_news(event: Event, *, traceparent: str | None = None) -> None:
        if isinstance(event, SceneDelayed):
            raise RetryableError("no broker answers")
        await publish(event, traceparent=traceparent)

    bench.publish = unless_news  # type: ignore[method-assign]  # the script of this test
    await bench.ask(a_scene(0))

    assert [event.kind for event in bench.said] == ["segment.generated"]


def _refused(bench: Bench, *, times: int) -> None:
    refusals = iter([True] * times)

    async def ready(*, within_s: float) -> None:
        if next(refusals, False):
            raise NO_MONEY

    bench.provider.ready = ready  # type: ignore[method-assign]  # the script of these tests


async def test_a_store_that_is_away_is_not_the_providers_delay() -> None:
    """However long it takes."""
    room = Room(said_after_s=0.0)
    with pytest.raises(StoreUnavailableError):
        async with room.delays.of(SCENE, traceparent=None):
            raise StoreUnavailableError("connection refused")

    assert room.said == []


async def test_a_scene_that_came_to_its_end_is_forgotten() -> None:
    """Its segment says the rest."""
    room = Room()
    async with room.delays.of(SCENE, traceparent=None):
        await room.delays.waits(SCENE, NO_MONEY, for_s=1.0)
    await room.delays.goes_on(SCENE)

    assert room.said == [(WaitCode.PROVIDER_PAUSED, False)]

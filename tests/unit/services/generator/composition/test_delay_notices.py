"""Checks that a waiting scene publishes one notice per reason and never fails for it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.generator.composition.delay_notices import REASON_CHARS_MAX, DelayNotices
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
NO_CREDIT = ProviderPausedError("Replicate wants credit: 402", retry_after_s=30)
BUSY = ProviderBusyError("503")


class DelayFixture:
    """Delay notices with a fake publisher."""

    def __init__(self, *, after_s: float = 15.0, publish_timeout_s: float = 5.0) -> None:
        self.clock = FakeClock()
        self.publisher = FakePublisher()
        self.notices = DelayNotices(
            self.publisher,
            wait_until_owned=self._open,
            after_s=after_s,
            clock=self.clock,
            log=logger_of("test"),
            publish_timeout_s=publish_timeout_s,
        )

    async def _open(self) -> None:
        """Return at once: the partition is owned."""

    @property
    def published(self) -> list[tuple[WaitCode, bool]]:
        """Return code and `over` of the published notices."""
        events = [event for event in self.publisher.events if isinstance(event, SceneDelayed)]
        return [(event.code, event.over) for event in events]


@pytest.fixture
async def fixture() -> AsyncIterator[DelayFixture]:
    """Yield a fixture in which one scene is being generated."""
    fixture = DelayFixture()
    async with fixture.notices.track(SCENE, traceparent="00-trace"):
        yield fixture


async def test_a_pause_is_published_once_at_once_and_with_the_trace(
    fixture: DelayFixture,
) -> None:
    """A person must act; the reason is the provider's."""
    for _ in range(5):
        await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]
    [record] = fixture.publisher.records
    assert ("traceparent", b"00-trace") in record.headers
    [event] = fixture.publisher.events
    assert isinstance(event, SceneDelayed)
    assert event.reason == "Replicate wants credit: 402"


async def test_a_pause_with_another_reason_is_published_too(fixture: DelayFixture) -> None:
    """First the key was refused, now there is no credit."""
    await fixture.notices.report_wait(SCENE, ProviderPausedError("No Replicate API key"), for_s=1.0)
    await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)] * 2


async def test_a_busy_provider_is_published_only_after_a_long_wait(
    fixture: DelayFixture,
) -> None:
    """Not before 15 s, and once although the message differs each time."""
    await fixture.notices.report_wait(SCENE, BUSY, for_s=7.0)
    fixture.clock.jump(7.0)
    await fixture.notices.report_wait(SCENE, BUSY, for_s=7.9)
    short = list(fixture.published)
    fixture.clock.jump(7.9)
    await fixture.notices.report_wait(SCENE, ProviderBusyError("503 again"), for_s=1.0)
    await fixture.notices.report_wait(SCENE, ProviderBusyError("and again"), for_s=30.0)

    assert short == []
    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_time_in_the_queue_counts(fixture: DelayFixture) -> None:
    """The wait for a permit is a wait, too."""
    started = fixture.clock.monotonic()
    fixture.clock.jump(30.0)
    await fixture.notices.report_wait(SCENE, BUSY, for_s=0.5, since=started)

    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False)]


async def test_the_end_of_a_published_wait_is_published(fixture: DelayFixture) -> None:
    """Once; the end of an unpublished wait is not published."""
    await fixture.notices.report_wait(SCENE, BUSY, for_s=1.0)
    await fixture.notices.report_resumed(SCENE)
    before = list(fixture.published)
    await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)
    await fixture.notices.report_resumed(SCENE)
    await fixture.notices.report_resumed(SCENE)
    await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)

    assert before == []
    assert [over for _, over in fixture.published] == [False, True, False]


async def test_an_unpublished_notice_is_published_at_the_next_wait(fixture: DelayFixture) -> None:
    """No broker answers: the scene is not affected."""
    fixture.publisher.busy = 1
    await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)
    before = list(fixture.published)
    await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)

    assert before == []
    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]


async def test_a_hanging_broker_delays_a_scene_by_the_timeout_only() -> None:
    """Then the scene continues without its notice."""
    fixture = DelayFixture(publish_timeout_s=0.05)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    fixture.publisher.publish = hang  # type: ignore[method-assign]  # the script of this test
    async with asyncio.timeout(10):
        await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)


async def test_a_long_reason_is_truncated(fixture: DelayFixture) -> None:
    """A status must not contain a whole error page."""
    await fixture.notices.report_wait(SCENE, ProviderPausedError("x" * 10_000), for_s=1.0)

    [event] = fixture.publisher.events
    assert isinstance(event, SceneDelayed)
    assert len(event.reason) == REASON_CHARS_MAX


async def test_a_retried_record_continues_its_wait() -> None:
    """The claim is unresolved: the router retries the record, and its wait continues."""
    fixture = DelayFixture()
    unknown = RetryableError("unknown", retry_after_s=10)
    for _ in range(2):
        with pytest.raises(RetryableError):
            async with fixture.notices.track(SCENE, traceparent=None):
                raise unknown
        fixture.clock.jump(10.0)
    async with fixture.notices.track(SCENE, traceparent=None):
        await fixture.notices.report_resumed(SCENE)

    assert fixture.published == [(WaitCode.PROVIDER_BUSY, False), (WaitCode.PROVIDER_BUSY, True)]


async def test_a_delayed_scene_publishes_its_wait_its_end_and_its_segment(tmp_path: Path) -> None:
    """The whole handler, with a provider that is paused twice."""
    handler = HandlerFixture(tmp_path)
    _pause(handler, times=2)
    collect = handler.provider.collect
    kinds: list[str] = []

    async def collected(prediction_id: str, request: CompositionRequest) -> Clip:
        kinds.extend(event.kind for event in handler.published)
        return await collect(prediction_id, request)

    handler.provider.collect = collected  # type: ignore[method-assign]  # it observes
    await handler.handle(a_scene(0))

    assert kinds == ["scene.delayed"] * 2, "the wait ends with the prediction, not the clip"
    assert [(event.kind, getattr(event, "over", None)) for event in handler.published] == [
        ("scene.delayed", False),
        ("scene.delayed", True),
        ("segment.generated", None),
    ]
    assert len(handler.provider.charged) == 1


async def test_a_pause_during_a_prediction_is_published_too(tmp_path: Path) -> None:
    """The key is revoked while it runs; the same prediction is collected, not paid again."""
    handler = HandlerFixture(tmp_path)
    collect, refusals = handler.provider.collect, iter([True, True])

    async def refused(prediction_id: str, request: CompositionRequest) -> Clip:
        if next(refusals, False):
            raise NO_CREDIT
        return await collect(prediction_id, request)

    handler.provider.collect = refused  # type: ignore[method-assign]  # the script of this test
    await handler.handle(a_scene(0))

    delays = [event for event in handler.published if isinstance(event, SceneDelayed)]
    assert [event.over for event in delays] == [False, True]
    assert len(handler.provider.charged) == 1


async def test_a_scene_is_generated_even_if_its_notices_fail(tmp_path: Path) -> None:
    """A notice is optional."""
    handler = HandlerFixture(tmp_path)
    _pause(handler, times=2)
    publish = handler.publish

    async def publish_segments_only(event: Event, *, traceparent: str | None = None) -> None:
        if isinstance(event, SceneDelayed):
            raise RetryableError("no broker answers")
        await publish(event, traceparent=traceparent)

    handler.publish = publish_segments_only  # type: ignore[method-assign]  # the script of this test
    await handler.handle(a_scene(0))

    assert [event.kind for event in handler.published] == ["segment.generated"]


def _pause(handler: HandlerFixture, *, times: int) -> None:
    refusals = iter([True] * times)

    async def ready(*, within_s: float) -> None:
        if next(refusals, False):
            raise NO_CREDIT

    handler.provider.ready = ready  # type: ignore[method-assign]  # the script of these tests


async def test_an_unavailable_store_is_not_a_delay_of_the_provider() -> None:
    """However long it takes."""
    fixture = DelayFixture(after_s=0.0)
    with pytest.raises(StoreUnavailableError):
        async with fixture.notices.track(SCENE, traceparent=None):
            raise StoreUnavailableError("connection refused")

    assert fixture.published == []


async def test_a_finished_scene_is_forgotten() -> None:
    """Its segment ends the notices."""
    fixture = DelayFixture()
    async with fixture.notices.track(SCENE, traceparent=None):
        await fixture.notices.report_wait(SCENE, NO_CREDIT, for_s=1.0)
    await fixture.notices.report_resumed(SCENE)

    assert fixture.published == [(WaitCode.PROVIDER_PAUSED, False)]

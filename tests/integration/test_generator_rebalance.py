"""Tests what Faust loses in a rebalance on a real broker: a late fetch, a hanging recovery."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.generator.faust_app import driver
from services.generator.faust_app.stream import SceneStream
from services.generator.scene.plan import Continuation
from services.generator.settings import GeneratorSettings
from shared.clock import SystemClock
from shared.contract.events import SceneRequested
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from shared.telemetry.log import logger_of
from tests.support.event_builders import a_scene
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LATE_S = 2.5  # longer than a fetch, which waits a second
STOPPED_S = 10.0  # the longest allowed stop
LOG = logger_of("generator")
STATE = Continuation(run=1, scene_done=4, elapsed_s="12")


@pytest.fixture
async def settings(kafka: KafkaServer, topic_prefix: str) -> GeneratorSettings:
    """Return the settings of a generator with its own topics of one partition."""
    kafka_settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap,
        topic_prefix=topic_prefix,
        create_topics=kafka.real,
        partitions=1,
    )
    await ensure_topics(kafka_settings)
    return GeneratorSettings.from_environment(kafka=kafka_settings)


@pytest.fixture
async def with_state(settings: GeneratorSettings) -> GeneratorSettings:
    """Run a generator that stores the state of one job; return its settings."""
    async with _running(settings) as stream:
        await stream.continuations.put("job-1", STATE, partition=0)
    return settings


@asynccontextmanager
async def _running(
    settings: GeneratorSettings, offsets: list[int] | None = None
) -> AsyncIterator[SceneStream]:
    """Run the generator's stream with a handler that records offsets."""
    stream = SceneStream(settings, clock=SystemClock(), log=LOG)
    topic = stream._app.topic(
        settings.kafka.topic_prefix + SceneRequested.kind,
        value_type=bytes,
        value_serializer="raw",
        partitions=1,
    )

    async def take(events: Any) -> None:
        async for event in events.noack().events():
            if offsets is not None:
                offsets.append(event.message.offset)

    stream._app.agent(topic, name="taking")(take)
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(stream.serve(stop, ready=ready))
    try:
        await eventually(lambda: _once(ready.is_set()), within_s=30, what="a generator")
        await eventually(
            lambda: _once(not stream._app.rebalancing), within_s=60, what="its recovery"
        )
        yield stream
    finally:
        stop.set()
        await serving
        await stream.stop()


async def _once(is_so: bool) -> bool | None:  # noqa: FBT001 - the result of a poll
    return is_so or None


async def test_records_fetched_during_a_rebalance_are_fetched_again(
    settings: GeneratorSettings,
) -> None:
    """Nothing is committed yet, so no seek to a committed offset hides the loss."""
    offsets: list[int] = []
    async with _running(settings, offsets) as stream:
        await asyncio.sleep(LATE_S)  # a fetch is in progress by now
        consumer: Any = stream._app.consumer
        consumer.stop_flow()
        publisher = Publisher(settings.kafka, source="test", clock=SystemClock())
        await publisher.start()
        await publisher.publish(a_scene(0, count=1))
        await publisher.stop()
        await asyncio.sleep(LATE_S)
        consumer.resume_flow()
        await eventually(lambda: _once(offsets == [0]), within_s=10, what="the record")


async def test_a_recovery_without_progress_is_restarted(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is recovered although the changelog's records were lost once."""
    lost = _lose_changelog(monkeypatch, times=1)
    monkeypatch.setattr(driver, "STALL_S", 1.0)
    async with _running(with_state) as stream:
        assert stream.continuations.get("job-1") == STATE
    assert len(lost) == 1


async def test_a_stop_during_recovery_is_honoured(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the recovery takes."""
    lost = _lose_changelog(monkeypatch, times=1000)
    stream, stop = SceneStream(with_state, clock=SystemClock(), log=LOG), asyncio.Event()
    serving = asyncio.create_task(stream.serve(stop))
    await eventually(lambda: _once(bool(lost)), within_s=30, what="a reading without an end")
    stop.set()
    async with asyncio.timeout(STOPPED_S):
        await serving
        await stream.stop()


def _lose_changelog(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Let so many fetches of a changelog return nothing; return the number of lost records."""
    lost: list[int] = []
    take = driver._Thread._take

    async def losing(thread: Any, *given: Any, **limits: Any) -> Mapping[Any, list[Any]]:
        records = await take(thread, *given, **limits)
        of_changelog = [
            partition for partition in records if partition.topic.endswith("-changelog")
        ]
        if len(lost) == times or not of_changelog:
            return records
        lost.append(sum(len(records[partition]) for partition in of_changelog))
        return {}

    monkeypatch.setattr(driver._Thread, "_take", losing)
    return lost

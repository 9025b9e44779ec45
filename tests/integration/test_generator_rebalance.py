"""Faust's rebalance defects on a real broker: a late fetch, a recovery that hangs."""

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

LATE_S = 2.5  # a fetch blocks for one second
STOPPED_S = 10.0  # the limit of a stop
LOG = logger_of("generator")
STATE = Continuation(run=1, scene_done=4, elapsed_s="12")


@pytest.fixture
async def settings(kafka: KafkaServer, topic_prefix: str) -> GeneratorSettings:
    """Return settings of a generator on topics of one partition."""
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
    """Return settings of a generator that has stored the state of one job and stopped."""
    async with _running(settings) as stream:
        await stream.continuations.put("job-1", STATE, partition=0)
    return settings


@asynccontextmanager
async def _running(
    settings: GeneratorSettings, offsets: list[int] | None = None
) -> AsyncIterator[SceneStream]:
    """Run the generator's stream; it appends to `offsets` in place of handling scenes."""
    stream = SceneStream(settings, clock=SystemClock(), log=LOG)
    topic = stream._app.topic(
        settings.kafka.topic_prefix + SceneRequested.kind,
        value_type=bytes,
        value_serializer="raw",
        partitions=1,
    )

    async def append_offsets(events: Any) -> None:
        async for event in events.noack().events():
            if offsets is not None:
                offsets.append(event.message.offset)

    stream._app.agent(topic, name="offsets")(append_offsets)
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(stream.serve(stop, ready=ready))
    try:
        await eventually(lambda: _true_or_none(ready.is_set()), within_s=30, what="a generator")
        await eventually(
            lambda: _true_or_none(not stream._app.rebalancing), within_s=60, what="the recovery"
        )
        yield stream
    finally:
        stop.set()
        await serving
        await stream.stop()


async def _true_or_none(is_so: bool) -> bool | None:  # noqa: FBT001 - the result of a poll
    return is_so or None


async def test_a_record_fetched_while_a_rebalance_stops_the_flow_is_not_lost(
    settings: GeneratorSettings,
) -> None:
    """No offset is committed yet, so no seek to a committed offset would repair the loss."""
    offsets: list[int] = []
    async with _running(settings, offsets) as stream:
        await asyncio.sleep(LATE_S)  # fetches are running by now
        consumer: Any = stream._app.consumer
        consumer.stop_flow()
        publisher = Publisher(settings.kafka, source="test", clock=SystemClock())
        await publisher.start()
        await publisher.publish(a_scene(0, count=1))
        await publisher.stop()
        await asyncio.sleep(LATE_S)
        consumer.resume_flow()
        await eventually(lambda: _true_or_none(offsets == [0]), within_s=10, what="the record")


async def test_a_recovery_without_progress_is_restarted(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch loses the changelog's records once; the state is complete in the end."""
    lost = _lose_changelog(monkeypatch, times=1)
    monkeypatch.setattr(driver, "STALL_S", 1.0)
    async with _running(with_state) as stream:
        assert stream.continuations.get("job-1") == STATE
    assert len(lost) == 1


async def test_the_stream_stops_during_a_recovery(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the recovery takes."""
    lost = _lose_changelog(monkeypatch, times=1000)
    stream, stop = SceneStream(with_state, clock=SystemClock(), log=LOG), asyncio.Event()
    serving = asyncio.create_task(stream.serve(stop))
    await eventually(lambda: _true_or_none(bool(lost)), within_s=30, what="an endless recovery")
    stop.set()
    async with asyncio.timeout(STOPPED_S):
        await serving
        await stream.stop()


def _lose_changelog(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Lose a changelog's fetched records `times` times; return the number lost each time."""
    lost: list[int] = []
    take = driver._Thread._take

    async def losing(thread: Any, *arguments: Any, **limits: Any) -> Mapping[Any, list[Any]]:
        records = await take(thread, *arguments, **limits)
        of_changelog = [
            partition for partition in records if partition.topic.endswith("-changelog")
        ]
        if len(lost) == times or not of_changelog:
            return records
        lost.append(sum(len(records[partition]) for partition in of_changelog))
        return {}

    monkeypatch.setattr(driver._Thread, "_take", losing)
    return lost

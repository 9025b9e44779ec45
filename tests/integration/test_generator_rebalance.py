"""What Faust loses around a rebalance, on a real broker: a late fetch, a recovery that hangs."""

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

LATE_S = 2.5  # a fetch waits for a second
STOPPED_S = 10.0  # the promise of a stop
LOG = logger_of("generator")
STATE = Continuation(run=1, scene_done=4, elapsed_s="12")


@pytest.fixture
async def settings(kafka: KafkaServer, topic_prefix: str) -> GeneratorSettings:
    """A generator on topics of its own, of one partition."""
    told = KafkaSettings(
        bootstrap_servers=kafka.bootstrap,
        topic_prefix=topic_prefix,
        create_topics=kafka.real,
        partitions=1,
    )
    await ensure_topics(told)
    return GeneratorSettings.from_environment(kafka=told)


@pytest.fixture
async def with_state(settings: GeneratorSettings) -> GeneratorSettings:
    """A generator that has kept the state of one job, and ended."""
    async with _running(settings) as stream:
        await stream.continuations.put("job-1", STATE, partition=0)
    return settings


@asynccontextmanager
async def _running(
    settings: GeneratorSettings, taken: list[int] | None = None
) -> AsyncIterator[SceneStream]:
    """The generator's stream, handing offsets over instead of scenes, until the end."""
    stream = SceneStream(settings, clock=SystemClock(), log=LOG)
    topic = stream._app.topic(
        settings.kafka.topic_prefix + SceneRequested.kind,
        value_type=bytes,
        value_serializer="raw",
        partitions=1,
    )

    async def take(events: Any) -> None:
        async for event in events.noack().events():
            if taken is not None:
                taken.append(event.message.offset)

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


async def _once(is_so: bool) -> bool | None:  # noqa: FBT001 - the answer of a look
    return is_so or None


async def test_what_a_fetch_takes_while_a_rebalance_has_stopped_the_flow_is_given_back(
    settings: GeneratorSettings,
) -> None:
    """Nothing was committed yet, so that no seek to the committed offset mends it."""
    taken: list[int] = []
    async with _running(settings, taken) as stream:
        await asyncio.sleep(LATE_S)  # fetches are under way by now
        consumer: Any = stream._app.consumer
        consumer.stop_flow()
        publisher = Publisher(settings.kafka, source="test", clock=SystemClock())
        await publisher.start()
        await publisher.publish(a_scene(0, count=1))
        await publisher.stop()
        await asyncio.sleep(LATE_S)
        consumer.resume_flow()
        await eventually(lambda: _once(taken == [0]), within_s=10, what="the record")


async def test_a_recovery_that_makes_no_way_is_begun_again(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took the changelog's records away: the state is there in the end."""
    lost = _lose_changelog(monkeypatch, times=1)
    monkeypatch.setattr(driver, "STALL_S", 1.0)
    async with _running(with_state) as stream:
        assert stream.continuations.get("job-1") == STATE
    assert len(lost) == 1


async def test_a_stop_is_heard_while_the_state_is_read(
    with_state: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the reading takes."""
    lost = _lose_changelog(monkeypatch, times=1000)
    stream, stop = SceneStream(with_state, clock=SystemClock(), log=LOG), asyncio.Event()
    serving = asyncio.create_task(stream.serve(stop))
    await eventually(lambda: _once(bool(lost)), within_s=30, what="a reading without an end")
    stop.set()
    async with asyncio.timeout(STOPPED_S):
        await serving
        await stream.stop()


def _lose_changelog(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Fetches of a changelog bring nothing, so often; how many records each lost."""
    lost: list[int] = []
    take = driver._Thread._take

    async def losing(thread: Any, *given: Any, **limits: Any) -> Mapping[Any, list[Any]]:
        found = await take(thread, *given, **limits)
        of_changelog = [one for one in found if one.topic.endswith("-changelog")]
        if len(lost) == times or not of_changelog:
            return found
        lost.append(sum(len(found[one]) for one in of_changelog))
        return {}

    monkeypatch.setattr(driver._Thread, "_take", losing)
    return lost

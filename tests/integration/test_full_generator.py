"""Tests that a full generator still receives cancellations and ended predictions."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from services.generator.app import run
from services.generator.settings import GeneratorSettings
from shared.clock import SystemClock
from shared.contract.events import JobCancelled, PredictionEnded
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings, LaneSettings, RunLimitSettings, StoreSettings
from tests.fakes.provider import LedgerProvider
from tests.support.event_builders import a_scene
from tests.support.processes import eventually
from tests.support.servers import KafkaServer
from tests.unit.services.generator.scene.handler_fixture import clip_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
SCENES = 3000  # more than the lanes and every buffer before them can hold
ENDED = 3


async def test_ended_predictions_and_cancellations_pass_a_backlog_of_scenes(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """A prediction runs, thousands of scenes wait, and the lanes hold two."""
    kafka_settings = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix)
    await ensure_topics(kafka_settings)
    publisher = Publisher(kafka_settings, source="test", clock=SystemClock())
    await publisher.start()
    for index in range(SCENES):
        await publisher.publish(a_scene(index, count=SCENES))
    provider = LedgerProvider(clip_of=clip_of)

    async def never(*_: object) -> object:
        return await asyncio.Event().wait()

    provider.collect = never  # type: ignore[assignment]  # this script has no other end
    stop = asyncio.Event()
    generator = asyncio.create_task(
        run(
            GeneratorSettings(
                kafka=kafka_settings,
                limits=RunLimitSettings(scenes_max=SCENES),
                store=StoreSettings(folder=tmp_path),
                lanes=LaneSettings(in_flight_max=2, drain_s=1),
            ),
            stop=stop,
            provider=provider,
        )
    )
    try:
        await _until(lambda: len(provider.charged) == 1, "the first prediction")
        for number in range(ENDED):
            await publisher.publish(PredictionEnded(job_id="job-1", prediction_id=f"p{number}"))
        await _until(lambda: len(provider.nudged) == ENDED, "the nudges")
        await publisher.publish(JobCancelled(job_id="job-1", run=1))
        await _until(lambda: len(provider.cancelled) == 1, "the cancellation")
    finally:
        stop.set()
        await generator
        await publisher.stop()

    assert len(provider.charged) == 1


async def _until(happened: Callable[[], bool], what: str) -> None:
    async def poll() -> bool | None:
        return happened() or None

    await eventually(poll, within_s=60, what=what)

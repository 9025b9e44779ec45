"""Offsets that are not in the log: retention, a topic that is created again, a damaged state."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from shared.clock import SystemClock
from shared.contract.events import SceneRequested
from shared.contract.topics import CHANGELOG, EVENT_TOPICS
from shared.kafka.admin import admin_client, ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.event_builders import a_scene
from tests.support.odd_batches import OddBatch, OddRecord, PartitionLog, publish_batch
from tests.support.pipeline_fixture import OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TOPICS = [topic.name for topic in EVENT_TOPICS]
FETCH_WAIT_MS = 20
ANSWERED_S = 0.5  # after this, no fetch of a stopped process waits at the broker
REMOVED = 3


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """Four services with one partition per topic."""
    async with open_pipeline(
        SEGUE_PARTITIONS="1",
        MUSIC_PROVIDER="silence",
        SEGUE_FETCH_MAX_WAIT_MS=str(FETCH_WAIT_MS),
    ) as running:
        yield running


@pytest.fixture
async def upstream(pipeline: Pipeline) -> AsyncIterator[Publisher]:
    """An upstream producer on the pipeline's topics."""
    publisher = Publisher(settings_of(pipeline), source="upstream", clock=SystemClock())
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


def settings_of(pipeline: Pipeline) -> KafkaSettings:
    """Return the settings of the pipeline's topics."""
    return KafkaSettings.from_environment(
        bootstrap_servers=pipeline.kafka.bootstrap, topic_prefix=pipeline.prefix, partitions=1
    )


def scene(job_id: str) -> SceneRequested:
    """Return the only scene of a job."""
    return a_scene(0, count=1, job_id=job_id, duration_s=1.1)


def logged(pipeline: Pipeline, action: str) -> dict[str, int]:
    """Return how often each service has logged this action."""
    return {name: service.count_logged(action) for name, service in pipeline.services.items()}


def signal_all(pipeline: Pipeline, number: signal.Signals) -> None:
    """Send a signal to every service."""
    for service in pipeline.services.values():
        service.send(number)


async def remove_records(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> None:
    """Remove every record of these topics, as retention does."""
    await admin.delete_records(
        {TopicPartition(topic, 0): RecordsToDelete(before_offset=-1) for topic in topics}
    )


async def recreate(admin: AIOKafkaAdminClient, pipeline: Pipeline) -> None:
    """Delete the topics and create them again."""
    names = [pipeline.prefix + topic for topic in TOPICS]
    await admin.delete_topics(names)

    async def gone() -> bool | None:
        return not set(names) & set(await admin.list_topics()) or None

    await eventually(gone, within_s=20, what="the topics are deleted")
    await ensure_topics(settings_of(pipeline))


async def test_every_reader_continues_where_the_log_begins(
    pipeline: Pipeline, upstream: Publisher
) -> None:
    """Removed records are reported; later ones are processed, without a restart."""
    await upstream.publish(scene("first"))
    first = await pipeline.ended("first")

    signal_all(pipeline, signal.SIGSTOP)
    await asyncio.sleep(ANSWERED_S)  # what is polled is polled
    for number in range(REMOVED):
        await upstream.publish(scene(f"removed-{number}"))
    async with admin_client(settings_of(pipeline)) as admin:
        await remove_records(admin, [pipeline.prefix + SceneRequested.kind])
    await upstream.publish(scene("kept"))
    signal_all(pipeline, signal.SIGCONT)
    kept = await pipeline.ended("kept")
    resets = logged(pipeline, "kafka.offset_reset")

    async with admin_client(settings_of(pipeline)) as admin:
        await recreate(admin, pipeline)
    await upstream.publish(scene("again"))
    again = await pipeline.ended("again")
    removed = [await pipeline.status(f"removed-{number}") for number in range(REMOVED)]

    sys.stdout.write(
        f"resets {resets}; after a new topic: {logged(pipeline, 'service.starting')}\n"
    )
    ended = [status["audio_status"]["status"] for status in (first, kept, again)]
    assert ended == ["completed"] * 3
    assert removed == [None] * REMOVED
    assert (resets["generator"], resets["api"]) == (1, 1)
    assert set(logged(pipeline, "service.starting").values()) == {1}
    assert set(logged(pipeline, "service.failed").values()) == {0}


async def test_a_generator_recovers_although_its_changelog_has_odd_records(
    pipeline: Pipeline, upstream: Publisher
) -> None:
    """Foreign and damaged records are no state; the lost state is recovered from the store."""
    await upstream.publish(a_scene(0, count=2, job_id="two", duration_s=1.1))
    topic = pipeline.prefix + CHANGELOG.name

    async def stored() -> bool | None:
        changelog = await records_of(
            pipeline.kafka.bootstrap, CHANGELOG.name, prefix=pipeline.prefix
        )
        return bool(changelog) or None

    await eventually(stored, within_s=60, what="the state of the job")
    await pipeline.services["generator"].kill()
    odd = [
        OddRecord(key=b"\xff\xfe", value=b"{}"),
        OddRecord(key=b"two", value=b"no state", headers=[(b"caf\xe9", b"1")]),
        OddRecord(key=b'"two"', value=b"\xffno state"),
        OddRecord(key=b'"two"', value=b'"no state"'),
    ]
    for record in odd:
        await publish_batch(pipeline.kafka.bootstrap, topic, OddBatch(records=[record]).encoded())
    if pipeline.kafka.logs is not None:
        damaged = OddBatch(records=[OddRecord(value=b"damaged")]).encoded()
        await publish_batch(pipeline.kafka.bootstrap, topic, damaged)
        PartitionLog(pipeline.kafka.logs / f"{topic}-0").overwrite(b"damaged", 17, b"\0\0\0\0")
    await pipeline.services["generator"].start()
    await upstream.publish(a_scene(1, count=2, job_id="two", duration_s=1.1))
    await upstream.publish(scene("other"))

    ended = [await pipeline.ended(job) for job in ("two", "other")]
    assert [status["audio_status"]["status"] for status in ended] == ["completed"] * 2
    assert logged(pipeline, "service.failed")["generator"] == 0

"""The topics of a test are deleted at its end, and those of no other test."""

import pytest

from shared.kafka.admin import admin_client, ensure_topics
from shared.settings import KafkaSettings
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = pytest.mark.integration


async def test_the_topics_of_one_prefix_are_deleted(kafka: KafkaServer, topic_prefix: str) -> None:
    """Another prefix that begins alike keeps its topics."""
    if not kafka.real:
        pytest.skip("the stand-in creates topics at their first use")
    ended, running = [
        KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix + name)
        for name in ("ended-", "end-")
    ]
    created = await ensure_topics(ended) and await ensure_topics(running)

    async def remaining() -> bool | None:
        kafka.delete_topics(ended.topic_prefix)  # again: a new topic is not listed at once
        async with admin_client(running) as admin:
            names = [name for name in await admin.list_topics() if name.startswith(topic_prefix)]
        return sorted(names) == sorted(created) or None

    await eventually(remaining, within_s=20, what="the topics of the other prefix alone")

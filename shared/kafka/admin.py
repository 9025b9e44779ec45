"""Admin: make the cluster match `shared/topics.py`.

Idempotent: topics that exist are left as they are. The embedded broker makes topics on first
use and knows no CreateTopics; its settings say so.
"""

import asyncio

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.errors import RetryableError
from shared.kafka.security import connection
from shared.settings import KafkaSettings
from shared.topics import CHANGELOG, EVENT_TOPICS

ADMIN_S = 30.0
_DAY_MS = 86_400_000
_SAFE_COPIES = 3  # from here on a record counts as written once two brokers have it
_DLQ_CONFIG = {
    "retention.ms": str(90 * _DAY_MS),  # it waits for a person
    "max.message.bytes": "2097152",  # the largest record there is, and our headers beside it
}


def wanted(settings: KafkaSettings) -> list[NewTopic]:
    """Every topic with its partitions, replication and configuration."""
    topics = [(topic.name, dict(topic.config)) for topic in (*EVENT_TOPICS, CHANGELOG)] + [
        (topic.dead_letters, _DLQ_CONFIG) for topic in EVENT_TOPICS
    ]
    safe = {} if settings.replication < _SAFE_COPIES else {"min.insync.replicas": "2"}
    return [
        NewTopic(
            settings.topic_prefix + name,
            settings.partitions,
            settings.replication,
            topic_configs=config | safe,
        )
        for name, config in topics
    ]


async def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Create what is missing; the names of the created topics.

    Raises:
        RetryableError: the cluster did not answer, or refused.
    """
    if not settings.create_topics:
        return []
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(ADMIN_S):
            await admin.start()
            have = set(await admin.list_topics())
            missing = [topic for topic in wanted(settings) if topic.name not in have]
            if missing:
                _check(await admin.create_topics(missing))
            return [topic.name for topic in missing]
    except (KafkaError, TimeoutError) as error:
        raise RetryableError(f"topics on {settings.bootstrap_servers}: {error!r}") from error
    finally:
        await admin.close()


def _check(response: object) -> None:
    for name, code, *_ in getattr(response, "topic_errors", ()):
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another service was first: fine
            raise RetryableError(f"topic {name}: {error.__name__}")

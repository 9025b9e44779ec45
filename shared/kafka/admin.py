"""Creates the topics of `shared/contract/topics.py` and describes the topics of a cluster.

Idempotent: existing topics are not changed. The embedded broker creates topics on first use and
does not support CreateTopics; its settings switch it off. `shared/kafka/alter_configs.py` changes
configurations.

I/O: Kafka.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from shared.contract.topics import CHANGELOG, DAY_MS, DEAD_LETTER_DAYS, EVENT_TOPICS
from shared.errors import RetryableError
from shared.kafka.client import connection_options, unavailable
from shared.settings import KafkaSettings

ADMIN_S = 30.0
_MIN_INSYNC_FROM = 3  # replication from which a write must be acknowledged by two brokers
_DLQ_CONFIG = {
    "retention.ms": str(DEAD_LETTER_DAYS * DAY_MS),
    "max.message.bytes": "2097152",  # the largest record plus the dead-letter headers
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """A topic as it is on the cluster."""

    partitions: int
    replication: int  #: of the partition with the fewest replicas
    configs: Mapping[str, str] | None  #: in effect; None: the broker has no DescribeConfigs


def required_topics(settings: KafkaSettings) -> list[NewTopic]:
    """Return every topic with its partitions, replication and configuration."""
    topics = [(topic.name, dict(topic.config)) for topic in (*EVENT_TOPICS, CHANGELOG)] + [
        (topic.dead_letters, _DLQ_CONFIG) for topic in EVENT_TOPICS
    ]
    safe = {} if settings.replication < _MIN_INSYNC_FROM else {"min.insync.replicas": "2"}
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
    """Create the missing topics; return their names.

    Raises:
        RetryableError: the cluster is unavailable or rejected a topic.
    """
    if not settings.create_topics:
        return []
    async with admin_client(settings) as admin:
        existing = set(await admin.list_topics())
        missing = [topic for topic in required_topics(settings) if topic.name not in existing]
        await create_topics(admin, missing)
        return [topic.name for topic in missing]


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield a connected admin client for at most `ADMIN_S`.

    Raises:
        RetryableError: the cluster is unavailable or rejected a request.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))
    try:
        async with asyncio.timeout(ADMIN_S):
            await admin.start()
            yield admin
    except KafkaError as error:
        raise unavailable(settings, error) from error
    except TimeoutError as error:
        raise unavailable(settings, f"no response within {ADMIN_S:g} s") from error
    finally:
        await admin.close()


async def create_topics(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Create topics; a topic that exists by now is not an error.

    Raises:
        RetryableError: the cluster rejected a topic.
    """
    if not topics:
        return
    response = await admin.create_topics(list(topics))
    for name, code, *_ in getattr(response, "topic_errors", ()):
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another service may have created it
            raise RetryableError(f"topic {name}: {error.__name__}")


async def describe_topics(
    admin: AIOKafkaAdminClient, names: Collection[str], *, keys: Collection[str]
) -> dict[str, TopicDescription]:
    """Return those of `names` that exist, with the configuration of `keys`.

    Raises:
        KafkaError: the account is not authorized.
    """
    # describes all topics: some brokers create a topic that a client asks for by name
    partitions = {
        topic["topic"]: topic["partitions"]
        for topic in await admin.describe_topics()
        if topic["topic"] in names
    }
    configs = await _describe_configs(admin, sorted(partitions), keys)
    return {
        name: TopicDescription(
            partitions=len(parts),
            replication=min((len(part["replicas"]) for part in parts), default=0),
            configs=None if configs is None else configs[name],
        )
        for name, parts in partitions.items()
    }


async def supports_describe_configs(admin: AIOKafkaAdminClient, name: str) -> bool:
    """Return whether the broker has DescribeConfigs; the topic `name` need not exist."""
    try:
        await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": None})]
        )
    except IncompatibleBrokerVersion:
        return False
    return True


async def _describe_configs(
    admin: AIOKafkaAdminClient, names: Sequence[str], keys: Collection[str]
) -> dict[str, dict[str, str]] | None:
    """Return the configuration in effect by topic; None if the broker has no DescribeConfigs."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, configs=dict.fromkeys(keys))
        for name in names
    ]
    if not resources:
        return {}
    try:
        responses = await admin.describe_configs(resources)
    except IncompatibleBrokerVersion:
        return None
    configs = {}
    for response in responses:
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"topic {name}: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs

"""Admin: make the cluster match `shared/contract/topics.py`, and ask it how it stands.

Idempotent: topics that exist are left as they are. The embedded broker makes topics on first
use and knows no CreateTopics; its settings say so. What a topic is configured as is changed key
by key (IncrementalAlterConfigs), so that nothing else of it is touched.

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

from shared.contract.topics import CHANGELOG, DAY_MS, EVENT_TOPICS
from shared.errors import RetryableError
from shared.kafka.alter_configs import SetConfigs
from shared.kafka.client import connection_options
from shared.settings import KafkaSettings

ADMIN_S = 30.0
_SAFE_COPIES = 3  # from here on a record counts as written once two brokers have it
_DLQ_CONFIG = {
    "retention.ms": str(90 * DAY_MS),  # it waits for a person
    "max.message.bytes": "2097152",  # the largest record there is, and our headers beside it
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """How a topic stands on the cluster."""

    partitions: int
    replication: int  #: of the partition that has the fewest copies
    configs: Mapping[str, str] | None  #: as they are in effect; None: this broker cannot be asked


def required_topics(settings: KafkaSettings) -> list[NewTopic]:
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
    async with admin_client(settings) as admin:
        have = set(await admin.list_topics())
        missing = [topic for topic in required_topics(settings) if topic.name not in have]
        await create_topics(admin, missing)
        return [topic.name for topic in missing]


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client that may ask and tell the cluster about itself, for `ADMIN_S` at most.

    Raises:
        RetryableError: the cluster did not answer, or refused.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))
    try:
        async with asyncio.timeout(ADMIN_S):
            await admin.start()
            yield admin
    except (KafkaError, TimeoutError) as error:
        raise RetryableError(f"topics on {settings.bootstrap_servers}: {error!r}") from error
    finally:
        await admin.close()


async def create_topics(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Make topics; one that somebody else made meanwhile is fine.

    Raises:
        RetryableError: the cluster refused.
    """
    if topics:
        _check(await admin.create_topics(list(topics)))


async def describe_topics(
    admin: AIOKafkaAdminClient, names: Collection[str], *, keys: Collection[str]
) -> dict[str, TopicDescription]:
    """Those of `names` that there are, with the configuration of `keys`.

    Raises:
        KafkaError: we may not ask.
    """
    # of all topics: asked for one that is not there, some brokers make it
    found = {
        one["topic"]: one["partitions"]
        for one in await admin.describe_topics()
        if one["topic"] in names
    }
    configs = await _configs(admin, sorted(found), keys)
    return {
        name: TopicDescription(
            partitions=len(partitions),
            replication=min((len(part["replicas"]) for part in partitions), default=0),
            configs=None if configs is None else configs[name],
        )
        for name, partitions in found.items()
    }


async def supports_describe_configs(admin: AIOKafkaAdminClient, name: str) -> bool:
    """Whether this broker can be asked how topics are configured; `name` need not be there."""
    try:
        await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": None})]
        )
    except IncompatibleBrokerVersion:
        return False
    return True


async def set_topic_configs(
    admin: AIOKafkaAdminClient, changes: Mapping[str, Mapping[str, str]]
) -> None:
    """Set these keys of these topics, and nothing else of them.

    Raises:
        KafkaError: the cluster refused.
    """
    if not changes:
        return
    answer = await admin._send_to_controller(SetConfigs(changes))  # noqa: SLF001 - it has none itself
    for code, message, _, name in answer.responses:
        if code:
            raise for_code(code)(f"topic {name}: {message}")


async def _configs(
    admin: AIOKafkaAdminClient, names: Sequence[str], keys: Collection[str]
) -> dict[str, dict[str, str]] | None:
    """The configuration in effect, by topic; None: this broker cannot be asked."""
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, name, configs=dict.fromkeys(keys))
        for name in names
    ]
    if not asked:
        return {}
    try:
        answers = await admin.describe_configs(asked)
    except IncompatibleBrokerVersion:
        return None
    found = {}
    for answer in answers:
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(f"topic {name}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _check(response: object) -> None:
    for name, code, *_ in getattr(response, "topic_errors", ()):
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another service was first: fine
            raise RetryableError(f"topic {name}: {error.__name__}")

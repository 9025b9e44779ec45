"""Counts the members of each service's consumer group.

Every service, the api too, consumes its topics in its own group, and Kafka removes a member whose
heartbeats stop: so a member is a running service. The embedded broker does not support the
request; it runs in the process of the services.

I/O: Kafka.
"""

from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, for_code

from shared.clock import SystemClock
from shared.kafka.log_reader import COORDINATOR_RETRY, COORDINATOR_STARTING
from shared.processing.retry import retrying
from shared.settings import KafkaSettings

SERVICES = ("api", "generator", "merger", "muxer")
_ERROR_CODE, _MEMBERS = 0, 5  # fields of a group in the response


async def count_members(
    admin: AIOKafkaAdminClient, settings: KafkaSettings, services: Sequence[str] = SERVICES
) -> dict[str, int] | None:
    """Return the members per service; None if the broker does not support it.

    The caller sets a timeout: the group coordinator of a new cluster takes a moment.

    Raises:
        KafkaError: Kafka is unavailable, or the user is not authorized.
    """
    try:
        return {
            service: await _count_group_members(admin, f"{settings.topic_prefix}segue-{service}")
            for service in services
        }
    except IncompatibleBrokerVersion:
        return None


async def _count_group_members(admin: AIOKafkaAdminClient, name: str) -> int:
    """Return the members of one group; aiokafka 0.14 misreads responses about two."""

    async def describe() -> int:
        [response] = await admin.describe_consumer_groups([name])
        [group] = response.groups
        if group[_ERROR_CODE]:
            raise for_code(group[_ERROR_CODE])(f"group {name}")
        return len(group[_MEMBERS])

    return await retrying(
        describe, policy=COORDINATOR_RETRY, clock=SystemClock(), errors=COORDINATOR_STARTING
    )

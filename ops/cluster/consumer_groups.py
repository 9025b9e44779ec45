"""Groups: who is alive in the consumer group of each service, as Kafka says.

Every service follows its topics in a group of its own, the api too, and a member that says
nothing is put out of it: so a member is a service that lives. The embedded broker cannot be
asked; it is a part of the process in which the services run.

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
_CODE, _MEMBERS = 0, 5  # fields of what Kafka answers of a group


async def members(
    admin: AIOKafkaAdminClient, settings: KafkaSettings, services: Sequence[str] = SERVICES
) -> dict[str, int] | None:
    """How many members the group of each service has; None: this broker cannot be asked.

    The caller bounds the time: a cluster whose first group this is needs a moment.

    Raises:
        KafkaError: it does not answer, or we may not ask.
    """
    try:
        return {
            service: await _members(admin, f"{settings.topic_prefix}segue-{service}")
            for service in services
        }
    except IncompatibleBrokerVersion:
        return None


async def _members(admin: AIOKafkaAdminClient, name: str) -> int:
    """Of one group. Asked for two at once, aiokafka 0.14 reads the second wrongly."""

    async def describe() -> int:
        [answer] = await admin.describe_consumer_groups([name])
        [group] = answer.groups
        if group[_CODE]:
            raise for_code(group[_CODE])(f"group {name}")
        return len(group[_MEMBERS])

    return await retrying(
        describe, policy=COORDINATOR_RETRY, clock=SystemClock(), errors=COORDINATOR_STARTING
    )

"""Publishing: what a command put into the outbox reaches Kafka, with or without an api.

The relay of a running api is quicker than we are; where none holds the relay's lock, we are the
relay for a moment.

Units: seconds. I/O: Kafka, PostgreSQL.
"""

import asyncio

from ops.cli.operator import Operator
from services.api.operators import OutboxRelay, OwnConnection, outbox
from shared.kafka.producer import Publisher

WITHIN_S = 15.0
_LOOK_S = 0.2


async def published(operator: Operator, *, within_s: float = WITHIN_S) -> bool:
    """Wait until the outbox is empty, or empty it; False: something is left for the api's relay.

    Raises:
        RetryableError: Kafka or PostgreSQL is away; what is in the outbox stays there.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    async with operator.database.dedicated() as connection:
        while await outbox.oldest(connection, count=1):
            if await outbox.try_relay_lock(connection):
                await _relayed(operator, connection, end)
                return not await outbox.oldest(connection, count=1)
            if loop.time() > end:
                return False
            await asyncio.sleep(_LOOK_S)
    return True


async def _relayed(operator: Operator, connection: OwnConnection, end: float) -> None:
    """Be the relay until nothing is left, or the time is over."""
    relay = OutboxRelay(operator.database, operator.kafka, clock=operator.clock, log=operator.log)
    publisher = Publisher(operator.kafka, source="api", clock=operator.clock)
    await publisher.start()
    try:
        while asyncio.get_running_loop().time() < end:
            if not await relay.relay_once(connection, publisher):
                return
    finally:
        await publisher.stop()

"""Publishes what a command put into the outbox, with or without a running api.

The relay of a running api publishes first; if none holds the relay's lock, the command runs the
relay itself.

Units: seconds. I/O: Kafka, PostgreSQL.
"""

import asyncio

from ops.cli.operator import Operator
from services.api.operators import OutboxRelay, OwnConnection, outbox
from shared.kafka.producer import Publisher

TIMEOUT_S = 15.0
_POLL_S = 0.2


async def flush_outbox(operator: Operator, *, within_s: float = TIMEOUT_S) -> bool:
    """Wait until the outbox is empty, or publish it; return False if records are left.

    Raises:
        RetryableError: Kafka or PostgreSQL is unavailable; the records stay in the outbox.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    async with operator.database.dedicated() as connection:
        while await outbox.oldest(connection, count=1):
            if await outbox.try_relay_lock(connection):
                await _relay(operator, connection, end)
                return not await outbox.oldest(connection, count=1)
            if loop.time() > end:
                return False
            await asyncio.sleep(_POLL_S)
    return True


async def _relay(operator: Operator, connection: OwnConnection, end: float) -> None:
    """Run the relay until the outbox is empty or the time is over."""
    relay = OutboxRelay(
        operator.database,
        operator.kafka,
        clock=operator.clock,
        log=operator.log,
        store=operator.store,
    )
    publisher = Publisher(operator.kafka, source="api", clock=operator.clock)
    await publisher.start()
    try:
        while asyncio.get_running_loop().time() < end:
            if not await relay.relay_once(connection, publisher):
                return
    finally:
        await publisher.stop()

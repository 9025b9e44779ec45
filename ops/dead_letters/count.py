"""Counts the dead letters that wait for an operator.

I/O: Kafka and PostgreSQL.
"""

from ops.cli.operator import Operator
from services.api.operators import dead_letters as rows
from shared.contract.topics import EVENT_TOPICS
from shared.errors import RetryableError
from shared.kafka.log_reader import LogReader


async def count_waiting(operator: Operator, reader: LogReader) -> dict[str, int]:
    """Return the number of unresolved dead letters by origin topic, without zeros."""
    stored = await reader.ranges_of([topic.dead_letters for topic in EVENT_TOPICS])
    starts = {
        (offsets.topic, offsets.partition): offsets.start
        for ranges in stored.values()
        for offsets in ranges
        if offsets.length
    }
    try:
        async with operator.database.connection() as connection:
            resolved = await rows.count_resolved(connection, operator.kafka.epoch, starts)
    except RetryableError:
        resolved = {}  # PostgreSQL is unavailable: every stored letter counts
    counts = {
        topic.name: sum(offsets.length for offsets in stored[topic.dead_letters])
        - resolved.get(topic.dead_letters, 0)
        for topic in EVENT_TOPICS
    }
    return {name: count for name, count in counts.items() if count > 0}

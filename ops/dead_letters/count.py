"""Letters: how many dead letters wait for somebody; counted here and nowhere else.

I/O: Kafka and PostgreSQL.
"""

from ops.cli.operator import Operator
from services.api.operators import dead_letters as rows
from shared.contract.topics import EVENT_TOPICS
from shared.errors import RetryableError
from shared.kafka.log_reader import LogReader


async def waiting(operator: Operator, reader: LogReader) -> dict[str, int]:
    """The dead letters that nobody has settled, by the topic they came from; none: not named."""
    every = await reader.ranges_of([topic.dead_letters for topic in EVENT_TOPICS])
    starts = {
        (span.topic, span.partition): span.start
        for spans in every.values()
        for span in spans
        if span.length
    }
    try:
        async with operator.database.connection() as connection:
            settled = await rows.count_resolved(connection, operator.kafka.epoch, starts)
    except RetryableError:
        settled = {}  # PostgreSQL is away: they count as they lie there
    counts = {
        topic.name: sum(span.length for span in every[topic.dead_letters])
        - settled.get(topic.dead_letters, 0)
        for topic in EVENT_TOPICS
    }
    return {name: count for name, count in counts.items() if count > 0}

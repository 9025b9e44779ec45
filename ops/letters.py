"""Letters: how many dead letters wait for somebody; counted here and nowhere else.

I/O: Kafka.
"""

from ops.reading import LogReader
from shared.topics import EVENT_TOPICS


async def waiting(reader: LogReader) -> dict[str, int]:
    """The dead letters that nobody has settled, by the topic they came from; none: not named."""
    every = await reader.all_spans([topic.dead_letters for topic in EVENT_TOPICS])
    counts = {
        topic.name: sum(span.length for span in every[topic.dead_letters]) for topic in EVENT_TOPICS
    }
    return {name: count for name, count in counts.items() if count}

"""A publisher that records events instead of sending them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from shared.contract.events import Event
from shared.errors import RetryableError
from shared.kafka.codec import Headers, Record, encode
from shared.kafka.producer import Publisher

_PUBLISHED_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakePublisher:
    """A `Publisher` whose `events` and `records` list what the broker would have.

    While `busy` is above zero, a send fails as without a broker, and decrements it.
    """

    source: str = "test"
    busy: int = 0
    events: list[Event] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @property
    def port(self) -> Publisher:
        """Return this fake as a `Publisher`."""
        return cast("Publisher", self)

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Record the event and its record."""
        record = encode(event, source=self.source, now=_PUBLISHED_AT, traceparent=traceparent)
        await self.send(
            topic=record.topic, key=record.key, value=record.value, headers=record.headers
        )
        self.events.append(event)

    async def send(
        self,
        *,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Record the record."""
        if self.busy > 0:
            self.busy -= 1
            raise RetryableError("no broker answers")
        self.records.append(
            Record(
                topic=topic,
                partition=partition or 0,
                offset=len(self.records),
                key=key,
                value=value,
                headers=headers,
            )
        )

"""A router with a real store, a fake publisher and clock, and a handler that fails on request."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shared.contract.events import JobFailed, SceneRequested, Stage
from shared.kafka.codec import Envelope, Record, Unreadable, encode
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.parked_runs import ParkedRuns
from shared.kafka.router import Router
from shared.processing.retry import RetryPolicy
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.publisher import FakePublisher
from tests.support.event_builders import a_scene

ATTEMPTS_MAX = 3
DEAD_LETTERS_MAX = 4


async def partitions_owned() -> None:
    """Return at once: no rebalance is in progress."""


@dataclass
class FailingHandler:
    """Raises the next of `faults` on each call; succeeds when there are none."""

    faults: list[Exception] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)  #: job ids
    topics: ClassVar = (SceneRequested.kind,)

    def on_received(self, envelope: Envelope) -> None:
        """Do nothing before the record's turn."""

    async def handle(self, envelope: Envelope) -> None:
        """Raise the next fault."""
        self.handled.append(envelope.event.job_id)
        if self.faults:
            raise self.faults.pop(0)


@dataclass
class RouterHarness:
    """A router with a real store, a fake publisher and clock, and a failing handler."""

    store: FolderStore
    stage: Stage = Stage.GENERATION
    publisher: FakePublisher = field(default_factory=FakePublisher)
    clock: FakeClock = field(default_factory=FakeClock)
    handler: FailingHandler = field(default_factory=FailingHandler)

    def __post_init__(self) -> None:
        """Build the router as `build_router` does."""
        self.router = Router(
            service="generator",
            stage=self.stage,
            publisher=self.publisher.port,
            dead_letters=DeadLetters(
                self.publisher.port,
                service="generator",
                clock=self.clock,
                consecutive_max=DEAD_LETTERS_MAX,
            ),
            parked=ParkedRuns(self.store),
            policy=RetryPolicy(first_s=1.0, max_s=8.0, attempts_max=ATTEMPTS_MAX),
            clock=self.clock,
            log=logger_of("test"),
            chance=random.Random(7),
        )

    @property
    def handled(self) -> list[str]:
        """The job ids of all calls of the handler."""
        return self.handler.handled

    async def run(
        self,
        received: Envelope | Unreadable,
        *faults: Exception,
        wait_until_owned: Callable[[], Awaitable[None]] = partitions_owned,
    ) -> None:
        """Process a record whose handler raises these faults, one per attempt."""
        self.handler.faults = list(faults)
        await self.router.run(received, self.handler, wait_until_owned=wait_until_owned)

    @property
    def dead_letters(self) -> list[Record]:
        """The records published on dead-letter topics."""
        return [record for record in self.publisher.records if record.topic.endswith(".dlq")]

    @property
    def failures(self) -> list[JobFailed]:
        """The published job.failed events."""
        return [event for event in self.publisher.events if isinstance(event, JobFailed)]


def a_record(index: int = 0, *, offset: int = 0, **scene: Any) -> Record:
    """Return a `scene.requested` record."""
    sent = encode(a_scene(index, **scene), source="api", now=FakeClock().now())
    return Record(
        topic=sent.topic,
        partition=2,
        offset=offset,
        key=sent.key,
        value=sent.value,
        headers=sent.headers,
        timestamp_ms=1_700_000_000_000,
    )


def headers_of(record: Record) -> dict[str, str]:
    """Return the headers of a dead letter as text."""
    return {name: (value or b"").decode() for name, value in record.headers}

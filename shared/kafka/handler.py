"""The interface between the consumers and a service: `Handler`, one class per service.

Implementations: `services.generator.scene.handler.SceneHandler`, `services.merger.app.MergeHandler`
and `services.muxer.app.MuxHandler`. `LaneConsumer` and the generator's Faust stream call
`on_received`; `Router.run` calls `handle` in the record's turn in its lane.
"""

from collections.abc import Sequence
from typing import Protocol

from shared.kafka.codec import Envelope


class Handler(Protocol):
    """Processes the events of one service."""

    @property
    def topics(self) -> Sequence[str]:
        """Topics to consume, without the prefix."""
        ...

    def on_received(self, envelope: Envelope) -> None:
        """Observe an event when it is polled, before its turn in its lane. Must not block."""
        ...

    async def handle(self, envelope: Envelope) -> None:
        """Process one event; its record is committed after this returns.

        Raises:
            RetryableError: processing is retried in place.
            JobError: the job fails.
            InvalidEventError: the record becomes a dead letter.
        """
        ...

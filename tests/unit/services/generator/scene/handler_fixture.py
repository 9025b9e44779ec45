"""A generator without Kafka: its work on a folder, a table that is a dict, a scripted provider."""

from pathlib import Path
from typing import Any

import numpy as np

from services.generator.providers import CompositionRequest
from services.generator.providers.mp3 import encode
from services.generator.scene.handler import SceneHandler, build_scene_handler
from services.generator.scene.plan import Continuation
from services.generator.settings import GeneratorSettings
from shared.contract.events import Event, SceneRequested, SegmentGenerated
from shared.kafka.codec import Envelope, Record
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider


def clip_of(request: CompositionRequest) -> bytes:
    """The same quiet second over and over, as long as asked: every clip holds every window."""
    second = np.random.default_rng(1).standard_normal((2, 32_000))
    return encode((0.1 * np.tile(second, request.duration_s)).astype(np.float32))


class Memory:
    """The table as a dict."""

    def __init__(self) -> None:
        self.states: dict[str, Continuation] = {}

    def recall(self, job_id: str) -> Continuation | None:
        """The state of the job."""
        return self.states.get(job_id)

    async def keep(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Write it down."""
        self.states[job_id] = state


class HandlerFixture:
    """A generator without Kafka: what it said lies in `said`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = GeneratorSettings(**{"scene_cache": "off", **settings})
        self.store = FolderStore(folder)
        self.provider = LedgerProvider(clip_of=clip_of)
        self.memory = Memory()
        self.published: list[Event] = []
        self.work = self.process()

    def process(self) -> SceneHandler:
        """A process with nothing in its head but what store and table have."""
        return build_scene_handler(
            self.settings,
            store=self.store,
            provider=self.provider,
            publisher=self,
            memory=self.memory,
            gate=self._open,
            clock=FakeClock(),
            log=logger_of("test"),
        )

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """As the publisher does."""
        self.published.append(event)

    async def _open(self) -> None:
        """A gate that stands open."""

    async def handle(self, scene: SceneRequested) -> None:
        """As if a record had come."""
        record = Record(topic=scene.kind, partition=0, offset=0, key=None, value=None)
        envelope = Envelope(event=scene, event_id="", traceparent=None, record=record)
        self.work.on_received(envelope)
        await self.work.handle(envelope)

    def segments(self) -> list[SegmentGenerated]:
        """What was said, segments alone."""
        return [event for event in self.published if isinstance(event, SegmentGenerated)]

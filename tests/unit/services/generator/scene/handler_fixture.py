"""Runs a scene handler without Kafka: a folder store, a dict table and a scripted provider."""

from pathlib import Path
from typing import Any

import numpy as np

from services.generator.provider_factory import build_provider
from services.generator.providers import CompositionRequest, MusicProvider
from services.generator.providers.by_name import Providers
from services.generator.providers.mp3 import encode
from services.generator.scene.handler import SceneHandler, build_scene_handler
from services.generator.scene.plan import Continuation
from services.generator.settings import GeneratorSettings
from shared.contract.events import Event, SceneRequested, SegmentGenerated
from shared.kafka.codec import Envelope, Record
from shared.music_providers import StackProvider
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider


def clip_of(request: CompositionRequest) -> bytes:
    """Return the same second repeated for the requested duration: every window matches."""
    second = np.random.default_rng(1).standard_normal((2, 32_000))
    return encode((0.1 * np.tile(second, request.duration_s)).astype(np.float32))


class DictTable:
    """A continuation table in a dict."""

    def __init__(self) -> None:
        self.states: dict[str, Continuation] = {}

    def get(self, job_id: str) -> Continuation | None:
        """Return the state of the job."""
        return self.states.get(job_id)

    async def put(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Store the state of the job."""
        self.states[job_id] = state


class HandlerFixture:
    """A scene handler without Kafka; `published` has its events."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = GeneratorSettings(**{"scene_cache": "off", **settings})
        self.store = FolderStore(folder)
        self.provider = LedgerProvider(clip_of=clip_of)
        self.continuations = DictTable()
        self.published: list[Event] = []
        self.handler = self.process()

    def process(self) -> SceneHandler:
        """Return the handler of a new process, which knows only the store and the table."""
        return build_scene_handler(
            self.settings,
            store=self.store,
            providers=Providers(
                self.provider, own_name=self.provider.name, build=self._build, log=logger_of("test")
            ),
            publisher=self,
            continuations=self.continuations,
            wait_until_owned=self._open,
            clock=FakeClock(),
            log=logger_of("test"),
        )

    def _build(self, name: StackProvider) -> MusicProvider:
        """Return another provider, as the service builds it for an earlier run."""
        return build_provider(
            self.settings, store=self.store, clock=FakeClock(), log=logger_of("test"), name=name
        )

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Record the event."""
        self.published.append(event)

    async def _open(self) -> None:
        """Return at once: the partition is owned."""

    async def handle(self, scene: SceneRequested) -> None:
        """Handle the scene as a received record."""
        record = Record(topic=scene.kind, partition=0, offset=0, key=None, value=None)
        envelope = Envelope(event=scene, event_id="", traceparent=None, record=record)
        self.handler.on_received(envelope)
        await self.handler.handle(envelope)

    def segments(self) -> list[SegmentGenerated]:
        """Return the published segments."""
        return [event for event in self.published if isinstance(event, SegmentGenerated)]

"""The merger's and the muxer's handler: which events they process, and what they publish."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.merger.app import MergeHandler
from services.merger.settings import MergerSettings
from services.muxer.app import MuxHandler
from shared.contract.events import Event, Stage
from shared.contract.params import AudioParams
from shared.http.health import Health
from shared.kafka.codec import Envelope, Record
from shared.kafka.handler import Handler
from shared.kafka.router import build_router
from shared.kafka.worker_service import WorkerService
from shared.processing.active_runs import ActiveRuns
from shared.settings import LaneSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.publisher import FakePublisher
from tests.support.event_builders import a_segment
from tests.support.run_builders import a_cancel, a_track, a_video

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class RecordingStage:
    """Stands in for `Merge` and `Mux`: records its events and returns the same result."""

    def __init__(self, result: Event) -> None:
        self.processed: list[Event] = []
        self._result = result

    async def run(self, event: Event) -> Any:
        """Return the result."""
        self.processed.append(event)
        return self._result


def a_service(publisher: FakePublisher, folder: Path) -> WorkerService:
    """Return a service that is not connected."""
    clock, log, store = FakeClock(), logger_of("test"), FolderStore(folder)
    return WorkerService(
        name="merger",
        settings=MergerSettings(),
        store=store,
        publisher=publisher.port,
        router=build_router(
            service="merger",
            stage=Stage.MERGE,
            publisher=publisher.port,
            store=store,
            settings=LaneSettings(),
            clock=clock,
            log=log,
        ),
        active_runs=ActiveRuns(),
        health=Health(
            service="merger",
            start_s=1,
            stop=asyncio.Event(),
            ready=asyncio.Event(),
            clock=clock,
            log=log,
        ),
        log=log,
    )


async def receive(handler: Handler, *events: Event) -> None:
    """Poll all events, then process them in order."""
    envelopes = [
        Envelope(
            event=event,
            event_id=event.event_id(),
            traceparent=TRACEPARENT,
            record=Record(topic=event.kind, partition=0, offset=offset, key=None, value=None),
        )
        for offset, event in enumerate(events)
    ]
    for envelope in envelopes:
        handler.on_received(envelope)
    for envelope in envelopes:
        await handler.handle(envelope)


async def test_the_merger_merges_when_the_last_segment_arrives(tmp_path: Path) -> None:
    """Earlier segments only precede it; the track is published in the trace of the segment."""
    publisher, merge = FakePublisher(), RecordingStage(a_track())
    handler = MergeHandler(a_service(publisher, tmp_path), merge)  # type: ignore[arg-type]

    await receive(handler, *(a_segment(index, count=3) for index in range(3)))

    assert merge.processed == [a_segment(2, count=3)]
    assert publisher.events == [a_track()]
    assert publisher.records[0].header("traceparent") == TRACEPARENT


@pytest.mark.parametrize("later", [a_cancel(), a_segment(0, count=3, run=2)])
async def test_the_merger_skips_a_run_that_was_cancelled_or_superseded(
    tmp_path: Path, later: Event
) -> None:
    """The later event is polled before the turn of the last segment."""
    publisher, merge = FakePublisher(), RecordingStage(a_track())
    handler = MergeHandler(a_service(publisher, tmp_path), merge)  # type: ignore[arg-type]

    await receive(handler, a_segment(2, count=3, run=1), later)

    assert merge.processed == []
    assert publisher.events == []


async def test_the_muxer_muxes_tracks_whose_run_asks_for_it(tmp_path: Path) -> None:
    """Other tracks are left as they are."""
    publisher, mux = FakePublisher(), RecordingStage(a_video())
    handler = MuxHandler(a_service(publisher, tmp_path), mux)  # type: ignore[arg-type]

    await receive(handler, a_track(params=AudioParams()), a_track())

    assert mux.processed == [a_track()]
    assert publisher.events == [a_video()]


async def test_the_muxer_skips_a_cancelled_run(tmp_path: Path) -> None:
    """The cancellation is polled before the turn of the track."""
    publisher, mux = FakePublisher(), RecordingStage(a_video())
    handler = MuxHandler(a_service(publisher, tmp_path), mux)  # type: ignore[arg-type]

    await receive(handler, a_track(), a_cancel())

    assert mux.processed == []
    assert publisher.events == []


class EndlessStage:
    """Stands in for `Merge` and `Mux`: never ends, and records its cancellation."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def run(self, _event: Event) -> Any:
        """Wait until cancelled."""
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("of", [MergeHandler, MuxHandler])
@pytest.mark.parametrize("later", [a_cancel(), a_segment(0, count=3, run=2)])
async def test_work_in_progress_ends_with_its_run(
    tmp_path: Path, of: type[MergeHandler] | type[MuxHandler], later: Event
) -> None:
    """At once, and the record counts as processed."""
    publisher, stage = FakePublisher(), EndlessStage()
    handler = of(a_service(publisher, tmp_path), stage)  # type: ignore[arg-type]
    event = a_segment(2, count=3) if of is MergeHandler else a_track()
    work = asyncio.ensure_future(receive(handler, event))
    async with asyncio.timeout(5):
        await stage.started.wait()
        await receive(handler, later)
        await work

    assert stage.cancelled.is_set()
    assert publisher.events == []

"""Wires up the merger: a run's last segment triggers its merge."""

import asyncio
from typing import ClassVar

from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.clock import Clock
from shared.contract.events import JobCancelled, SegmentGenerated, Stage
from shared.kafka.codec import Envelope
from shared.kafka.worker_service import WorkerService, worker_service
from shared.media.ffmpeg import Ffmpeg
from shared.processing.cancellation import RunEndedError
from shared.telemetry.metrics import MERGE_SECONDS


class MergeHandler:
    """Merges the track of a run when its last segment arrives (`shared.kafka.handler.Handler`)."""

    topics: ClassVar = (SegmentGenerated.kind, JobCancelled.kind)

    def __init__(self, service: WorkerService, merge: Merge) -> None:
        self._service = service
        self._merge = merge

    def on_received(self, envelope: Envelope) -> None:
        """Track the newest run of the job."""
        self._service.observe_run(envelope.event)

    async def handle(self, envelope: Envelope) -> None:
        """Merge and publish `audio.merged` for a run's last segment; ignore other events."""
        segment = envelope.event
        if not isinstance(segment, SegmentGenerated):
            return  # job.cancelled: on_received has applied it
        if self._service.skips(segment):
            return
        if segment.scene_index + 1 < segment.scene_count:
            return  # scenes arrive in order: the last one implies all the others
        try:
            with MERGE_SECONDS.time():
                track = await self._service.unless_ended(segment, self._merge.run(segment))
        except RunEndedError:
            self._service.skips(segment)
            return
        self._service.log.info(
            "track merged",
            action="track.merged",
            job_id=track.job_id,
            run=track.run,
            seconds=track.duration_s,
            loudness_lufs=track.loudness_lufs,
        )
        await self._service.publisher.publish(track, traceparent=envelope.traceparent)


async def run(
    settings: MergerSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Run the merger until `stop` is set.

    Raises:
        SegueError: the service could not start, or had to stop.
    """
    async with worker_service(
        "merger", Stage.MERGE, settings, stop=stop, ready=ready, clock=clock
    ) as service:
        merge = Merge(store=service.store, ffmpeg=Ffmpeg(settings.ffmpeg), settings=settings)
        merge.scratch.sweep(log=service.log)
        await service.consume(MergeHandler(service, merge), slots=merge.slots)

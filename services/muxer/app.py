"""Wires up the muxer: muxes a track if its run asks for it."""

import asyncio
from typing import ClassVar

from services.muxer.mux import Mux
from services.muxer.settings import MuxerSettings
from shared.clock import Clock
from shared.contract.events import AudioMerged, JobCancelled, Stage
from shared.kafka.codec import Envelope
from shared.kafka.worker_service import WorkerService, worker_service
from shared.media.ffmpeg import Ffmpeg
from shared.processing.cancellation import RunEndedError
from shared.telemetry.metrics import MUX_SECONDS


class MuxHandler:
    """Muxes merged tracks with their videos (`shared.kafka.handler.Handler`)."""

    topics: ClassVar = (AudioMerged.kind, JobCancelled.kind)

    def __init__(self, service: WorkerService, mux: Mux) -> None:
        self._service = service
        self._mux = mux

    def on_received(self, envelope: Envelope) -> None:
        """Track the newest run of the job."""
        self._service.observe_run(envelope.event)

    async def handle(self, envelope: Envelope) -> None:
        """Mux and publish `video.muxed` if the run asks for it; ignore other events."""
        merged = envelope.event
        if not isinstance(merged, AudioMerged):
            return  # job.cancelled: on_received has applied it
        if self._service.skips(merged):
            return
        if not merged.params.merge_with_video:
            return
        try:
            with MUX_SECONDS.time():
                video = await self._service.unless_ended(merged, self._mux.run(merged))
        except RunEndedError:
            self._service.skips(merged)
            return
        self._service.log.info(
            "video muxed",
            action="video.muxed",
            job_id=video.job_id,
            run=video.run,
            seconds=video.duration_s,
        )
        await self._service.publisher.publish(video, traceparent=envelope.traceparent)


async def run(
    settings: MuxerSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Run the muxer until `stop` is set.

    Raises:
        SegueError: the service could not start, or had to stop.
    """
    async with worker_service(
        "muxer", Stage.MUX, settings, stop=stop, ready=ready, clock=clock
    ) as service:
        mux = Mux(store=service.store, ffmpeg=Ffmpeg(settings.ffmpeg), settings=settings)
        mux.scratch.sweep(log=service.log)
        await service.consume(MuxHandler(service, mux), slots=mux.slots)

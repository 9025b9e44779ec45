"""Runs the merger: the last segment of a run triggers its merge."""

import asyncio

from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.clock import Clock
from shared.contract.events import Event, SegmentGenerated, Stage
from shared.kafka.worker_service import worker_service
from shared.media.ffmpeg import Ffmpeg
from shared.telemetry.metrics import MERGE_SECONDS


async def run(
    settings: MergerSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Run the merger until `stop` is set.

    Raises:
        SegueError: the merger could not start, or failed.
    """
    async with worker_service(
        "merger", Stage.MERGE, settings, stop=stop, ready=ready, clock=clock
    ) as service:
        merge = Merge(store=service.store, ffmpeg=Ffmpeg(settings.ffmpeg), settings=settings)

        async def segment(event: Event) -> Event | None:
            assert isinstance(event, SegmentGenerated), "the topic's decoder returns only this type"
            if event.scene_index + 1 < event.scene_count:
                return None  # scenes arrive in order: the last one implies all others
            with MERGE_SECONDS.time():
                track = await merge.run(event)
            service.log.info(
                "track merged",
                action="track.merged",
                job_id=track.job_id,
                run=track.run,
                seconds=track.duration_s,
                loudness_lufs=track.loudness_lufs,
            )
            return track

        await service.consume(SegmentGenerated.kind, segment, slots=merge.slots)

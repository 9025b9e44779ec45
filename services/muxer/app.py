"""App: the muxer's wiring. A track that is wanted under its video is put there."""

import asyncio

from services.muxer.mux import Mux
from services.muxer.settings import MuxerSettings
from shared.clock import Clock
from shared.contract.events import AudioMerged, Event, Stage
from shared.kafka.worker_service import worker_service
from shared.media.ffmpeg import Ffmpeg
from shared.telemetry.metrics import MUX_SECONDS


async def run(
    settings: MuxerSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Mux until `stop`; the one way up, for `__main__`, the embedded stack and the tests.

    Raises:
        SegueError: it could not start, or had to stop.
    """
    async with worker_service(
        "muxer", Stage.MUX, settings, stop=stop, ready=ready, clock=clock
    ) as service:
        mux = Mux(store=service.store, ffmpeg=Ffmpeg(settings.ffmpeg), settings=settings)

        async def track(event: Event) -> Event | None:
            assert isinstance(event, AudioMerged), "the topic's decoder promises it"
            if not event.params.merge_with_video:
                return None
            with MUX_SECONDS.time():
                video = await mux.run(event)
            service.log.info(
                "video muxed",
                action="video.muxed",
                job_id=video.job_id,
                run=video.run,
                seconds=video.duration_s,
            )
            return video

        await service.consume(AudioMerged.kind, track, slots=mux.slots)

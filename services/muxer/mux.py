"""Mux: put the track of a run under the picture of its video.

A function of (job, run): what was stored before is said again and nothing is made twice. The
result is looked at before it is stored, and the event's object is written last, so whoever
finds it finds the video, too. A failure touches neither the track nor the video.

I/O: the store, the network (`fetch`), a scratch folder that is gone afterwards, one ffmpeg.
"""

import asyncio
import hashlib
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.muxer.ffmpeg_plan import MuxPlan, TempoFilter, ffmpeg_args, plan
from services.muxer.probe import check_result, probe_source
from services.muxer.settings import MuxerSettings
from services.muxer.video_fetcher import VideoFetcher
from shared.contract.events import AudioMerged, VideoMuxed
from shared.contract.params import VideoRef
from shared.errors import MediaError, NotFoundError, RetryableError
from shared.media.ffmpeg import INPUT_GUARD, Ffmpeg, FfmpegError
from shared.media.samples import VIDEO_CONTENT_TYPE, seconds_at
from shared.processing.slots import Slots
from shared.storage import ObjectStore, keys
from shared.storage.results import stored_result
from shared.telemetry import trace
from shared.telemetry.log import logger_of
from shared.telemetry.metrics import REDONE_TOTAL


class Mux:
    """The verb: `AudioMerged` in, `VideoMuxed` out. Safe to call from many lanes at once."""

    def __init__(self, *, store: ObjectStore, ffmpeg: Ffmpeg, settings: MuxerSettings) -> None:
        self._store = store
        self._ffmpeg = ffmpeg
        self._scratch_dir = settings.scratch_dir
        self.slots = Slots(settings.slots)
        self._log = logger_of("muxer")
        self._fetcher = VideoFetcher(store, settings.fetch)
        self._tempo_filter: TempoFilter | None = None

    async def run(self, merged: AudioMerged) -> VideoMuxed:
        """The video with its music, stored; the event says where.

        Raises:
            MediaError: the video cannot be had or scored, or the sync mode cannot be met.
            FfmpegError: ffmpeg failed, or took too long.
            RetryableError: the store, the other side or the disk is busy.
        """
        if merged.video is None:
            raise MediaError(
                "video: the music was to be put under the video, but the job names none; give "
                "video.url or video.object, or ask without merge_with_video"
            )
        key = keys.muxed_key(merged.job_id, merged.run)
        done = await stored_result(self._store, key, VideoMuxed)
        if done is not None:
            REDONE_TOTAL.labels("muxer", "found").inc()
            return done
        async with self.slots, self._workshop() as folder:
            result = folder / "result.mp4"
            planned = await self._make(merged, merged.video, folder, result)
            return await self._store_result(merged, planned, result)

    @asynccontextmanager
    async def _workshop(self) -> AsyncIterator[Path]:
        """A folder of one's own, removed whatever happens."""
        try:
            with tempfile.TemporaryDirectory(prefix="segue-mux-", dir=self._scratch_dir) as name:
                yield Path(name)
        except OSError as error:
            raise RetryableError(f"scratch folder: {error.strerror or error}") from error

    async def _make(
        self, merged: AudioMerged, ref: VideoRef, folder: Path, result: Path
    ) -> MuxPlan:
        """Fetch, measure, plan, run, look: `result` is written and found right."""
        video_path, track_path = folder / "video", folder / "track.mp3"
        with trace.span("fetch video"):
            await self._fetcher.fetch(ref, video_path)
        name = "video.url" if ref.object is None else "video.object"
        video = await asyncio.to_thread(probe_source, video_path, name=name)
        self._log.debug(
            "video is here and probed",
            action="video.fetched",
            container=video.demuxer,
            codec=video.video_codec,
            samples=video.samples,
        )
        planned = plan(
            picture_samples=video.samples,
            track_samples=merged.samples,
            mode=merged.params.sync_mode,
            tempo_filter=await self._best_tempo_filter(),
        )
        self._log.debug(
            "mux is planned",
            action="video.planned",
            mode=merged.params.sync_mode.value,
            samples=planned.samples,
            tempo=planned.tempo,
        )
        await self._fetch_track(merged, track_path)
        args = ffmpeg_args(
            planned,
            demuxer=video.demuxer,
            guard=INPUT_GUARD,
            video=video_path,
            track=track_path,
            target=result,
        )
        with trace.span("mux video"):
            await self._ffmpeg.run(args, media_s=max(video.duration_s, merged.duration_s))
        await asyncio.to_thread(check_result, result, source=video, samples=planned.samples)
        self._log.debug("result is as planned", action="video.checked", samples=planned.samples)
        return planned

    async def _fetch_track(self, merged: AudioMerged, path: Path) -> None:
        try:
            await self._store.get_file(merged.object_key, path)
        except NotFoundError as error:
            raise MediaError(
                f"the track of run {merged.run} is not in the store any more; start a new run",
                code="track_missing",
                retryable=True,
            ) from error

    async def _best_tempo_filter(self) -> TempoFilter:
        """The best tempo filter this ffmpeg has, as it says itself."""
        if self._tempo_filter is None:
            listed = (await self._ffmpeg.run(["-filters"])).stdout.decode(errors="replace")
            has = {word for line in listed.splitlines() for word in re.findall(r"\S+", line)[1:2]}
            found = next((f for f in TempoFilter if f in has), None)
            if found is None:  # every build has one of them; not to be remembered
                raise FfmpegError((self._ffmpeg.binary, "-filters"), 0, "it lists no tempo filter")
            self._tempo_filter = found
        return self._tempo_filter

    async def _store_result(
        self, merged: AudioMerged, planned: MuxPlan, result: Path
    ) -> VideoMuxed:
        sha256, size_bytes = await asyncio.to_thread(_fingerprint, result)
        event = VideoMuxed(
            job_id=merged.job_id,
            run=merged.run,
            object_key=keys.video_key(merged.job_id, merged.run),
            content_type=VIDEO_CONTENT_TYPE,
            sha256=sha256,
            size_bytes=size_bytes,
            duration_s=seconds_at(planned.samples),
            sync_mode=merged.params.sync_mode,
            tempo=planned.tempo,
            warnings=planned.warnings,
        )
        await self._store.put_file(event.object_key, result, content_type=VIDEO_CONTENT_TYPE)
        said = event.model_dump_json().encode()
        key = keys.muxed_key(merged.job_id, merged.run)
        await self._store.put(key, said, content_type="application/json")
        return event


def _fingerprint(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size

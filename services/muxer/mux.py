"""Muxes the track of a run with its video.

The result depends only on (job, run): a stored result is returned, not made again. The result is
checked before it is stored, and its event is stored last, so an event in the store always has its
video. A failure changes neither the track nor the source video.

I/O: the store, the network (fetching the video), a temporary folder, one ffmpeg process.
"""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

from services.muxer.ffmpeg_plan import MuxPlan, TempoFilter, ffmpeg_args, plan
from services.muxer.kept_parts import NOTHING_ELSE, kept_args, kept_warnings, tag_args
from services.muxer.probe import check_result, end_presentation, probe_source
from services.muxer.settings import MuxerSettings
from shared.contract.events import AudioMerged, VideoMuxed
from shared.contract.params import VideoRef
from shared.errors import JobError, MediaError, NotFoundError
from shared.http.video_source import video_fetcher
from shared.media.ffmpeg import INPUT_GUARD, Ffmpeg, FfmpegError
from shared.media.samples import VIDEO_CONTENT_TYPE, seconds_at
from shared.media.sandbox import MediaSandbox
from shared.media.video import VideoInfo
from shared.processing.slots import Slots
from shared.scratch import Scratch, ScratchFolder
from shared.storage import ObjectStore, keys
from shared.storage.results import file_fingerprint, store_result, stored_result
from shared.telemetry import trace
from shared.telemetry.log import logger_of
from shared.telemetry.metrics import WORK_DEDUPLICATED_TOTAL

_VIDEO, _TRACK = "video", "track.mp3"  # in the scratch folder
_AAC_BYTES_PER_S = 30_000  # 192 kb/s and its index
_CONTAINER_SHARE, _CONTAINER_BYTES = 1.25, 64 * 1024**2  # an index of MP4 may be larger


class Mux:
    """Muxes tracks with their videos. Safe to call from many lanes at once."""

    def __init__(self, *, store: ObjectStore, ffmpeg: Ffmpeg, settings: MuxerSettings) -> None:
        self._store = store
        self._ffmpeg = ffmpeg
        self.scratch = Scratch(settings.scratch, name="mux")
        self._limits = settings.limits
        self.slots = Slots(settings.slots)
        self._sandbox = MediaSandbox(settings.media)
        self._log = logger_of("muxer")
        self._fetcher = video_fetcher(store, settings.fetch)
        self._tempo_filter: TempoFilter | None = None

    async def run(self, merged: AudioMerged) -> VideoMuxed:
        """Return the event of the stored video with its music.

        Raises:
            MediaError: the video is unavailable or unsuitable, or the tempo is out of range.
            FfmpegError: ffmpeg failed or timed out.
            RetryableError: the store, the video's server or the scratch folder is unavailable.
        """
        if merged.video is None:
            raise MediaError(
                "video: the job has no video to mux the track with; set video.url or "
                "video.object, or start a run without merge_with_video"
            )
        key = keys.muxed_key(merged.job_id, merged.run)
        done = await stored_result(self._store, key, VideoMuxed)
        if done is not None:
            WORK_DEDUPLICATED_TOTAL.labels("muxer", "already_stored").inc()
            return done
        exceeded = self._limits.exceeded_by(scene_count=merged.scene_count, run_s=merged.duration_s)
        if exceeded is not None:
            raise JobError(exceeded, code="limit_exceeded")
        if merged.video.url is None:
            async with self.slots, self.scratch.folder() as folder:
                await self._fetch_video(merged.video, folder)
                return await self._run_in(folder, merged, merged.video)
        async with self.scratch.folder() as folder:  # a slow server must not take a slot
            await self._fetch_video(merged.video, folder)
            async with self.slots:
                return await self._run_in(folder, merged, merged.video)

    async def _run_in(
        self, folder: ScratchFolder, merged: AudioMerged, ref: VideoRef
    ) -> VideoMuxed:
        """Mux the fetched video and store the result."""
        result = folder.path / "result.mp4"
        planned = await self._make_result(merged, ref, folder, result)
        return await self._store_result(merged, planned, result)

    async def _fetch_video(self, ref: VideoRef, folder: ScratchFolder) -> None:
        with trace.span("fetch video"):
            await self._fetcher.fetch(ref, folder.path / _VIDEO, reserve=folder.reserve)

    async def _make_result(
        self, merged: AudioMerged, ref: VideoRef, folder: ScratchFolder, result: Path
    ) -> MuxPlan:
        """Probe, plan and mux the fetched video; write and check `result`."""
        video_path = folder.path / _VIDEO
        name = "video.url" if ref.object is None else "video.object"
        video = await self._probe_source(video_path, name=name)
        if video.patch is not None:
            await asyncio.to_thread(video.patch.apply, video_path)
        self._log.debug(
            "video fetched and probed",
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
            "mux planned",
            action="video.planned",
            mode=merged.params.sync_mode.value,
            samples=planned.samples,
            tempo=planned.tempo,
        )
        folder.reserve(merged.size_bytes)
        await self._fetch_track(merged, folder.path / _TRACK)
        with trace.span("mux video"):
            await self._run_ffmpeg(planned, video, folder, result)
        if video.shown_s is not None:
            await asyncio.to_thread(end_presentation, result, video.shown_s)
        muxed = await self._sandbox.run(check_result, result, source=video, samples=planned.samples)
        self._log.debug("result checked", action="video.checked", samples=planned.samples)
        lost = kept_warnings(video.extras, muxed.extras)
        return replace(planned, warnings=(*planned.warnings, *video.notes, *lost))

    async def _run_ffmpeg(
        self, planned: MuxPlan, video: VideoInfo, folder: ScratchFolder, result: Path
    ) -> None:
        """Mux with what MP4 can hold of the film; if that fails, picture and music alone."""
        result_bytes_max = _result_bytes_max(folder.path / _VIDEO, video.duration_s)
        folder.reserve(result_bytes_max)
        tag = tag_args(video.video_codec, video.codec_tag)
        for kept in (kept_args(video.extras), NOTHING_ELSE):
            args = ffmpeg_args(
                planned,
                demuxer=video.demuxer,
                guard=INPUT_GUARD,
                video=folder.path / _VIDEO,
                track=folder.path / _TRACK,
                target=result,
                lead_s=video.lead_s,
                beside=(*tag, *kept),
            )
            longest = max(planned.samples, planned.track_samples)
            try:
                await self._ffmpeg.run(
                    args, media_s=seconds_at(longest), file_bytes_max=result_bytes_max
                )
            except FfmpegError as error:
                if error.retryable or not video.extras.subtitles or kept is NOTHING_ELSE:
                    raise
            else:
                return

    async def _probe_source(self, path: Path, *, name: str) -> VideoInfo:
        try:
            return await self._sandbox.run(probe_source, path, name=name)
        except MediaError as error:
            if error.reason.startswith(name):
                raise
            raise MediaError(f"{name}: {error.reason}", code=error.code) from error

    async def _fetch_track(self, merged: AudioMerged, path: Path) -> None:
        try:
            await self._store.get_file(merged.object_key, path)
        except NotFoundError as error:
            raise MediaError(
                f"the track of run {merged.run} is no longer in the store; start a new run",
                code="track_missing",
                retryable=True,
            ) from error

    async def _best_tempo_filter(self) -> TempoFilter:
        """Return the best tempo filter that this ffmpeg lists."""
        if self._tempo_filter is None:
            listing = (await self._ffmpeg.run(["-filters"])).stdout.decode(errors="replace")
            names = {name for row in listing.splitlines() for name in re.findall(r"\S+", row)[1:2]}
            best = next((f for f in TempoFilter if f in names), None)
            if best is None:  # every build has one; a failed listing is not cached
                raise FfmpegError((self._ffmpeg.binary, "-filters"), 0, "it lists no tempo filter")
            self._tempo_filter = best
        return self._tempo_filter

    async def _store_result(
        self, merged: AudioMerged, planned: MuxPlan, result: Path
    ) -> VideoMuxed:
        sha256, size_bytes = await asyncio.to_thread(file_fingerprint, result)
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
        key = keys.muxed_key(merged.job_id, merged.run)
        await store_result(self._store, key, event, result, content_type=VIDEO_CONTENT_TYPE)
        return event


def _result_bytes_max(video: Path, duration_s: float) -> int:
    """Return more than a result of this video can have: its bytes, the sound and an index."""
    copied = round(_CONTAINER_SHARE * video.stat().st_size)
    return copied + round(duration_s * _AAC_BYTES_PER_S) + _CONTAINER_BYTES

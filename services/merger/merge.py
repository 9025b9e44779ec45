"""Merges the segments of a run into its track.

Reads the events of all segments from the store, joins their clips into one raw file, masters and
encodes it, and stores first the track and then its event. At most two clips are in memory, and
the temporary folder is always removed. If the run already has its track, the stored event is
returned.

Units: samples at 48 kHz. I/O: store, ffmpeg, a temporary folder.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from pydantic import ValidationError

from services.merger.assembly import Assembly, JoinRules
from services.merger.mastering import Mastered, master
from services.merger.seam_metrics import FRAME_BYTES, measure_clicks, record_metrics
from services.merger.settings import MergerSettings
from services.merger.timeline import build_timeline, check_run
from shared.contract.events import AudioMerged, Seam, SegmentGenerated
from shared.contract.params import Transition
from shared.contract.validation import field_problems, join_problems
from shared.errors import InvalidEventError, JobError, NotFoundError, RetryableError
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import (
    SAMPLE_RATE_HZ,
    TRACK_CONTENT_TYPE,
    Audio,
    samples_at,
    seconds_at,
)
from shared.processing.slots import Slots
from shared.scratch import Scratch, ScratchFolder
from shared.storage import ObjectStore, keys
from shared.storage.results import file_fingerprint, store_result, stored_result
from shared.telemetry import trace
from shared.telemetry.log import logger_of
from shared.telemetry.metrics import WORK_DEDUPLICATED_TOTAL

P = ParamSpec("P")
T = TypeVar("T")
_RAW_NAME, _MP3_NAME = "track.f32", "track.mp3"
_MP3_BYTES = 1  # per sample, more than its bit rate
_MIB = 1024 * 1024
_LONGER_S = 10  # than the segment says: an MP3 without its header


class Merge:
    """Merges runs into tracks. Safe to call for many runs at once."""

    def __init__(self, *, store: ObjectStore, ffmpeg: Ffmpeg, settings: MergerSettings) -> None:
        self._store = store
        self._ffmpeg = ffmpeg
        self._settings = settings
        self.slots = Slots(settings.slots)
        self.scratch = Scratch(settings.scratch, name="merge")
        self._log = logger_of("merger")

    async def run(self, last: SegmentGenerated) -> AudioMerged:
        """Return the event of the track of the run that ends with this segment.

        Raises:
            RetryableError: a segment or clip is not in the store yet, or is damaged.
            InvalidEventError: the segments do not belong together.
            JobError: a clip is not audio, or ffmpeg failed.
        """
        stored = await self._stored_event(last.job_id, last.run)
        if stored is not None:
            WORK_DEDUPLICATED_TOTAL.labels("merger", "already_stored").inc()
            return stored
        self._check_limits(last.scene_count, 0)  # before every segment is read
        segments = await self._read_segments(last)
        self._check_limits(last.scene_count, segments[-1].start_samples + segments[-1].samples)
        async with self.slots, self.scratch.folder() as folder:
            copied = await self._copy_kept_track(last, folder)
            return copied or await self._make_track(segments, folder)

    def _check_limits(self, scene_count: int, samples: int) -> None:
        exceeded = self._settings.limits.exceeded_by(
            scene_count=scene_count, run_s=seconds_at(samples)
        )
        if exceeded is not None:
            raise JobError(exceeded, code="limit_exceeded")

    async def _copy_kept_track(
        self, last: SegmentGenerated, folder: ScratchFolder
    ) -> AudioMerged | None:
        """Copy the track of an earlier run; None if there is none to keep."""
        if last.kept is None or not last.kept.track:
            return None
        earlier = await self._stored_event(last.job_id, last.kept.run)
        if earlier is None:  # all its segments are kept too and make the same track
            return None
        key = keys.track_key(last.job_id, last.run)
        fields = {"run": last.run, "object_key": key, "params": last.params, "video": last.video}
        folder.reserve(earlier.size_bytes)
        mp3 = folder.path / _MP3_NAME
        await self._store.get_file(earlier.object_key, mp3)
        return await self._store_track(earlier.model_copy(update=fields), mp3)

    async def _store_track(self, merged: AudioMerged, mp3: Path) -> AudioMerged:
        """Store the track, and its event last."""
        key = keys.merged_key(merged.job_id, merged.run)
        await store_result(self._store, key, merged, mp3, content_type=TRACK_CONTENT_TYPE)
        return merged

    async def _stored_event(self, job_id: str, run: int) -> AudioMerged | None:
        """Return the stored event if the track is stored too; None otherwise."""
        return await stored_result(self._store, keys.merged_key(job_id, run), AudioMerged)

    async def _read_segments(self, last: SegmentGenerated) -> list[SegmentGenerated]:
        segments = [
            last if index == last.scene_index else await self._read_segment(last, index)
            for index in range(last.scene_count)
        ]
        check_run(segments)
        self._log.debug("segments read", action="segments.fetched", count=len(segments))
        return segments

    async def _read_segment(self, last: SegmentGenerated, index: int) -> SegmentGenerated:
        key = keys.segment_key(last.job_id, last.run, index)
        try:
            return SegmentGenerated.model_validate_json(await self._store.get(key))
        except NotFoundError as error:
            raise RetryableError(
                f"the segment of scene {index + 1}/{last.scene_count} is not in the store yet"
            ) from error
        except ValidationError as error:
            problems = join_problems(field_problems(error))
            raise InvalidEventError(
                f"the segment of scene {index + 1} cannot be read: {problems}"
            ) from error

    async def _make_track(
        self, segments: Sequence[SegmentGenerated], folder: ScratchFolder
    ) -> AudioMerged:
        raw, mp3 = folder.path / _RAW_NAME, folder.path / _MP3_NAME
        rules = self._join_rules(segments[-1])
        parts = build_timeline(segments, separate=rules.transition is Transition.FADE)
        assembly = Assembly(parts, rules)
        folder.reserve(assembly.samples * (FRAME_BYTES + _MP3_BYTES) + _MIB)
        with trace.span("join clips", {"segue.clips": len(parts)}):
            await self._join(assembly, parts, raw)
            seams = await _in_thread(measure_clicks, assembly.seams, raw, rules)
        self._log.debug(
            "clips joined",
            action="clips.joined",
            clips=len(parts),
            seams=[seam.kind for seam in seams],
            samples=assembly.samples,
        )
        with trace.span("master track", {"segue.samples": assembly.samples}):
            mastered = await master(
                self._ffmpeg, raw, mp3, samples=assembly.samples, settings=self._settings
            )
        self._log.debug(
            "track mastered",
            action="loudness.measured",
            loudness_lufs=mastered.loudness.integrated_lufs,
            true_peak_dbtp=mastered.loudness.true_peak_dbtp,
            gain_db=round(mastered.gain_db, 3),
        )
        merged = await _in_thread(_build_event, segments, assembly, seams, mastered, mp3)
        record_metrics(merged.seams)
        return await self._store_track(merged, mp3)

    def _join_rules(self, segment: SegmentGenerated) -> JoinRules:
        return JoinRules(
            transition=segment.params.transition,
            fade_samples=samples_at(segment.params.fade_duration),
            crossfade_samples=self._settings.crossfade_ms * SAMPLE_RATE_HZ // 1000,
        )

    async def _join(self, assembly: Assembly, parts: Sequence[SegmentGenerated], raw: Path) -> None:
        key, clip = None, None
        for index, part in enumerate(parts):
            if part.object_key is None or part.object_key != key:  # else the same clip continues
                key, clip = part.object_key, await self._read_clip(part)
            await _in_thread(_append_clip, assembly, index, clip, raw)
        await _in_thread(_finish, assembly, raw)

    async def _read_clip(self, part: SegmentGenerated) -> Audio | None:
        """Return the decoded clip; None for silence."""
        if part.object_key is None:
            return None
        try:
            data = await self._store.get(part.object_key)
        except NotFoundError as error:
            raise RetryableError(
                f"the clip of scene {part.scene_index + 1} is not in the store yet"
            ) from error
        return await _in_thread(_decode_clip, part, data)


def _decode_clip(part: SegmentGenerated, data: bytes) -> Audio:
    """Return the decoded audio after checking its SHA-256."""
    if part.sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise RetryableError(f"the clip of scene {part.scene_index + 1} does not match its SHA-256")
    length = max(part.clip_samples, part.window_samples + part.samples)
    return decode(data, length_s_max=length // SAMPLE_RATE_HZ + _LONGER_S)


def _append_clip(assembly: Assembly, index: int, clip: Audio | None, raw: Path) -> None:
    _write(assembly.add(index, clip), raw)


def _finish(assembly: Assembly, raw: Path) -> None:
    _write(assembly.finish(), raw)
    assert raw.stat().st_size == assembly.samples * FRAME_BYTES, "the scenes decide the length"


def _write(blocks: Iterable[Audio], raw: Path) -> None:
    with raw.open("ab") as file:
        file.writelines(np.ascontiguousarray(block.T, dtype="<f4").data for block in blocks)


def _build_event(
    segments: Sequence[SegmentGenerated],
    assembly: Assembly,
    seams: tuple[Seam, ...],
    mastered: Mastered,
    mp3: Path,
) -> AudioMerged:
    last = segments[-1]
    sha256, size_bytes = file_fingerprint(mp3)
    lufs, peak = mastered.loudness.integrated_lufs, mastered.loudness.true_peak_dbtp
    return AudioMerged(
        job_id=last.job_id,
        run=last.run,
        scene_count=last.scene_count,
        object_key=keys.track_key(last.job_id, last.run),
        sha256=sha256,
        size_bytes=size_bytes,
        samples=assembly.samples,
        duration_s=seconds_at(assembly.samples),
        loudness_lufs=None if lufs is None else round(lufs, 2),
        true_peak_dbtp=None if peak is None else round(peak, 2),
        gain_db=round(mastered.gain_db, 3),
        seams=seams,
        silent_scenes=tuple(s.scene_index for s in segments if s.object_key is None),
        warnings=(*assembly.warnings, *mastered.warnings),
        params=last.params,
        video=last.video,
    )


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `call` in a thread and wait for its end even if cancelled."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise

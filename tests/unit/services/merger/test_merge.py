"""Tests of merge: from stored segments to a stored track, with the real ffmpeg."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from typing_extensions import override

from services.merger.mastering import Loudness, gain_for, master, measure
from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.contract.events import AudioMerged, SegmentGenerated
from shared.contract.params import AudioParams, Kept, Transition
from shared.errors import InvalidEventError, MediaError, RetryableError, SettingsError
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings, ScratchSettings
from shared.storage import keys
from shared.storage.filesystem import FolderStore
from tests.support.audio_builders import Take, a_run_of_takes, mp3, music

ODD_SCENES = [2.7, 1.35, 3.1]


class RecordingStore(FolderStore):
    """Records the keys that are read, and can block the first read of a clip."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gets: list[str] = []
        self.clip_requested = asyncio.Event()
        self.blocks_clips = False

    @override
    async def get(self, key: str) -> bytes:
        self.gets.append(key)
        if self.blocks_clips and key.endswith(".mp3"):
            self.clip_requested.set()
            await asyncio.Event().wait()
        return await super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    """Return an empty store."""
    return RecordingStore(tmp_path / "store")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return the merger's scratch folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def merge(store: RecordingStore, scratch: Path) -> Merge:
    """Return a merger with this store and scratch folder."""
    settings = MergerSettings(scratch=ScratchSettings(folder=scratch))
    return Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)


async def store_run(store: FolderStore, takes: Sequence[Take]) -> SegmentGenerated:
    """Store a run as the generator does; return its last event."""
    for take in takes:
        segment = take.segment
        if take.file is not None:
            assert segment.object_key is not None
            await store.put(segment.object_key, take.file)
        key = keys.segment_key(segment.job_id, segment.run, segment.scene_index)
        await store.put(key, segment.model_dump_json().encode())
    return takes[-1].segment


def a_run_of_mp3s(durations: Sequence[float], **options: Any) -> list[Take]:
    """Return a run whose clips are MP3 files."""
    return a_run_of_takes(durations, as_mp3=True, **options)


def entries_in(folder: Path) -> int:
    """Return the number of entries of a folder."""
    return len(list(folder.iterdir()))


async def measure_track(store: FolderStore, merged: AudioMerged, folder: Path) -> Loudness:
    """Measure the stored track."""
    path = folder / "stored.mp3"
    await store.get_file(merged.object_key, path)
    return await measure(Ffmpeg(FfmpegSettings()), ("-i", path), media_s=merged.duration_s)


async def test_the_merger_makes_a_track_of_exact_length_and_loudness(
    store: RecordingStore, merge: Merge, scratch: Path, tmp_path: Path
) -> None:
    """To the sample, within 0.2 LU of -14 LUFS, below -1 dBTP; spliced without a click."""
    last = await store_run(store, a_run_of_mp3s(ODD_SCENES, gains_db=[0, 3, -3]))

    merged = await merge.run(last)

    track = await store.get(merged.object_key)
    assert decode(track).shape == (2, 343_200)
    assert merged.samples == 343_200
    assert merged.duration_s == pytest.approx(7.15)
    meter = await measure_track(store, merged, tmp_path)
    assert meter.integrated_lufs == pytest.approx(-14, abs=0.2)
    assert meter.true_peak_dbtp is not None
    assert meter.true_peak_dbtp <= -1
    assert merged.loudness_lufs == pytest.approx(meter.integrated_lufs, abs=0.01)
    assert merged.true_peak_dbtp == pytest.approx(meter.true_peak_dbtp, abs=0.01)
    assert [seam.kind for seam in merged.seams] == ["splice", "splice"]
    assert all(seam.click is not None and seam.click < 10 for seam in merged.seams)
    assert all(abs(seam.level_step_db or 0) < 1 for seam in merged.seams)
    assert (merged.sha256, merged.size_bytes) == (hashlib.sha256(track).hexdigest(), len(track))
    assert merged.warnings == ()
    assert entries_in(scratch) == 0


async def test_the_merger_stores_the_event_with_its_track(
    store: RecordingStore, merge: Merge
) -> None:
    """It can be published again from the store."""
    merged = await merge.run(await store_run(store, a_run_of_mp3s([1])))

    key = keys.merged_key(merged.job_id, merged.run)
    assert AudioMerged.model_validate_json(await store.get(key)) == merged


async def test_the_seams_of_a_track_are_counted_once(store: RecordingStore, merge: Merge) -> None:
    """A track that is already stored adds nothing to the metrics."""
    splice = {"kind": "splice"}
    names: list[tuple[str, dict[str, str]]] = [
        ("segue_merger_seams_total", splice),
        ("segue_merger_seam_step_decibels_count", splice),
        ("segue_merger_seam_click_ratio_count", splice),
        ("segue_merger_seam_correlation_ratio_count", {}),
        ("segue_work_deduplicated_total", {"service": "merger", "reason": "already_stored"}),
    ]

    def figures() -> list[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]

    before = figures()
    last = await store_run(store, a_run_of_mp3s([1, 1]))
    await merge.run(last)
    await merge.run(last)

    assert [now - then for now, then in zip(figures(), before, strict=True)] == [1, 1, 1, 1, 1]


class ScratchCountingStore(FolderStore):
    """Counts the scratch folders that exist while a track is stored."""

    def __init__(self, root: Path, scratch: Path) -> None:
        super().__init__(root)
        self._scratch = scratch
        self.counts: list[int] = []

    @override
    async def put_file(self, key: str, path: Path, **options: Any) -> None:
        self.counts.append(entries_in(self._scratch))
        await super().put_file(key, path, **options)


@pytest.mark.parametrize("slots", [1, 2])
async def test_the_merger_runs_at_most_as_many_merges_as_slots(
    tmp_path: Path, scratch: Path, slots: int
) -> None:
    """Each holds its clips in memory; the others wait without any."""
    store = ScratchCountingStore(tmp_path / "store", scratch)
    settings = MergerSettings(scratch=ScratchSettings(folder=scratch), slots=slots)
    merge = Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)
    lasts = [await store_run(store, a_run_of_mp3s([0.5], job_id=f"job-{n}")) for n in range(4)]

    tracks = await asyncio.gather(*(merge.run(last) for last in lasts))

    assert [track.job_id for track in tracks] == [last.job_id for last in lasts]
    assert len(store.counts) == len(lasts)
    assert max(store.counts) == slots


async def test_a_replayed_record_returns_the_stored_event(
    store: RecordingStore, merge: Merge
) -> None:
    """Only the event is read; the track does not change."""
    last = await store_run(store, a_run_of_mp3s([1, 1]))
    first = await merge.run(last)
    before = await store.stat(first.object_key)
    store.gets.clear()

    assert await merge.run(last) == first
    assert store.gets == [keys.merged_key(first.job_id, first.run)]
    assert await store.stat(first.object_key) == before


async def test_a_kept_track_is_copied_without_reading_a_clip(
    store: RecordingStore, merge: Merge, scratch: Path
) -> None:
    """The bytes are the same; without the earlier track, the kept clips make it again."""
    takes = a_run_of_mp3s([1, 1])
    first = await merge.run(await store_run(store, takes))
    fields = {"run": 2, "kept": Kept(run=1, track=True)}
    redriven = [replace(t, segment=t.segment.model_copy(update=fields)) for t in takes]
    last = await store_run(store, redriven)
    store.gets.clear()

    copied = await merge.run(last)

    assert copied == first.model_copy(
        update={"run": 2, "object_key": keys.track_key("job-1", 2), "params": last.params}
    )
    assert await store.get(copied.object_key) == await store.get(first.object_key)
    assert [key for key in store.gets if "clip" in key] == []
    assert entries_in(scratch) == 0
    for key in (keys.merged_key("job-1", 2), keys.merged_key("job-1", 1)):
        await store.delete(key)
    assert (await merge.run(last)).samples == first.samples


async def test_a_lost_track_is_merged_again(store: RecordingStore, merge: Merge) -> None:
    """The event alone is not enough; the same segments give the same bytes."""
    last = await store_run(store, a_run_of_mp3s([1, 1]))
    first = await merge.run(last)
    await store.delete(first.object_key)

    assert await merge.run(last) == first
    assert hashlib.sha256(await store.get(first.object_key)).hexdigest() == first.sha256


async def test_a_damaged_clip_is_never_merged(
    store: RecordingStore, merge: Merge, scratch: Path
) -> None:
    """One wrong bit: no track, no event, no scratch files; a retry may succeed."""
    takes = a_run_of_mp3s([1, 1])
    last = await store_run(store, takes)
    key, file = takes[1].segment.object_key, takes[1].file
    assert key is not None
    assert file is not None
    await store.put(key, file[:5000] + bytes([file[5000] ^ 1]) + file[5001:])

    with pytest.raises(RetryableError, match="clip of scene 2 does not match its SHA-256"):
        await merge.run(last)

    assert await store.stat(keys.track_key(last.job_id, last.run)) is None
    assert entries_in(scratch) == 0

    await store.put(key, file)
    assert (await merge.run(last)).samples == 96_000


async def test_a_missing_segment_or_clip_is_retryable(store: RecordingStore, merge: Merge) -> None:
    """The store may lag behind the topic."""
    takes = a_run_of_mp3s([1, 1, 1])
    last = await store_run(store, takes)
    key = takes[0].segment.object_key
    assert key is not None
    await store.delete(key)
    with pytest.raises(RetryableError, match="clip of scene 1 is not in the store yet"):
        await merge.run(last)

    await store.delete(keys.segment_key(last.job_id, last.run, 1))
    with pytest.raises(RetryableError, match="segment of scene 2/3 is not in the store yet"):
        await merge.run(last)


async def test_clips_that_a_cumulative_clip_replaces_are_not_read(
    store: RecordingStore, merge: Merge
) -> None:
    """A replaced clip may be missing; the track covers both scenes without a seam."""
    takes = a_run_of_mp3s([2, 2])
    whole = mp3(music(np.arange(4 * 32_000), rate_hz=32_000))
    fields = {
        "replaces": True,
        "window_samples": 96_000,
        "clip_samples": 192_000,
        "sha256": hashlib.sha256(whole).hexdigest(),
    }
    takes[1] = replace(takes[1], file=whole, segment=takes[1].segment.model_copy(update=fields))
    last = await store_run(store, takes)
    assert takes[0].segment.object_key is not None
    await store.delete(takes[0].segment.object_key)

    merged = await merge.run(last)

    assert (merged.samples, merged.seams, merged.warnings) == (192_000, (), ())
    assert decode(await store.get(merged.object_key)).shape == (2, 192_000)


async def test_the_merger_rejects_segments_that_do_not_belong_together(
    store: RecordingStore, merge: Merge
) -> None:
    """The error is not retryable."""
    last = await store_run(store, a_run_of_mp3s([1, 1]))
    odd = last.model_copy(update={"start_samples": 48_001})

    with pytest.raises(InvalidEventError, match="starts at sample 48001"):
        await merge.run(odd)


async def test_a_run_of_silence_makes_a_silent_track(store: RecordingStore, merge: Merge) -> None:
    """It has its length, no loudness and no gain."""
    last = await store_run(store, a_run_of_mp3s([1.5, 0.7], kinds=["silence", "silence"]))

    merged = await merge.run(last)

    sound = decode(await store.get(merged.object_key))
    assert sound.shape == (2, 105_600)
    assert not sound.any()
    assert (merged.loudness_lufs, merged.true_peak_dbtp, merged.gain_db) == (None, None, 0.0)
    assert merged.silent_scenes == (0, 1)
    assert merged.seams == ()


async def test_fade_duration_sets_the_length_of_a_fade(store: RecordingStore, merge: Merge) -> None:
    """0.5 s: full level before it, silence at the cut."""
    params = AudioParams(fade_duration=0.5, transition=Transition.FADE)
    last = await store_run(store, a_run_of_mp3s([3, 3], params=params))

    merged = await merge.run(last)

    sound = np.abs(decode(await store.get(merged.object_key)))
    loud = sound[:, 72_000 : 144_000 - 24_000].max()
    assert sound[:, 144_000 - 240 : 144_000 + 240].max() < 0.02 * loud
    assert sound[:, 144_000 - 13_000 : 144_000 - 11_000].max() < 0.8 * loud
    assert sound[:, 144_000 - 48_000 : 144_000 - 24_000].max() > 0.8 * loud
    assert [seam.kind for seam in merged.seams] == ["fade"]
    assert merged.params == params


async def test_a_cancelled_merge_removes_its_scratch_files(
    store: RecordingStore, merge: Merge, scratch: Path
) -> None:
    """The temporary folder exists only while the merge runs."""
    last = await store_run(store, a_run_of_mp3s([1, 1]))
    store.blocks_clips = True
    work = asyncio.create_task(merge.run(last))
    async with asyncio.timeout(20):
        await store.clip_requested.wait()
    assert entries_in(scratch) == 1

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert entries_in(scratch) == 0
    assert await store.stat(keys.track_key(last.job_id, last.run)) is None


async def test_a_missing_scratch_folder_is_retryable(store: RecordingStore, tmp_path: Path) -> None:
    """The message names the scratch folder."""
    settings = MergerSettings(scratch=ScratchSettings(folder=tmp_path / "nowhere"))
    merge = Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)

    with pytest.raises(RetryableError, match="scratch folder: No such file"):
        await merge.run(await store_run(store, a_run_of_mp3s([1])))


async def test_memory_does_not_grow_with_the_number_of_scenes(
    store: RecordingStore, merge: Merge
) -> None:
    """Two clips at a time: four times the scenes need the same peak memory."""
    peaks = []
    for run, count in enumerate((4, 16), start=1):
        takes = a_run_of_mp3s([1.0] * count, kinds=["fresh"] * count, run=run)
        last = await store_run(store, takes)
        del takes
        tracemalloc.start()
        try:
            await merge.run(last)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    assert peaks[1] < 1.25 * peaks[0]  # the whole track would add 4.6 MB to 6


@pytest.mark.parametrize("samples", [48, 1152, 1153, 1198, 1199, 2304, 2310, 24_001])
async def test_the_mp3_decodes_to_the_exact_length(samples: int, tmp_path: Path) -> None:
    """Also where LAME ends with a frame of padding and writes a wrong length."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    np.ascontiguousarray(music(np.arange(samples)).T).tofile(raw)

    await master(Ffmpeg(FfmpegSettings()), raw, target, samples=samples, settings=MergerSettings())

    assert decode(target.read_bytes()).shape == (2, samples)


async def test_peaks_limit_the_gain_with_a_warning(
    tmp_path: Path,
) -> None:
    """One loud click in quiet music: below -1 dBTP after encoding, and never compressed."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    sound = music(np.arange(5 * 48_000)) * np.float32(0.2)
    sound[:, 100_000:100_200] += np.hanning(200).astype(np.float32) * np.float32(0.7)
    np.ascontiguousarray(sound.T).tofile(raw)

    mastered = await master(
        Ffmpeg(FfmpegSettings()), raw, target, samples=5 * 48_000, settings=MergerSettings()
    )

    peak, loud = mastered.loudness.true_peak_dbtp, mastered.loudness.integrated_lufs
    assert peak is not None
    assert -1.5 < peak <= -1
    assert loud is not None
    assert loud < -15
    assert mastered.warnings == (
        f"the track reaches {loud:.1f} LUFS instead of -14: its peaks allow no more gain",
    )


async def test_a_track_that_overshoots_is_encoded_again_at_a_lower_level(tmp_path: Path) -> None:
    """Clipped noise decodes from MP3 well above its input level."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    random = np.random.default_rng(1)
    noise = np.sign(random.standard_normal((2, 240_000))).astype(np.float32) * np.float32(0.5)
    np.ascontiguousarray(noise.T).tofile(raw)
    settings = MergerSettings(loudness_lufs=-5)

    mastered = await master(
        Ffmpeg(FfmpegSettings()), raw, target, samples=240_000, settings=settings
    )

    assert mastered.loudness.true_peak_dbtp is not None
    assert -1.5 < mastered.loudness.true_peak_dbtp <= -1


def test_the_gain_reaches_the_target_or_the_peak_limit() -> None:
    """Silence gets no gain; a track too short to measure is only kept below the limit."""
    settings = MergerSettings()

    def gain(lufs: float | None, peak: float | None) -> float:
        return gain_for(Loudness(integrated_lufs=lufs, true_peak_dbtp=peak), settings)

    assert gain(-20, -12) == pytest.approx(6)
    assert gain(-9, -0.2) == pytest.approx(-5)
    assert gain(-20, -3) == pytest.approx(2)
    assert gain(None, None) == 0
    assert gain(None, -8) == 0
    assert gain(None, 0.5) == pytest.approx(-1.5)


def test_a_setting_out_of_range_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("SEGUE_LOUDNESS_LUFS", "14")

    with pytest.raises(SettingsError, match="SEGUE_LOUDNESS_LUFS"):
        MergerSettings.from_environment()


async def test_a_clip_that_is_not_audio_fails_the_job(store: RecordingStore, merge: Merge) -> None:
    """A retry would read the same bytes."""
    takes = a_run_of_mp3s([1])
    text = b"this is not music" * 100
    segment = takes[0].segment.model_copy(update={"sha256": hashlib.sha256(text).hexdigest()})
    last = await store_run(store, [replace(takes[0], segment=segment, file=text)])

    with pytest.raises(MediaError, match="Invalid audio output format"):
        await merge.run(last)


def test_the_mp3_builder_is_gapless_only_with_its_header() -> None:
    """Without the header the clip is longer by its delay."""
    sound = music(np.arange(32_000), rate_hz=32_000)

    assert decode(mp3(sound)).shape == (2, 48_000)
    assert decode(mp3(sound, header=False)).shape[1] > 48_000 + 1657

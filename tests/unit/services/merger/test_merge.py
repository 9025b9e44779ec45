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
from shared.settings import FfmpegSettings
from shared.storage import keys
from shared.storage.filesystem import FolderStore
from tests.support.audio_builders import Take, a_run_of_takes, mp3, music

ODD_SCENES = [2.7, 1.35, 3.1]


class ACountingStore(FolderStore):
    """A folder that remembers what was read, and can hold back the first clip."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gets: list[str] = []
        self.clip_wanted = asyncio.Event()
        self.hold = False

    @override
    async def get(self, key: str) -> bytes:
        self.gets.append(key)
        if self.hold and key.endswith(".mp3"):
            self.clip_wanted.set()
            await asyncio.Event().wait()
        return await super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> ACountingStore:
    """An empty store."""
    return ACountingStore(tmp_path / "store")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the merger works."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def merge(store: ACountingStore, scratch: Path) -> Merge:
    """The merger on both."""
    settings = MergerSettings(scratch_dir=scratch)
    return Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)


async def stored(store: FolderStore, takes: Sequence[Take]) -> SegmentGenerated:
    """Put a run into the store as the generator does; its last event."""
    for take in takes:
        segment = take.segment
        if take.file is not None:
            assert segment.object_key is not None
            await store.put(segment.object_key, take.file)
        key = keys.segment_key(segment.job_id, segment.run, segment.scene_index)
        await store.put(key, segment.model_dump_json().encode())
    return takes[-1].segment


def a_stored_kind_of_run(durations: Sequence[float], **given: Any) -> list[Take]:
    """A run whose clips are MP3 files."""
    return a_run_of_takes(durations, as_mp3=True, **given)


def left_in(folder: Path) -> int:
    """How many things lie in a folder."""
    return len(list(folder.iterdir()))


async def remeasured(store: FolderStore, merged: AudioMerged, folder: Path) -> Loudness:
    """What a meter says of the stored track."""
    path = folder / "again.mp3"
    await store.get_file(merged.object_key, path)
    return await measure(Ffmpeg(FfmpegSettings()), ("-i", path), media_s=merged.duration_s)


async def test_a_run_becomes_a_track_of_exact_length_at_its_level(
    store: ACountingStore, merge: Merge, scratch: Path, tmp_path: Path
) -> None:
    """To the sample, within 0.2 LU of -14 LUFS, below -1 dBTP; spliced, without a click."""
    last = await stored(store, a_stored_kind_of_run(ODD_SCENES, gains_db=[0, 3, -3]))

    merged = await merge.run(last)

    track = await store.get(merged.object_key)
    assert decode(track).shape == (2, 343_200)
    assert merged.samples == 343_200
    assert merged.duration_s == pytest.approx(7.15)
    meter = await remeasured(store, merged, tmp_path)
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
    assert left_in(scratch) == 0


async def test_the_event_lies_beside_its_track(store: ACountingStore, merge: Merge) -> None:
    """Whoever lost the record finds it there."""
    merged = await merge.run(await stored(store, a_stored_kind_of_run([1])))

    key = keys.merged_key(merged.job_id, merged.run)
    assert AudioMerged.model_validate_json(await store.get(key)) == merged


async def test_every_joint_is_measured_once(store: ACountingStore, merge: Merge) -> None:
    """A track that was made before is found, and its joints are not counted again."""
    splice = {"kind": "splice"}
    names: list[tuple[str, dict[str, str]]] = [
        ("segue_merger_seams_total", splice),
        ("segue_merger_seam_step_decibels_count", splice),
        ("segue_merger_seam_click_ratio_count", splice),
        ("segue_merger_seam_correlation_ratio_count", {}),
        ("segue_redone_total", {"service": "merger", "how": "found"}),
    ]

    def figures() -> list[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]

    before = figures()
    last = await stored(store, a_stored_kind_of_run([1, 1]))
    await merge.run(last)
    await merge.run(last)

    assert [now - then for now, then in zip(figures(), before, strict=True)] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("slots", [1, 2])
async def test_no_more_runs_are_joined_at_once_than_there_are_slots(
    store: ACountingStore, scratch: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Each holds its clips in memory; the others wait with nothing."""
    settings = MergerSettings(scratch_dir=scratch, slots=slots)
    merge = Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)
    lasts = [await stored(store, a_stored_kind_of_run([0.5], job_id=f"job-{n}")) for n in range(4)]
    made, at_once = merge._make_track, [0]

    async def watched(segments: Sequence[SegmentGenerated], folder: Path) -> AudioMerged:
        at_once.append(len(list(scratch.iterdir())))
        return await made(segments, folder)

    monkeypatch.setattr(merge, "_make_track", watched)
    tracks = await asyncio.gather(*(merge.run(last) for last in lasts))

    assert [track.job_id for track in tracks] == [last.job_id for last in lasts]
    assert max(at_once) == slots


async def test_a_second_run_says_the_same_and_does_no_work(
    store: ACountingStore, merge: Merge
) -> None:
    """A replay reads the event alone, and leaves the track as it is."""
    last = await stored(store, a_stored_kind_of_run([1, 1]))
    first = await merge.run(last)
    before = await store.stat(first.object_key)
    store.gets.clear()

    assert await merge.run(last) == first
    assert store.gets == [keys.merged_key(first.job_id, first.run)]
    assert await store.stat(first.object_key) == before


async def test_a_track_that_is_kept_is_taken_and_no_clip_is_read(
    store: ACountingStore, merge: Merge, scratch: Path
) -> None:
    """A copy under the new run, to the byte; were the old one gone, its clips would make it."""
    takes = a_stored_kind_of_run([1, 1])
    first = await merge.run(await stored(store, takes))
    told = {"run": 2, "kept": Kept(run=1, track=True)}
    again = [replace(t, segment=t.segment.model_copy(update=told)) for t in takes]
    last = await stored(store, again)
    store.gets.clear()

    kept = await merge.run(last)

    assert kept == first.model_copy(
        update={"run": 2, "object_key": keys.track_key("job-1", 2), "params": last.params}
    )
    assert await store.get(kept.object_key) == await store.get(first.object_key)
    assert [key for key in store.gets if "clip" in key] == []
    assert left_in(scratch) == 0
    for key in (keys.merged_key("job-1", 2), keys.merged_key("job-1", 1)):
        await store.delete(key)
    assert (await merge.run(last)).samples == first.samples


async def test_a_track_that_was_lost_is_made_again(store: ACountingStore, merge: Merge) -> None:
    """The event alone is not a track; the same segments give the same bytes."""
    last = await stored(store, a_stored_kind_of_run([1, 1]))
    first = await merge.run(last)
    await store.delete(first.object_key)

    assert await merge.run(last) == first
    assert hashlib.sha256(await store.get(first.object_key)).hexdigest() == first.sha256


async def test_a_damaged_clip_is_never_merged(
    store: ACountingStore, merge: Merge, scratch: Path
) -> None:
    """One wrong bit: no track, no event, nothing left behind; another try may find it whole."""
    takes = a_stored_kind_of_run([1, 1])
    last = await stored(store, takes)
    key, file = takes[1].segment.object_key, takes[1].file
    assert key is not None
    assert file is not None
    await store.put(key, file[:5000] + bytes([file[5000] ^ 1]) + file[5001:])

    with pytest.raises(RetryableError, match="clip of scene 1 does not match its SHA-256"):
        await merge.run(last)

    assert await store.stat(keys.track_key(last.job_id, last.run)) is None
    assert left_in(scratch) == 0

    await store.put(key, file)
    assert (await merge.run(last)).samples == 96_000


async def test_a_segment_or_clip_that_is_not_there_yet_is_waited_for(
    store: ACountingStore, merge: Merge
) -> None:
    """The store may lag behind the topic: the same record again, later."""
    takes = a_stored_kind_of_run([1, 1, 1])
    last = await stored(store, takes)
    key = takes[0].segment.object_key
    assert key is not None
    await store.delete(key)
    with pytest.raises(RetryableError, match="clip of scene 0 is not in the store yet"):
        await merge.run(last)

    await store.delete(keys.segment_key(last.job_id, last.run, 1))
    with pytest.raises(RetryableError, match="segment 1 of 3 is not in the store yet"):
        await merge.run(last)


async def test_what_a_cumulative_track_replaces_is_not_even_read(
    store: ACountingStore, merge: Merge
) -> None:
    """Its clip may be gone; the track is as long as both scenes, without a seam."""
    takes = a_stored_kind_of_run([2, 2])
    whole = mp3(music(np.arange(4 * 32_000), rate_hz=32_000))
    fields = {
        "replaces": True,
        "window_samples": 96_000,
        "clip_samples": 192_000,
        "sha256": hashlib.sha256(whole).hexdigest(),
    }
    takes[1] = replace(takes[1], file=whole, segment=takes[1].segment.model_copy(update=fields))
    last = await stored(store, takes)
    assert takes[0].segment.object_key is not None
    await store.delete(takes[0].segment.object_key)

    merged = await merge.run(last)

    assert (merged.samples, merged.seams, merged.warnings) == (192_000, (), ())
    assert decode(await store.get(merged.object_key)).shape == (2, 192_000)


async def test_segments_that_do_not_belong_together_are_refused(
    store: ACountingStore, merge: Merge
) -> None:
    """A wrong record stays wrong: it is not tried again."""
    last = await stored(store, a_stored_kind_of_run([1, 1]))
    odd = last.model_copy(update={"start_samples": 48_001})

    with pytest.raises(InvalidEventError, match="starts at sample 48001"):
        await merge.run(odd)


async def test_a_run_of_silence_is_a_silent_track(store: ACountingStore, merge: Merge) -> None:
    """No gain can help it; it has its length and says what it is."""
    last = await stored(store, a_stored_kind_of_run([1.5, 0.7], kinds=["silence", "silence"]))

    merged = await merge.run(last)

    sound = decode(await store.get(merged.object_key))
    assert sound.shape == (2, 105_600)
    assert not sound.any()
    assert (merged.loudness_lufs, merged.true_peak_dbtp, merged.gain_db) == (None, None, 0.0)
    assert merged.silent_scenes == (0, 1)
    assert merged.seams == ()


async def test_the_asked_for_fade_is_as_long_as_was_asked(
    store: ACountingStore, merge: Merge
) -> None:
    """Half a second of fade: loud until then, nothing at the cut."""
    params = AudioParams(fade_duration=0.5, transition=Transition.FADE)
    last = await stored(store, a_stored_kind_of_run([3, 3], params=params))

    merged = await merge.run(last)

    sound = np.abs(decode(await store.get(merged.object_key)))
    loud = sound[:, 72_000 : 144_000 - 24_000].max()
    assert sound[:, 144_000 - 240 : 144_000 + 240].max() < 0.02 * loud
    assert sound[:, 144_000 - 13_000 : 144_000 - 11_000].max() < 0.8 * loud
    assert sound[:, 144_000 - 48_000 : 144_000 - 24_000].max() > 0.8 * loud
    assert [seam.kind for seam in merged.seams] == ["fade"]
    assert merged.params == params


async def test_a_cancelled_merge_leaves_nothing_on_the_disk(
    store: ACountingStore, merge: Merge, scratch: Path
) -> None:
    """The folder is there while it works, and gone when it was stopped."""
    last = await stored(store, a_stored_kind_of_run([1, 1]))
    store.hold = True
    work = asyncio.create_task(merge.run(last))
    async with asyncio.timeout(20):
        await store.clip_wanted.wait()
    assert left_in(scratch) == 1

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert left_in(scratch) == 0
    assert await store.stat(keys.track_key(last.job_id, last.run)) is None


async def test_a_scratch_folder_that_is_not_there_is_named_and_may_come_back(
    store: ACountingStore, tmp_path: Path
) -> None:
    """The world, not the record."""
    settings = MergerSettings(scratch_dir=tmp_path / "nowhere")
    merge = Merge(store=store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=settings)

    with pytest.raises(RetryableError, match="scratch folder: No such file"):
        await merge.run(await stored(store, a_stored_kind_of_run([1])))


async def test_memory_does_not_grow_with_the_number_of_scenes(
    store: ACountingStore, merge: Merge
) -> None:
    """Two clips at a time: four times the scenes need no more memory at the peak."""
    peaks = []
    for run, count in enumerate((4, 16), start=1):
        takes = a_stored_kind_of_run([1.0] * count, kinds=["fresh"] * count, run=run)
        last = await stored(store, takes)
        del takes
        tracemalloc.start()
        try:
            await merge.run(last)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    assert peaks[1] < 1.25 * peaks[0]  # the whole track would add 4.6 MB to 6


@pytest.mark.parametrize("samples", [48, 1152, 1153, 1198, 1199, 2304, 2310, 24_001])
async def test_every_length_survives_the_mp3(samples: int, tmp_path: Path) -> None:
    """Also those where the encoder ends with a frame of nothing and writes a wrong padding."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    np.ascontiguousarray(music(np.arange(samples)).T).tofile(raw)

    await master(Ffmpeg(FfmpegSettings()), raw, target, samples=samples, settings=MergerSettings())

    assert decode(target.read_bytes()).shape == (2, samples)


async def test_where_the_peaks_allow_no_more_the_track_stays_quieter_and_says_so(
    tmp_path: Path,
) -> None:
    """One loud click in quiet music: below -1 dBTP through the coder, and never compressed."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    sound = music(np.arange(5 * 48_000)) * np.float32(0.2)
    sound[:, 100_000:100_200] += np.hanning(200).astype(np.float32) * np.float32(0.7)
    np.ascontiguousarray(sound.T).tofile(raw)

    made = await master(
        Ffmpeg(FfmpegSettings()), raw, target, samples=5 * 48_000, settings=MergerSettings()
    )

    peak, loud = made.loudness.true_peak_dbtp, made.loudness.integrated_lufs
    assert peak is not None
    assert -1.5 < peak <= -1
    assert loud is not None
    assert loud < -15
    assert made.warnings == (
        f"the track reaches {loud:.1f} LUFS instead of -14: its peaks allow no more gain",
    )


async def test_a_track_that_overshoots_in_the_coder_is_coded_again_lower(tmp_path: Path) -> None:
    """Clipped noise comes out of an MP3 well above what went in."""
    raw, target = tmp_path / "raw", tmp_path / "out.mp3"
    chance = np.random.default_rng(1)
    noise = np.sign(chance.standard_normal((2, 240_000))).astype(np.float32) * np.float32(0.5)
    np.ascontiguousarray(noise.T).tofile(raw)
    settings = MergerSettings(loudness_lufs=-5)

    made = await master(Ffmpeg(FfmpegSettings()), raw, target, samples=240_000, settings=settings)

    assert made.loudness.true_peak_dbtp is not None
    assert -1.5 < made.loudness.true_peak_dbtp <= -1


def test_the_gain_goes_to_the_target_or_as_far_as_the_peak_lets_it() -> None:
    """Silence gets none; what was too short to measure is only kept from clipping."""
    settings = MergerSettings()

    def gain(lufs: float | None, peak: float | None) -> float:
        return gain_for(Loudness(integrated_lufs=lufs, true_peak_dbtp=peak), settings)

    assert gain(-20, -12) == pytest.approx(6)
    assert gain(-9, -0.2) == pytest.approx(-5)
    assert gain(-20, -3) == pytest.approx(2)
    assert gain(None, None) == 0
    assert gain(None, -8) == 0
    assert gain(None, 0.5) == pytest.approx(-1.5)


def test_a_setting_beyond_its_bounds_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable's name."""
    monkeypatch.setenv("SEGUE_LOUDNESS_LUFS", "14")

    with pytest.raises(SettingsError, match="SEGUE_LOUDNESS_LUFS"):
        MergerSettings.from_environment()


async def test_bytes_that_are_no_audio_end_the_job(store: ACountingStore, merge: Merge) -> None:
    """They are what was stored, so trying again does not help."""
    takes = a_stored_kind_of_run([1])
    text = b"this is not music" * 100
    segment = takes[0].segment.model_copy(update={"sha256": hashlib.sha256(text).hexdigest()})
    last = await stored(store, [replace(takes[0], segment=segment, file=text)])

    with pytest.raises(MediaError, match="Invalid audio output format"):
        await merge.run(last)


def test_the_builder_sends_what_it_says() -> None:
    """Whole seconds, gapless with the header and late without it."""
    sound = music(np.arange(32_000), rate_hz=32_000)

    assert decode(mp3(sound)).shape == (2, 48_000)
    assert decode(mp3(sound, header=False)).shape[1] > 48_000 + 1657

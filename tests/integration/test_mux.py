"""Mux: the picture is copied unchanged, and the sound is as long as the picture."""

from pathlib import Path

import av
import pytest

from services.muxer.ffmpeg_plan import AAC_FRAME_SAMPLES
from shared.contract.params import SyncMode, VideoRef
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import SAMPLE_RATE_HZ, samples_at
from shared.settings import FfmpegSettings
from tests.integration.mux_fixture import MuxFixture
from tests.support.film_clips import film_clips
from tests.support.films import (
    TONE_HZ,
    burst_at,
    picture_packets,
    pitch_hz,
    presented_sound,
    purity_db,
    real_ffmpeg,
    remux,
)
from tests.unit.shared.http.upstream_server import Answer, upstream

pytestmark = pytest.mark.integration


@pytest.fixture
def fixture(tmp_path: Path) -> MuxFixture:
    """Return a muxer with the real ffmpeg."""
    return MuxFixture(tmp_path)


CASES = [
    *(("bigbuckbunny", mode, track_s) for mode in SyncMode for track_s in (3.4, 5.28)),
    *(("bikes", mode, track_s) for mode in SyncMode for track_s in (6.3, 19.9)),
    *(("carphone", mode, track_s) for mode in SyncMode for track_s in (2.1, 4.0, 7.7)),
    *(("bikes", mode, 41.3) for mode in (SyncMode.TRIM, SyncMode.STRETCH)),
    *(("bikes", mode, 1.7) for mode in (SyncMode.TRIM, SyncMode.STRETCH)),
]


@pytest.mark.parametrize(("clip", "mode", "track_s"), CASES)
async def test_the_muxer_copies_the_picture_and_fits_the_sound_to_it(
    fixture: MuxFixture, clip: str, mode: SyncMode, track_s: float
) -> None:
    """Videos with and without sound, shorter and longer tracks, every mode."""
    source: Path = getattr(film_clips(), clip)
    event = await fixture.mux.run(
        await fixture.store_track(video=source, track_s=track_s, mode=mode)
    )
    result = await fixture.result(event)

    assert picture_packets(result) == picture_packets(source)
    presented, sound = presented_sound(result)
    assert presented == samples_at(event.duration_s)
    assert 0 <= sound.shape[1] - presented < AAC_FRAME_SAMPLES
    with av.open(str(result)) as container:
        (stream,) = container.streams.audio
        assert (stream.codec_context.name, stream.codec_context.layout.name) == ("aac", "stereo")
        assert container.duration == pytest.approx(event.duration_s * 1e6, abs=1000)
        assert "creation_time" not in container.metadata
    is_unchanged = mode is SyncMode.TRIM or track_s in {5.28, 4.0}  # 4.0 is a frame from 4.004
    assert event.tempo == (1.0 if is_unchanged else pytest.approx(track_s / event.duration_s))
    assert bool(event.warnings) is (abs(track_s - event.duration_s) > 0.5)


async def test_the_music_replaces_the_sound_of_the_video(fixture: MuxFixture) -> None:
    """Without explicit mapping, ffmpeg would choose the film's 5.1 sound."""
    event = await fixture.mux.run(
        await fixture.store_track(video=film_clips().bigbuckbunny, track_s=5.28)
    )
    with av.open(str(await fixture.result(event))) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
    _, sound = presented_sound(fixture.folder / "result.mp4")

    assert pitch_hz(sound) == pytest.approx(TONE_HZ, abs=1)
    assert purity_db(sound) > 30  # the tone alone, without the sound of the film


async def test_trim_keeps_the_music_in_sync_with_the_picture(fixture: MuxFixture) -> None:
    """Bursts stay at their times; the end without music is silent."""
    moments = (0.5, 1.7, 3.4, 5.1)
    merged = await fixture.store_track(video=film_clips().bikes, track_s=6.3, bursts_s=moments)
    event = await fixture.mux.run(merged)
    _, sound = presented_sound(await fixture.result(event))

    for moment in moments:
        place = samples_at(moment)
        assert abs(burst_at(sound, near=place) - place) <= 48  # a millisecond
    assert abs(sound[:, samples_at(6.35) :]).max() < 1e-3
    assert event.warnings == ("the scenes last 6.3 s, the video 10.0 s: the rest is silent",)


@pytest.mark.parametrize("mode", [SyncMode.STRETCH, SyncMode.COMPRESS])
@pytest.mark.parametrize("track_s", [6.3, 14.3])
@pytest.mark.parametrize("old", [False, True], ids=["rubberband", "atempo"])
async def test_a_changed_tempo_keeps_pitch_and_proportions(
    tmp_path: Path, mode: SyncMode, track_s: float, *, old: bool
) -> None:
    """With rubberband and, where ffmpeg does not have it, with atempo."""
    fixture = MuxFixture(tmp_path, an_ffmpeg_without_rubberband(tmp_path) if old else None)
    moments = tuple(track_s * part for part in (0.1, 0.3, 0.5, 0.7, 0.9))
    merged = await fixture.store_track(
        video=film_clips().bikes, track_s=track_s, mode=mode, bursts_s=moments
    )
    event = await fixture.mux.run(merged)
    presented, sound = presented_sound(await fixture.result(event))

    assert presented == 10 * SAMPLE_RATE_HZ
    assert event.tempo == pytest.approx(track_s / 10.0)
    assert pitch_hz(sound) == pytest.approx(TONE_HZ, abs=2)
    for moment in moments:
        place = samples_at(moment / event.tempo)
        assert abs(burst_at(sound, near=place) - place) < samples_at(0.05)


def an_ffmpeg_without_rubberband(folder: Path) -> Ffmpeg:
    """Return a script that runs ffmpeg but neither lists nor accepts rubberband."""
    script = folder / "ffmpeg"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f'*-filters) {real_ffmpeg().binary} "$@" | grep -v rubberband;;\n'
        '*rubberband*) echo "No such filter: rubberband" >&2; exit 8;;\n'
        f'*) exec {real_ffmpeg().binary} "$@";;\n'
        "esac\n"
    )
    script.chmod(0o755)
    return Ffmpeg(FfmpegSettings(binary=str(script)))


async def test_the_muxer_keeps_aspect_ratio_and_rotation(fixture: MuxFixture) -> None:
    """Non-square pixels and a rotated phone video."""
    turned = await remux(
        film_clips().carphone, fixture.folder / "turned.mp4", before=("-display_rotation", "90")
    )
    event = await fixture.mux.run(await fixture.store_track(video=turned, track_s=4.0))
    with av.open(str(await fixture.result(event))) as after, av.open(str(turned)) as before:
        old, new = before.streams.video[0], after.streams.video[0]
        assert new.sample_aspect_ratio == old.sample_aspect_ratio
        assert float(new.sample_aspect_ratio or 1) == pytest.approx(128 / 117)
        assert next(after.decode(new)).rotation == next(before.decode(old)).rotation == 90


CONTAINERS = {
    "matroska": ("v.mkv", ("-c", "copy")),
    "fragments": ("v.mp4", ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov")),
    "quicktime": ("v.mov", ("-c", "copy")),
    "cut by edit list": ("v.mp4", ("-c", "copy")),
    "vp9": ("v.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
    "hevc": ("v.mkv", ("-c:v", "libx265", "-preset", "ultrafast")),
}


@pytest.mark.parametrize("container", CONTAINERS)
async def test_the_muxer_copies_the_picture_from_any_container(
    fixture: MuxFixture, container: str
) -> None:
    """Matroska, WebM, QuickTime, fragmented and trimmed files become MP4."""
    name, args = CONTAINERS[container]
    coded, cut = container in {"vp9", "hevc"}, container == "cut by edit list"
    clip = film_clips().carphone if coded else film_clips().bikes
    before = ("-ss", "2.1") if cut else ()
    source = await remux(clip, fixture.folder / name, *args, before=before)
    event = await fixture.mux.run(await fixture.store_track(video=source, track_s=2.5))
    result = await fixture.result(event)

    assert picture_packets(result) == picture_packets(source)
    assert presented_sound(result)[0] == samples_at(event.duration_s)


async def test_an_edit_list_that_ends_early_decides_the_length(fixture: MuxFixture) -> None:
    """Half of the packets are never shown; the sound is as long as the shown half."""
    data = bytearray(film_clips().bikes.read_bytes())
    place = data.index(b"elst") + 12  # the first entry's duration, in milliseconds
    assert data[place : place + 4] == (10_000).to_bytes(4)
    data[place : place + 4] = (5_000).to_bytes(4)
    source = fixture.folder / "cut.mp4"
    source.write_bytes(data)
    event = await fixture.mux.run(await fixture.store_track(video=source, track_s=6.0))
    result = await fixture.result(event)

    assert event.duration_s == 5.0
    assert picture_packets(result) == picture_packets(source)
    assert presented_sound(result)[0] == 5 * SAMPLE_RATE_HZ


async def test_the_muxer_fetches_a_video_from_a_url(fixture: MuxFixture) -> None:
    """Including a redirect."""
    clip = film_clips().carphone
    async with upstream() as server:
        server.answers = {
            "/film": Answer(status="302 Found", headers={"Location": "/film.mp4"}),
            "/film.mp4": Answer(body=clip.read_bytes()),
        }
        ref = VideoRef(url=f"http://127.0.0.1:{server.port}/film")
        event = await fixture.mux.run(await fixture.store_track(video=ref, track_s=4.0))

    assert picture_packets(await fixture.result(event)) == picture_packets(clip)

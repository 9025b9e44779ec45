"""Tests of a style sample from the store to the track: continued, and never audible.

Everything but Kafka is real: providers, encoding, measuring, joining and ffmpeg.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.generator.clip.quality import best_match
from services.generator.provider_factory import build_provider
from services.generator.providers import MusicProvider
from services.generator.settings import GeneratorSettings
from services.merger.crossfade import click_ratio
from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.clock import SystemClock
from shared.contract.events import AudioMerged, Origin
from shared.contract.params import AudioParams, AudioRef, Transition
from shared.errors import ProviderRejectedError
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms, samples_at
from shared.settings import FfmpegSettings
from shared.storage import StandInWarning
from shared.storage.filesystem import FolderStore
from shared.storage.keys import style_key
from shared.telemetry.log import logger_of
from tests.fakes.provider import LedgerProvider
from tests.support.audio_builders import music
from tests.support.event_builders import a_scene
from tests.support.replicate_provider import replicate_fixture
from tests.support.style_audio import Continuing, a_song, audio_file
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LENGTHS = [2.3, 1.7, 3.05]
SONG_S = 7.4
UNRELATED_MAX = 0.25  # other music correlates this much by chance; the same music 0.97 or more
EDGE = SAMPLE_RATE_HZ // 200


async def run_of(
    fixture: HandlerFixture, lengths: Sequence[float], *, transition: Transition = Transition.AUTO
) -> tuple[AudioMerged, Audio]:
    """Return the track of a run that begins from the song."""
    await fixture.store.put("uploads/song", audio_file(a_song(SONG_S)))
    params = AudioParams(style_audio=AudioRef(object="uploads/song"), transition=transition)
    for index, length in enumerate(lengths):
        await fixture.handle(a_scene(index, count=len(lengths), duration_s=length, params=params))
    merge = Merge(store=fixture.store, ffmpeg=Ffmpeg(FfmpegSettings()), settings=MergerSettings())
    merged = await merge.run(fixture.segments()[-1])
    return merged, decode(await fixture.store.get(merged.object_key))


def handler_fixture(folder: Path, provider: MusicProvider, **settings: object) -> HandlerFixture:
    """Return a generator with this provider."""
    fixture = HandlerFixture(folder, **settings)
    fixture.provider = provider  # type: ignore[assignment]  # any of them will do
    fixture.handler = fixture.process()
    return fixture


async def style_correlation(fixture: HandlerFixture, track: Audio) -> float:
    """Return the highest correlation of any second of the style with the track."""
    style = decode(await fixture.store.get(style_key("job-1", 1)))
    whole = style.shape[1] // SAMPLE_RATE_HZ
    seconds = np.split(style[:, : whole * SAMPLE_RATE_HZ], whole, axis=1)
    late = track.shape[1] - SAMPLE_RATE_HZ
    return max(best_match(second, track, early=0, late=late)[0] for second in seconds)


def piece_correlation(track: Audio, place: int, *, at: int) -> float:
    """Return the correlation of the piece's music at `at` with the track at `place`."""
    half = SAMPLE_RATE_HZ // 4
    here = track[:, place - half : place + half]
    piece = music(np.arange(at - half - 40, at + half + 40))
    return best_match(here, piece, early=0, late=80)[0]


@pytest.mark.parametrize("transition", Transition)
@pytest.mark.parametrize("style_s", [1, 5])
async def test_the_track_begins_where_the_style_ends(
    tmp_path: Path, transition: Transition, style_s: int
) -> None:
    """Exact length, the piece from its first sample on, no style, no click."""
    player = Continuing(folder=tmp_path, song=a_song(SONG_S))
    fixture = handler_fixture(
        tmp_path, LedgerProvider(clip_of=player.clip_of), style_window_s=style_s
    )
    merged, track = await run_of(fixture, LENGTHS, transition=transition)

    assert track.shape[1] == merged.samples == sum(map(samples_at, LENGTHS))
    assert fixture.segments()[0].window_samples == style_s * SAMPLE_RATE_HZ
    assert await style_correlation(fixture, track) < UNRELATED_MAX
    assert piece_correlation(track, SAMPLE_RATE_HZ // 2, at=SAMPLE_RATE_HZ // 2) > 0.97
    if transition is Transition.AUTO:  # otherwise it fades there
        assert piece_correlation(track, 2 * SAMPLE_RATE_HZ, at=2 * SAMPLE_RATE_HZ) > 0.97
    head = np.concatenate([np.zeros((2, EDGE), np.float32), track[:, : 10 * EDGE]], axis=1)
    click = click_ratio(head, track[:, :SAMPLE_RATE_HZ])
    assert click is not None
    assert click <= 10
    gains = [seam.gain_db for seam in merged.seams]
    assert max(map(abs, gains), default=0) < 1
    # the fade of 5 ms is over: the music is at its level
    before, after = track[:, EDGE : 5 * EDGE], music(np.arange(EDGE, 5 * EDGE))
    level_db = 20 * np.log10(rms(before) / rms(after)) - 20 * np.log10(
        rms(track[:, 24_000:72_000]) / rms(music(np.arange(24_000, 72_000)))
    )
    assert abs(level_db) < 1


async def test_music_after_silence_begins_after_the_style(tmp_path: Path) -> None:
    """Scene 0 is silent to its last sample; scene 1 fades in on the piece."""
    player = Continuing(folder=tmp_path, song=a_song(SONG_S))
    provider = LedgerProvider(clip_of=player.clip_of)
    provider.reject = {1: ProviderRejectedError("no")}
    merged, track = await run_of(handler_fixture(tmp_path, provider), LENGTHS)
    start = samples_at(LENGTHS[0])

    assert track.shape[1] == merged.samples
    assert rms(track[:, : start - 2000]) < 1e-4
    place = start + SAMPLE_RATE_HZ * 3 // 2
    assert piece_correlation(track, place, at=place - start) > 0.9
    fixture = handler_fixture(tmp_path, provider)
    assert await style_correlation(fixture, track) < UNRELATED_MAX


async def test_a_short_first_scene_plays_no_style(tmp_path: Path) -> None:
    """The second window reaches back into the style; the seam does not."""
    player = Continuing(folder=tmp_path, song=a_song(SONG_S))
    fixture = handler_fixture(tmp_path, LedgerProvider(clip_of=player.clip_of), window_s=3)
    lengths = [0.3, 0.2, 3.1]
    merged, track = await run_of(fixture, lengths)

    assert track.shape[1] == merged.samples == sum(map(samples_at, lengths))
    assert await style_correlation(fixture, track) < UNRELATED_MAX
    assert piece_correlation(track, 2 * SAMPLE_RATE_HZ, at=2 * SAMPLE_RATE_HZ) > 0.97


async def test_synth_continues_a_style(tmp_path: Path) -> None:
    """The window is recognised in the clip and cut off."""
    store = FolderStore(tmp_path)
    settings = GeneratorSettings(wanted="synth")
    log = logger_of("test")
    with pytest.warns(StandInWarning):
        provider = build_provider(settings, store=store, clock=SystemClock(), log=log)
    try:
        fixture = handler_fixture(tmp_path, provider)
        merged, track = await run_of(fixture, LENGTHS[:2])
    finally:
        await provider.close()

    first = fixture.segments()[0]
    assert (first.origin, first.reason) == (Origin.CONTINUED, "continues the style sample")
    assert abs(first.window_samples - 5 * SAMPLE_RATE_HZ) < SAMPLE_RATE_HZ // 100
    assert first.attempts == 1
    assert track.shape[1] == merged.samples == sum(map(samples_at, LENGTHS[:2]))
    assert await style_correlation(fixture, track) < 0.5  # music by rule, in the song's own key


@pytest.mark.parametrize("style_s", [5, 20])
async def test_the_generator_sends_replicate_the_style_as_the_window(
    tmp_path: Path, style_s: int
) -> None:
    """The request has integers, continuation and the end of the song."""
    store = FolderStore(tmp_path)
    song = a_song(SONG_S if style_s == 5 else 22.0)
    async with replicate_fixture(store) as replicate:
        fixture = handler_fixture(tmp_path, replicate.provider, style_window_s=style_s)
        await store.put("uploads/song", audio_file(song))
        params = AudioParams(style_audio=AudioRef(object="uploads/song"), fail_on_error=True)
        await fixture.handle(a_scene(0, count=1, duration_s=1.7, params=params))
        (prediction,) = replicate.fake.predictions
        (entry,) = replicate.fake.ledger.entries

    model_input = prediction["input"]
    assert model_input["continuation"] is True
    assert (model_input["continuation_start"], model_input["continuation_end"]) == (0, style_s)
    assert isinstance(model_input["continuation_start"], int)
    assert model_input["duration"] == 2 + style_s
    kind, _, coded = model_input["input_audio"].partition(",")
    assert kind == "data:audio/mpeg;base64"
    assert entry.input_from == "data"
    sent = decode(base64.b64decode(coded), rate_hz=32_000)
    expected = song[:, -style_s * 32_000 :]
    assert sent.shape == expected.shape
    correlation = float(np.vdot(sent, expected)) / np.linalg.norm(sent) / np.linalg.norm(expected)
    assert correlation > 0.98
    (segment,) = fixture.segments()
    assert segment.origin is Origin.CONTINUED
    assert abs(segment.window_samples - style_s * SAMPLE_RATE_HZ) < SAMPLE_RATE_HZ // 100

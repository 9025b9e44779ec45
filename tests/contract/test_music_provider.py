"""What every music provider promises, whoever makes the music.

A new provider is one more entry in `PROVIDERS`.
"""

import io
import re
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest

from services.generator.providers import Clip, CompositionRequest, ContinuationWindow, MusicProvider
from services.generator.providers.silence import SilenceProvider
from services.generator.providers.synth.provider import SynthProvider
from shared.contract.prompt import TEMPLATE, Mood
from shared.errors import ProviderRejectedError
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import Audio, rms
from shared.settings import FfmpegSettings
from shared.storage import ObjectStore, StandInWarning
from shared.storage.filesystem import FolderStore
from tests.support.replicate_provider import replicate_fixture

RATE_HZ = 32_000
Opened = AsyncIterator[MusicProvider]
CLIP_KEY = "jobs/a/clip-1.mp3"
WINDOW = ContinuationWindow(clip_key=CLIP_KEY, clip_url=None, start_s=4, end_s=6)
FRESH = CompositionRequest(
    prompt=TEMPLATE.format(mood=Mood.CALM), duration_s=6, window=None, seed=1_001
)
CONTINUED = CompositionRequest(
    prompt=TEMPLATE.format(mood=Mood.EXCITING), duration_s=6, window=WINDOW, seed=1_002
)


@dataclass(frozen=True)
class Candidate:
    """A provider under test, and what kind it is."""

    name: str
    build: Callable[[ObjectStore], MusicProvider] | None  #: None: it needs a server
    musical: bool  #: its clips are something to continue from
    offline: bool  #: makes its clips here, repeatably


PROVIDERS = [
    Candidate("synth", SynthProvider, musical=True, offline=True),
    Candidate("silence", lambda _: SilenceProvider(), musical=False, offline=True),
    Candidate("replicate", None, musical=True, offline=False),  # on the fake of its API
]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Where clips lie."""
    return FolderStore(tmp_path)


@asynccontextmanager
async def _opened(candidate: Candidate, store: ObjectStore) -> Opened:
    if candidate.build is None:
        async with replicate_fixture(store, poll_first_s=0.02, starts_per_s=10) as replicate:
            yield replicate.provider
        return
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        built = candidate.build(store)
    yield built
    await built.close()


@pytest.fixture(params=PROVIDERS, ids=lambda c: c.name)
async def provider(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Each provider in turn."""
    async with _opened(request.param, store) as provider:
        yield provider


@pytest.fixture(params=[c for c in PROVIDERS if c.musical], ids=lambda c: c.name)
async def musician(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Each provider whose clips are something to continue from."""
    async with _opened(request.param, store) as provider:
        yield provider


async def _made(provider: MusicProvider, request: CompositionRequest) -> Clip:
    return await provider.collect(await provider.submit(request), request)


async def _pair(provider: MusicProvider, store: ObjectStore) -> tuple[Audio, Audio]:
    """A clip and the clip that continues its window, decoded at the clips' own rate."""
    first = await _made(provider, FRESH)
    await store.put(CLIP_KEY, first.data, content_type=first.content_type)
    second = await _made(provider, CONTINUED)
    return decode(first.data, rate_hz=RATE_HZ), decode(second.data, rate_hz=RATE_HZ)


def _correlation(one: Audio, other: Audio) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def _click(audio: Audio, at: int) -> float:
    """How far the sharpest bend near `at` stands out of its surroundings."""
    half = RATE_HZ // 20
    bends = np.abs(np.diff(audio[:, at - half : at + half].astype(np.float64), 2, axis=1))
    return float((bends.max(axis=1) / np.median(bends, axis=1)).max())


@pytest.mark.parametrize("duration_s", [1, 3, 7])
async def test_a_clip_is_exactly_as_long_as_was_asked(
    provider: MusicProvider, duration_s: int
) -> None:
    """Whole seconds, to the sample, when decoded as a decoder should."""
    clip = await _made(provider, replace(FRESH, duration_s=duration_s))

    assert decode(clip.data, rate_hz=RATE_HZ).shape == (2, duration_s * RATE_HZ)


async def test_a_clip_is_a_32_khz_stereo_mp3(provider: MusicProvider) -> None:
    """The form in which the model sends it."""
    clip = await _made(provider, FRESH)

    assert clip.content_type == "audio/mpeg"
    with av.open(io.BytesIO(clip.data)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == (
            ("mp3float", RATE_HZ, 2)
        )
        assert container.format.name == "mp3"
        assert stream.bit_rate == 96_000


async def test_the_duration_counts_the_window(provider: MusicProvider, store: FolderStore) -> None:
    """What is new is the duration less the window."""
    _, second = await _pair(provider, store)

    assert second.shape == (2, CONTINUED.duration_s * RATE_HZ)


async def test_a_provider_says_truly_whether_it_makes_silence(provider: MusicProvider) -> None:
    """What is nothing to continue from is not taken for music, nor music for nothing."""
    clip = await _made(provider, FRESH)

    assert (rms(decode(clip.data)) < 1e-4) is provider.makes_silence


async def test_a_submitted_request_is_found_under_its_id(provider: MusicProvider) -> None:
    """Whoever lost the answer to submit finds what was paid for."""
    submitted = await provider.submit(FRESH)

    assert await provider.find(FRESH) == submitted


@pytest.mark.parametrize(
    "other",
    [
        replace(FRESH, seed=FRESH.seed + 1),
        replace(FRESH, prompt="something else"),
        replace(FRESH, duration_s=7),
        CONTINUED,
        replace(CONTINUED, window=replace(WINDOW, start_s=5)),
        replace(CONTINUED, window=replace(WINDOW, clip_key="jobs/b/clip-1.mp3")),
    ],
    ids=["seed", "prompt", "duration", "window", "window start", "window clip"],
)
async def test_another_request_has_another_id(
    provider: MusicProvider, other: CompositionRequest
) -> None:
    """A prediction is never taken for that of a request which differs in anything that sounds."""
    base = replace(CONTINUED, seed=1_003) if other.window else FRESH

    assert await provider.submit(base) != await provider.submit(other)


async def test_a_prediction_can_be_collected_again(provider: MusicProvider) -> None:
    """The same clip comes for the same id, however often it is asked for."""
    prediction = await provider.submit(FRESH)
    first = await provider.collect(prediction, FRESH)

    again = await provider.collect(prediction, FRESH)

    assert again.data == first.data


async def test_an_id_of_another_request_is_refused(provider: MusicProvider) -> None:
    """A mixed-up id is noticed where it can be."""
    other = await provider.submit(replace(FRESH, seed=5))

    with pytest.raises(ProviderRejectedError):
        await provider.collect(other, FRESH)


async def test_cancelling_what_has_ended_changes_nothing(provider: MusicProvider) -> None:
    """A cancel that comes too late, twice, or for an unknown id is no fault."""
    prediction = await provider.submit(FRESH)
    clip = await provider.collect(prediction, FRESH)

    for name in (prediction, prediction, "unknown"):
        await provider.cancel(name)

    assert (await provider.collect(prediction, FRESH)).data == clip.data


@pytest.mark.parametrize("candidate", [c for c in PROVIDERS if c.offline], ids=lambda c: c.name)
async def test_equal_requests_get_equal_clips_offline(
    candidate: Candidate, store: FolderStore
) -> None:
    """A second provider answers as the first did: nothing but the request decides."""
    assert candidate.build is not None, "what is offline needs no server"
    with pytest.warns(StandInWarning):
        one, other = candidate.build(store), candidate.build(store)
    first = await _made(one, FRESH)
    await store.put(CLIP_KEY, first.data)

    assert (await _made(other, FRESH)).data == first.data
    assert (await _made(other, CONTINUED)).data == (await _made(one, CONTINUED)).data


async def test_another_seed_makes_other_music(musician: MusicProvider) -> None:
    """A second try is not the same clip again."""
    one = await _made(musician, FRESH)
    other = await _made(musician, replace(FRESH, seed=FRESH.seed + 12))

    assert abs(_correlation(decode(one.data), decode(other.data))) < 0.6


async def test_a_clip_begins_with_the_window_that_was_sent(
    musician: MusicProvider, store: FolderStore
) -> None:
    """The same music in the same place, but no longer the same samples."""
    first, second = await _pair(musician, store)
    sent = first[:, WINDOW.start_s * RATE_HZ : WINDOW.end_s * RATE_HZ]
    head = second[:, : WINDOW.length_s * RATE_HZ]

    assert _correlation(sent, head) >= 0.8
    assert not np.allclose(sent, head, atol=1e-3)


async def test_the_window_comes_back_at_a_level_of_its_own(
    musician: MusicProvider, store: FolderStore
) -> None:
    """The whole clip was normalised, and a loud scene pushes a calm window down."""
    first, second = await _pair(musician, store)
    sent = first[:, WINDOW.start_s * RATE_HZ : WINDOW.end_s * RATE_HZ]
    head = second[:, : WINDOW.length_s * RATE_HZ]

    assert abs(20 * np.log10(rms(head) / rms(sent))) > 1.0


async def test_what_follows_the_window_is_not_the_window_again(
    musician: MusicProvider, store: FolderStore
) -> None:
    """New music begins where the window ends."""
    _, second = await _pair(musician, store)
    window = WINDOW.length_s * RATE_HZ

    assert abs(_correlation(second[:, :window], second[:, window : 2 * window])) < 0.6


@pytest.mark.parametrize("mood", list(Mood))
async def test_no_click_stands_where_the_window_ends(
    musician: MusicProvider, store: FolderStore, mood: Mood
) -> None:
    """Seamless music measures 3 to 9 here, a butt joint more than 100."""
    first = await _made(musician, FRESH)
    await store.put(CLIP_KEY, first.data)
    second = await _made(musician, replace(CONTINUED, prompt=TEMPLATE.format(mood=mood)))

    assert _click(decode(second.data, rate_hz=RATE_HZ), WINDOW.length_s * RATE_HZ) <= 10


async def test_a_clip_has_the_models_loudness(
    musician: MusicProvider, store: FolderStore, tmp_path: Path
) -> None:
    """-14 LUFS as FFmpeg measures it, new or continued, with no clipped peaks."""
    first = await _made(musician, FRESH)
    await store.put(CLIP_KEY, first.data)
    ffmpeg = Ffmpeg(FfmpegSettings(), slots=1)
    for clip in (first, await _made(musician, CONTINUED)):
        path = tmp_path / "clip.mp3"
        path.write_bytes(clip.data)
        report = (
            await ffmpeg.run(["-i", path, "-af", "ebur128=peak=true", "-f", "null", "-"])
        ).stderr
        loudness = re.findall(r"I:\s+(-?[\d.]+) LUFS", report)[-1]
        peak = re.findall(r"Peak:\s+(-?[\d.]+) dBFS", report)[-1]
        # the coder takes some 0.4 dB off, the model's as ours
        assert float(loudness) == pytest.approx(-14.2, abs=0.5)
        assert float(peak) <= -0.5


async def test_a_provider_that_serves_says_so(provider: MusicProvider) -> None:
    """Nobody is refused, and asking costs nothing."""
    await provider.check()

    assert provider.paused is None

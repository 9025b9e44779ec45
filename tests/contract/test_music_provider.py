"""Behaviour that every music provider must have, and that of those that imitate MusicGen.

A new provider is one more entry in `CANDIDATES`. One that does not return MusicGen's kind of clip
sets `imitates_musicgen=False` and skips the tests that use `musicgen_like` or `musical_imitation`.
"""

import io
import re
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from services.generator.clip.inspection import ClipInspector, ClipSpec
from services.generator.providers import Clip, CompositionRequest, ContinuationWindow, MusicProvider
from services.generator.providers.silence import SilenceProvider
from services.generator.providers.synth.provider import SynthProvider
from shared.contract.prompt import TEMPLATE, Mood
from shared.errors import ProviderRejectedError
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms
from shared.media.sandbox import MediaSandbox
from shared.music_providers import ProviderName, facts_of
from shared.settings import FfmpegSettings, MediaSettings
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
    """A provider under test and its properties."""

    name: str
    build: Callable[[ObjectStore], MusicProvider] | None  #: None: it needs a server
    musical: bool  #: its clips can be continued
    local: bool  #: generates its clips on this machine and deterministically
    imitates_musicgen: bool  #: returns the codec, loudness and window that MusicGen returns


CANDIDATES = [
    Candidate("synth", SynthProvider, musical=True, local=True, imitates_musicgen=True),
    Candidate(
        "silence", lambda _: SilenceProvider(), musical=False, local=True, imitates_musicgen=True
    ),
    # on the emulator of its API
    Candidate("replicate", None, musical=True, local=False, imitates_musicgen=True),
]
IMITATIONS = [c for c in CANDIDATES if c.imitates_musicgen]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Return the store of the clips."""
    return FolderStore(tmp_path)


@asynccontextmanager
async def _opened(candidate: Candidate, store: ObjectStore) -> Opened:
    if candidate.build is None:
        async with replicate_fixture(store, poll_first_s=0.02, starts_per_s=10) as replicate:
            yield replicate.provider
        return
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        provider = candidate.build(store)
    yield provider
    await provider.close()


@pytest.fixture(params=CANDIDATES, ids=lambda c: c.name)
async def provider(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Yield each provider in turn."""
    async with _opened(request.param, store) as provider:
        yield provider


@pytest.fixture(params=[c for c in CANDIDATES if c.musical], ids=lambda c: c.name)
async def musical_provider(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Yield each provider whose clips can be continued."""
    async with _opened(request.param, store) as provider:
        yield provider


@pytest.fixture(params=IMITATIONS, ids=lambda c: c.name)
async def musicgen_like(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Yield each provider that returns MusicGen's kind of file."""
    async with _opened(request.param, store) as provider:
        yield provider


@pytest.fixture(params=[c for c in IMITATIONS if c.musical], ids=lambda c: c.name)
async def musical_imitation(request: pytest.FixtureRequest, store: FolderStore) -> Opened:
    """Yield each provider that returns MusicGen's kind of music."""
    async with _opened(request.param, store) as provider:
        yield provider


async def _compose(provider: MusicProvider, request: CompositionRequest) -> Clip:
    return await provider.collect(await provider.submit(request), request)


async def _pair(provider: MusicProvider, store: ObjectStore) -> tuple[Audio, Audio]:
    """Return a clip and the clip that continues its window, at the clips' own rate."""
    first = await _compose(provider, FRESH)
    await store.put(CLIP_KEY, first.data, content_type=first.content_type)
    second = await _compose(provider, CONTINUED)
    return decode(first.data, rate_hz=RATE_HZ), decode(second.data, rate_hz=RATE_HZ)


def _correlation(first: Audio, second: Audio) -> float:
    a, b = first.astype(np.float64), second.astype(np.float64)
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def _click(audio: Audio, at: int) -> float:
    """Return the sharpest bend near `at` relative to its surroundings."""
    half = RATE_HZ // 20
    bends = np.abs(np.diff(audio[:, at - half : at + half].astype(np.float64), 2, axis=1))
    return float((bends.max(axis=1) / np.median(bends, axis=1)).max())


def test_every_provider_is_tested() -> None:
    """A local provider is free, the others charge."""
    assert {c.name for c in CANDIDATES} == set(get_args(ProviderName))
    assert all(facts_of(c.name).is_paid is not c.local for c in CANDIDATES)


@pytest.mark.parametrize("duration_s", [1, 3, 7])
async def test_clip_has_the_requested_length(provider: MusicProvider, duration_s: int) -> None:
    """Whole seconds, to the sample, when decoded gapless."""
    clip = await _compose(provider, replace(FRESH, duration_s=duration_s))

    assert decode(clip.data, rate_hz=RATE_HZ).shape == (2, duration_s * RATE_HZ)


async def test_clip_is_32_khz_stereo(provider: MusicProvider) -> None:
    """The format that the acceptance check requires."""
    clip = await _compose(provider, FRESH)

    with av.open(io.BytesIO(clip.data)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (RATE_HZ, 2)


async def test_clips_pass_the_acceptance_check(provider: MusicProvider, store: FolderStore) -> None:
    """A fresh clip and a continued one are usable and have all the new music requested."""
    inspector = ClipInspector(store=store, sandbox=MediaSandbox(MediaSettings()))
    for request, so_far_s in ((FRESH, 0), (CONTINUED, WINDOW.end_s)):
        clip = await _compose(provider, request)
        if request is FRESH:
            await store.put(CLIP_KEY, clip.data, content_type=clip.content_type)
        window_s = request.window.length_s if request.window else 0
        spec = ClipSpec(
            request=request,
            so_far_samples=so_far_s * SAMPLE_RATE_HZ,
            needed_samples=(request.duration_s - window_s) * SAMPLE_RATE_HZ,
        )

        samples, recognised = await inspector.inspect(
            clip, spec, musical=not provider.makes_silence
        )

        new_samples = samples - recognised.old_samples
        assert new_samples >= spec.needed_samples - SAMPLE_RATE_HZ // 10


async def test_duration_includes_the_window(provider: MusicProvider, store: FolderStore) -> None:
    """The new part is the duration less the window."""
    _, second = await _pair(provider, store)

    assert second.shape == (2, CONTINUED.duration_s * RATE_HZ)


async def test_makes_silence_matches_the_clips(provider: MusicProvider) -> None:
    """A provider of silence states so, because silence is not continued."""
    clip = await _compose(provider, FRESH)

    assert (rms(decode(clip.data)) < 1e-4) is provider.makes_silence


async def test_submitted_request_is_found_by_its_id(provider: MusicProvider) -> None:
    """A caller that lost the response finds the prediction that was paid for."""
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
async def test_other_requests_have_other_ids(
    provider: MusicProvider, other: CompositionRequest
) -> None:
    """A prediction never matches a request that differs in anything audible."""
    base = replace(CONTINUED, seed=1_003) if other.window else FRESH

    assert await provider.submit(base) != await provider.submit(other)


async def test_prediction_can_be_collected_again(provider: MusicProvider) -> None:
    """The same id returns the same clip every time."""
    prediction = await provider.submit(FRESH)
    first = await provider.collect(prediction, FRESH)

    again = await provider.collect(prediction, FRESH)

    assert again.data == first.data


async def test_id_of_another_request_is_rejected(provider: MusicProvider) -> None:
    """If the provider can tell."""
    other = await provider.submit(replace(FRESH, seed=5))

    with pytest.raises(ProviderRejectedError):
        await provider.collect(other, FRESH)


async def test_cancelling_an_ended_prediction_has_no_effect(provider: MusicProvider) -> None:
    """A late, repeated or unknown cancel is not an error."""
    prediction = await provider.submit(FRESH)
    clip = await provider.collect(prediction, FRESH)

    for name in (prediction, prediction, "unknown"):
        await provider.cancel(name)

    assert (await provider.collect(prediction, FRESH)).data == clip.data


@pytest.mark.parametrize("candidate", [c for c in CANDIDATES if c.local], ids=lambda c: c.name)
async def test_local_provider_is_deterministic(candidate: Candidate, store: FolderStore) -> None:
    """The clip depends on the request only."""
    assert candidate.build is not None, "a local provider needs no server"
    with pytest.warns(StandInWarning):
        provider, second = candidate.build(store), candidate.build(store)
    first = await _compose(provider, FRESH)
    await store.put(CLIP_KEY, first.data)

    assert (await _compose(second, FRESH)).data == first.data
    assert (await _compose(second, CONTINUED)).data == (await _compose(provider, CONTINUED)).data


async def test_another_seed_returns_other_music(musical_provider: MusicProvider) -> None:
    """A second attempt is not the same clip."""
    first = await _compose(musical_provider, FRESH)
    second = await _compose(musical_provider, replace(FRESH, seed=FRESH.seed + 12))

    assert abs(_correlation(decode(first.data), decode(second.data))) < 0.6


async def test_music_after_the_window_is_new(
    musical_provider: MusicProvider, store: FolderStore
) -> None:
    """The window is not repeated."""
    _, second = await _pair(musical_provider, store)
    window = WINDOW.length_s * RATE_HZ

    assert abs(_correlation(second[:, :window], second[:, window : 2 * window])) < 0.6


@pytest.mark.parametrize("mood", list(Mood))
async def test_end_of_the_window_has_no_click(
    musical_provider: MusicProvider, store: FolderStore, mood: Mood
) -> None:
    """Seamless music measures 3 to 9 here, a hard cut more than 100."""
    first = await _compose(musical_provider, FRESH)
    await store.put(CLIP_KEY, first.data)
    second = await _compose(musical_provider, replace(CONTINUED, prompt=TEMPLATE.format(mood=mood)))

    assert _click(decode(second.data, rate_hz=RATE_HZ), WINDOW.length_s * RATE_HZ) <= 10


async def test_available_provider_passes_its_check(provider: MusicProvider) -> None:
    """The check costs nothing."""
    await provider.check()

    assert provider.paused is None


# Only providers that imitate MusicGen


async def test_clip_is_an_mp3_of_the_bit_rate_of_the_model(musicgen_like: MusicProvider) -> None:
    """96 kb/s, at 32 kHz and stereo."""
    clip = await _compose(musicgen_like, FRESH)

    assert clip.content_type == "audio/mpeg"
    with av.open(io.BytesIO(clip.data)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == (
            ("mp3float", RATE_HZ, 2)
        )
        assert container.format.name == "mp3"
        assert stream.bit_rate == 96_000


async def test_clip_starts_with_the_window(
    musical_imitation: MusicProvider, store: FolderStore
) -> None:
    """The same music at the same place, but not the same samples."""
    first, second = await _pair(musical_imitation, store)
    sent = first[:, WINDOW.start_s * RATE_HZ : WINDOW.end_s * RATE_HZ]
    head = second[:, : WINDOW.length_s * RATE_HZ]

    assert _correlation(sent, head) >= 0.8
    assert not np.allclose(sent, head, atol=1e-3)


async def test_window_is_returned_at_another_level(
    musical_imitation: MusicProvider, store: FolderStore
) -> None:
    """The whole clip was normalised; a loud scene lowers a calm window."""
    first, second = await _pair(musical_imitation, store)
    sent = first[:, WINDOW.start_s * RATE_HZ : WINDOW.end_s * RATE_HZ]
    head = second[:, : WINDOW.length_s * RATE_HZ]

    assert abs(20 * np.log10(rms(head) / rms(sent))) > 1.0


async def test_clip_has_the_loudness_of_the_model(
    musical_imitation: MusicProvider, store: FolderStore, tmp_path: Path
) -> None:
    """-14 LUFS as FFmpeg measures it, fresh or continued, without clipped peaks."""
    first = await _compose(musical_imitation, FRESH)
    await store.put(CLIP_KEY, first.data)
    ffmpeg = Ffmpeg(FfmpegSettings(), slots=1)
    for clip in (first, await _compose(musical_imitation, CONTINUED)):
        path = tmp_path / "clip.mp3"
        path.write_bytes(clip.data)
        report = (
            await ffmpeg.run(["-i", path, "-af", "ebur128=peak=true", "-f", "null", "-"])
        ).stderr
        loudness = re.findall(r"I:\s+(-?[\d.]+) LUFS", report)[-1]
        peak = re.findall(r"Peak:\s+(-?[\d.]+) dBFS", report)[-1]
        # the encoder removes about 0.4 dB, as the model's does
        assert float(loudness) == pytest.approx(-14.2, abs=0.5)
        assert float(peak) <= -0.5

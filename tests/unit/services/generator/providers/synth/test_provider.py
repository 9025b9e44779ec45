"""Checks the synth provider's moods, and how it continues earlier music."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.generator.providers import CompositionRequest, ContinuationWindow, mp3
from services.generator.providers.synth import key_detection
from services.generator.providers.synth.provider import DURATION_S_MAX, SynthProvider, compose
from shared.contract.prompt import TEMPLATE, Mood
from shared.errors import ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ, Audio, rms, silence
from shared.storage import StandInWarning
from shared.storage.filesystem import FolderStore


def _request(
    mood: Mood = Mood.CALM, *, duration_s: int = 6, window: tuple[int, int] | None = None, seed: int
) -> CompositionRequest:
    return CompositionRequest(
        prompt=TEMPLATE.format(mood=mood),
        duration_s=duration_s,
        window=ContinuationWindow(
            clip_key="clip.mp3", clip_url=None, start_s=window[0], end_s=window[1]
        )
        if window
        else None,
        seed=seed,
    )


def _decoded(data: bytes, start_s: int = 0, end_s: int | None = None) -> Audio:
    audio = decode(data, rate_hz=CLIP_RATE_HZ)
    return audio[:, start_s * CLIP_RATE_HZ : end_s * CLIP_RATE_HZ if end_s else None]


def _correlation(first: Audio, second: Audio) -> float:
    return key_detection.agreement(first, second)[0]


def _character(audio: Audio) -> NDArray[np.float64]:
    """Return a clip's spectral bands and the strength of its beats."""
    mono = audio.mean(axis=0, dtype=np.float64)
    blocks = mono[: mono.size // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = np.abs(np.fft.rfft(blocks, axis=1)) ** 2
    edges = np.geomspace(1, 200, 13).astype(int)
    bands = np.log10(np.add.reduceat(power.mean(axis=0), edges)[:-1] + 1e-12)
    onsets = np.maximum(np.diff(np.log10(power[:, 2:].sum(axis=1) + 1e-9)), 0)
    pulse = np.abs(np.fft.rfft(onsets - onsets.mean()))
    hz = np.fft.rfftfreq(onsets.size, 512 / CLIP_RATE_HZ)
    beats = np.array([pulse[np.abs(hz - rate) < 0.15].max() for rate in (1, 1.5, 2, 3, 4, 6, 8)])
    return np.concatenate([bands - bands.mean(), 2 * beats / np.linalg.norm(beats)])


def test_every_mood_differs_from_the_others() -> None:
    """With another seed, a mood's clip is still nearest to its own mood."""
    known = {mood: _character(_decoded(compose(_request(mood, seed=1), None))) for mood in Mood}
    for mood in Mood:
        clip = _character(_decoded(compose(_request(mood, seed=2), None)))
        distances = {m: np.linalg.norm(clip - character) for m, character in known.items()}
        assert min(Mood, key=distances.__getitem__) is mood, (mood, distances)


@pytest.mark.parametrize("mood", list(Mood))
def test_the_same_mood_continues_at_the_end_of_the_window(mood: Mood) -> None:
    """The new clip agrees with the earlier clip's audio after the window, beat for beat.

    The melody varies with the seed, so they correlate without being equal; a bar off they do not.
    """
    first = compose(_request(mood, seed=5), None)
    second = compose(_request(mood, window=(3, 4), duration_s=5, seed=6), first)

    after_window = _decoded(first, 4, 5)
    assert _correlation(after_window, _decoded(second, 1, 2)) > 0.6
    assert _correlation(after_window, _decoded(second, 3, 4)) < 0.5


def test_another_mood_begins_at_the_seam() -> None:
    """The window is the old music; the music after it has the new character."""
    calm, exciting = (
        _decoded(compose(_request(m, seed=7), None)) for m in (Mood.CALM, Mood.EXCITING)
    )
    first = compose(_request(Mood.CALM, seed=8), None)
    second = compose(_request(Mood.EXCITING, window=(2, 6), duration_s=8, seed=9), first)

    for part, own, other in (
        (_decoded(second, 0, 4), calm, exciting),
        (_decoded(second, 4, 8), exciting, calm),
    ):
        character = _character(part)
        near, far = (
            np.linalg.norm(character - _character(a)[: character.size]) for a in (own, other)
        )
        assert near < far


def test_a_long_chain_keeps_its_key_and_piece() -> None:
    """After ten scenes, the audio still matches the piece in the comment."""
    clip = compose(_request(seed=10), None)
    moods = list(Mood)
    for number in range(10):
        mood = moods[number // 2 % len(moods)]
        # a one-second scene behind a one-second window: half of each clip is not its own
        following = compose(_request(mood, window=(1, 2), duration_s=2, seed=20 + number), clip)
        assert _correlation(_decoded(clip, 1, 2), _decoded(following, 0, 1)) > 0.9
        clip = following
    comment = mp3.comment_of(clip)
    assert '"origin_s":10' in comment
    assert f'"tonic":{10 % 12}' in comment


@pytest.mark.parametrize(
    "comment",
    ["", "segue-synth-1 {", 'segue-synth-1 {"origin_s":0,"piece":{"tonic":99}}', "someone else's"],
)
def test_music_from_elsewhere_is_continued_by_its_audio(comment: str) -> None:
    """Without a readable comment, the window is still repeated, without a click."""
    own = _decoded(compose(_request(Mood.ELEGANT, seed=11), None))
    foreign = mp3.encode(0.5 * own, comment=comment)

    clip = _decoded(compose(_request(Mood.CALM, window=(3, 5), seed=12), foreign))

    assert (
        _correlation(own[:, 3 * CLIP_RATE_HZ : 5 * CLIP_RATE_HZ], clip[:, : 2 * CLIP_RATE_HZ]) > 0.8
    )
    seam = slice(2 * CLIP_RATE_HZ - 1600, 2 * CLIP_RATE_HZ + 1600)
    bends = np.abs(np.diff(clip[:, seam].astype(np.float64), 2, axis=1))
    assert bends.max() / np.median(bends) <= 10
    assert rms(clip[:, 2 * CLIP_RATE_HZ :]) > 0.01


def test_a_comment_that_contradicts_the_audio_is_ignored() -> None:
    """A file may have other music with one of our comments."""
    ours = compose(_request(Mood.ELEGANT, seed=13), None)
    other = _decoded(compose(_request(Mood.DRAMATIC, seed=14), None))
    forged = mp3.encode(other, comment=mp3.comment_of(ours))

    clip = compose(_request(Mood.CALM, window=(4, 6), seed=15), forged)

    assert '"origin_s":0' in mp3.comment_of(clip)  # a piece of its own
    assert _correlation(other[:, 4 * CLIP_RATE_HZ :], _decoded(clip, 0, 2)) > 0.8


def test_music_follows_silence() -> None:
    """A silent window has no key and no level, and does not fail."""
    silent = mp3.encode(silence(5 * CLIP_RATE_HZ))

    clip = _decoded(compose(_request(window=(3, 5), seed=16), silent))

    assert rms(clip[:, : 2 * CLIP_RATE_HZ - CLIP_RATE_HZ // 10]) < 1e-3
    assert rms(clip[:, 2 * CLIP_RATE_HZ :]) > 0.01


def test_the_prompt_varies_music_of_one_mood() -> None:
    """Two calm prompts with one seed give different clips."""
    request = _request(seed=17)
    other = replace(request, prompt=request.prompt + ", piano")

    assert compose(request, None) != compose(other, None)


@pytest.fixture
def provider(tmp_path: Path) -> SynthProvider:
    """Return a provider with a folder store."""
    with pytest.warns(StandInWarning):
        return SynthProvider(FolderStore(tmp_path), slots=3)


async def test_a_clip_that_is_too_long_is_rejected_at_submit(
    provider: SynthProvider,
) -> None:
    """The message names the maximum."""
    with pytest.raises(ProviderRejectedError, match=str(DURATION_S_MAX)):
        await provider.submit(_request(duration_s=DURATION_S_MAX + 1, seed=18))


async def test_concurrent_clips_equal_sequential_ones(provider: SynthProvider) -> None:
    """Lanes share no mutable state."""
    requests = [_request(mood, duration_s=2, seed=19) for mood in Mood]
    ids = [await provider.submit(request) for request in requests]

    together = await asyncio.gather(*map(provider.collect, ids, requests))

    assert [clip.data for clip in together] == [compose(request, None) for request in requests]


async def test_a_window_in_a_missing_clip_is_rejected(provider: SynthProvider) -> None:
    """The message names the missing object."""
    request = _request(window=(4, 6), seed=20)
    prediction = await provider.submit(request)

    with pytest.raises(ProviderRejectedError, match=r"clip\.mp3"):
        await provider.collect(prediction, request)


@pytest.mark.parametrize("data", [b"", b"no music", b"ID3" + bytes(2_000)])
def test_a_window_in_data_that_is_no_audio_is_rejected(data: bytes) -> None:
    """The message names the object."""
    with pytest.raises(ProviderRejectedError, match=r"clip\.mp3"):
        compose(_request(window=(4, 6), seed=21), data)


def test_a_window_beyond_its_clip_is_rejected_with_both_lengths() -> None:
    """The model would silently shorten the window."""
    short = compose(_request(duration_s=5, seed=22), None)

    with pytest.raises(ProviderRejectedError, match=r"5\.00 s.*6 s"):
        compose(_request(window=(4, 6), seed=23), short)

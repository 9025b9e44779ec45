"""The fake Replicate's clips obey the model's rules, and can be made not to."""

import base64
import io
from typing import Any

import av
import numpy as np
import pytest

from replicate_server.model import rules
from replicate_server.model.clip_shapes import encode
from services.generator.providers.synth.mixing import loudness_lufs
from services.generator.providers.synth.provider import compose
from shared.errors import MediaError
from shared.media.decode import decode
from shared.media.samples import Audio, rms
from tests.support.audio_builders import music
from tests.support.replicate_emulator import EmulatorFixture, emulator_fixture

pytestmark = pytest.mark.integration
RATE_HZ = 32_000
CONTINUED = {"continuation": True, "duration": 4, "prompt": "exciting drums", "seed": 8}


def _heard(data: bytes) -> Audio:
    return decode(data, rate_hz=RATE_HZ)


def _alike(one: Audio, other: Audio) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def _click(audio: Audio, at: int) -> float:
    """How far the sharpest bend near `at` stands out of its surroundings."""
    half = RATE_HZ // 20
    bends = np.abs(np.diff(audio[:, at - half : at + half].astype(np.float64), 2, axis=1))
    return float((bends.max(axis=1) / np.median(bends, axis=1)).max())


async def _first(fixture: EmulatorFixture, **inputs: Any) -> tuple[str, Audio]:
    """The address and the sound of a fresh clip."""
    made = await fixture.made(**inputs)
    return made["output"], _heard((await fixture.http.get(made["output"])).content)


async def test_a_continuation_begins_with_the_window_that_was_sent() -> None:
    """The same music, coded anew at a level of its own; then it goes on without a click."""
    async with emulator_fixture(compose=compose) as fixture:
        url, first = await _first(fixture)
        window = {"input_audio": url, "continuation_start": 1, "continuation_end": 3}
        second = _heard(await fixture.clip(**CONTINUED, **window))

        assert second.shape == (2, 4 * RATE_HZ)
        assert _alike(first[:, RATE_HZ:], second[:, : 2 * RATE_HZ]) > 0.9
        assert _alike(first[:, RATE_HZ:], second[:, 2 * RATE_HZ :]) < 0.5
        assert _click(second, 2 * RATE_HZ) < 10
        assert loudness_lufs(second) == pytest.approx(-14, abs=1)
        assert rms(first[:, RATE_HZ:]) != pytest.approx(rms(second[:, : 2 * RATE_HZ]), rel=0.01)
        entry = fixture.fake.ledger.entries[-1]
        assert (entry.input_from, entry.window_s) == ("output", (1, 3))


@pytest.mark.parametrize(
    ("mime", "file_format", "seconds"),
    [("audio/x-wav", "wav", 1.0), ("audio/mpeg", "mp3", 1.0), ("audio/x-wav", "wav", 1.37)],
)
async def test_a_window_may_come_as_a_data_url(mime: str, file_format: str, seconds: float) -> None:
    """Whole or broken seconds of anybody's music; without an end it lasts to the file's end."""
    samples = int(seconds * RATE_HZ)
    theirs = music(np.arange(samples), rate_hz=RATE_HZ)
    data = base64.b64encode(encode(theirs, file_format=file_format)).decode()
    async with emulator_fixture(compose=compose) as fixture:
        clip = await fixture.clip(**CONTINUED, input_audio=f"data:{mime};base64,{data}")

        heard = _heard(clip)
        assert heard.shape == (2, 4 * RATE_HZ)
        assert _alike(theirs, heard[:, :samples]) > 0.9
        assert fixture.fake.ledger.entries[-1].input_from == "data"


async def test_an_end_beyond_the_file_shortens_the_window_and_says_nothing() -> None:
    """Asked for 2 to 9 of a 3 s file, the clip begins with 2 to 3."""
    async with emulator_fixture(compose=compose) as fixture:
        url, first = await _first(fixture)
        window = {"input_audio": url, "continuation_start": 2, "continuation_end": 9}
        second = _heard(await fixture.clip(**CONTINUED, **window))

        assert second.shape == (2, 4 * RATE_HZ)
        assert _alike(first[:, 2 * RATE_HZ :], second[:, :RATE_HZ]) > 0.9


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"continuation_start": 0, "continuation_end": 0}, rules.EMPTY_WINDOW),
        ({"continuation_start": 3, "continuation_end": 4}, rules.EMPTY_WINDOW),
        ({"continuation_start": 0, "continuation_end": 2, "duration": 2}, ""),
        ({"duration": 2}, "Prompt is longer than audio to generate"),
        ({"duration": 0}, ""),
        (
            {"continuation_start": 2, "continuation_end": 1},
            "`continuation_start` must be less than or equal to `continuation_end`",
        ),
        ({"multi_band_diffusion": True}, "Multi-Band Diffusion is only available with"),
        ({"continuation": False}, "`stereo-large` and `large` model does not support melody input"),
        ({"seed": 2**32}, "Seed must be between 0 and 2**32 - 1"),
        ({"input_audio": "http://127.0.0.1:9/x.mp3"}, "<urlopen error"),
        ({"input_audio": "data:audio/x-wav;base64,UklGRg=="}, "Failed to open the input audio"),
    ],
)
async def test_what_the_model_cannot_do_fails_with_its_own_words(
    inputs: dict[str, Any], error: str
) -> None:
    """The prediction is made, and charged; its `error` says as little as the model does."""
    async with emulator_fixture() as fixture:
        url = (await fixture.made())["output"]
        told = await fixture.made(**{**CONTINUED, "input_audio": url, **inputs})

        assert (told["status"], told["output"]) == ("failed", None)
        assert told["error"].startswith(error)
        assert bool(told["error"]) == bool(error)
        assert len(fixture.fake.ledger.charged) == 2


async def test_without_prompt_or_audio_nothing_can_be_made() -> None:
    """And a continuation needs something to continue."""
    async with emulator_fixture() as fixture:
        body = {"version": "671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"}
        for inputs in ({}, {"continuation": True, "prompt": "calm"}):
            await fixture.http.post("predictions", json={**body, "input": inputs})
        await fixture.fake.settled()

        assert [one["error"] for one in fixture.fake.predictions] == [
            "Must provide either prompt or input_audio",
            "Must provide `input_audio` if continuation is `True`.",
        ]


async def test_an_output_that_died_cannot_be_continued() -> None:
    """The model's runner asks once and finds nothing."""
    async with emulator_fixture(delivery_ttl_s=0.0) as fixture:
        url = (await fixture.made())["output"]
        told = await fixture.made(**CONTINUED, input_audio=url)

        assert (told["status"], told["error"]) == ("failed", "HTTP Error 404: Not Found")


async def test_an_input_elsewhere_is_fetched_unless_this_machine_counts_as_unreachable() -> None:
    """The real model cannot reach a laptop."""
    async with emulator_fixture() as elsewhere, emulator_fixture() as fixture:
        url = (await elsewhere.made())["output"]
        reached = await fixture.made(**CONTINUED, input_audio=url, continuation_start=2)
        fixture.fake.tune(reaches_loopback=False)
        unreached = await fixture.made(**CONTINUED, input_audio=url, continuation_start=2)
        own = await fixture.made(**CONTINUED, input_audio=reached["output"], continuation_start=3)

        assert (reached["status"], unreached["status"]) == ("succeeded", "failed")
        assert own["status"] == "succeeded"
        assert [e.input_from for e in fixture.fake.ledger.entries] == ["url", "url", "output"]


@pytest.mark.parametrize("duration", [1, 5])
async def test_a_clip_is_exactly_as_long_as_was_asked(duration: int) -> None:
    """Whole seconds at 32 kHz, as 96 kb/s MP3 and as 16-bit WAV."""
    async with emulator_fixture() as fixture:
        mp3, wav = [await fixture.clip(duration=duration, output_format=f) for f in ("mp3", "wav")]

        assert _heard(mp3).shape == _heard(wav).shape == (2, duration * RATE_HZ)
        with av.open(io.BytesIO(mp3)) as file:
            codec = file.streams.audio[0].codec_context
            assert (codec.sample_rate, codec.bit_rate, codec.channels) == (RATE_HZ, 96_000, 2)
        with av.open(io.BytesIO(wav)) as file:
            assert file.streams.audio[0].codec_context.name == "pcm_s16le"


async def test_equal_requests_make_equal_clips_unless_the_seed_is_drawn() -> None:
    """0, -1 and no seed are random; the logs tell which was used."""
    async with emulator_fixture(compose=compose) as fixture:
        same = [await fixture.clip(duration=1, seed=9) for _ in range(2)]
        drawn = [await fixture.made(duration=1, seed=seed) for seed in (0, -1)]

        assert same[0] == same[1]
        seeds = {entry.seed for entry in fixture.fake.ledger.entries[2:]}
        assert len(seeds) == 2
        assert not seeds & {0, -1}
        assert {f"Using seed {seed}\n" for seed in seeds} == {one["logs"] for one in drawn}


@pytest.mark.parametrize(("strategy", "peak"), [("peak", -1.0), ("rms", None), ("clip", None)])
async def test_other_normalisations_are_the_models(strategy: str, peak: float | None) -> None:
    """To a peak of -1 dBFS, an RMS of -18 dB, or no gain at all."""
    async with emulator_fixture() as fixture:
        made = {"output_format": "wav", "normalization_strategy": strategy}
        audio = _heard(await fixture.clip(**made))

        if peak is not None:
            assert 20 * np.log10(np.abs(audio).max()) == pytest.approx(peak, abs=0.05)
        elif strategy == "rms":
            assert 20 * np.log10(rms(audio)) == pytest.approx(-18, abs=0.05)
        else:
            assert np.abs(audio).max() <= 10 ** (-1 / 20) + 1e-4


async def test_models_that_are_not_stereo_have_one_channel() -> None:
    """`large` and `melody-large`."""
    async with emulator_fixture() as fixture:
        clip = await fixture.clip(model_version="large")

        with av.open(io.BytesIO(clip)) as file:
            assert file.streams.audio[0].codec_context.channels == 1


async def _shaped(fixture: EmulatorFixture, shape: str) -> tuple[Audio, bytes]:
    """A first clip of 3 s, and one of 4 s in this shape that continues its last second."""
    url, first = await _first(fixture)
    fixture.fake.fault("clip_shape", value=shape)
    window = {"input_audio": url, "continuation_start": 2, "continuation_end": 3}
    return first, await fixture.clip(**CONTINUED, **window)


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [("window", 4), ("no_window", 3), ("cumulative", 6), ("too_short", 2), ("clipped", 4)],
)
async def test_a_clip_can_have_another_length_than_it_should(shape: str, seconds: int) -> None:
    """With its window, without it, with all that was before it, or half."""
    async with emulator_fixture(compose=compose) as fixture:
        first, clip = await _shaped(fixture, shape)
        heard, tail = _heard(clip), first[:, 2 * RATE_HZ :]

        assert heard.shape == (2, seconds * RATE_HZ)
        at = 2 * RATE_HZ if shape == "cumulative" else 0
        found = _alike(tail, heard[:, at : at + RATE_HZ])
        assert found < 0.5 if shape == "no_window" else found > 0.75
        if shape == "cumulative":
            assert _alike(first, heard[:, : 3 * RATE_HZ]) > 0.9


async def test_a_clip_can_be_silent_or_end_in_silence() -> None:
    """In the right length."""
    async with emulator_fixture() as fixture:
        _, silent = await _shaped(fixture, "silent")
        _, tail = await _shaped(fixture, "silent_tail")

        assert rms(_heard(silent)) < 1e-4
        assert rms(_heard(tail)[:, : 2 * RATE_HZ]) > 0.01
        assert rms(_heard(tail)[:, 3 * RATE_HZ :]) < 1e-4
        assert _heard(silent).shape == _heard(tail).shape == (2, 4 * RATE_HZ)


async def test_a_clip_can_be_clipped() -> None:
    """Full scale, for much of the time."""
    async with emulator_fixture() as fixture:
        _, clip = await _shaped(fixture, "clipped")

        assert np.mean(np.abs(_heard(clip)) > 0.98) > 0.01


async def test_a_clip_can_have_another_form() -> None:
    """One channel, another rate, no header that tells the padding, or no sound at all."""
    async with emulator_fixture() as fixture:
        forms = {
            s: (await _shaped(fixture, s))[1] for s in ("mono", "wrong_rate", "no_delay_header")
        }
        _, nothing = await _shaped(fixture, "not_audio")

        def form(shape: str) -> tuple[int, int]:
            with av.open(io.BytesIO(forms[shape])) as file:
                codec = file.streams.audio[0].codec_context
                return codec.sample_rate, codec.channels

        assert form("mono") == (RATE_HZ, 1)
        assert form("wrong_rate") == (44_100, 2)
        late = _heard(forms["no_delay_header"]).shape[1] - 4 * RATE_HZ
        assert 1105 <= late <= 2500
        with pytest.raises(MediaError):
            _heard(nothing)

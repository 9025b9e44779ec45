"""Tests of the emulator's clips: they obey the model's rules, or break them by a fault."""

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


def _decode(data: bytes) -> Audio:
    return decode(data, rate_hz=RATE_HZ)


def _correlation(one: Audio, other: Audio) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def _click(audio: Audio, at: int) -> float:
    """Return the largest second difference near `at` over the median around it."""
    half = RATE_HZ // 20
    bends = np.abs(np.diff(audio[:, at - half : at + half].astype(np.float64), 2, axis=1))
    return float((bends.max(axis=1) / np.median(bends, axis=1)).max())


async def _first(fixture: EmulatorFixture, **inputs: Any) -> tuple[str, Audio]:
    """Return the URL and the audio of a fresh clip."""
    prediction = await fixture.made(**inputs)
    return prediction["output"], _decode((await fixture.http.get(prediction["output"])).content)


async def test_a_continuation_begins_with_the_sent_window() -> None:
    """The same music, encoded again at its own level; it continues without a click."""
    async with emulator_fixture(compose=compose) as fixture:
        url, first = await _first(fixture)
        window = {"input_audio": url, "continuation_start": 1, "continuation_end": 3}
        second = _decode(await fixture.clip(**CONTINUED, **window))

        assert second.shape == (2, 4 * RATE_HZ)
        assert _correlation(first[:, RATE_HZ:], second[:, : 2 * RATE_HZ]) > 0.9
        assert _correlation(first[:, RATE_HZ:], second[:, 2 * RATE_HZ :]) < 0.5
        assert _click(second, 2 * RATE_HZ) < 10
        assert loudness_lufs(second) == pytest.approx(-14, abs=1)
        assert rms(first[:, RATE_HZ:]) != pytest.approx(rms(second[:, : 2 * RATE_HZ]), rel=0.01)
        entry = fixture.fake.ledger.entries[-1]
        assert (entry.input_from, entry.window_s) == ("output", (1, 3))


@pytest.mark.parametrize(
    ("mime", "file_format", "seconds"),
    [("audio/x-wav", "wav", 1.0), ("audio/mpeg", "mp3", 1.0), ("audio/x-wav", "wav", 1.37)],
)
async def test_a_window_can_be_a_data_url(mime: str, file_format: str, seconds: float) -> None:
    """Whole or fractional seconds of any music; without an end it lasts to the end of the file."""
    samples = int(seconds * RATE_HZ)
    theirs = music(np.arange(samples), rate_hz=RATE_HZ)
    data = base64.b64encode(encode(theirs, file_format=file_format)).decode()
    async with emulator_fixture(compose=compose) as fixture:
        clip = await fixture.clip(**CONTINUED, input_audio=f"data:{mime};base64,{data}")

        audio = _decode(clip)
        assert audio.shape == (2, 4 * RATE_HZ)
        assert _correlation(theirs, audio[:, :samples]) > 0.9
        assert fixture.fake.ledger.entries[-1].input_from == "data"


async def test_an_end_beyond_the_file_shortens_the_window() -> None:
    """2 to 9 of a 3 s file becomes 2 to 3, without an error."""
    async with emulator_fixture(compose=compose) as fixture:
        url, first = await _first(fixture)
        window = {"input_audio": url, "continuation_start": 2, "continuation_end": 9}
        second = _decode(await fixture.clip(**CONTINUED, **window))

        assert second.shape == (2, 4 * RATE_HZ)
        assert _correlation(first[:, 2 * RATE_HZ :], second[:, :RATE_HZ]) > 0.9


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
async def test_an_impossible_input_fails_with_the_models_error(
    inputs: dict[str, Any], error: str
) -> None:
    """The prediction is created and charged."""
    async with emulator_fixture() as fixture:
        url = (await fixture.made())["output"]
        body = await fixture.made(**{**CONTINUED, "input_audio": url, **inputs})

        assert (body["status"], body["output"]) == ("failed", None)
        assert body["error"].startswith(error)
        assert bool(body["error"]) == bool(error)
        assert len(fixture.fake.ledger.charged) == 2


async def test_a_prediction_without_prompt_or_audio_fails() -> None:
    """A continuation needs audio."""
    async with emulator_fixture() as fixture:
        body = {"version": "671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"}
        for inputs in ({}, {"continuation": True, "prompt": "calm"}):
            await fixture.http.post("predictions", json={**body, "input": inputs})
        await fixture.fake.settled()

        assert [prediction["error"] for prediction in fixture.fake.predictions] == [
            "Must provide either prompt or input_audio",
            "Must provide `input_audio` if continuation is `True`.",
        ]


async def test_an_expired_output_cannot_be_continued() -> None:
    """The model's runner fetches once and gets 404."""
    async with emulator_fixture(delivery_ttl_s=0.0) as fixture:
        url = (await fixture.made())["output"]
        body = await fixture.made(**CONTINUED, input_audio=url)

        assert (body["status"], body["error"]) == ("failed", "HTTP Error 404: Not Found")


async def test_an_input_url_is_fetched_unless_loopback_is_unreachable() -> None:
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
async def test_a_clip_has_the_requested_length(duration: int) -> None:
    """Whole seconds at 32 kHz, as 96 kb/s MP3 and as 16-bit WAV."""
    async with emulator_fixture() as fixture:
        mp3, wav = [await fixture.clip(duration=duration, output_format=f) for f in ("mp3", "wav")]

        assert _decode(mp3).shape == _decode(wav).shape == (2, duration * RATE_HZ)
        with av.open(io.BytesIO(mp3)) as file:
            codec = file.streams.audio[0].codec_context
            assert (codec.sample_rate, codec.bit_rate, codec.channels) == (RATE_HZ, 96_000, 2)
        with av.open(io.BytesIO(wav)) as file:
            assert file.streams.audio[0].codec_context.name == "pcm_s16le"


async def test_equal_requests_make_equal_clips_unless_the_seed_is_random() -> None:
    """0, -1 and no seed are random; the logs have the seed that was used."""
    async with emulator_fixture(compose=compose) as fixture:
        same = [await fixture.clip(duration=1, seed=9) for _ in range(2)]
        drawn = [await fixture.made(duration=1, seed=seed) for seed in (0, -1)]

        assert same[0] == same[1]
        seeds = {entry.seed for entry in fixture.fake.ledger.entries[2:]}
        assert len(seeds) == 2
        assert not seeds & {0, -1}
        assert {f"Using seed {seed}\n" for seed in seeds} == {
            prediction["logs"] for prediction in drawn
        }


@pytest.mark.parametrize(("strategy", "peak"), [("peak", -1.0), ("rms", None), ("clip", None)])
async def test_the_normalisation_is_the_models(strategy: str, peak: float | None) -> None:
    """A peak of -1 dBFS, an RMS of -18 dB, or no gain."""
    async with emulator_fixture() as fixture:
        inputs = {"output_format": "wav", "normalization_strategy": strategy}
        audio = _decode(await fixture.clip(**inputs))

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


async def _continue_in_shape(fixture: EmulatorFixture, shape: str) -> tuple[Audio, bytes]:
    """Return a 3 s clip and the file of a 4 s clip in this shape that continues its last second."""
    url, first = await _first(fixture)
    fixture.fake.fault("clip_shape", value=shape)
    window = {"input_audio": url, "continuation_start": 2, "continuation_end": 3}
    return first, await fixture.clip(**CONTINUED, **window)


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [("window", 4), ("no_window", 3), ("cumulative", 6), ("too_short", 2), ("clipped", 4)],
)
async def test_a_clip_can_have_a_wrong_length(shape: str, seconds: int) -> None:
    """With the window, without it, with the whole input before it, or half."""
    async with emulator_fixture(compose=compose) as fixture:
        first, clip = await _continue_in_shape(fixture, shape)
        audio, tail = _decode(clip), first[:, 2 * RATE_HZ :]

        assert audio.shape == (2, seconds * RATE_HZ)
        at = 2 * RATE_HZ if shape == "cumulative" else 0
        correlation = _correlation(tail, audio[:, at : at + RATE_HZ])
        assert correlation < 0.5 if shape == "no_window" else correlation > 0.75
        if shape == "cumulative":
            assert _correlation(first, audio[:, : 3 * RATE_HZ]) > 0.9


async def test_a_clip_can_be_silent_or_end_in_silence() -> None:
    """With the right length."""
    async with emulator_fixture() as fixture:
        _, silent = await _continue_in_shape(fixture, "silent")
        _, tail = await _continue_in_shape(fixture, "silent_tail")

        assert rms(_decode(silent)) < 1e-4
        assert rms(_decode(tail)[:, : 2 * RATE_HZ]) > 0.01
        assert rms(_decode(tail)[:, 3 * RATE_HZ :]) < 1e-4
        assert _decode(silent).shape == _decode(tail).shape == (2, 4 * RATE_HZ)


async def test_a_clip_can_be_clipped() -> None:
    """At full scale for much of the time."""
    async with emulator_fixture() as fixture:
        _, clip = await _continue_in_shape(fixture, "clipped")

        assert np.mean(np.abs(_decode(clip)) > 0.98) > 0.01


async def test_a_clip_can_have_a_wrong_form() -> None:
    """One channel, another rate, no delay header, or not audio."""
    async with emulator_fixture() as fixture:
        forms = {
            s: (await _continue_in_shape(fixture, s))[1]
            for s in ("mono", "wrong_rate", "no_delay_header")
        }
        _, nothing = await _continue_in_shape(fixture, "not_audio")

        def form(shape: str) -> tuple[int, int]:
            with av.open(io.BytesIO(forms[shape])) as file:
                codec = file.streams.audio[0].codec_context
                return codec.sample_rate, codec.channels

        assert form("mono") == (RATE_HZ, 1)
        assert form("wrong_rate") == (44_100, 2)
        late = _decode(forms["no_delay_header"]).shape[1] - 4 * RATE_HZ
        assert 1105 <= late <= 2500
        with pytest.raises(MediaError):
            _decode(nothing)

"""Replicate's outputs: whatever form they come in, whole, and without giving the key away."""

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import ProviderBusyError, ProviderRejectedError
from tests.unit.services.generator.providers.replicate.scripted_replicate import (
    FRESH,
    KEY,
    OUTPUT,
    ScriptedReplicate,
    a_clip,
    succeeded,
)

CLIP = a_clip()
INSIDE = "data:audio/mpeg;base64," + base64.b64encode(CLIP).decode()


@pytest.fixture
async def fixture(tmp_path: Path) -> ScriptedReplicate:
    """A prediction that is done."""
    fixture = ScriptedReplicate(tmp_path, settings={"download_bytes_max": 200_000})
    fixture.tells("get", succeeded())
    fixture.tells("file", httpx.Response(200, content=CLIP, headers={"Content-Type": "audio/mpeg"}))
    return fixture


@pytest.mark.parametrize(
    "output",
    [OUTPUT, [OUTPUT], [OUTPUT, "https://x.replicate.delivery/other"], {"audio": OUTPUT}, INSIDE],
    ids=["text", "list", "longer list", "object", "data URL"],
)
async def test_every_known_form_of_an_output_is_the_clip(
    fixture: ScriptedReplicate, output: Any
) -> None:
    """A text, a list, an object, or the sound itself."""
    fixture.tells("get", succeeded(output=output))

    clip = await fixture.provider.collect("p1", FRESH)

    assert (clip.data, clip.content_type) == (CLIP, "audio/mpeg")


@pytest.mark.parametrize(
    "fields",
    [
        {"output": None},
        {"output": None, "data_removed": True},
        {"output": []},
        {"output": 7},
        {"output": "out.mp3"},
        {"output": "data:audio/mpeg,nothing"},
        {"output": "file:///etc/passwd"},
    ],
)
async def test_what_is_no_output_is_named_as_such(
    fixture: ScriptedReplicate, fields: dict[str, Any]
) -> None:
    """In the contract's words."""
    fixture.tells("get", succeeded(**fields))

    with pytest.raises(ProviderRejectedError, match="Invalid audio output format"):
        await fixture.provider.collect("p1", FRESH)

    assert not fixture.at("file")


async def test_an_output_that_comes_a_moment_after_its_success_is_waited_for(
    fixture: ScriptedReplicate,
) -> None:
    """A look that shows none yet is not the last."""
    fixture.tells("get", succeeded(output=None), succeeded())

    assert (await fixture.provider.collect("p1", FRESH)).data == CLIP


async def test_what_the_provider_says_of_the_clip_is_kept(fixture: ScriptedReplicate) -> None:
    """Seconds of work, their price, where it lies and since when."""
    fixture.tells(
        "get",
        succeeded(metrics={"predict_time": 20.0}, completed_at="2026-01-01T00:00:30.5Z"),
    )

    clip = await fixture.provider.collect("p1", FRESH)

    assert (clip.generation_s, clip.cost_usd, clip.output_url) == (20.0, 0.028, OUTPUT)
    assert clip.output_url_born_at == 1_767_225_630.5
    assert (clip.continued, clip.warnings) == (True, ())


async def test_seconds_that_were_not_counted_are_those_between_start_and_end(
    fixture: ScriptedReplicate,
) -> None:
    """Some answers lack the metrics."""
    times = {"started_at": "2026-01-01T00:00:10Z", "completed_at": "2026-01-01T00:00:15Z"}
    fixture.tells("get", succeeded(metrics=None, **times))

    assert (await fixture.provider.collect("p1", FRESH)).generation_s == 5.0


@pytest.mark.parametrize(
    "first",
    [
        httpx.Response(200, content=CLIP[: len(CLIP) // 2]),
        httpx.RemoteProtocolError("closed"),
        httpx.ReadTimeout("silence"),
        httpx.Response(503),
        httpx.Response(404),
    ],
)
async def test_a_download_that_failed_is_made_again(
    fixture: ScriptedReplicate, first: httpx.Response | Exception
) -> None:
    """It is free; the prediction was not."""
    fixture.tells("file", first, httpx.Response(200, content=CLIP))

    assert (await fixture.provider.collect("p1", FRESH)).data == CLIP

    assert len(fixture.at("file")) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), ProviderRejectedError),
        (httpx.Response(503), ProviderBusyError),
        (httpx.Response(200, content=b"0" * 200_001), ProviderBusyError),
    ],
    ids=["gone", "down", "too large"],
)
async def test_a_download_that_never_works_is_given_up_by_its_kind(
    fixture: ScriptedReplicate, answer: httpx.Response, error: type[Exception]
) -> None:
    """What is gone is made again; what may still be there is fetched later."""
    fixture.tells("file", answer)

    with pytest.raises(error):
        await fixture.provider.collect("p1", FRESH)

    assert len(fixture.at("file")) == 5


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        (OUTPUT, True),
        ("https://replicate.delivery/out.mp3", True),
        ("https://api.replicate.com/files/out.mp3", True),
        ("http://x.replicate.delivery/out.mp3", False),
        ("https://x.replicate.delivery.evil.example/out.mp3", False),
        ("https://evilreplicate.delivery/out.mp3", False),
        ("https://api.replicate.com:8443/out.mp3", False),
        ("http://api.replicate.com/out.mp3", False),
    ],
)
async def test_the_key_goes_to_replicates_hosts_alone(
    fixture: ScriptedReplicate, url: str, *, is_told: bool
) -> None:
    """An output that lies elsewhere is fetched like anything else, and not offered again."""
    fixture.tells("get", succeeded(output=url))

    clip = await fixture.provider.collect("p1", FRESH)

    (request,) = fixture.at("file")
    assert (request.headers.get("authorization") == f"Bearer {KEY}") is is_told
    assert (clip.output_url == url) is is_told

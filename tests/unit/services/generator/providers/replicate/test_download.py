"""Checks the download of outputs: every form, complete, without leaking the key."""

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
DATA_URL = "data:audio/mpeg;base64," + base64.b64encode(CLIP).decode()


@pytest.fixture
async def fixture(tmp_path: Path) -> ScriptedReplicate:
    """Yield a prediction that succeeded."""
    fixture = ScriptedReplicate(tmp_path, settings={"download_bytes_max": 200_000})
    fixture.respond("get", succeeded())
    fixture.respond(
        "file", httpx.Response(200, content=CLIP, headers={"Content-Type": "audio/mpeg"})
    )
    return fixture


@pytest.mark.parametrize(
    "output",
    [OUTPUT, [OUTPUT], [OUTPUT, "https://x.replicate.delivery/other"], {"audio": OUTPUT}, DATA_URL],
    ids=["text", "list", "longer list", "object", "data URL"],
)
async def test_every_form_of_output_returns_the_clip(
    fixture: ScriptedReplicate, output: Any
) -> None:
    """A string, a list, an object or a data URL."""
    fixture.respond("get", succeeded(output=output))

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
async def test_an_unusable_output_is_rejected(
    fixture: ScriptedReplicate, fields: dict[str, Any]
) -> None:
    """With the contract's message, without a download."""
    fixture.respond("get", succeeded(**fields))

    with pytest.raises(ProviderRejectedError, match="Invalid audio output format"):
        await fixture.provider.collect("p1", FRESH)

    assert not fixture.requests_to("file")


async def test_an_output_that_appears_after_the_success_is_awaited(
    fixture: ScriptedReplicate,
) -> None:
    """A success without an output is polled again."""
    fixture.respond("get", succeeded(output=None), succeeded())

    assert (await fixture.provider.collect("p1", FRESH)).data == CLIP


async def test_the_clip_carries_the_providers_metadata(fixture: ScriptedReplicate) -> None:
    """Compute seconds, cost, URL and creation time."""
    fixture.respond(
        "get",
        succeeded(metrics={"predict_time": 20.0}, completed_at="2026-01-01T00:00:30.5Z"),
    )

    clip = await fixture.provider.collect("p1", FRESH)

    assert (clip.generation_s, clip.cost_usd, clip.output_url) == (20.0, 0.028, OUTPUT)
    assert clip.output_url_born_at == 1_767_225_630.5
    assert (clip.continued, clip.warnings) == (True, ())


async def test_missing_compute_seconds_are_derived_from_start_and_end(
    fixture: ScriptedReplicate,
) -> None:
    """Some responses lack the metrics."""
    times = {"started_at": "2026-01-01T00:00:10Z", "completed_at": "2026-01-01T00:00:15Z"}
    fixture.respond("get", succeeded(metrics=None, **times))

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
async def test_a_failed_download_is_retried(
    fixture: ScriptedReplicate, first: httpx.Response | Exception
) -> None:
    """A download is free; the prediction was not."""
    fixture.respond("file", first, httpx.Response(200, content=CLIP))

    assert (await fixture.provider.collect("p1", FRESH)).data == CLIP

    assert len(fixture.requests_to("file")) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), ProviderRejectedError),
        (httpx.Response(503), ProviderBusyError),
        (httpx.Response(200, content=b"0" * 200_001), ProviderBusyError),
    ],
    ids=["gone", "down", "too large"],
)
async def test_a_download_that_always_fails_raises_by_cause(
    fixture: ScriptedReplicate, answer: httpx.Response, error: type[Exception]
) -> None:
    """A missing output is composed again; an unavailable one is downloaded later."""
    fixture.respond("file", answer)

    with pytest.raises(error):
        await fixture.provider.collect("p1", FRESH)

    assert len(fixture.requests_to("file")) == 5


@pytest.mark.parametrize(
    ("url", "sends_key"),
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
async def test_the_key_is_sent_to_replicates_hosts_only(
    fixture: ScriptedReplicate, url: str, *, sends_key: bool
) -> None:
    """An output on another host is downloaded without the key, and not reused."""
    fixture.respond("get", succeeded(output=url))

    clip = await fixture.provider.collect("p1", FRESH)

    (request,) = fixture.requests_to("file")
    assert (request.headers.get("authorization") == f"Bearer {KEY}") is sends_key
    assert (clip.output_url == url) is sends_key


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 410, 451])
async def test_a_permanent_answer_of_the_file_host_ends_the_attempt(
    fixture: ScriptedReplicate, status: int
) -> None:
    """A redirect is not followed, so that none can loop or lead elsewhere."""
    fixture.respond("file", httpx.Response(status, headers={"Location": OUTPUT}))

    with pytest.raises(ProviderRejectedError, match=f"HTTP {status}"):
        await fixture.provider.collect("p1", FRESH)

    assert {str(request.url) for request in fixture.requests_to("file")} == {OUTPUT}


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example:-1/o",
        "https://x.example:99999/o",
        "http://[::1/o",
        "https:///o",
        "ftp://x/o",
    ],
)
async def test_an_output_that_is_no_url_is_not_requested(
    fixture: ScriptedReplicate, url: str
) -> None:
    """The clip is composed again, with a message that shows the output."""
    fixture.respond("get", succeeded(output=url))

    with pytest.raises(ProviderRejectedError, match="Invalid audio output format"):
        await fixture.provider.collect("p1", FRESH)

    assert fixture.requests_to("file") == []

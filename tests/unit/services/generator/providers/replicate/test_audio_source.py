"""Checks from which URL the model reads the music to continue."""

import base64
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog

from services.generator.providers import CompositionRequest, ContinuationWindow
from services.generator.providers.replicate.audio_source import NoSourceError, is_public_url
from services.generator.providers.replicate.factory import build_replicate, build_webhook
from services.generator.providers.replicate.provider import WebhookUrl
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.media.decode import decode
from shared.media.samples import CLIP_RATE_HZ
from shared.media.sandbox import MediaSandbox
from shared.security.signed_links import (
    LinkSettings,
    LinkUnknownError,
    SegmentLinks,
    WebhookLinks,
)
from shared.settings import MediaSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.unit.services.generator.providers.replicate.scripted_replicate import (
    OUTPUT,
    ScriptedReplicate,
    a_clip,
    a_prediction,
    succeeded,
)

KEY = "jobs/a/clip.mp3"
PUBLIC = "https://segue.example.com"
NOW = 1_767_225_600.0
WINDOW = ContinuationWindow(
    clip_key=KEY, clip_url=OUTPUT, start_s=2, end_s=4, clip_url_born_at=NOW - 60
)
CONTINUED = CompositionRequest(prompt="calm", duration_s=2 + 2, window=WINDOW, seed=7)


async def _submitted_input(
    fixture: ScriptedReplicate, request: CompositionRequest = CONTINUED
) -> dict[str, object]:
    """Submit the request; return the input that was sent."""
    fixture.respond("create", httpx.Response(201, json=a_prediction()))
    await fixture.provider.submit(request)
    fields: dict[str, object] = fixture.body["input"]
    return fields


async def test_an_existing_output_is_used_first(tmp_path: Path) -> None:
    """It is checked before use, free of charge."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.respond("head", httpx.Response(200))
    await fixture.store.put(KEY, a_clip(4))

    fields = await _submitted_input(fixture)

    assert (fields["input_audio"], fields["continuation_start"], fields["continuation_end"]) == (
        (OUTPUT, 2, 4)
    )


@pytest.mark.parametrize(
    ("url", "born_at", "head"),
    [
        (OUTPUT, NOW - 3301, httpx.Response(200)),
        (OUTPUT, NOW - 60, httpx.Response(404)),
        (OUTPUT, None, httpx.Response(410)),
        (OUTPUT, None, httpx.ReadTimeout("silence")),
        (OUTPUT, None, httpx.Response(302, headers={"Location": "https://x.example"})),
        ("https://elsewhere.example/out.mp3", NOW, httpx.Response(200)),
        (None, None, httpx.Response(200)),
    ],
    ids=["old", "dead", "gone", "silent", "moved", "elsewhere", "none"],
)
async def test_an_output_that_may_be_gone_is_replaced_by_a_sealed_link(
    tmp_path: Path, url: str | None, born_at: float | None, head: httpx.Response | Exception
) -> None:
    """The link names the clip in our store; the api opens it with the same key."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.respond("head", head)
    await fixture.store.put(KEY, a_clip(4))
    window = replace(WINDOW, clip_url=url, clip_url_born_at=born_at)

    with structlog.testing.capture_logs() as lines:
        fields = await _submitted_input(fixture, replace(CONTINUED, window=window))

    link = str(fields["input_audio"])
    token = link.removeprefix(f"{PUBLIC}/api/v3/audio/segments/")
    links = SegmentLinks(LinkSettings(keys="k" * 16), clock=fixture.clock)
    assert links.open(token) == KEY
    assert (fields["continuation_start"], fields["continuation_end"]) == (2, 4)
    (record,) = [line for line in lines if line["action"] == "continuation.stored"]
    assert record["event"] % record.get("positional_args", ()) == (
        f"Stored continuation segment at {PUBLIC}/api/v3/audio/segments/…"
    )
    assert token not in str(lines)


@pytest.mark.parametrize("base_url", [None, "http://localhost:4000", "http://192.168.1.7:4000"])
async def test_without_a_public_address_the_window_is_sent_inline(
    tmp_path: Path, base_url: str | None
) -> None:
    """It is cut out, encoded once more, and has the exact length."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=base_url)
    clip = a_clip(4)
    await fixture.store.put(KEY, clip)

    fields = await _submitted_input(
        fixture, replace(CONTINUED, window=replace(WINDOW, clip_url=None))
    )

    url = str(fields["input_audio"])
    assert url.startswith("data:audio/mpeg;base64,")
    assert len(url) <= 256_000
    assert (fields["continuation_start"], fields["continuation_end"]) == (0, 2)
    sent = decode(base64.b64decode(url.partition(",")[2]), rate_hz=CLIP_RATE_HZ)
    expected = decode(clip, rate_hz=CLIP_RATE_HZ)[:, 2 * CLIP_RATE_HZ : 4 * CLIP_RATE_HZ]
    assert sent.shape == expected.shape
    error = sent - expected
    assert np.vdot(error, error) < 1e-3 * np.vdot(expected, expected)


@pytest.mark.parametrize(
    ("base_url", "keys", "reason"),
    [
        (None, "k" * 16, "PUBLIC_BASE_URL is not a public address"),
        ("http://localhost:4000", "k" * 16, "PUBLIC_BASE_URL is not a public address"),
        (PUBLIC, "", "SEGUE_SEGMENT_KEYS is not set"),
        (PUBLIC, "k" * 16, None),
    ],
)
async def test_a_missing_public_address_is_logged_at_start(
    tmp_path: Path, base_url: str | None, keys: str, reason: str | None
) -> None:
    """Once, with the setting that would change it."""
    with structlog.testing.capture_logs() as lines:
        provider = build_replicate(
            ReplicateSettings(key="r8_of_the_test"),
            links=LinkSettings(keys=keys, public_base_url=base_url),
            store=FolderStore(tmp_path),
            sandbox=MediaSandbox(MediaSettings()),
            clock=FakeClock(),
            log=logger_of("test"),
        )
        await provider.close()

    reasons = [line["reason"] for line in lines if line["action"] == "continuation.unavailable"]
    assert [text.startswith(reason or "-") for text in reasons] == ([True] if reason else [])


async def test_a_long_window_is_encoded_at_a_lower_bit_rate(tmp_path: Path) -> None:
    """Twenty seconds still fit into the request."""
    fixture = ScriptedReplicate(tmp_path)
    await fixture.store.put(KEY, a_clip(20))
    window = replace(WINDOW, clip_url=None, start_s=0, end_s=20)

    fields = await _submitted_input(fixture, replace(CONTINUED, window=window, duration_s=22))

    assert 150_000 < len(str(fields["input_audio"])) <= 256_000


async def test_without_a_source_the_clip_continues_nothing_and_warns(tmp_path: Path) -> None:
    """In the log, and in the clip's warnings."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.respond("head", httpx.Response(404))
    sent = {"prompt": "calm", "duration": 4, "seed": 7}
    fixture.respond("get", succeeded(input=sent))
    fixture.respond("file", httpx.Response(200, content=a_clip(4)))

    with structlog.testing.capture_logs() as lines:
        fields = await _submitted_input(fixture)
    clip = await fixture.provider.collect("p1", CONTINUED)

    assert "input_audio" not in fields
    assert fields["duration"] == 4
    assert [line["action"] for line in lines] == ["continuation.unavailable"]
    assert not clip.continued
    assert clip.warnings == (
        f"made without continuation: clip to continue not found or unreadable: {KEY}",
    )


async def test_an_adopted_prediction_is_known_not_to_continue(
    tmp_path: Path,
) -> None:
    """The prediction's own input shows it."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.respond("get", succeeded(input={"prompt": "calm", "duration": 4, "seed": 7}))
    fixture.respond("file", httpx.Response(200, content=a_clip(4)))

    clip = await fixture.provider.collect("p1", CONTINUED)

    assert (clip.continued, clip.warnings) == (False, ("made without continuation",))


async def test_a_request_that_must_continue_is_rejected_before_payment(tmp_path: Path) -> None:
    """Nothing is created."""
    fixture = ScriptedReplicate(tmp_path)

    with pytest.raises(NoSourceError, match="cannot continue"):
        await fixture.provider.submit(
            replace(CONTINUED, must_continue=True, window=replace(WINDOW, clip_url=None))
        )

    assert not fixture.requests_to("create")


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://segue.example.com", True),
        ("https://segue.example.com:8443/base", True),
        ("http://203.0.113.0", False),  # for documentation
        ("https://8.8.8.8", True),
        ("https://[2606:4700::1111]/", True),
        ("https://[::1]/", False),
        ("http://127.0.0.1:4000", False),
        ("http://10.0.0.8", False),
        ("http://169.254.1.1", False),
        ("http://100.64.0.1", False),
        ("http://localhost", False),
        ("http://localhost.", False),
        ("http://api", False),
        ("http://nas.local", False),
        ("http://api.svc.internal.", False),
        ("", False),
        (None, False),
    ],
)
def test_an_address_is_public_only_if_it_looks_reachable(url: str | None, *, public: bool) -> None:
    """Judged by host name or IP address."""
    assert is_public_url(url) is public


def test_webhooks_need_a_public_https_address() -> None:
    """The provider calls https only; the URL does not reveal the job."""

    def at(public_base_url: str | None, keys: str = "k" * 16) -> WebhookUrl | None:
        links = LinkSettings(keys=keys, public_base_url=public_base_url)
        return build_webhook(links, clock=FakeClock())

    webhook = at("https://segue.example.com/")
    assert webhook is not None
    base, _, token = webhook("job-1").rpartition("/")
    assert base == "https://segue.example.com/api/v3/webhooks/replicate"
    assert "job-1" not in token
    opener = WebhookLinks(LinkSettings(keys="k" * 16), clock=FakeClock())
    assert opener.open(token) == "job-1"
    assert at("http://segue.example.com") is None
    assert at("https://localhost") is None
    assert at(None) is None
    assert at("https://segue.example.com", keys="") is None


def test_a_segment_link_is_no_webhook_link() -> None:
    """A link to fetch a segment cannot report a prediction's end, nor the reverse."""
    settings = LinkSettings(keys="k" * 16)
    segments = SegmentLinks(settings, clock=FakeClock())
    hooks = WebhookLinks(settings, clock=FakeClock())

    with pytest.raises(LinkUnknownError):
        hooks.open(segments.seal("job-1"))
    with pytest.raises(LinkUnknownError):
        segments.open(hooks.seal("jobs/a/clip.mp3"))

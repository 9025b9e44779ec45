"""Replicate's sources: where a continuation's music comes from, step by step."""

import base64
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog

from services.generator.providers import CompositionRequest, ContinuationWindow
from services.generator.providers.replicate.audio_source import NoSourceError, is_public_url
from services.generator.providers.replicate.factory import build_replicate, webhooks
from services.generator.providers.replicate.provider import Webhook
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.synth.voices import RATE_HZ
from shared.media.decode import decode
from shared.security.signed_links import (
    LinkSettings,
    LinkUnknownError,
    SegmentLinks,
    WebhookLinks,
)
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


async def _sent(
    fixture: ScriptedReplicate, request: CompositionRequest = CONTINUED
) -> dict[str, object]:
    """The input of the prediction that was asked for."""
    fixture.tells("create", httpx.Response(201, json=a_prediction()))
    await fixture.provider.submit(request)
    told: dict[str, object] = fixture.body["input"]
    return told


async def test_an_output_that_is_alive_is_used_first(tmp_path: Path) -> None:
    """Asked for before use, which is free."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.tells("head", httpx.Response(200))
    await fixture.store.put(KEY, a_clip(4))

    told = await _sent(fixture)

    assert (told["input_audio"], told["continuation_start"], told["continuation_end"]) == (
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
async def test_an_output_that_may_be_dead_is_replaced_by_a_sealed_link(
    tmp_path: Path, url: str | None, born_at: float | None, head: httpx.Response | Exception
) -> None:
    """To the clip in our own store, which the api opens with the same key."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.tells("head", head)
    await fixture.store.put(KEY, a_clip(4))
    window = replace(WINDOW, clip_url=url, clip_url_born_at=born_at)

    with structlog.testing.capture_logs() as lines:
        told = await _sent(fixture, replace(CONTINUED, window=window))

    link = str(told["input_audio"])
    token = link.removeprefix(f"{PUBLIC}/api/v3/audio/segments/")
    links = SegmentLinks(LinkSettings(keys="k" * 16), clock=fixture.clock)
    assert links.open(token) == KEY
    assert (told["continuation_start"], told["continuation_end"]) == (2, 4)
    (said,) = [line for line in lines if line["action"] == "continuation.stored"]
    assert said["event"] % said.get("positional_args", ()) == (
        f"Stored continuation segment at {PUBLIC}/api/v3/audio/segments/…"
    )
    assert token not in str(lines)


@pytest.mark.parametrize("base_url", [None, "http://localhost:4000", "http://192.168.1.7:4000"])
async def test_without_a_public_address_the_window_travels_inside(
    tmp_path: Path, base_url: str | None
) -> None:
    """Cut out, coded once more, and long enough to the sample."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=base_url)
    clip = a_clip(4)
    await fixture.store.put(KEY, clip)

    told = await _sent(fixture, replace(CONTINUED, window=replace(WINDOW, clip_url=None)))

    url = str(told["input_audio"])
    assert url.startswith("data:audio/mpeg;base64,")
    assert len(url) <= 256_000
    assert (told["continuation_start"], told["continuation_end"]) == (0, 2)
    sent = decode(base64.b64decode(url.partition(",")[2]), rate_hz=RATE_HZ)
    meant = decode(clip, rate_hz=RATE_HZ)[:, 2 * RATE_HZ : 4 * RATE_HZ]
    assert sent.shape == meant.shape
    error = sent - meant
    assert np.vdot(error, error) < 1e-3 * np.vdot(meant, meant)


@pytest.mark.parametrize(
    ("base_url", "keys", "said"),
    [
        (None, "k" * 16, "PUBLIC_BASE_URL names no public address"),
        ("http://localhost:4000", "k" * 16, "PUBLIC_BASE_URL names no public address"),
        (PUBLIC, "", "SEGUE_SEGMENT_KEYS is not set"),
        (PUBLIC, "k" * 16, None),
    ],
)
async def test_that_nobody_can_fetch_from_us_is_found_out_at_start(
    tmp_path: Path, base_url: str | None, keys: str, said: str | None
) -> None:
    """Once, with the setting that would change it."""
    with structlog.testing.capture_logs() as lines:
        provider = build_replicate(
            ReplicateSettings(key="r8_of_the_test"),
            links=LinkSettings(keys=keys, public_base_url=base_url),
            store=FolderStore(tmp_path),
            clock=FakeClock(),
            log=logger_of("test"),
        )
        await provider.close()

    found = [line["reason"] for line in lines if line["action"] == "continuation.unavailable"]
    assert [one.startswith(said or "-") for one in found] == ([True] if said else [])


async def test_a_long_window_is_coded_more_thriftily(tmp_path: Path) -> None:
    """Twenty seconds still fit into the request."""
    fixture = ScriptedReplicate(tmp_path)
    await fixture.store.put(KEY, a_clip(20))
    window = replace(WINDOW, clip_url=None, start_s=0, end_s=20)

    told = await _sent(fixture, replace(CONTINUED, window=window, duration_s=22))

    assert 150_000 < len(str(told["input_audio"])) <= 256_000


async def test_without_any_source_the_clip_begins_anew_and_says_so(tmp_path: Path) -> None:
    """In the log, and in what comes back."""
    fixture = ScriptedReplicate(tmp_path, public_base_url=PUBLIC)
    fixture.tells("head", httpx.Response(404))
    asked = {"prompt": "calm", "duration": 4, "seed": 7}
    fixture.tells("get", succeeded(input=asked))
    fixture.tells("file", httpx.Response(200, content=a_clip(4)))

    with structlog.testing.capture_logs() as lines:
        told = await _sent(fixture)
    clip = await fixture.provider.collect("p1", CONTINUED)

    assert "input_audio" not in told
    assert told["duration"] == 4
    assert [line["action"] for line in lines] == ["continuation.unavailable"]
    assert not clip.continued
    assert clip.warnings == (
        f"made without continuation: there is no clip {KEY} that can be continued",
    )


async def test_whoever_found_it_again_still_knows_that_it_was_not_continued(
    tmp_path: Path,
) -> None:
    """The prediction itself says what it was given."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.tells("get", succeeded(input={"prompt": "calm", "duration": 4, "seed": 7}))
    fixture.tells("file", httpx.Response(200, content=a_clip(4)))

    clip = await fixture.provider.collect("p1", CONTINUED)

    assert (clip.continued, clip.warnings) == (False, ("made without continuation",))


async def test_a_run_that_must_continue_is_refused_before_it_is_paid(tmp_path: Path) -> None:
    """It asked to stop instead."""
    fixture = ScriptedReplicate(tmp_path)

    with pytest.raises(NoSourceError, match="cannot continue"):
        await fixture.provider.submit(
            replace(CONTINUED, must_continue=True, window=replace(WINDOW, clip_url=None))
        )

    assert not fixture.at("create")


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
def test_an_address_is_public_only_if_the_world_could_reach_it(
    url: str | None, *, public: bool
) -> None:
    """As far as its name tells."""
    assert is_public_url(url) is public


def test_webhooks_go_to_public_https_addresses_alone() -> None:
    """The provider calls nothing else; and the address names no job to it."""

    def at(public_base_url: str | None, keys: str = "k" * 16) -> Webhook | None:
        links = LinkSettings(keys=keys, public_base_url=public_base_url)
        return webhooks(links, clock=FakeClock())

    webhook = at("https://segue.example.com/")
    assert webhook is not None
    place, _, token = webhook("job-1").rpartition("/")
    assert place == "https://segue.example.com/api/v3/webhooks/replicate"
    assert "job-1" not in token
    opener = WebhookLinks(LinkSettings(keys="k" * 16), clock=FakeClock())
    assert opener.open(token) == "job-1"
    assert at("http://segue.example.com") is None
    assert at("https://localhost") is None
    assert at(None) is None
    assert at("https://segue.example.com", keys="") is None


def test_a_link_of_one_kind_means_nothing_to_the_other() -> None:
    """Whoever may fetch a segment may not say that a prediction ended, nor the reverse."""
    settings = LinkSettings(keys="k" * 16)
    segments = SegmentLinks(settings, clock=FakeClock())
    hooks = WebhookLinks(settings, clock=FakeClock())

    with pytest.raises(LinkUnknownError):
        hooks.open(segments.seal("job-1"))
    with pytest.raises(LinkUnknownError):
        segments.open(hooks.seal("jobs/a/clip.mp3"))

"""Checks the request sent to MusicGen, and that invalid input is never sent."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generator.providers import CompositionRequest, ContinuationWindow
from services.generator.providers.replicate.request import AudioSource, build_body
from services.generator.providers.replicate.settings import MUSICGEN
from shared.errors import ProviderRejectedError
from tests.unit.services.generator.providers.replicate.scripted_replicate import (
    FRESH,
    KEY,
    ScriptedReplicate,
    a_clip,
    a_prediction,
)

WINDOW = ContinuationWindow(clip_key="jobs/a/clip.mp3", clip_url=None, start_s=1, end_s=2)
CONTINUED = CompositionRequest(prompt="calm", duration_s=4, window=WINDOW, seed=7)


async def test_a_first_scene_sends_exactly_this_body(tmp_path: Path) -> None:
    """The API rejects unknown keys."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.respond("create", httpx.Response(201, json=a_prediction()))

    await fixture.provider.submit(FRESH)

    assert fixture.body == {
        "version": MUSICGEN,
        "input": {
            "prompt": "calm",
            "model_version": "stereo-large",
            "output_format": "mp3",
            "normalization_strategy": "loudness",
            "duration": 2,
            "seed": 7,
        },
    }
    (request,) = fixture.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["cancel-after"] == "630s"
    assert "prefer" not in request.headers


async def test_a_continuation_sends_its_window_in_whole_seconds(tmp_path: Path) -> None:
    """With a public address: a link to the clip, and a webhook."""
    fixture = ScriptedReplicate(tmp_path, public_base_url="https://segue.example.com/")
    fixture.respond("create", httpx.Response(201, json=a_prediction()))
    await fixture.store.put(WINDOW.clip_key, a_clip(2))

    await fixture.provider.submit(CONTINUED)

    fields = fixture.body["input"]
    assert fields["continuation"] is True
    assert (fields["continuation_start"], fields["continuation_end"], fields["duration"]) == (
        1,
        2,
        4,
    )
    assert {type(fields[f"continuation_{end}"]) for end in ("start", "end")} == {int}
    assert fields["input_audio"].startswith("https://segue.example.com/api/v3/audio/segments/")
    assert fixture.body["webhook"].startswith(
        "https://segue.example.com/api/v3/webhooks/replicate/"
    )
    assert fixture.body["webhook_events_filter"] == ["completed"]


@pytest.mark.parametrize(
    ("request_fields", "source_fields"),
    [
        ({}, {"start_s": 2, "end_s": 2}),
        ({}, {"start_s": -1, "end_s": 1}),
        ({}, {"start_s": 0, "end_s": 2}),  # as long as the duration
        ({}, {"start_s": 0, "end_s": 1.0}),
        ({"seed": 2**32}, {}),
        ({"seed": 0}, {}),
        ({"prompt": " "}, {}),
        ({"duration_s": 2.0}, {}),
    ],
)
def test_input_on_which_the_model_fails_is_never_sent(
    request_fields: dict[str, Any], source_fields: dict[str, Any]
) -> None:
    """It is rejected before it costs money."""
    fields = {"prompt": "calm", "duration_s": 2, "window": None, "seed": 7, **request_fields}
    source = AudioSource(
        **{"url": "https://x", "start_s": 0, "end_s": 1, "kind": "link", **source_fields}
    )

    with pytest.raises(ProviderRejectedError, match="not sent to MusicGen"):
        build_body(CompositionRequest(**fields), source, version=MUSICGEN, webhook=None)


@pytest.mark.parametrize("seed", [1, 2**32 - 1])
def test_the_smallest_and_the_largest_valid_input_is_sent(seed: int) -> None:
    """One second of music, and the first and the last seed."""
    request = CompositionRequest(prompt="calm", duration_s=1, window=None, seed=seed)

    assert build_body(request, None, version=MUSICGEN, webhook=None)["input"]["seed"] == seed


def test_input_without_new_music_is_reported_with_its_numbers() -> None:
    """The message has the window's length and the duration."""
    request = CompositionRequest(prompt="calm", duration_s=2, window=None, seed=7)
    source = AudioSource(url="https://x", start_s=1, end_s=3, kind="link")

    with pytest.raises(ProviderRejectedError, match="a window of 2 s leaves nothing of 2 s"):
        build_body(request, source, version=MUSICGEN, webhook=None)


async def test_a_window_past_the_end_of_the_measured_clip_is_never_sent(tmp_path: Path) -> None:
    """The model would silently shorten the window."""
    fixture = ScriptedReplicate(tmp_path)
    await fixture.store.put(WINDOW.clip_key, a_clip(1))

    with pytest.raises(ProviderRejectedError, match=r"lasts 1.00 s, but its window ends at 2 s"):
        await fixture.provider.submit(CONTINUED)

    assert not fixture.requests


async def test_a_scene_longer_than_the_models_window_is_one_prediction(tmp_path: Path) -> None:
    """Beyond 30 s the model slides its own window."""
    fixture = ScriptedReplicate(tmp_path)
    fixture.respond("create", httpx.Response(201, json=a_prediction()))

    await fixture.provider.submit(
        CompositionRequest(prompt="calm", duration_s=95, window=None, seed=7)
    )

    assert fixture.body["input"]["duration"] == 95

"""Checks recorded responses: every form of output with every shape of clip.

The responses are in `tests/recorded`, with the program that recorded them. The test runs our code
from the response to the recognised clip: parse, download, decode, measure, recognise.
"""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generator.clip.inspection import ClipInspector, ClipSpec
from services.generator.clip.quality import RecognisedClip, Shape
from services.generator.providers import CompositionRequest, ContinuationWindow
from shared.errors import ProviderRejectedError
from shared.media.samples import SAMPLE_RATE_HZ
from shared.media.sandbox import MediaSandbox
from shared.settings import MediaSettings
from tests import recorded
from tests.unit.services.generator.providers.replicate.scripted_replicate import ScriptedReplicate

FOLDER = Path(recorded.__file__).parent
ANSWERS: dict[str, dict[str, Any]] = json.loads((FOLDER / "predictions.json").read_text())
SOURCE = "jobs/x/runs/1/scenes/00000/clip-1.mp3"
REQUEST = CompositionRequest(
    prompt="calm piano",
    duration_s=2,
    window=ContinuationWindow(clip_key=SOURCE, clip_url=None, start_s=1, end_s=2),
    seed=8,
)
RATE, PADDING = SAMPLE_RATE_HZ, 1658
#: shape, samples, start of the new music
EXPECTED = {
    "window": (Shape.WINDOW, 2 * RATE, RATE),
    "no_window": (Shape.NO_WINDOW, RATE, 0),
    "cumulative": (Shape.CUMULATIVE, 3 * RATE, 2 * RATE),
    "no_delay_header": (Shape.WINDOW, None, RATE + PADDING),
}


async def inspected(folder: Path, *, form: str, clip: str) -> tuple[int, RecognisedClip]:
    """Return the inspection's result for a clip returned in this form."""
    fixture, answer = ScriptedReplicate(folder), dict(ANSWERS[form])
    data = (FOLDER / f"{clip}.mp3").read_bytes()
    if form == "data_url":
        head, _, _ = answer["output"].partition(",")
        answer["output"] = f"{head},{base64.b64encode(data).decode()}"
    fixture.respond("get", httpx.Response(200, json=answer))
    fixture.respond(
        "file", httpx.Response(200, content=data, headers={"Content-Type": "audio/mpeg"})
    )
    await fixture.store.put(SOURCE, (FOLDER / "source.mp3").read_bytes())
    received = await fixture.provider.collect(answer["id"], REQUEST)
    assert received.data == data
    spec = ClipSpec(request=REQUEST, so_far_samples=2 * RATE, needed_samples=RATE)
    return await ClipInspector(store=fixture.store, sandbox=MediaSandbox(MediaSettings())).inspect(
        received, spec, musical=True
    )


@pytest.mark.parametrize("form", ["string", "list", "data_url"])
@pytest.mark.parametrize("clip", EXPECTED)
async def test_every_form_and_shape_is_recognised(tmp_path: Path, form: str, clip: str) -> None:
    """The shape, the measured length and the start of the new music are right."""
    samples, recognised = await inspected(tmp_path, form=form, clip=clip)

    shape, length, old = EXPECTED[clip]
    assert recognised.shape is shape
    assert samples == length or length is None
    assert recognised.old_samples == pytest.approx(old, abs=2)
    assert recognised.padding_samples == (PADDING if clip == "no_delay_header" else 0)
    assert recognised.correlation is None or recognised.correlation > 0.9


async def test_a_null_output_is_rejected(tmp_path: Path) -> None:
    """With the contract's message; a retry may succeed."""
    with pytest.raises(ProviderRejectedError, match="Invalid audio output format") as caught:
        await inspected(tmp_path, form="null", clip="window")

    assert caught.value.retryable


@pytest.mark.parametrize("form", ANSWERS)
def test_each_recorded_response_has_the_form_of_its_name(form: str) -> None:
    """Each is a whole recorded prediction."""
    answer = ANSWERS[form]
    kinds: dict[str, Any] = {"string": str, "list": list, "data_url": str, "null": type(None)}

    assert answer["status"] == "succeeded"
    assert isinstance(answer["output"], kinds[form])
    assert form != "data_url" or answer["output"].startswith("data:audio/mpeg;base64,")
    assert answer["input"]["continuation_end"] == 2

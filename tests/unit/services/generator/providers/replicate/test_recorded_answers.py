"""Recorded answers: whatever form an output has and whatever its clip holds, it is understood.

The answers lie in `tests/recorded`, and how they were made. From the answer to the question what
the clip is, everything is ours: reading it, fetching it, decoding, measuring, recognising.
"""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generator.clip.inspection import AskedFor, Inspection
from services.generator.clip.quality import Recognised, Shape
from services.generator.providers import CompositionRequest, ContinuationWindow
from shared.errors import ProviderRejectedError
from shared.media.samples import SAMPLE_RATE_HZ
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
#: shape, samples, where the new music begins
WANTED = {
    "window": (Shape.WINDOW, 2 * RATE, RATE),
    "no_window": (Shape.NO_WINDOW, RATE, 0),
    "cumulative": (Shape.CUMULATIVE, 3 * RATE, 2 * RATE),
    "no_delay_header": (Shape.WINDOW, None, RATE + PADDING),
}


async def understood(folder: Path, *, form: str, clip: str) -> tuple[int, Recognised]:
    """What the generator makes of a clip that comes in this form."""
    fixture, answer = ScriptedReplicate(folder), dict(ANSWERS[form])
    data = (FOLDER / f"{clip}.mp3").read_bytes()
    if form == "data_url":
        head, _, _ = answer["output"].partition(",")
        answer["output"] = f"{head},{base64.b64encode(data).decode()}"
    fixture.tells("get", httpx.Response(200, json=answer))
    fixture.tells("file", httpx.Response(200, content=data, headers={"Content-Type": "audio/mpeg"}))
    await fixture.store.put(SOURCE, (FOLDER / "source.mp3").read_bytes())
    got = await fixture.provider.collect(answer["id"], REQUEST)
    assert got.data == data
    asked = AskedFor(request=REQUEST, so_far_samples=2 * RATE, needed_samples=RATE)
    return await Inspection(store=fixture.store).passed(got, asked, musical=True)


@pytest.mark.parametrize("form", ["string", "list", "data_url"])
@pytest.mark.parametrize("clip", WANTED)
async def test_every_form_with_every_shape_is_understood(
    tmp_path: Path, form: str, clip: str
) -> None:
    """Shape, measured length, and the sample from which on it is new."""
    samples, found = await understood(tmp_path, form=form, clip=clip)

    shape, length, old = WANTED[clip]
    assert found.shape is shape
    assert samples == length or length is None
    assert found.old_samples == pytest.approx(old, abs=2)
    assert found.padding_samples == (PADDING if clip == "no_delay_header" else 0)
    assert found.correlation is None or found.correlation > 0.9


async def test_an_output_of_null_is_no_clip(tmp_path: Path) -> None:
    """In the contract's words; a new try may bring one."""
    with pytest.raises(ProviderRejectedError, match="Invalid audio output format") as caught:
        await understood(tmp_path, form="null", clip="window")

    assert caught.value.retryable


@pytest.mark.parametrize("form", ANSWERS)
def test_the_answers_are_what_their_names_say(form: str) -> None:
    """Recorded, not written by hand: each is the whole prediction."""
    answer = ANSWERS[form]
    kinds: dict[str, Any] = {"string": str, "list": list, "data_url": str, "null": type(None)}

    assert answer["status"] == "succeeded"
    assert isinstance(answer["output"], kinds[form])
    assert form != "data_url" or answer["output"].startswith("data:audio/mpeg;base64,")
    assert answer["input"]["continuation_end"] == 2

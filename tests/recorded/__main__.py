"""Record them again: `python -m tests.recorded`; nothing changes them but this.

A fake Replicate is asked over its own HTTP interface for a clip of 2 s and for continuations of
its last second, one in each shape; then for one prediction in each form of `output`. The files
lie beside this one, as they came.
"""

import asyncio
import json
from pathlib import Path

from services.generator.providers.synth.provider import compose
from tests.support.replicate_emulator import emulator_fixture

FOLDER = Path(__file__).parent
SHAPES = ("window", "no_window", "cumulative", "no_delay_header")
FORMS = ("string", "list", "data_url", "null")
FIRST = {"duration": 2, "prompt": "calm piano", "seed": 7}
NEXT = {"duration": 2, "prompt": "calm piano", "seed": 8, "continuation": True}
WINDOW = {"continuation_start": 1, "continuation_end": 2}


async def record() -> None:
    """Write the clips and the answers."""
    async with emulator_fixture(compose=compose) as fixture:
        source = (await fixture.made(**FIRST))["output"]
        clip = (await fixture.http.get(source)).content
        (FOLDER / "source.mp3").write_bytes(clip)
        inputs = {**NEXT, **WINDOW, "input_audio": source}
        for shape in SHAPES:
            fixture.fake.fault("clip_shape", value=shape)
            (FOLDER / f"{shape}.mp3").write_bytes(await fixture.clip(**inputs))
        answers = {}
        for form in FORMS:
            fixture.fake.fault("output_shape", value=form)
            answers[form] = await fixture.made(**inputs)
    (FOLDER / "predictions.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(record())

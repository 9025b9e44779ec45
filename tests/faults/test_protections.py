"""The protections are real: a generator that lacks one breaks a promise, and the checker says so.

Each case runs twice: as it ships, where the checker finds nothing, and without the protection.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults import checker
from tests.faults.history import Fact
from tests.faults.room import room
from tests.running import eventually
from tests.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def _dies_after_asking(kafka: KafkaServer, folder: Path, without: str | None) -> list[Fact]:
    """It asked for a scene, and dies; the next one comes to the same scene."""
    async with room(kafka, folder) as here:
        dying = here.service("generator", without=without)
        next_one = here.service("generator", number=2, without=without)
        here.fake.tune(work_s=4.0)
        try:
            await dying.start()
            await here.ask(["asked"], scenes=1)

            async def asked() -> bool | None:
                return here.fake.running == 1 or None

            await eventually(asked, within_s=40, what="a prediction at work")
            await asyncio.sleep(1)
            dying.send(signal.SIGKILL)
            assert await dying.ended(within_s=10) == -signal.SIGKILL
            await next_one.start()
            await here.until_done()
            assert await next_one.stop() == 0
        finally:
            await dying.kill()
            await next_one.kill()
        return await here.judged()


@pytest.mark.parametrize("without", [None, "claims"])
async def test_without_claims_a_scene_is_paid_for_twice(
    kafka: KafkaServer, tmp_path: Path, without: str | None
) -> None:
    """Killed while the provider works: the next one joins that prediction, or pays again."""
    found = checker.violations(await _dies_after_asking(kafka, tmp_path, without))

    assert found == ([] if without is None else ["charged: scene 0 of asked/1 2 times"])

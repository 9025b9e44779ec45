"""Attempts: how long a scene waits, and for whom."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from services.generator.clip.inspection import Inspection
from services.generator.composition.attempts import Attempts
from services.generator.composition.cancellation import Interrupts
from services.generator.composition.claims import Claims
from services.generator.providers import CompositionRequest
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.errors import ProviderBusyError, ProviderPausedError, ProviderRejectedError
from shared.processing.active_runs import ActiveRuns
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider
from tests.support.claims_fixture import FRESH
from tests.unit.services.generator.scene.handler_fixture import clip_of

HOUR_S = 3600.0  # three times what a scene may wait for a busy provider


class AttemptsFixture:
    """Attempts with one slot at a provider that does what the test says."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = FolderStore(folder)
        self.provider = LedgerProvider(clip_of=clip_of)
        self.attempts = Attempts(
            provider=self.provider,
            claims=Claims(self.store, self.provider, clock=self.clock, lease_s=5, settle_s=40),
            interrupts=Interrupts(ActiveRuns()),
            inspection=Inspection(store=self.store),
            settings=GeneratorSettings(slots=1),
            clock=self.clock,
            log=logger_of("test"),
        )

    async def made(self, *jobs: str) -> list[tuple[str, ...]]:
        """A scene of each job, side by side; why earlier attempts of each were not taken."""
        made = await asyncio.gather(
            *(
                self.attempts.clip(
                    SceneRef(job_id=job, run=1, scene_index=0), FRESH, before_paying=self._open
                )
                for job in jobs
            )
        )
        return [one.failed for one in made]

    async def _open(self) -> None:
        """A gate that stands open."""


@pytest.fixture
def fixture(tmp_path: Path) -> AttemptsFixture:
    """A room of its own for each test."""
    return AttemptsFixture(tmp_path)


def says(*errors: ProviderBusyError | None) -> Callable[[], None]:
    """What each try to submit is told, in turn; None: it goes on."""
    left = list(errors)

    def next_one() -> None:
        if left and (error := left.pop(0)) is not None:
            raise error

    return next_one


async def test_standing_in_our_own_line_is_not_waiting_for_the_provider(
    fixture: AttemptsFixture,
) -> None:
    """The second scene comes to the slot after an hour, and finds the provider busy once."""

    def takes_an_hour(request: CompositionRequest) -> bytes:
        fixture.clock.jump(HOUR_S)
        return clip_of(request)

    fixture.provider.clip_of = takes_an_hour
    fixture.provider.before_submit = says(None, ProviderBusyError("busy", retry_after_s=10))

    assert await fixture.made("job-1", "job-2") == [(), ()]
    assert len(fixture.provider.charged) == 2


async def test_a_pause_leaves_as_much_time_as_there_was(fixture: AttemptsFixture) -> None:
    """When the key works again everyone comes at once, and is told to wait for a turn."""
    paused = ProviderPausedError("No Replicate API key configured", retry_after_s=HOUR_S)
    fixture.provider.before_submit = says(paused, ProviderBusyError("no turn", retry_after_s=10))

    assert await fixture.made("job-1") == [()]
    assert len(fixture.provider.charged) == 1


async def test_a_provider_that_is_busy_for_longer_than_a_scene_may_wait_ends_it(
    fixture: AttemptsFixture,
) -> None:
    """In its own words, and nothing is charged."""
    fixture.provider.before_submit = says(*[ProviderBusyError("busy", retry_after_s=300)] * 5)

    with pytest.raises(ProviderRejectedError, match="busy"):
        await fixture.made("job-1")

    assert fixture.provider.charged == []

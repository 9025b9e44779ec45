"""Checks how long a scene waits for a busy or paused provider."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from services.generator.clip.inspection import ClipInspector
from services.generator.composition import attempts
from services.generator.composition.attempts import Attempts
from services.generator.composition.claims import Claims
from services.generator.providers import CompositionRequest
from services.generator.scene_ref import SceneRef
from services.generator.settings import GeneratorSettings
from shared.errors import ProviderBusyError, ProviderPausedError, ProviderRejectedError
from shared.media.sandbox import MediaSandbox
from shared.processing.active_runs import ActiveRuns
from shared.processing.cancellation import RunCancellation
from shared.settings import MediaSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider
from tests.support.claims_fixture import FRESH
from tests.unit.services.generator.scene.handler_fixture import clip_of

HOUR_S = 3600.0  # three times what a scene may wait for a busy provider


class AttemptsFixture:
    """Attempts with one slot at a scripted provider."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = FolderStore(folder)
        self.provider = LedgerProvider(clip_of=clip_of)
        self.attempts = Attempts(
            provider=self.provider,
            claims=Claims(self.store, self.provider, clock=self.clock, lease_s=5, settle_s=40),
            cancellation=RunCancellation(ActiveRuns()),
            inspector=ClipInspector(store=self.store, sandbox=MediaSandbox(MediaSettings())),
            settings=GeneratorSettings(slots=1),
            clock=self.clock,
            log=logger_of("test"),
        )

    async def compose(self, *jobs: str) -> list[tuple[str, ...]]:
        """Compose a scene of each job concurrently; return the failures of earlier attempts."""
        clips = await asyncio.gather(
            *(
                self.attempts.compose(
                    SceneRef(job_id=job, run=1, scene_index=0), FRESH, before_paying=self._open
                )
                for job in jobs
            )
        )
        return [clip.failed for clip in clips]

    async def _open(self) -> None:
        """Return at once: the partition is owned."""


@pytest.fixture
def fixture(tmp_path: Path) -> AttemptsFixture:
    """Return a fresh fixture."""
    return AttemptsFixture(tmp_path)


def raises(*errors: ProviderBusyError | None) -> Callable[[], None]:
    """Return a hook that raises these errors in turn; None: the submission succeeds."""
    remaining = list(errors)

    def before_submit() -> None:
        if remaining and (error := remaining.pop(0)) is not None:
            raise error

    return before_submit


async def test_the_wait_for_our_own_slot_does_not_count_towards_the_deadline(
    fixture: AttemptsFixture,
) -> None:
    """The second scene gets the slot after an hour, and the provider is busy once."""

    def takes_an_hour(request: CompositionRequest) -> bytes:
        fixture.clock.jump(HOUR_S)
        return clip_of(request)

    fixture.provider.clip_of = takes_an_hour
    fixture.provider.before_submit = raises(None, ProviderBusyError("busy", retry_after_s=10))

    assert await fixture.compose("job-1", "job-2") == [(), ()]
    assert len(fixture.provider.charged) == 2


async def test_a_pause_extends_the_deadline(fixture: AttemptsFixture) -> None:
    """After the pause, all scenes retry at once and some have to wait."""
    paused = ProviderPausedError("No Replicate API key configured", retry_after_s=HOUR_S)
    fixture.provider.before_submit = raises(paused, ProviderBusyError("no turn", retry_after_s=10))

    assert await fixture.compose("job-1") == [()]
    assert len(fixture.provider.charged) == 1


async def test_a_provider_that_is_busy_beyond_the_deadline_fails_the_scene(
    fixture: AttemptsFixture,
) -> None:
    """With the provider's message, and nothing is charged."""
    fixture.provider.before_submit = raises(*[ProviderBusyError("busy", retry_after_s=300)] * 5)

    with pytest.raises(ProviderRejectedError, match="busy"):
        await fixture.compose("job-1")

    assert fixture.provider.charged == []


class ExactDelays(random.Random):
    """Draws the lower bound: a requested delay is not lengthened."""

    @override
    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.mark.parametrize(("late_s", "is_allowed"), [(0, True), (1, False)])
async def test_a_scene_waits_for_a_busy_provider_until_its_deadline(
    fixture: AttemptsFixture, late_s: int, *, is_allowed: bool
) -> None:
    """A wait that ends exactly at the deadline is allowed, a longer one is not."""
    fixture.attempts.chance = ExactDelays()
    wait_s = fixture.attempts.settings.scene_deadline_s + late_s
    fixture.provider.before_submit = raises(ProviderBusyError("busy", retry_after_s=wait_s))

    if is_allowed:
        assert await fixture.compose("job-1") == [()]
        return
    with pytest.raises(ProviderRejectedError):
        await fixture.compose("job-1")
    assert fixture.clock.elapsed_s == 0


async def test_a_pause_extends_the_deadline_by_its_own_length(fixture: AttemptsFixture) -> None:
    """The wait after it may take as long as without the pause, and no longer."""
    fixture.attempts.chance = ExactDelays()
    paused = ProviderPausedError("no key", retry_after_s=HOUR_S)
    deadline_s = fixture.attempts.settings.scene_deadline_s
    busy = ProviderBusyError("busy", retry_after_s=deadline_s)
    fixture.provider.before_submit = raises(paused, busy)
    assert await fixture.compose("job-1") == [()]
    assert fixture.clock.elapsed_s == HOUR_S + deadline_s

    fixture.provider.before_submit = raises(
        paused, ProviderBusyError("busy", retry_after_s=deadline_s + 1)
    )
    with pytest.raises(ProviderRejectedError):
        await fixture.compose("job-2")


async def _void(fixture: AttemptsFixture, count: int) -> None:
    """Store void claims for the first attempts of job-1, as suspended processes leave them."""
    scene = SceneRef(job_id="job-1", run=1, scene_index=0)
    for attempt in range(1, count + 1):
        await fixture.store.put(scene.claim_key(attempt), b"{}")
        await fixture.store.put(scene.prediction_key(attempt), b"")


async def test_the_last_allowed_claim_is_used(
    fixture: AttemptsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All claims before it are void."""
    monkeypatch.setattr(attempts, "CLAIMS_MAX", 3)
    await _void(fixture, 2)

    assert await fixture.compose("job-1") == [()]
    assert len(fixture.provider.charged) == 1


async def test_no_more_claims_are_created_than_allowed(
    fixture: AttemptsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is down: nothing is charged, and a later run may retry."""
    monkeypatch.setattr(attempts, "CLAIMS_MAX", 3)
    await _void(fixture, 3)

    with pytest.raises(ProviderRejectedError, match="no clip in 3 attempts") as caught:
        await fixture.compose("job-1")

    assert caught.value.retryable
    assert fixture.provider.charged == []


async def test_a_scene_has_as_many_paid_attempts_as_allowed(fixture: AttemptsFixture) -> None:
    """Each failure is reported with its number; after the last one its error is raised."""
    allowed = fixture.attempts.settings.scene_attempts_max
    for number in range(1, allowed):
        fixture.provider.reject[number] = ProviderRejectedError(f"no {number}", retryable=True)
    failed = tuple(f"attempt {number}: no {number}" for number in range(1, allowed))
    assert await fixture.compose("job-1") == [failed]
    assert len(fixture.provider.charged) == allowed

    fixture.provider.reject = {
        number: ProviderRejectedError("no", retryable=True) for number in range(1, 100)
    }
    with pytest.raises(ProviderRejectedError):
        await fixture.compose("job-2")
    assert len(fixture.provider.charged) == 2 * allowed


async def test_a_scene_with_a_first_claim_may_be_paid_for(fixture: AttemptsFixture) -> None:
    """It is asked before a cached clip is used."""
    scene = SceneRef(job_id="job-1", run=1, scene_index=0)
    assert not await fixture.attempts.has_claim(scene)

    await fixture.compose("job-1")

    assert await fixture.attempts.has_claim(scene)

"""Checks that each attempt is paid once, whichever process dies in between."""

import asyncio
from pathlib import Path

import pytest

from services.generator.composition.claims import Claims, Prediction
from services.generator.providers import CompositionRequest
from services.generator.scene_ref import SceneRef
from shared.errors import ProviderBusyError
from shared.storage.filesystem import FolderStore
from tests.fakes.clock import FakeClock
from tests.fakes.provider import LedgerProvider

REF = SceneRef(job_id="job-1", run=1, scene_index=0)
REQUEST = CompositionRequest(prompt="p", duration_s=3, window=None, seed=1)


class DiedError(BaseException):
    """The process dies here."""


class ClaimsFixture:
    """A store, a provider and a clock, shared by several processes."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = FolderStore(folder)
        self.provider = LedgerProvider(clip_of=lambda _: b"")

    def process(self) -> Claims:
        """Return the claims of a new process, which knows only the store."""
        return Claims(self.store, self.provider, clock=self.clock, lease_s=5, settle_s=40)

    async def prediction(self, claims: Claims, attempt: int = 1) -> Prediction | None:
        """Request the prediction of an attempt, with nothing between claim and payment."""
        return await claims.prediction(REF, attempt, REQUEST, before_paying=self.nothing)

    async def nothing(self) -> None:
        """Return at once: the partition is owned."""


@pytest.fixture
def fixture(tmp_path: Path) -> ClaimsFixture:
    """Return a fresh fixture."""
    return ClaimsFixture(tmp_path)


async def test_a_second_process_adopts_the_prediction_of_the_first(
    fixture: ClaimsFixture,
) -> None:
    """A redelivered scene is not paid for twice."""
    first = await fixture.prediction(fixture.process())
    second = await fixture.prediction(fixture.process())

    assert first is not None
    assert second is not None
    assert first.id == second.id
    assert (first.adopted, second.adopted) == (False, True)
    assert len(fixture.provider.charged) == 1


async def test_a_prediction_whose_id_was_not_stored_is_found_by_its_seed(
    fixture: ClaimsFixture,
) -> None:
    """The process died between the provider's response and storing the id."""

    def die() -> None:
        raise DiedError

    fixture.provider.after_submit = die
    with pytest.raises(DiedError):
        await fixture.prediction(fixture.process())
    fixture.provider.after_submit = None

    adopted = await fixture.prediction(fixture.process())

    assert adopted is not None
    assert adopted.adopted
    assert len(fixture.provider.charged) == 1


async def test_an_unresolved_claim_is_void_only_after_it_settled(
    fixture: ClaimsFixture,
) -> None:
    """Its owner died before the request; no process pays while it could still send it."""

    def die() -> None:
        raise DiedError

    fixture.provider.before_submit = die
    with pytest.raises(DiedError):
        await fixture.prediction(fixture.process())
    fixture.provider.before_submit = None
    successor = fixture.process()

    assert await fixture.prediction(successor, attempt=1) is None
    assert fixture.clock.elapsed_s >= 40
    paid = await fixture.prediction(successor, attempt=2)

    assert paid is not None
    assert len(fixture.provider.charged) == 1


async def test_a_prediction_that_appears_while_its_claim_settles_is_adopted(
    fixture: ClaimsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's list lags: the prediction is found when it is searched for again."""

    def die() -> None:
        raise DiedError

    async def settle(seconds: float) -> None:
        fixture.clock.jump(seconds)
        fixture.provider.forgets = False

    fixture.provider.after_submit = die
    with pytest.raises(DiedError):
        await fixture.prediction(fixture.process())
    fixture.provider.after_submit, fixture.provider.forgets = None, True
    monkeypatch.setattr(fixture.clock, "sleep", settle)

    adopted = await fixture.prediction(fixture.process())

    assert adopted is not None
    assert fixture.clock.elapsed_s == 40
    assert len(fixture.provider.charged) == 1


async def test_an_id_that_is_stored_while_its_claim_settles_is_adopted(
    fixture: ClaimsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner was slow; a void claim that appears stays void."""

    def die() -> None:
        raise DiedError

    fixture.provider.before_submit = die
    with pytest.raises(DiedError):
        await fixture.prediction(fixture.process())
    fixture.provider.forgets = True

    for stored, expected in ((b"prediction-slow", "prediction-slow"), (b"", None)):

        async def settle(seconds: float, stored: bytes = stored) -> None:
            fixture.clock.jump(seconds)
            await fixture.store.put(REF.prediction_key(1), stored)

        await fixture.store.delete(REF.prediction_key(1))
        monkeypatch.setattr(fixture.clock, "sleep", settle)
        adopted = await fixture.prediction(fixture.process())

        assert (adopted and adopted.id) == expected


async def test_a_process_that_resumes_after_its_lease_does_not_pay(fixture: ClaimsFixture) -> None:
    """Suspended between claim and request for longer than its lease: the claim is void."""

    async def suspend() -> None:
        fixture.clock.jump(20)

    result = await fixture.process().prediction(REF, 1, REQUEST, before_paying=suspend)

    assert result is None
    assert fixture.provider.charged == []
    assert await fixture.prediction(fixture.process(), attempt=1) is None
    assert fixture.clock.elapsed_s == 20, "a void claim is known at once"


async def test_a_process_that_resumes_at_the_end_of_its_lease_pays(fixture: ClaimsFixture) -> None:
    """The lease includes its last moment."""

    async def suspend() -> None:
        fixture.clock.jump(5)

    result = await fixture.process().prediction(REF, 1, REQUEST, before_paying=suspend)

    assert result is not None
    assert len(fixture.provider.charged) == 1


async def test_the_successor_of_a_suspended_process_pays_once(fixture: ClaimsFixture) -> None:
    """The successor settles, claims the next attempt and pays; then the first resumes."""
    successor = fixture.process()

    async def meanwhile() -> None:
        fixture.clock.jump(6)
        assert await fixture.prediction(successor, attempt=1) is None
        assert await fixture.prediction(successor, attempt=2) is not None

    resumed = fixture.process()
    assert await resumed.prediction(REF, 1, REQUEST, before_paying=meanwhile) is None
    again = await fixture.prediction(resumed, attempt=2)

    assert again is not None
    assert again.adopted
    assert len(fixture.provider.charged) == 1


async def test_a_busy_provider_voids_the_claim(fixture: ClaimsFixture) -> None:
    """Nothing was started, and the next attempt can start at once."""

    def busy() -> None:
        raise ProviderBusyError("throttled", retry_after_s=10)

    fixture.provider.before_submit = busy
    with pytest.raises(ProviderBusyError):
        await fixture.prediction(fixture.process())
    fixture.provider.before_submit = None

    assert await fixture.prediction(fixture.process(), attempt=1) is None
    assert await fixture.prediction(fixture.process(), attempt=2) is not None
    assert fixture.clock.elapsed_s == 0
    assert len(fixture.provider.charged) == 1


async def test_an_ended_run_is_not_paid_for(fixture: ClaimsFixture) -> None:
    """The hook between claim and payment may raise."""

    class NotWantedError(Exception):
        pass

    async def refuse() -> None:
        raise NotWantedError

    with pytest.raises(NotWantedError):
        await fixture.process().prediction(REF, 1, REQUEST, before_paying=refuse)

    assert fixture.provider.charged == []


async def test_each_attempt_has_its_own_seed(fixture: ClaimsFixture) -> None:
    """Lost predictions are found by seed, so it must be unique."""
    claims = fixture.process()
    for attempt in range(1, 6):
        await fixture.prediction(claims, attempt=attempt)

    seeds = [request.seed for request in fixture.provider.charged]
    assert len(set(seeds)) == 5
    assert all(0 < seed < 2**32 for seed in seeds)


async def test_a_claim_cancelled_before_payment_is_void_at_once(
    fixture: ClaimsFixture,
) -> None:
    """The successor of a stopped service does not wait."""
    waits = asyncio.Event()

    async def wait() -> None:
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(fixture.process().prediction(REF, 1, REQUEST, before_paying=wait))
    await waits.wait()
    task.cancel()
    await asyncio.wait([task])

    assert await fixture.prediction(fixture.process(), attempt=1) is None
    assert fixture.clock.elapsed_s == 0
    assert fixture.provider.charged == []

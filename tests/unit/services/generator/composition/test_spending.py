"""Checks that a run's spending includes failed attempts and never exceeds its budget."""

from pathlib import Path

import pytest

from shared.contract.events import Origin
from shared.contract.params import AudioParams, ErrorStrategy, OnMaxCost
from shared.errors import JobError, ProviderRejectedError
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture, clip_of

CLIP_USD = 0.01  # what the scripted provider charges
# 3 s of music are estimated at 3 * 2 * 0.0014 = 0.0084, 4 s at 0.0112


@pytest.fixture
async def fixture(tmp_path: Path) -> HandlerFixture:
    """Return a fixture whose provider has Replicate's estimated price."""
    fixture = HandlerFixture(tmp_path)
    fixture.provider.name = "replicate"
    return fixture


async def test_a_run_stops_paying_at_max_cost(fixture: HandlerFixture) -> None:
    """The remaining scenes are silence with the amounts as reason."""
    params = AudioParams(max_cost=0.025, on_max_cost=OnMaxCost.ERROR_STRATEGY)

    for index in range(4):
        await fixture.handle(a_scene(index, count=4, params=params))

    segments = fixture.segments()
    assert [s.origin for s in segments] == [
        Origin.FRESH,
        Origin.CONTINUED,
        Origin.SILENCE,
        Origin.SILENCE,
    ]
    assert segments[2].reason == (
        "max_cost of $0.025 is reached: $0.02 are spent, and the next clip may cost $0.0112"
    )
    assert len(fixture.provider.charged) == 2
    assert fixture.continuations.states["job-1"].spent_usd == pytest.approx(2 * CLIP_USD)


@pytest.mark.parametrize("cap", [0.02 + 0.0112, None])
async def test_a_max_cost_that_is_just_enough_suffices(
    fixture: HandlerFixture, cap: float | None
) -> None:
    """Exact to a millionth of a dollar; without max_cost there is no limit."""
    for index in range(3):
        await fixture.handle(a_scene(index, count=3, params=AudioParams(max_cost=cap)))

    assert len(fixture.provider.charged) == 3


async def test_a_scene_beyond_max_cost_is_neither_claimed_nor_queued(
    fixture: HandlerFixture,
) -> None:
    """It takes no permit from other jobs, and no claim prevents a later cache hit."""
    waits: list[float] = []

    async def ready(*, within_s: float) -> None:
        waits.append(within_s)

    fixture.provider.ready = ready  # type: ignore[method-assign]  # the script of this test

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert [s.origin for s in fixture.segments()] == [Origin.SILENCE]
    assert waits == []
    assert [
        stored.key async for stored in fixture.store.list_objects("jobs") if "claim" in stored.key
    ] == []


async def test_a_cached_scene_costs_nothing(tmp_path: Path) -> None:
    """With max_cost 0 cached scenes have music; the others are silence."""
    fixture = HandlerFixture(tmp_path, scene_cache="all")
    fixture.provider.name = "replicate"
    await fixture.handle(a_scene(0, count=2))
    for index in range(2):
        await fixture.handle(
            a_scene(index, count=2, job_id="job-2", params=AudioParams(max_cost=0.0))
        )

    assert [s.origin.value for s in fixture.segments()] == ["fresh", "cached", "silence"]
    assert fixture.continuations.states["job-2"].spent_usd == 0.0


async def test_the_synth_provider_ignores_max_cost(fixture: HandlerFixture) -> None:
    """It is free."""
    fixture.provider.name = "synth"

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert [s.origin for s in fixture.segments()] == [Origin.FRESH]


async def test_a_run_with_error_strategy_halt_stops_at_max_cost(fixture: HandlerFixture) -> None:
    """With the code `max_cost_reached`."""
    params = AudioParams(max_cost=0.01, error_strategy=ErrorStrategy.HALT)
    await fixture.handle(a_scene(0, count=2, params=params))

    with pytest.raises(JobError, match="max_cost of") as caught:
        await fixture.handle(a_scene(1, count=2, params=params))

    assert caught.value.code == "max_cost_reached"
    assert len(fixture.provider.charged) == 1


async def test_a_failed_attempt_counts_towards_max_cost(fixture: HandlerFixture) -> None:
    """The budget is checked before every further attempt."""
    fixture.provider.reject[1] = ProviderRejectedError("interrupted", retryable=True, cost_usd=0.02)

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.025)))

    (segment,) = fixture.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.cost_usd == pytest.approx(0.02)
    assert len(fixture.provider.charged) == 1


async def test_an_unusable_clip_counts_towards_the_cost(fixture: HandlerFixture) -> None:
    """Each rejected attempt is included in the segment's cost."""
    damaged = iter([True, False])

    def sometimes_short(request: object) -> bytes:
        clip = clip_of(request)  # type: ignore[arg-type]  # as the provider calls it
        return clip[: len(clip) // 3] if next(damaged) else clip

    fixture.provider.clip_of = sometimes_short

    await fixture.handle(a_scene(0))

    (segment,) = fixture.segments()
    assert segment.attempts == 2
    assert segment.cost_usd == pytest.approx(2 * CLIP_USD)


async def test_a_failed_job_reports_its_cost(fixture: HandlerFixture) -> None:
    """Also when its record is redelivered: the state has it."""
    fixture.provider.reject[1] = ProviderRejectedError("no", cost_usd=0.03)
    params = AudioParams(error_strategy=ErrorStrategy.HALT)

    for _ in range(2):
        with pytest.raises(JobError) as caught:
            await fixture.handle(a_scene(0, params=params))
        assert caught.value.cost_usd == pytest.approx(0.03)
        assert fixture.continuations.states["job-1"].spent_usd == pytest.approx(0.03)


async def test_spending_is_rebuilt_without_the_table(fixture: HandlerFixture) -> None:
    """The state rebuilt from stored segments has the same spending."""
    params = AudioParams(max_cost=0.025)
    fixture.provider.reject[1] = ProviderRejectedError("no", cost_usd=0.007)
    for index in range(2):
        await fixture.handle(a_scene(index, count=3, params=params))
    spent_usd = fixture.continuations.states["job-1"].spent_usd
    assert spent_usd == pytest.approx(0.017)
    assert (
        await fixture.handler.generator.rebuild_state(a_scene(2))
        == fixture.continuations.states["job-1"]
    )
    fixture.continuations.states.clear()

    await fixture.handle(a_scene(2, count=3, params=params))

    assert fixture.segments()[-1].origin is Origin.SILENCE
    assert len(fixture.provider.charged) == 2


async def test_a_paid_prediction_is_used_beyond_max_cost(fixture: HandlerFixture) -> None:
    """The prediction of an existing claim is adopted, whatever max_cost is now."""
    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.02)))
    segment = fixture.segments()[0]
    assert segment.object_key is not None
    await fixture.store.delete(segment.object_key.replace("clip-1.mp3", "segment.json"))
    fixture.continuations.states.clear()

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert fixture.segments()[-1].origin is Origin.FRESH
    assert len(fixture.provider.charged) == 1

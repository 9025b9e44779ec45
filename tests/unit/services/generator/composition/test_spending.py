"""What a run spends: counted with its failed attempts, and never more than it may."""

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
    """A generator whose clips cost as much as Replicate's may."""
    fixture = HandlerFixture(tmp_path)
    fixture.provider.name = "replicate"
    return fixture


async def test_a_run_stops_paying_at_its_cap(fixture: HandlerFixture) -> None:
    """What it cannot pay is silence with the sums, to the end; what was made stays."""
    params = AudioParams(max_cost=0.025, on_max_cost=OnMaxCost.ERROR_STRATEGY)

    for index in range(4):
        await fixture.handle(a_scene(index, count=4, params=params))

    said = fixture.segments()
    assert [s.origin for s in said] == [
        Origin.FRESH,
        Origin.CONTINUED,
        Origin.SILENCE,
        Origin.SILENCE,
    ]
    assert said[2].reason == (
        "max_cost of $0.0250 is reached: $0.0200 are spent, and the next clip may cost $0.0112"
    )
    assert len(fixture.provider.charged) == 2
    assert fixture.memory.states["job-1"].spent_usd == pytest.approx(2 * CLIP_USD)


@pytest.mark.parametrize("cap", [0.02 + 0.0112, None])
async def test_a_cap_that_is_just_enough_is_enough(
    fixture: HandlerFixture, cap: float | None
) -> None:
    """To the last millionth of a dollar; without one nothing is held back."""
    for index in range(3):
        await fixture.handle(a_scene(index, count=3, params=AudioParams(max_cost=cap)))

    assert len(fixture.provider.charged) == 3


async def test_what_cannot_be_paid_is_neither_claimed_nor_stands_in_line(
    fixture: HandlerFixture,
) -> None:
    """A turn at the provider is another job's, and a claim would keep the scene from the cache."""
    turns: list[float] = []

    async def ready(*, within_s: float) -> None:
        turns.append(within_s)

    fixture.provider.ready = ready  # type: ignore[method-assign]  # the script of this test

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert [s.origin for s in fixture.segments()] == [Origin.SILENCE]
    assert turns == []
    assert [one.key async for one in fixture.store.list_objects("jobs") if "claim" in one.key] == []


async def test_what_is_cached_is_had_for_nothing(tmp_path: Path) -> None:
    """A cap of nothing at all leaves the music that is there; what is not there is silence."""
    fixture = HandlerFixture(tmp_path, scene_cache="all")
    fixture.provider.name = "replicate"
    await fixture.handle(a_scene(0, count=2))
    for index in range(2):
        await fixture.handle(
            a_scene(index, count=2, job_id="job-2", params=AudioParams(max_cost=0.0))
        )

    assert [s.origin.value for s in fixture.segments()] == ["fresh", "cached", "silence"]
    assert fixture.memory.states["job-2"].spent_usd == 0.0


async def test_music_made_here_knows_no_cap(fixture: HandlerFixture) -> None:
    """It costs nothing."""
    fixture.provider.name = "synth"

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert [s.origin for s in fixture.segments()] == [Origin.FRESH]


async def test_a_run_that_is_to_halt_halts_at_its_cap(fixture: HandlerFixture) -> None:
    """With the code that says why; what was spent is said, too."""
    params = AudioParams(max_cost=0.01, error_strategy=ErrorStrategy.HALT)
    await fixture.handle(a_scene(0, count=2, params=params))

    with pytest.raises(JobError, match="max_cost of") as caught:
        await fixture.handle(a_scene(1, count=2, params=params))

    assert caught.value.code == "max_cost_reached"
    assert len(fixture.provider.charged) == 1


async def test_a_failed_attempt_is_paid_out_of_the_same_purse(fixture: HandlerFixture) -> None:
    """Before each further attempt the cap is looked at again."""
    fixture.provider.reject[1] = ProviderRejectedError("interrupted", retryable=True, cost_usd=0.02)

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.025)))

    (segment,) = fixture.segments()
    assert segment.origin is Origin.SILENCE
    assert segment.cost_usd == pytest.approx(0.02)
    assert len(fixture.provider.charged) == 1


async def test_a_clip_of_no_use_costs_all_the_same(fixture: HandlerFixture) -> None:
    """Each attempt that the gate refused is in the segment's cost, or in the silence's."""
    wrong = iter([True, False])

    def sometimes_short(request: object) -> bytes:
        clip = clip_of(request)  # type: ignore[arg-type]  # as the provider calls it
        return clip[: len(clip) // 3] if next(wrong) else clip

    fixture.provider.clip_of = sometimes_short

    await fixture.handle(a_scene(0))

    (segment,) = fixture.segments()
    assert segment.attempts == 2
    assert segment.cost_usd == pytest.approx(2 * CLIP_USD)


async def test_a_job_that_failed_says_what_it_cost(fixture: HandlerFixture) -> None:
    """Also when its record is read again: the state remembers."""
    fixture.provider.reject[1] = ProviderRejectedError("no", cost_usd=0.03)
    params = AudioParams(error_strategy=ErrorStrategy.HALT)

    for _ in range(2):
        with pytest.raises(JobError) as caught:
            await fixture.handle(a_scene(0, params=params))
        assert caught.value.cost_usd == pytest.approx(0.03)
        assert fixture.memory.states["job-1"].spent_usd == pytest.approx(0.03)


async def test_what_was_spent_is_known_without_the_table(fixture: HandlerFixture) -> None:
    """Rebuilt from the segments in the store, the cap holds as before."""
    params = AudioParams(max_cost=0.025)
    fixture.provider.reject[1] = ProviderRejectedError("no", cost_usd=0.007)
    for index in range(2):
        await fixture.handle(a_scene(index, count=3, params=params))
    known = fixture.memory.states["job-1"].spent_usd
    assert known == pytest.approx(0.017)
    assert await fixture.work.generate.rebuild(a_scene(2)) == fixture.memory.states["job-1"]
    fixture.memory.states.clear()

    await fixture.handle(a_scene(2, count=3, params=params))

    assert fixture.segments()[-1].origin is Origin.SILENCE
    assert len(fixture.provider.charged) == 2


async def test_what_is_paid_already_is_never_refused(fixture: HandlerFixture) -> None:
    """A claim that led to a prediction is taken up, whatever the cap says now."""
    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.02)))
    segment = fixture.segments()[0]
    assert segment.object_key is not None
    await fixture.store.delete(segment.object_key.replace("clip-1.mp3", "segment.json"))
    fixture.memory.states.clear()

    await fixture.handle(a_scene(0, params=AudioParams(max_cost=0.0)))

    assert fixture.segments()[-1].origin is Origin.FRESH
    assert len(fixture.provider.charged) == 1

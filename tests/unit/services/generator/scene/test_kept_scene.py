"""Checks that a redrive copies kept scenes and generates the others again."""

from pathlib import Path

import pytest

from services.generator.scene.kept_scene import KeptMissingError
from shared.contract.events import Origin, SegmentGenerated
from shared.contract.ids import scene_seed
from shared.contract.params import Kept
from shared.storage.keys import clip_key
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

OF_RUN_1 = Kept(run=1)
BRIDGED = Kept(run=1, bridged=True)


@pytest.fixture
async def fixture(tmp_path: Path) -> HandlerFixture:
    """Return a fixture whose first run of three scenes is finished."""
    fixture = HandlerFixture(tmp_path, scene_cache="all")
    for index in range(3):
        await fixture.handle(a_scene(index, count=3, description=f"scene {index}"))
    return fixture


async def redriven(fixture: HandlerFixture, run: int, *kept: Kept | None) -> list[SegmentGenerated]:
    """Generate a run that keeps these scenes; return its segments."""
    fixture.published.clear()
    for index, kept_scene in enumerate(kept):
        scene = a_scene(index, count=3, run=run, description=f"scene {index}", kept=kept_scene)
        await fixture.handle(scene.model_copy(update={"anew": kept_scene is None}))
    return fixture.segments()


async def test_one_scene_is_generated_again_and_its_neighbours_are_kept(
    fixture: HandlerFixture,
) -> None:
    """One charge, with another seed in spite of the cache; the copies are free."""
    before = fixture.segments()

    first, second, third = await redriven(fixture, 2, OF_RUN_1, None, BRIDGED)

    assert len(fixture.provider.charged) == 4
    request = fixture.provider.charged[3]
    assert request.seed == scene_seed("job-1", 2, 1, 1) != before[1].seed
    assert request.window is not None
    assert request.window.clip_key == first.object_key == clip_key("job-1", 2, 0, 0)
    assert second.origin is Origin.CONTINUED
    assert second.kept is None
    for old, new in ((before[0], first), (before[2], third)):
        assert old.object_key is not None
        assert new.object_key is not None
        assert await fixture.store.get(new.object_key) == await fixture.store.get(old.object_key)
        assert (new.origin, new.sha256, new.join_samples) == (
            old.origin,
            old.sha256,
            old.join_samples,
        )
        assert (new.cost_usd, new.run) == (0.0, 2)
    assert first.warnings == ("kept from run 1",)
    assert third.warnings == ("kept from run 1, bridged: the music before it was generated again",)


async def test_a_bridged_scene_stays_bridged(fixture: HandlerFixture) -> None:
    """Its window repeats music of the first run in every later run."""
    await redriven(fixture, 2, OF_RUN_1, None, BRIDGED)

    *_, third = await redriven(fixture, 3, *[Kept(run=2)] * 3)

    assert third.kept == Kept(run=2, bridged=True)
    assert third.warnings == ("kept from run 2, bridged: the music before it was generated again",)


async def test_a_kept_scene_survives_the_deletion_of_the_earlier_run(
    fixture: HandlerFixture,
) -> None:
    """Its clip is copied once; a redelivered scene is republished."""
    first, *_ = await redriven(fixture, 2, OF_RUN_1, OF_RUN_1, OF_RUN_1)
    for index in range(3):
        await fixture.store.delete(clip_key("job-1", 1, index, 1))

    again, *_ = await redriven(fixture, 2, OF_RUN_1, OF_RUN_1, OF_RUN_1)

    assert again == first
    assert first.object_key is not None
    assert await fixture.store.stat(first.object_key) is not None
    assert len(fixture.provider.charged) == 3


async def test_a_missing_kept_scene_stops_the_run_without_payment(
    fixture: HandlerFixture,
) -> None:
    """The message names the command that generates it again."""
    await fixture.store.delete(clip_key("job-1", 1, 0, 1))

    with pytest.raises(KeptMissingError, match=r"scene 1 of run 1 is not stored.*redrive --from 1"):
        await redriven(fixture, 2, OF_RUN_1, None, BRIDGED)

    assert fixture.segments() == []
    assert len(fixture.provider.charged) == 3

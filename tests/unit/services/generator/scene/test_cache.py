"""Checks that equal scenes are reused from the cache, and different ones never."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from typing_extensions import override

from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.contract.events import Origin, SegmentGenerated
from shared.contract.params import AudioParams
from shared.errors import StoreUnavailableError
from shared.storage.filesystem import FolderStore
from shared.storage.keys import cache_key, cached_facts_key, claim_key
from tests.fakes.player import Form, Player
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture, clip_of


@pytest.fixture
async def fixture(tmp_path: Path) -> HandlerFixture:
    """Return a fixture whose cache all jobs share."""
    return HandlerFixture(tmp_path, scene_cache="all")


def merger_fields(segment: SegmentGenerated) -> dict[str, object]:
    """Return the fields that position its music in the clip and on the track."""
    fields = segment.model_dump(
        include={"start_samples", "samples", "clip_samples", "window_samples", "padding_samples"}
        | {"join_samples", "replaces", "sha256", "size_bytes", "content_type"}
    )
    assert len(fields) == 10
    return fields


async def entries_of(fixture: HandlerFixture) -> list[str]:
    """Return the keys of the cached facts."""
    return [
        stored.key async for stored in fixture.store.list_objects("cache") if "facts" in stored.key
    ]


async def a_job(fixture: HandlerFixture, job_id: str, **fields: object) -> list[SegmentGenerated]:
    """Handle a job of three scenes; return its segments."""
    for index in range(3):
        await fixture.handle(a_scene(index, job_id=job_id, count=3, duration_s=1.7, **fields))
    return [segment for segment in fixture.segments() if segment.job_id == job_id]


async def test_the_same_scenes_of_another_job_cost_nothing(fixture: HandlerFixture) -> None:
    """Each is `cached`, has the same audio under its own job, and reports its saving."""
    first = await a_job(fixture, "job-1")
    charged = len(fixture.provider.charged)

    second = await a_job(fixture, "job-2")

    assert len(fixture.provider.charged) == charged == 3
    assert [s.origin for s in second] == [Origin.CACHED] * 3
    for ours, theirs in zip(second, first, strict=True):
        assert merger_fields(ours) == merger_fields(theirs)
    assert [s.saved_usd for s in second] == [s.cost_usd for s in first]
    assert {s.cost_usd for s in second} == {0.0}
    assert all(s.reason and s.reason.startswith("composed at 2026") for s in second)
    assert [
        stored.key async for stored in fixture.store.list_objects("jobs") if "claim" in stored.key
    ] == [claim_key("job-1", 1, index, 1) for index in range(3)]
    for ours, theirs in zip(second, first, strict=True):
        assert ours.object_key is not None
        assert theirs.object_key is not None
        assert ours.object_key.split("/")[1] != theirs.object_key.split("/")[1]
        assert await fixture.store.get(ours.object_key) == await fixture.store.get(
            theirs.object_key
        )


async def test_scope_off_pays_every_scene(tmp_path: Path) -> None:
    """Nothing is stored in the cache."""
    fixture = HandlerFixture(tmp_path, scene_cache="off")

    await a_job(fixture, "job-1")
    await a_job(fixture, "job-2")

    assert len(fixture.provider.charged) == 6
    assert [stored.key async for stored in fixture.store.list_objects("cache")] == []


async def test_scope_job_shares_with_runs_of_the_same_job_only(tmp_path: Path) -> None:
    """Another job composes again."""
    fixture = HandlerFixture(tmp_path, scene_cache="job")

    await fixture.handle(a_scene(0))
    await fixture.handle(a_scene(0, job_id="job-2"))
    await fixture.handle(a_scene(0, run=2))

    assert [s.origin for s in fixture.segments()] == [Origin.FRESH, Origin.FRESH, Origin.CACHED]


async def test_a_clip_of_the_emulator_is_not_reused_for_the_real_provider(tmp_path: Path) -> None:
    """The provider's address is part of the key."""
    for number, address in enumerate(["http://127.0.0.1:5050/v1", "https://api.replicate.com/v1"]):
        account = ReplicateSettings(base_url=address)
        fixture = HandlerFixture(tmp_path, scene_cache="all", replicate=account)
        (segment,) = await _scenes(fixture, a_scene(0, job_id=f"job-{number}"))
        assert segment.origin is Origin.FRESH


async def test_a_run_without_the_cache_replaces_the_entry(fixture: HandlerFixture) -> None:
    """`use_cache: false` composes again, and its clip is reused from then on."""
    (first,) = await _scenes(fixture, a_scene(0))
    uncached = a_scene(0, job_id="job-2", params=AudioParams(use_cache=False))
    (second,) = await _scenes(fixture, uncached)
    (third,) = await _scenes(fixture, a_scene(0, job_id="job-3"))

    assert [s.origin for s in (first, second, third)] == [
        Origin.FRESH,
        Origin.FRESH,
        Origin.CACHED,
    ]
    assert third.prediction_id == second.prediction_id != first.prediction_id


@pytest.mark.parametrize("harm", ["other bytes", "no clip", "no facts", "half facts", "format"])
async def test_a_damaged_entry_is_a_miss(fixture: HandlerFixture, harm: str) -> None:
    """The scene is composed again, and the entry is replaced."""
    await fixture.handle(a_scene(0))
    (facts_key,) = await entries_of(fixture)
    digest = facts_key.split("/")[1]
    assert facts_key == cached_facts_key(digest)
    match harm:
        case "other bytes":
            await fixture.store.put(cache_key(digest), _other_clip())
        case "no clip":
            await fixture.store.delete(cache_key(digest))
        case "no facts":
            await fixture.store.delete(facts_key)
        case "half facts":
            await fixture.store.put(facts_key, b'{"sha256": "')
        case _:
            facts = json.loads(await fixture.store.get(facts_key))
            await fixture.store.put(facts_key, json.dumps({**facts, "format": 99}).encode())

    (second,) = await _scenes(fixture, a_scene(0, job_id="job-2"))

    assert second.origin is Origin.FRESH
    assert len(fixture.provider.charged) == 2
    (third,) = await _scenes(fixture, a_scene(0, job_id="job-3"))
    assert third.origin is Origin.CACHED, "the entry was replaced"


async def test_a_claimed_scene_uses_its_own_prediction(
    fixture: HandlerFixture,
) -> None:
    """It may be paid for, so a later cache entry is not used."""

    def dies() -> None:
        raise asyncio.CancelledError

    fixture.provider.after_submit = dies
    with pytest.raises(asyncio.CancelledError):
        await fixture.handle(a_scene(0))
    fixture.provider.after_submit = None
    await fixture.handle(a_scene(0, job_id="job-2"))

    fixture.handler = fixture.process()
    (again,) = await _scenes(fixture, a_scene(0))

    assert again.origin is Origin.FRESH
    assert again.cost_usd == 0.01
    assert len(fixture.provider.charged) == 2


async def test_a_process_that_dies_before_it_caches_republishes_its_segment(
    fixture: HandlerFixture, tmp_path: Path
) -> None:
    """The cache entry is written last, after the segment."""

    class DyingStore(FolderStore):
        @override
        async def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
            if key.startswith("cache"):
                raise asyncio.CancelledError
            await super().put(key, data, content_type=content_type)

    store, fixture.store = fixture.store, DyingStore(tmp_path)
    fixture.handler = fixture.process()
    with pytest.raises(asyncio.CancelledError):
        await fixture.handle(a_scene(0))
    fixture.store = store
    fixture.handler = fixture.process()

    (again,) = await _scenes(fixture, a_scene(0))

    assert again.origin is Origin.FRESH
    assert len(fixture.provider.charged) == 1


async def test_a_clip_that_did_not_continue_is_not_cached(fixture: HandlerFixture) -> None:
    """It would be reused as a continuation."""
    await fixture.handle(a_scene(0, count=2))
    collect = fixture.provider.collect

    async def without_window(prediction_id: str, request: CompositionRequest) -> Clip:
        clip = await collect(prediction_id, request)
        return replace(clip, continued=False, warnings=("made without continuation",))

    fixture.provider.collect = without_window  # type: ignore[method-assign]  # the script
    await fixture.handle(a_scene(1, count=2))

    assert len(await entries_of(fixture)) == 1


@pytest.mark.parametrize("shape", ["clip_so_far", "track_so_far"])
async def test_a_cumulative_track_is_not_cached(
    fixture: HandlerFixture, tmp_path: Path, shape: str
) -> None:
    """It contains another job's music before the window, which is not part of the key."""
    forms = [Form(), Form(shape=shape)]  # type: ignore[arg-type]  # one of the shapes
    fixture.provider.clip_of = Player(folder=tmp_path, forms=forms).clip_of

    first, second = await _scenes(fixture, *(a_scene(index, count=2) for index in range(2)))

    assert (first.replaces, second.replaces) == (False, True)
    assert len(await entries_of(fixture)) == 1


async def test_a_scene_that_needs_more_inspected_music_is_composed(
    fixture: HandlerFixture,
) -> None:
    """Of 3 s, 2.1 were inspected; once 2.9 were, both lengths are hits."""
    lengths = [2.1, 2.9, 2.9, 2.1]

    segments = await _scenes(
        fixture, *(a_scene(0, job_id=f"job-{i}", duration_s=s) for i, s in enumerate(lengths))
    )

    assert {request.duration_s for request in fixture.provider.charged} == {3}
    assert [s.origin.value for s in segments] == ["fresh", "fresh", "cached", "cached"]


async def test_hits_misses_and_savings_are_counted(fixture: HandlerFixture) -> None:
    """A saving is counted once, with its segment."""

    def counted() -> list[float]:
        return [
            REGISTRY.get_sample_value(f"segue_generator_{name}_total", labels) or 0.0
            for name, labels in (
                ("cache", {"outcome": "hit"}),
                ("cache", {"outcome": "miss"}),
                ("saved_usd", {"provider": "ledger"}),
                ("cost_usd", {"provider": "ledger"}),
            )
        ]

    before = counted()

    for job_id in ("job-1", "job-2", "job-2"):
        await fixture.handle(a_scene(0, job_id=job_id))

    grown = [now - then for now, then in zip(counted(), before, strict=True)]
    assert grown == pytest.approx([1, 1, 0.01, 0.01])


async def test_an_unavailable_store_is_no_miss(fixture: HandlerFixture, tmp_path: Path) -> None:
    """The scene is retried instead of paid for."""

    class UnavailableStore(FolderStore):
        @override
        async def get(self, key: str) -> bytes:
            raise StoreUnavailableError(f"no answer for {key}")

    fixture.store = UnavailableStore(tmp_path)

    with pytest.raises(StoreUnavailableError):
        await fixture.process().generator.cache.find("0" * 64, needed_samples=1)


async def test_a_failed_cache_write_does_not_fail_the_scene(
    fixture: HandlerFixture, tmp_path: Path
) -> None:
    """The segment is stored and published; the next job composes again."""

    class FullStore(FolderStore):
        @override
        async def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
            if key.startswith("cache"):
                raise StoreUnavailableError("no room")
            await super().put(key, data, content_type=content_type)

    fixture.store = FullStore(tmp_path)
    fixture.handler = fixture.process()

    segments = await _scenes(fixture, a_scene(0), a_scene(0, job_id="job-2"))

    assert [s.origin for s in segments] == [Origin.FRESH] * 2


def _other_clip() -> bytes:
    return clip_of(CompositionRequest(prompt="", duration_s=9, window=None, seed=1))


async def _scenes(fixture: HandlerFixture, *scenes: object) -> list[SegmentGenerated]:
    """Handle these scenes; return their segments."""
    before = len(fixture.segments())
    for scene in scenes:
        await fixture.handle(scene)  # type: ignore[arg-type]  # builders make requests
    return fixture.segments()[before:]

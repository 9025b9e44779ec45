"""Tests the scene cache and max_cost with the Replicate emulator's ledger.

From generator to track; only Kafka is left out.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicate_server import EmulatorSettings, FaultKind, ReplicateEmulator
from services.generator.settings import CacheScope
from services.merger.merge import Merge
from services.merger.settings import MergerSettings
from shared.contract.events import AudioMerged, SegmentGenerated
from shared.contract.params import AudioParams, OnMaxCost
from shared.media.ffmpeg import Ffmpeg
from shared.settings import FfmpegSettings
from tests.support.event_builders import a_scene
from tests.support.replicate_provider import FastClock, replicate_fixture
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LENGTHS_S = (2.5, 1.7, 2.2)


@dataclass(frozen=True, kw_only=True)
class CacheFixture:
    """A generator with the Replicate emulator, and a merger."""

    generator: HandlerFixture
    fake: ReplicateEmulator

    async def job(
        self,
        job_id: str,
        *,
        run: int = 1,
        lengths_s: Sequence[float] = LENGTHS_S,
        params: AudioParams | None = None,
    ) -> list[SegmentGenerated]:
        """The segments of one run."""
        before = len(self.generator.published)
        for index, length_s in enumerate(lengths_s):
            scene = a_scene(
                index,
                job_id=job_id,
                run=run,
                count=len(lengths_s),
                duration_s=length_s,
                params=params or AudioParams(),
            )
            await self.generator.handle(scene)
        return [
            event
            for event in self.generator.published[before:]
            if isinstance(event, SegmentGenerated)
        ]

    async def track(self, segments: list[SegmentGenerated]) -> AudioMerged:
        """Merge the segments; return the event."""
        store, ffmpeg = self.generator.store, Ffmpeg(FfmpegSettings())
        return await Merge(store=store, ffmpeg=ffmpeg, settings=MergerSettings()).run(segments[-1])

    async def sweep(self) -> int:
        """Delete the whole cache; return the number of objects."""
        keys = [info.key async for info in self.generator.store.list_objects("cache")]
        for key in keys:
            await self.generator.store.delete(key)
        return len(keys)

    @property
    def charged(self) -> int:
        """Return the number of charged predictions."""
        return len(self.fake.ledger.charged)


OpenFixture = Callable[[CacheScope], AbstractAsyncContextManager[CacheFixture]]


@pytest.fixture
def open_fixture(tmp_path: Path) -> OpenFixture:
    """Return a function that opens a fixture with a cache scope."""

    @asynccontextmanager
    async def opened(scope: CacheScope) -> AsyncIterator[CacheFixture]:
        generator = HandlerFixture(tmp_path, scene_cache=scope)
        fake = EmulatorSettings(work_s=0.1, work_s_per_s=0.01)
        async with replicate_fixture(
            generator.store, clock=FastClock(20), fake=fake, starts_per_s=10
        ) as replicate:
            generator.provider = replicate.provider  # type: ignore[assignment]  # another of the same port
            generator.handler = generator.process()
            yield CacheFixture(generator=generator, fake=replicate.fake)

    return opened


async def test_the_same_film_costs_nothing_and_has_the_same_track(
    open_fixture: OpenFixture,
) -> None:
    """No request; each scene reports its saving; the track is equal to the byte."""
    async with open_fixture("all") as fixture:
        first = await fixture.job("job-1")
        requests, paid_usd = fixture.fake.requests.copy(), fixture.fake.ledger.total_usd

        second = await fixture.job("job-2")

        assert [s.origin.value for s in first] == ["fresh", "continued", "continued"]
        assert [s.origin.value for s in second] == ["cached"] * 3
        assert fixture.fake.requests == requests
        assert fixture.charged == 3
        assert paid_usd > 0
        assert sum(s.saved_usd or 0 for s in second) == pytest.approx(paid_usd, abs=1e-5)
        assert {s.cost_usd for s in second} == {0.0}
        assert await fixture.sweep() == 6, "what a job has survives a sweep of the cache"
        cached, original = await fixture.track(second), await fixture.track(first)
    assert [seam.kind for seam in original.seams] == ["splice"] * 2
    assert cached.seams == original.seams
    assert (cached.sha256, cached.samples) == (original.sha256, original.samples)


@pytest.mark.parametrize(
    ("scope", "another_job", "another_run"), [("all", 0, 0), ("job", 2, 0), ("off", 2, 2)]
)
async def test_the_scope_decides_which_jobs_share(
    open_fixture: OpenFixture, scope: CacheScope, another_job: int, another_run: int
) -> None:
    """Checks the charged predictions of each scope."""
    async with open_fixture(scope) as fixture:
        await fixture.job("job-1", lengths_s=[1.0, 1.0])
        assert fixture.charged == 2

        await fixture.job("job-2", lengths_s=[1.0, 1.0])
        assert fixture.charged == 2 + another_job

        await fixture.job("job-1", run=2, lengths_s=[1.0, 1.0])
        assert fixture.charged == 2 + another_job + another_run


async def test_only_a_changed_last_scene_is_paid_again(
    open_fixture: OpenFixture,
) -> None:
    """It continues cached music, which Replicate has deleted: the stored clip is sent."""
    async with open_fixture("all") as fixture:
        await fixture.job("job-1")

        segments = await fixture.job("job-1", run=2, lengths_s=[2.5, 1.7, 3.6])

        assert [s.origin.value for s in segments] == ["cached", "cached", "continued"]
        assert fixture.charged == 4
        assert fixture.fake.ledger.charged[-1].input_from != "output"
        merged = await fixture.track(segments)
    assert [seam.kind for seam in merged.seams] == ["splice"] * 2


async def test_the_spending_matches_the_ledger_with_failed_attempts(
    open_fixture: OpenFixture,
) -> None:
    """In the segments, and in the state that max_cost is checked against."""
    async with open_fixture("off") as fixture:
        fixture.fake.fault(
            FaultKind.FAIL_WITH, times=1, value="Prediction interrupted; please retry (code: PA)"
        )

        segments = await fixture.job("job-1")

        assert [s.attempts for s in segments] == [2, 1, 1]
        assert fixture.charged == 4
        paid_usd = fixture.fake.ledger.total_usd
    assert sum(s.cost_usd or 0 for s in segments) == pytest.approx(paid_usd, abs=1e-5)
    assert fixture.generator.continuations.states["job-1"].spent_usd == pytest.approx(
        paid_usd, abs=1e-5
    )


async def test_max_cost_ends_the_spending_with_a_reason(open_fixture: OpenFixture) -> None:
    """The estimate of the second scene exceeds it: no further request is sent."""
    async with open_fixture("all") as fixture:
        # 3 s of music are estimated at 0.0084, and cost a little
        params = AudioParams(max_cost=0.0085, on_max_cost=OnMaxCost.ERROR_STRATEGY)
        segments = await fixture.job("job-1", params=params)

        assert [s.origin.value for s in segments] == ["fresh", "silence", "silence"]
        assert fixture.charged == 1
        assert segments[1].reason is not None
        assert segments[1].reason.startswith("max_cost of $0.0085 is reached: $0.000")
        merged = await fixture.track(segments)
    assert merged.silent_scenes == (1, 2)

"""Estimate, bill and status of Replicate agree, within the bound that the estimate states."""

import warnings
from pathlib import Path

import pytest

from replicate_server import HARDWARE_S_PER_S, EmulatorSettings
from services.api.domain.cost_estimate import estimate_of
from services.api.domain.run_spec import RunSpec
from services.generator.providers import CompositionRequest
from services.generator.settings import GeneratorSettings
from shared.contract.params import AudioParams, Scene
from shared.pricing import PricingSettings
from shared.storage.filesystem import FolderStore
from tests.support.replicate_emulator import cached_clip
from tests.support.replicate_provider import FastClock, replicate_fixture
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:::shared.storage")]
LENGTHS = (4.3, 5.7)
REQUESTED_S = [5, 7]  # whole, and the window of one second


async def test_the_bill_is_between_half_of_the_estimate_and_the_estimate(tmp_path: Path) -> None:
    """Whole seconds, windows and price are the same; only the speed of the hardware is unknown."""
    spec = RunSpec(
        job_id="job-1",
        scenes=tuple(Scene(description="a calm lake", duration_s=length) for length in LENGTHS),
        video=None,
        params=AudioParams(max_cost=10.0),
        provider="replicate",
    )
    estimate = estimate_of(spec, PricingSettings(wanted="synth"))
    for requested_s in REQUESTED_S:  # composed before the clock runs
        cached_clip(
            CompositionRequest(prompt="x", duration_s=requested_s, window=None, seed=1), None
        )
    billed = EmulatorSettings(work_s=0.0, hardware_s_per_s=HARDWARE_S_PER_S)
    async with replicate_fixture(
        FolderStore(tmp_path), fake=billed, compose=cached_clip, clock=FastClock(10)
    ) as replicate:
        fixture = HandlerFixture(tmp_path, wanted="replicate")
        fixture.provider = replicate.provider  # type: ignore[assignment]  # another of the same port
        fixture.handler = fixture.process()
        for request in spec.requests(1):
            await fixture.handle(request)
        ledger = replicate.fake.ledger

    spent = sum(segment.cost_usd or 0.0 for segment in fixture.segments())
    assert [entry.duration_s for entry in ledger.charged] == REQUESTED_S
    assert sum(REQUESTED_S) == estimate.music_s
    assert spent == pytest.approx(ledger.total_usd, abs=1e-5)
    assert spent == pytest.approx(12 * HARDWARE_S_PER_S * 0.0014)
    assert estimate.cost_usd / 2 <= spent <= estimate.cost_usd


async def test_a_free_run_that_continues_on_a_generator_with_a_key_costs_nothing(
    tmp_path: Path,
) -> None:
    """The interrupted run of `segue score` without a key, on the emulator: no request at all."""
    with warnings.catch_warnings(action="ignore"):
        store = FolderStore(tmp_path)
        async with replicate_fixture(store, compose=cached_clip) as replicate:
            fixture = HandlerFixture(tmp_path, wanted="synth")
            fixture.provider = fixture._build("synth")  # type: ignore[assignment]
            fixture.handler = fixture.process()
            requests = RunSpec(
                job_id="job-1",
                scenes=(Scene(duration_s=1.7), Scene(duration_s=2.3)),
                video=None,
                params=AudioParams(),
                provider="synth",
            ).requests(1)
            await fixture.handle(requests[0])
            fixture.settings = GeneratorSettings(wanted="replicate", scene_cache="off")
            fixture.provider = replicate.provider  # type: ignore[assignment]
            fixture.handler = fixture.process()
            await fixture.handle(requests[1])
            entries, seen = replicate.fake.ledger.entries, dict(replicate.fake.requests)

    assert [segment.provider for segment in fixture.segments()] == ["synth", "synth"]
    assert (entries, seen) == ([], {})

"""The cost of republished records: each scene by the provider of its run."""

import pytest

from ops.kafka_log.republish import RepublishPlan
from services.api.operators import RunState, RunStatus
from shared.contract.events import VideoStitched
from shared.contract.params import Scene
from shared.pricing import PricingSettings, ReplicateAccount
from tests.support.event_builders import a_scene

#: 2.5 s: three, and the window
SCENE_USD = 4 * 2 * 0.0014
REPLICATE, SYNTH = (PricingSettings(wanted=name) for name in ("replicate", "synth"))


def a_plan(named: str | None, row: str | None) -> RepublishPlan:
    """Return the plan of a scene whose request names `named` and whose run's row names `row`."""
    plan = RepublishPlan()
    plan.add(a_scene(0, provider=named))
    state = RunState(
        status=RunStatus.FAILED,
        has_track=False,
        has_video=False,
        stored_scenes=frozenset(),
        provider=row,
    )
    plan._count_done({("job-1", 1): state}, frozenset({"job-1"}))
    return plan


@pytest.mark.parametrize(
    ("named", "row", "stack", "cost_usd"),
    [
        ("synth", None, REPLICATE, 0.0),
        ("replicate", None, SYNTH, SCENE_USD),
        (None, "synth", REPLICATE, 0.0),
        (None, "replicate", SYNTH, SCENE_USD),
        ("synth", "replicate", REPLICATE, 0.0),
        (None, None, REPLICATE, SCENE_USD),
        (None, None, SYNTH, 0.0),
        ("orchestra", None, REPLICATE, SCENE_USD),
    ],
)
def test_a_scene_costs_what_the_provider_of_its_run_costs(
    named: str | None, row: str | None, stack: PricingSettings, cost_usd: float
) -> None:
    """The request decides, then the row, then the running stack; never the command."""
    plan = a_plan(named, row)

    assert plan.calls_at_most == 1
    assert plan.cost_usd(stack) == pytest.approx(cost_usd)


def test_the_price_is_the_stacks() -> None:
    """And the scenes of `video.stitched` have the provider of the stack."""
    plan = a_plan("replicate", None)
    plan.add(VideoStitched(job_id="job-2", scenes=(Scene(duration_s=2.5),)))
    plan._count_done({}, frozenset())
    dear = PricingSettings(wanted="synth", replicate=ReplicateAccount(usd_per_s=1.0))

    assert plan.scenes_s["replicate"][0] == 2.5
    assert plan.scenes_s[None] == [2.5]
    assert plan.cost_usd(dear) == pytest.approx(8.0 * len(plan.scenes_s["replicate"]))

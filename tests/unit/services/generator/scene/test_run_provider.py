"""A run stays with the provider that it started with, whatever the generator is started with."""

from pathlib import Path
from typing import Any

import pytest

from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.synth.provider import SynthProvider
from services.generator.scene.handler import SceneHandler
from services.generator.scene.plan import Continuation
from services.generator.scene_ref import SceneRef
from shared.contract.events import SceneDelayed
from shared.errors import InvalidEventError, ProviderPausedError
from tests.support.event_builders import a_scene
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture

pytestmark = pytest.mark.filterwarnings("ignore::shared.storage.StandInWarning")


class Restarted(HandlerFixture):
    """A generator that was free, and is started again with the paid provider of the fixture."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.paid, self.free = self.provider, SynthProvider(self.store)

    def restart(self, *, free: bool) -> SceneHandler:
        """Start a process whose own provider is the free or the paid one."""
        self.provider = self.free if free else self.paid  # type: ignore[assignment]  # same port
        self.handler = self.process()
        return self.handler


@pytest.fixture
def fixture(tmp_path: Path) -> Restarted:
    """A generator that starts with the synthesizer."""
    restarted = Restarted(tmp_path)
    restarted.restart(free=True)
    return restarted


@pytest.mark.parametrize("named", ["synth", None])
@pytest.mark.parametrize("table_lost", [False, True])
async def test_an_interrupted_free_run_is_never_charged(
    fixture: Restarted, named: str | None, *, table_lost: bool
) -> None:
    """Whether the request names its provider or not, and whether the state was lost or not."""
    await fixture.handle(a_scene(0, count=2, provider=named))
    fixture.restart(free=False)
    if table_lost:
        fixture.continuations.states.clear()
    await fixture.handle(a_scene(1, count=2, provider=named))

    assert fixture.paid.charged == []
    assert [(s.provider, s.cost_usd) for s in fixture.segments()] == [("synth", 0.0)] * 2


async def test_a_claimed_first_scene_binds_its_run(fixture: Restarted) -> None:
    """The process died between claim and clip; the request names no provider."""
    collect = fixture.free.collect

    async def dies(*_: object) -> Any:
        raise RuntimeError("killed")

    fixture.free.collect = dies  # type: ignore[method-assign,assignment]  # the script
    with pytest.raises(RuntimeError):
        await fixture.handle(a_scene(0, count=1))
    fixture.free.collect = collect  # type: ignore[method-assign]
    fixture.restart(free=False)
    await fixture.handle(a_scene(0, count=1))

    assert fixture.paid.charged == []
    assert [s.provider for s in fixture.segments()] == ["synth"]


async def test_a_new_run_uses_the_providers_own(fixture: Restarted) -> None:
    """Only a run that has begun, or that names a provider, is bound."""
    fixture.restart(free=False)
    await fixture.handle(a_scene(0, count=1))

    assert len(fixture.paid.charged) == 1
    assert [s.provider for s in fixture.segments()] == ["ledger"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("replicate", "No Replicate API key configured"),
        ("fake-replicate", "MUSIC_PROVIDER=fake-replicate"),
    ],
)
async def test_a_paid_run_waits_visibly_without_its_provider(
    fixture: Restarted, name: str, reason: str
) -> None:
    """It never becomes free music; the notice has the reason, and nothing is claimed."""
    generators = fixture.handler.generators
    scene = a_scene(0, count=1, provider=name)
    provider = (await generators.of_run(scene, Continuation(run=1))).provider
    with pytest.raises(ProviderPausedError, match=reason) as caught:
        await provider.ready(within_s=1)

    notices = fixture.handler.delay_notices
    async with notices.track(SceneRef.of(scene), traceparent=None):
        await notices.report_wait(SceneRef.of(scene), caught.value, for_s=30)
    [notice] = fixture.published
    assert isinstance(notice, SceneDelayed)
    assert notice.code.value == "provider_paused"
    assert reason in notice.reason


async def test_a_run_of_an_emulator_never_continues_on_replicate(tmp_path: Path) -> None:
    """And a run of Replicate never continues on an emulator."""
    account = ReplicateSettings(key="r8_x")
    for emulated, bound in ((False, "fake-replicate"), (True, "replicate")):
        fixture = HandlerFixture(
            tmp_path / bound, wanted="replicate", emulated=emulated, replicate=account
        )
        scene = a_scene(0, count=1, provider=bound)
        generator = await fixture.handler.generators.of_run(scene, Continuation(run=1))

        assert generator.provider.paused is not None
        assert bound in generator.provider.paused


async def test_an_unknown_provider_is_an_invalid_request(fixture: Restarted) -> None:
    """The dead letter names the field and the providers; after an upgrade it is requeued."""
    with pytest.raises(InvalidEventError, match=r"provider: orchestra .* use one of synth, "):
        await fixture.handle(a_scene(0, count=1, provider="orchestra"))

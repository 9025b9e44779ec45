"""Selects the scene generator with the provider that a run started with.

The request names it, if the api wrote it. Otherwise the first scene binds the run: the state of the
job keeps its provider, and a claim names the provider that was asked first. So a run that was
interrupted does not change its provider when the generator starts with other settings: a free run
never costs money (ADR-0022).

I/O: the object store.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.generator.providers import MusicProvider
from services.generator.providers.by_name import Providers
from services.generator.scene.generate import SceneGenerator
from services.generator.scene.plan import Continuation
from services.generator.scene_ref import SceneRef
from shared.contract.events import SceneRequested


@dataclass(kw_only=True)
class RunGenerators:
    """A scene generator per provider; they share slots, claims and cancellation."""

    own: SceneGenerator
    providers: Providers
    build: Callable[[MusicProvider], SceneGenerator]
    _others: dict[str, SceneGenerator] = field(default_factory=dict)

    async def of_run(self, scene: SceneRequested, state: Continuation) -> SceneGenerator:
        """Return the generator for `scene`, which follows `state`.

        Raises:
            InvalidEventError: the request names a provider that does not exist.
            StoreUnavailableError: the store did not answer.
        """
        name = scene.provider or state.provider or await self._earlier(scene, state)
        provider = self.providers.own if name is None else self.providers.named(name)
        if provider is self.own.provider:
            return self.own
        if provider.name not in self._others:
            self._others[provider.name] = self.build(provider)
        return self._others[provider.name]

    async def _earlier(self, scene: SceneRequested, state: Continuation) -> str | None:
        """Return the provider that has worked for the run already; None if none has."""
        if state.scene_done >= 0:  # the state of an earlier release has no provider
            segment = await self.own.stored_segment(scene.job_id, scene.run, state.scene_done)
            if segment is not None and segment.kept is None:
                return segment.provider
        return await self.own.attempts.claims.claimed_provider(SceneRef.of(scene))

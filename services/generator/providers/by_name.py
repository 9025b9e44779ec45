"""Keeps the generator's own provider and, once a run needs them, the providers of other runs.

A run stays with the provider that it started with (ADR-0022); after a restart with other settings
the generator therefore composes with several.

I/O: none of its own.
"""

from collections.abc import Callable

from services.generator.providers import MusicProvider
from shared.errors import InvalidEventError
from shared.music_providers import StackProvider, provider_named
from shared.telemetry.log import Logger
from shared.telemetry.metrics import PROVIDER_PAUSED

BuildProvider = Callable[[StackProvider], MusicProvider]


class Providers:
    """The providers of a generator by name; `own` composes for runs that name none."""

    def __init__(
        self, own: MusicProvider, *, own_name: str, build: BuildProvider, log: Logger
    ) -> None:
        """`own_name`: its name in the settings; a test may run another one under it."""
        self.own = own
        self._build = build
        self._log = log
        self._by_name: dict[str, MusicProvider] = {own.name: own, own_name: own}

    def named(self, name: str) -> MusicProvider:
        """Return the provider of a run; build it if it is the first run with it.

        Raises:
            InvalidEventError: there is no such provider.
        """
        if name == self.own.name:
            return self.own
        if name not in self._by_name:
            try:
                provider = self._build(provider_named(name))
            except ValueError as error:
                raise InvalidEventError(f"provider: {error}") from error
            PROVIDER_PAUSED.labels(name).set_function(lambda: provider.paused is not None)
            self._log.info(
                "provider of an earlier run added",
                action="provider.chosen",
                provider=name,
                reason="a run keeps the provider that it started with",
            )
            self._by_name[name] = provider
        return self._by_name[name]

    def nudge(self, prediction_id: str) -> None:
        """Poll the prediction now, whichever provider it belongs to."""
        for provider in self._all():
            provider.nudge(prediction_id)

    async def close(self) -> None:
        """Close every provider."""
        for provider in self._all():
            await provider.close()

    def _all(self) -> list[MusicProvider]:
        return list({id(provider): provider for provider in self._by_name.values()}.values())

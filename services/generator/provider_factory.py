"""Builds the provider that the settings name."""

from typing import assert_never

from services.generator.providers import MusicProvider
from services.generator.providers.replicate.factory import build_replicate
from services.generator.providers.silence import SilenceProvider
from services.generator.providers.synth.provider import SynthProvider
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.media.sandbox import MediaSandbox
from shared.storage import ObjectStore
from shared.telemetry.log import Logger


def build_provider(
    settings: GeneratorSettings, *, store: ObjectStore, clock: Clock, log: Logger
) -> MusicProvider:
    """Return the provider that `settings` name.

    Raises:
        SettingsError: these settings do not allow it.
    """
    match settings.provider:
        case "replicate":
            return build_replicate(
                settings.replicate,
                links=settings.links,
                store=store,
                sandbox=MediaSandbox(settings.media),
                clock=clock,
                log=log,
            )
        case "synth":
            return SynthProvider(store)
        case "silence":
            return SilenceProvider()
        case _:
            assert_never(settings.provider)

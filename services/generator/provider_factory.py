"""Builds music providers from the settings: the generator's own, and those of earlier runs."""

from typing import assert_never

from services.generator.providers import MusicProvider
from services.generator.providers.absent import AbsentProvider
from services.generator.providers.replicate.factory import build_replicate
from services.generator.providers.silence import SilenceProvider
from services.generator.providers.synth.provider import SynthProvider
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.media.sandbox import MediaSandbox
from shared.music_providers import StackProvider
from shared.storage import ObjectStore
from shared.telemetry.log import Logger


def build_provider(
    settings: GeneratorSettings,
    *,
    store: ObjectStore,
    clock: Clock,
    log: Logger,
    name: StackProvider | None = None,
) -> MusicProvider:
    """Return the provider `name`, None: the one that `settings` select.

    Replicate without a key, and an emulator that is not there, are providers that wait.

    Raises:
        SettingsError: these settings do not allow it.
    """
    name = name or settings.provider
    match name:
        case "replicate" | "fake-replicate":
            if settings.emulated != (name == "fake-replicate"):
                return AbsentProvider(name, reason=_absence(name))
            return build_replicate(
                settings.replicate,
                links=settings.links,
                store=store,
                sandbox=MediaSandbox(settings.media),
                clock=clock,
                log=log,
                name=name,
            )
        case "synth":
            return SynthProvider(store)
        case "silence":
            return SilenceProvider()
        case _:
            assert_never(name)


def _absence(name: StackProvider) -> str:
    return (
        f"the run started with the provider {name}, which this generator does not have: start it "
        f"with MUSIC_PROVIDER={name}, or choose another one with segue cancel JOB and segue "
        "redrive JOB --provider NAME"
    )

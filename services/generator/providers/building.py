"""Building: the provider that the settings name."""

from typing import assert_never

from services.generator.providers import MusicProvider
from services.generator.providers.silence import SilenceProvider
from services.generator.providers.synth import SynthProvider
from services.generator.settings import ProviderName
from shared.storage import ObjectStore


def build_provider(name: ProviderName, *, store: ObjectStore) -> MusicProvider:
    """The provider called `name`."""
    match name:
        case "synth":
            return SynthProvider(store)
        case "silence":
            return SilenceProvider()
        case _:
            assert_never(name)

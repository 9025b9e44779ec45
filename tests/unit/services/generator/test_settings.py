"""Checks which provider the settings select by default."""

from pydantic import SecretStr

from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.settings import GeneratorSettings


def test_without_provider_and_key_the_provider_is_silence_with_a_reason() -> None:
    """The contract's fallback, with its message."""
    settings = GeneratorSettings()

    assert settings.provider == "silence"
    assert settings.silence_reason == "No Replicate API key configured"


def test_a_key_selects_replicate() -> None:
    """No other setting is needed."""
    settings = GeneratorSettings(replicate=ReplicateSettings(key=SecretStr("r8_x")))

    assert settings.provider == "replicate"


def test_music_provider_overrides_the_key() -> None:
    """Also with silence, which then has its own reason."""
    settings = GeneratorSettings(
        wanted="silence", replicate=ReplicateSettings(key=SecretStr("r8_x"))
    )

    assert settings.provider == "silence"
    assert settings.silence_reason == "MUSIC_PROVIDER is silence"

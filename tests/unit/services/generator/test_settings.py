"""Checks the settings of the generator: the provider by default, and an earlier name."""

import pytest
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


def test_the_earlier_name_of_the_delay_notice_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The present name wins if both are set."""
    monkeypatch.setenv("SEGUE_DELAY_SAID_AFTER_S", "3")
    assert GeneratorSettings.from_environment().delay_notice_after_s == 3

    monkeypatch.setenv("SEGUE_DELAY_NOTICE_AFTER_S", "7")
    assert GeneratorSettings.from_environment().delay_notice_after_s == 7

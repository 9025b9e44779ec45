"""Checks the settings of the generator: the provider by default, and an earlier name."""

import pytest
from pydantic import SecretStr

from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.settings import GeneratorSettings


def test_without_provider_and_key_the_provider_is_the_synthesizer() -> None:
    """It is audible and free; the start of the service logs why."""
    choice = GeneratorSettings().choice

    assert (choice.name, choice.reason) == ("synth", "REPLICATE_API_KEY is not set")


def test_a_key_selects_replicate() -> None:
    """No other setting is needed."""
    choice = GeneratorSettings(replicate=ReplicateSettings(key=SecretStr("r8_x"))).choice

    assert (choice.name, choice.reason) == ("replicate", "REPLICATE_API_KEY is set")


def test_an_emulator_is_a_provider_of_its_own() -> None:
    """Its runs must never be continued on Replicate itself."""
    settings = GeneratorSettings(
        wanted="replicate", emulated=True, replicate=ReplicateSettings(key=SecretStr("r8_x"))
    )

    assert settings.provider == "fake-replicate"


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

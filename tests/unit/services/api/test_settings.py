"""Settings of the api from the environment."""

import pytest

from services.api.settings import ApiSettings
from services.generator.settings import GeneratorSettings
from shared.errors import SettingsError


def test_the_api_reads_the_contracts_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing variables keep their names."""
    monkeypatch.setenv("AUTO_GENERATE_AUDIO", "true")
    monkeypatch.setenv("AUDIO_MERGE_WITH_VIDEO", "true")
    monkeypatch.setenv("AUDIO_SYNC_MODE", "stretch")
    monkeypatch.setenv("AUDIO_ERROR_STRATEGY", "halt")
    monkeypatch.setenv("AUDIO_FAIL_ON_ERROR", "true")
    monkeypatch.setenv("AUDIO_MAX_COST", "2.5")
    monkeypatch.setenv("AUDIO_ON_MAX_COST", "error_strategy")
    settings = ApiSettings.from_environment()

    assert settings.port == 4000
    assert settings.auto_generate
    assert settings.defaults.merge_with_video
    assert settings.defaults.sync_mode == "stretch"
    assert settings.defaults.error_strategy == "halt"
    assert settings.defaults.fail_on_error
    assert settings.defaults.max_cost == 2.5
    assert settings.defaults.on_max_cost == "error_strategy"


def test_the_api_and_the_generator_read_the_same_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both accept the same environment; an API key selects Replicate."""
    monkeypatch.setenv("REPLICATE_API_KEY", "r8_x")
    monkeypatch.setenv("SEGUE_WINDOW_S", "3")
    monkeypatch.setenv("SEGUE_REPLICATE_USD_PER_S", "0.002")

    pricing = ApiSettings.from_environment().pricing

    generator = GeneratorSettings.from_environment()
    for group in (pricing, generator):
        assert (group.provider, group.window_s) == ("replicate", 3)
        assert group.replicate.usd_per_s == 0.002
    assert pricing.estimate([1, 2]) == generator.estimate([1, 2])
    assert "r8_x" not in repr(pricing)


def test_an_invalid_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a nested group."""
    monkeypatch.setenv("AUDIO_SYNC_MODE", "bend")
    with pytest.raises(SettingsError) as caught:
        ApiSettings.from_environment()

    assert caught.value.field == "AUDIO_SYNC_MODE"


def test_secrets_are_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database URL may contain a password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:very-secret@db/segue")

    assert "very-secret" not in repr(ApiSettings.from_environment())

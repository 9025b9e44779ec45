"""What the environment may say to the api."""

import pytest

from services.api.settings import ApiSettings
from shared.errors import SettingsError


def test_the_contracts_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that exist already keep their names."""
    monkeypatch.setenv("AUTO_GENERATE_AUDIO", "true")
    monkeypatch.setenv("AUDIO_MERGE_WITH_VIDEO", "true")
    monkeypatch.setenv("AUDIO_SYNC_MODE", "stretch")
    monkeypatch.setenv("AUDIO_ERROR_STRATEGY", "halt")
    monkeypatch.setenv("AUDIO_FAIL_ON_ERROR", "true")
    settings = ApiSettings.from_environment()

    assert settings.port == 4000
    assert settings.auto_generate
    assert settings.defaults.merge_with_video
    assert settings.defaults.sync_mode == "stretch"
    assert settings.defaults.error_strategy == "halt"
    assert settings.defaults.fail_on_error


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it belongs to a group inside."""
    monkeypatch.setenv("AUDIO_SYNC_MODE", "bend")
    with pytest.raises(SettingsError) as caught:
        ApiSettings.from_environment()

    assert caught.value.field == "AUDIO_SYNC_MODE"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database URL may hold a password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:very-secret@db/segue")

    assert "very-secret" not in repr(ApiSettings.from_environment())

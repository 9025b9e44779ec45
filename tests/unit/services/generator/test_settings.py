"""Who makes the music when little is said."""

from pydantic import SecretStr

from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.settings import GeneratorSettings


def test_without_a_word_and_without_a_key_there_is_silence_that_says_why() -> None:
    """The contract's fallback, with its message."""
    settings = GeneratorSettings()

    assert settings.provider == "silence"
    assert settings.why_silent == "No Replicate API key configured"


def test_a_key_alone_chooses_musicgen() -> None:
    """Nothing else need be said."""
    settings = GeneratorSettings(replicate=ReplicateSettings(key=SecretStr("r8_x")))

    assert settings.provider == "replicate"


def test_what_is_said_wins_over_the_key() -> None:
    """Also silence, which is then told as it was wanted."""
    settings = GeneratorSettings(
        wanted="silence", replicate=ReplicateSettings(key=SecretStr("r8_x"))
    )

    assert settings.provider == "silence"
    assert settings.why_silent == "MUSIC_PROVIDER is silence"

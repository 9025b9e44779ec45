"""Settings of the `segue` command."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field

from shared.local_stack import DataDirSettings
from shared.settings import SettingsGroup


class CommandSettings(SettingsGroup):
    """The commands' environment variables; options win."""

    #: URL of a running api; None: the stack on this machine
    api_url: str | None = Field(None, validation_alias="SEGUE_API_URL", pattern="^https?://")
    #: seconds that `segue score` waits for its job
    score_s: float = Field(1800, gt=0, validation_alias="SEGUE_SCORE_TIMEOUT_S")
    #: music provider of a stack that a command starts; None: the stack's default
    provider: str | None = Field(None, validation_alias="MUSIC_PROVIDER")

    #: operator name in the audit; None: the user at this machine
    operator: str | None = Field(None, validation_alias="SEGUE_OPERATOR", max_length=200)

    #: base URLs of the services' `readyz` for `segue watch`: NAME=URL, comma-separated; a name may
    #: repeat
    service_urls: str = Field("", validation_alias="SEGUE_SERVICE_URLS")

    home: DataDirSettings = Field(default_factory=DataDirSettings.from_environment)

    @classmethod
    def of_options(
        cls, *, api: str | None, data_dir: Path | None, timeout_s: float | None = None
    ) -> Self:
        """Return the environment's settings; the options that are given win."""
        options: dict[str, Any] = {"api_url": api, "score_s": timeout_s}
        if data_dir is not None:
            options["home"] = DataDirSettings.from_environment(data_dir=data_dir)
        given = {name: value for name, value in options.items() if value is not None}
        return cls.from_environment(**given)

"""Settings of the `segue` command."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field

from shared.local_stack import DataDirSettings
from shared.settings import SettingsGroup


class CommandSettings(SettingsGroup):
    """What the commands read from the environment; options win."""

    #: of a running api; None: the stack of this machine
    api_url: str | None = Field(None, validation_alias="SEGUE_API_URL", pattern="^https?://")
    #: seconds that `segue score` waits for its job
    score_s: float = Field(1800, gt=0, validation_alias="SEGUE_SCORE_TIMEOUT_S")
    #: who makes the music of a stack that a command starts; None: the stack's own choice
    provider: str | None = Field(None, validation_alias="MUSIC_PROVIDER")

    #: who is written into the audit; None: the user at this machine
    operator: str | None = Field(None, validation_alias="SEGUE_OPERATOR", max_length=200)

    #: where services answer `readyz`, NAME=URL with commas, several of one name too; `segue watch`
    #: asks them for their lanes
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

"""Settings of a stack: its servers, its data and its provider.

The services read their own settings from the environment, except for the addresses of what the
stack starts.
"""

from typing import Literal

from pydantic import Field

from shared.local_stack import DataDirSettings
from shared.music_providers import STACK_PROVIDER, StackProvider
from shared.settings import SettingsGroup, TelemetrySettings

StackKind = Literal["embedded", "native", "external"]  #: described in `servers/__init__.py`


class StackSettings(SettingsGroup):
    """What `python -m embedded` reads from the environment."""

    #: unlike the generator alone, a stack makes audible music by default
    provider: StackProvider = Field(STACK_PROVIDER, validation_alias="MUSIC_PROVIDER")
    #: the servers that the services use
    kind: StackKind = Field("embedded", validation_alias="SEGUE_STACK")
    #: port of the api on 127.0.0.1; 0: any free one
    port: int = Field(4000, ge=0, le=65_535, validation_alias="SEGUE_API_PORT")

    home: DataDirSettings = Field(default_factory=DataDirSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

"""Settings of a stack on this machine: its servers, its data, and who makes its music.

Everything else is its services' own: they read the environment as always, except for the
addresses of the parts that the stack itself starts.
"""

from typing import Literal

from pydantic import Field

from shared.local_stack import DataDirSettings
from shared.settings import SettingsGroup, TelemetrySettings

#: those of the generator, and a stand-in of Replicate for trying the real client without an account
StackProvider = Literal["synth", "silence", "replicate", "fake-replicate"]
StackKind = Literal["embedded", "native", "external"]  #: `servers.py` says what each has


class StackSettings(SettingsGroup):
    """What `python -m embedded` reads from the environment."""

    #: unlike the generator alone, a stack for listening makes music when nothing is said
    provider: StackProvider = Field("synth", validation_alias="MUSIC_PROVIDER")
    #: which servers the services work with
    kind: StackKind = Field("embedded", validation_alias="SEGUE_STACK")
    #: port of the api on 127.0.0.1; 0: any free one
    port: int = Field(4000, ge=0, le=65_535, validation_alias="SEGUE_API_PORT")

    home: DataDirSettings = Field(default_factory=DataDirSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

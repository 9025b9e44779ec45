"""Settings of the generator.

Units stand in the names. `MUSIC_PROVIDER` decides who makes the music: `replicate` (MusicGen),
`synth` (offline, audible) or `silence`; without it `replicate` if there is a key, else `silence`,
which says so in every result.
"""

from typing import Literal

from pydantic import Field

from services.generator.providers.replicate_settings import ReplicateSettings
from shared.segment_links import LinkSettings
from shared.settings import (
    KafkaSettings,
    LaneSettings,
    SettingsGroup,
    StoreSettings,
    TelemetrySettings,
)

ProviderName = Literal["replicate", "synth", "silence"]


class GeneratorSettings(SettingsGroup):
    """What the generator reads from the environment."""

    #: None: replicate with a key, silence without
    wanted: ProviderName | None = Field(None, validation_alias="MUSIC_PROVIDER")
    #: seconds of the earlier clip that a continuation is given; more holds the style better
    window_s: int = Field(1, ge=1, le=20, validation_alias="SEGUE_WINDOW_S")
    #: predictions under way at once, over all lanes
    slots: int = Field(8, ge=1, le=1000, validation_alias="SEGUE_PROVIDER_SLOTS")
    #: tries of one scene with a new seed each, before the error strategy decides
    scene_attempts_max: int = Field(3, ge=1, le=20, validation_alias="SEGUE_SCENE_ATTEMPTS_MAX")
    #: how long one scene may wait for a busy provider, before the error strategy decides
    scene_deadline_s: float = Field(1200, gt=0, validation_alias="SEGUE_SCENE_DEADLINE_S")
    #: a claim whose owner fell silent is looked up, and given up, only after so long
    claim_settle_s: float = Field(40, gt=0, validation_alias="SEGUE_CLAIM_SETTLE_S")
    #: whoever claimed must have asked within so long, or ask anew: a thawed process may not
    claim_lease_s: float = Field(5, gt=0, validation_alias="SEGUE_CLAIM_LEASE_S")

    replicate: ReplicateSettings = Field(default_factory=ReplicateSettings.from_environment)
    links: LinkSettings = Field(default_factory=LinkSettings.from_environment)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings.from_environment)
    store: StoreSettings = Field(default_factory=StoreSettings.from_environment)
    lanes: LaneSettings = Field(default_factory=LaneSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

    @property
    def provider(self) -> ProviderName:
        """Who makes the music."""
        if self.wanted is not None:
            return self.wanted
        return "replicate" if self.replicate.key.get_secret_value() else "silence"

    @property
    def why_silent(self) -> str:
        """What a scene is told that the silence provider made."""
        if self.wanted is None:
            return "No Replicate API key configured"
        return "MUSIC_PROVIDER is silence"

"""Settings of the generator.

Units stand in the names. Who makes the music is for `shared/pricing.py` to say; where it is
`silence`, every result says so.
"""

from typing import Literal

from pydantic import Field

from services.generator.providers.replicate.settings import ReplicateSettings
from shared.http.fetcher import FetchGuardSettings
from shared.pricing import PricingSettings
from shared.security.signed_links import LinkSettings
from shared.settings import (
    HealthSettings,
    KafkaSettings,
    LaneSettings,
    StoreSettings,
    TelemetrySettings,
)

CacheScope = Literal["all", "job", "off"]


class StyleSettings(FetchGuardSettings):
    """How a style sample is fetched."""

    #: a sample of more bytes is refused
    bytes_max: int = Field(25 * 1024 * 1024, ge=1024, validation_alias="SEGUE_STYLE_BYTES_MAX")
    #: a whole download, redirects included, may take so long
    timeout_s: float = Field(60, gt=0, le=3600, validation_alias="SEGUE_STYLE_TIMEOUT_S")


class GeneratorSettings(PricingSettings):
    """What the generator reads from the environment."""

    #: predictions under way at once, over all lanes
    slots: int = Field(8, ge=1, le=1000, validation_alias="SEGUE_PROVIDER_SLOTS")
    #: whose music is used again where the same is asked for: anybody's, the same job's, nobody's
    scene_cache: CacheScope = Field("all", validation_alias="SEGUE_SCENE_CACHE")
    #: tries of one scene with a new seed each, before the error strategy decides
    scene_attempts_max: int = Field(3, ge=1, le=20, validation_alias="SEGUE_SCENE_ATTEMPTS_MAX")
    #: how long one scene may wait for a busy provider, before the error strategy decides
    scene_deadline_s: float = Field(1200, gt=0, validation_alias="SEGUE_SCENE_DEADLINE_S")
    #: a scene that waited so long for a busy provider says so in its job's status
    delay_said_after_s: float = Field(15, ge=0, validation_alias="SEGUE_DELAY_SAID_AFTER_S")
    #: a claim whose owner fell silent is looked up, and given up, only after so long
    claim_settle_s: float = Field(40, gt=0, validation_alias="SEGUE_CLAIM_SETTLE_S")
    #: whoever claimed must have asked within so long, or ask anew: a thawed process may not
    claim_lease_s: float = Field(5, gt=0, validation_alias="SEGUE_CLAIM_LEASE_S")

    replicate: ReplicateSettings = Field(default_factory=ReplicateSettings.from_environment)
    style: StyleSettings = Field(default_factory=StyleSettings.from_environment)
    links: LinkSettings = Field(default_factory=LinkSettings.from_environment)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings.from_environment)
    store: StoreSettings = Field(default_factory=StoreSettings.from_environment)
    lanes: LaneSettings = Field(default_factory=LaneSettings.from_environment)
    health: HealthSettings = Field(default_factory=HealthSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

    @property
    def why_silent(self) -> str:
        """What a scene is told that the silence provider made."""
        if self.wanted is None:
            return "No Replicate API key configured"
        return "MUSIC_PROVIDER is silence"

"""Settings of the generator.

Units are in the names. `shared/pricing.py` selects the provider.
"""

from typing import Literal

from pydantic import AliasChoices, Field

from services.generator.providers.replicate.settings import ReplicateSettings
from shared.http.fetcher import FetchGuardSettings
from shared.http.video_source import FetchSettings
from shared.pricing import PricingSettings
from shared.security.signed_links import LinkSettings
from shared.settings import WorkerSettings

CacheScope = Literal["all", "job", "off"]


class StyleSettings(FetchGuardSettings):
    """How a style sample is fetched."""

    #: largest accepted sample
    bytes_max: int = Field(25 * 1024 * 1024, ge=1024, validation_alias="SEGUE_STYLE_BYTES_MAX")
    #: timeout of a whole download, redirects included
    timeout_s: float = Field(60, gt=0, le=3600, validation_alias="SEGUE_STYLE_TIMEOUT_S")


class GeneratorSettings(PricingSettings, WorkerSettings):
    """The generator's settings, read from the environment."""

    #: predictions in flight at once, over all lanes
    slots: int = Field(8, ge=1, le=1000, validation_alias="SEGUE_PROVIDER_SLOTS")
    #: which cached clips are reused for equal requests: of the same job, of all jobs, none
    scene_cache: CacheScope = Field("job", validation_alias="SEGUE_SCENE_CACHE")
    #: attempts at one scene, each with a new seed, before the error strategy applies
    scene_attempts_max: int = Field(3, ge=1, le=20, validation_alias="SEGUE_SCENE_ATTEMPTS_MAX")
    #: longest wait of one scene for a busy provider, before the error strategy applies
    scene_deadline_s: float = Field(1200, gt=0, validation_alias="SEGUE_SCENE_DEADLINE_S")
    #: a scene that waits so long for a busy provider reports it in its job's status
    delay_notice_after_s: float = Field(
        15,
        ge=0,
        validation_alias=AliasChoices(
            "SEGUE_DELAY_NOTICE_AFTER_S",
            "SEGUE_DELAY_SAID_AFTER_S",  # its earlier name
        ),
    )
    #: a claim without a known prediction counts as void only after so long
    claim_settle_s: float = Field(40, gt=0, validation_alias="SEGUE_CLAIM_SETTLE_S")
    #: a claim may be used only within so long: a process suspended for longer must not pay
    claim_lease_s: float = Field(5, gt=0, validation_alias="SEGUE_CLAIM_LEASE_S")

    replicate: ReplicateSettings = Field(default_factory=ReplicateSettings.from_environment)
    style: StyleSettings = Field(default_factory=StyleSettings.from_environment)
    fetch: FetchSettings = Field(default_factory=FetchSettings.from_environment)
    links: LinkSettings = Field(default_factory=LinkSettings.from_environment)

    @property
    def silence_reason(self) -> str:
        """Return the reason in segments of the silence provider."""
        return "MUSIC_PROVIDER is silence"

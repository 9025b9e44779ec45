"""Settings of the music provider and its prices; estimates of a run's cost.

The api, the generator and the command line read the same variables here, so their estimates
agree. If api and generator run on different machines, set them alike; the api needs no key if
`MUSIC_PROVIDER` is set.

`MUSIC_PROVIDER` is a name in `shared/music_providers.py`; unset: `replicate` if there is a key,
else `silence`.

Units: seconds, US dollars.
"""

from collections.abc import Sequence

from pydantic import Field, SecretStr

from shared.cost_estimate import REPLICATE_USD_PER_S, Estimate, estimate
from shared.music_providers import ProviderName
from shared.settings import SettingsGroup

REPLICATE_URL = "https://api.replicate.com/v1"


class ReplicateAccount(SettingsGroup):
    """The Replicate account and its price."""

    key: SecretStr = Field(SecretStr(""), validation_alias="REPLICATE_API_KEY")
    base_url: str = Field(
        REPLICATE_URL, validation_alias="REPLICATE_BASE_URL", pattern=r"^https?://[^\s?#]+$"
    )
    #: US dollars per second of the model's hardware
    usd_per_s: float = Field(
        REPLICATE_USD_PER_S, ge=0, validation_alias="SEGUE_REPLICATE_USD_PER_S"
    )


class PricingSettings(SettingsGroup):
    """Settings that determine the cost of a run."""

    #: None: replicate with a key, silence without
    wanted: ProviderName | None = Field(None, validation_alias="MUSIC_PROVIDER")
    #: seconds of the previous clip that a continuation is given; more keeps the style better
    window_s: int = Field(1, ge=1, le=20, validation_alias="SEGUE_WINDOW_S")
    #: seconds from the end of a style sample that a run's first scene is given; at most its length
    style_window_s: int = Field(5, ge=1, le=20, validation_alias="SEGUE_STYLE_WINDOW_S")

    replicate: ReplicateAccount = Field(default_factory=ReplicateAccount.from_environment)

    @property
    def provider(self) -> ProviderName:
        """Return the provider in effect."""
        if self.wanted is not None:
            return self.wanted
        return "replicate" if self.replicate.key.get_secret_value() else "silence"

    def estimate(
        self, durations_s: Sequence[float], *, has_style: bool = False, continues: bool = False
    ) -> Estimate:
        """Return the estimate for scenes of these lengths.

        `has_style`: the first scene continues a style sample; `continues`: it continues earlier
        music.
        """
        first_window_s = self.window_s if continues else 0
        return estimate(
            durations_s,
            window_s=self.window_s,
            first_window_s=self.style_window_s if has_style else first_window_s,
            provider=self.provider,
            usd_per_s=self.replicate.usd_per_s,
        )

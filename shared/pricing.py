"""Pricing: who makes the music, and what a run of it costs.

The api says beforehand what the generator will spend, and the command says it before either
runs: all three read these variables here, so they cannot disagree about what they mean. Where
api and generator run on different machines, give both the same; the api needs no key when
`MUSIC_PROVIDER` says who it is.

`MUSIC_PROVIDER` decides: `replicate` (MusicGen), `synth` (offline, audible) or `silence`;
without it `replicate` if there is a key, else `silence`.

Units: seconds, US dollars.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, SecretStr

from shared.cost_estimate import REPLICATE_USD_PER_S, Estimate, estimate
from shared.settings import SettingsGroup

REPLICATE_URL = "https://api.replicate.com/v1"
ProviderName = Literal["replicate", "synth", "silence"]


class ReplicateAccount(SettingsGroup):
    """Whose account on Replicate pays, and what it is charged."""

    key: SecretStr = Field(SecretStr(""), validation_alias="REPLICATE_API_KEY")
    base_url: str = Field(
        REPLICATE_URL, validation_alias="REPLICATE_BASE_URL", pattern=r"^https?://[^\s?#]+$"
    )
    #: what a second of the model's hardware costs
    usd_per_s: float = Field(
        REPLICATE_USD_PER_S, ge=0, validation_alias="SEGUE_REPLICATE_USD_PER_S"
    )


class PricingSettings(SettingsGroup):
    """What decides the price of a run."""

    #: None: replicate with a key, silence without
    wanted: ProviderName | None = Field(None, validation_alias="MUSIC_PROVIDER")
    #: seconds of the earlier clip that a continuation is given; more holds the style better
    window_s: int = Field(1, ge=1, le=20, validation_alias="SEGUE_WINDOW_S")
    #: seconds of a style sample's end that the first music of a run is given; a shorter sample
    #: gives what it has
    style_window_s: int = Field(5, ge=1, le=20, validation_alias="SEGUE_STYLE_WINDOW_S")

    replicate: ReplicateAccount = Field(default_factory=ReplicateAccount.from_environment)

    @property
    def provider(self) -> ProviderName:
        """Who makes the music."""
        if self.wanted is not None:
            return self.wanted
        return "replicate" if self.replicate.key.get_secret_value() else "silence"

    def estimate(
        self, durations_s: Sequence[float], *, has_style: bool = False, continues: bool = False
    ) -> Estimate:
        """What scenes of these lengths take.

        `has_style`: the first continues a style sample; `continues`: music that is there.
        """
        first_window_s = self.window_s if continues else 0
        return estimate(
            durations_s,
            window_s=self.window_s,
            first_window_s=self.style_window_s if has_style else first_window_s,
            provider=self.provider,
            usd_per_s=self.replicate.usd_per_s,
        )

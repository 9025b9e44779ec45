"""Settings of the music provider and its prices; estimates of a run's cost.

The api, the generator and the stack read the same variables here, so their estimates agree. If api
and generator run on different machines, set them alike: the api binds each run to its provider. It
needs no key if `MUSIC_PROVIDER` is set. Operator commands use the prices that the api has recorded
(`services/api/database/pricing.py`), never those of their own environment.

`MUSIC_PROVIDER` is a name in `shared/music_providers.py`; unset: `replicate` if there is a key,
else `synth`.

Units: seconds, US dollars.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.cost_estimate import REPLICATE_USD_PER_S, Estimate, estimate
from shared.music_providers import ProviderChoice, ProviderName, StackProvider, choose_provider
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

    @field_validator("base_url")
    @classmethod
    def _has_valid_port(cls, url: str) -> str:
        try:
            port = urlsplit(url).port
        except ValueError as error:
            raise ValueError(f"{url} is not a URL ({error})") from error
        if port == 0:
            raise ValueError(f"{url} is not a URL (port 0)")
        return url

    @property
    def has_key(self) -> bool:
        """Return whether a key is set."""
        return bool(self.key.get_secret_value())


class PricingSettings(SettingsGroup):
    """Settings that determine the cost of a run."""

    #: None: replicate with a key, synth without
    wanted: ProviderName | None = Field(None, validation_alias="MUSIC_PROVIDER")
    #: seconds of the previous clip that a continuation is given; more keeps the style better
    window_s: int = Field(1, ge=1, le=20, validation_alias="SEGUE_WINDOW_S")
    #: seconds from the end of a style sample that a run's first scene is given; at most its length
    style_window_s: int = Field(5, ge=1, le=20, validation_alias="SEGUE_STYLE_WINDOW_S")

    #: the stack started an emulator: its runs are never continued on Replicate itself
    emulated: bool = False

    replicate: ReplicateAccount = Field(default_factory=ReplicateAccount.from_environment)

    @property
    def choice(self) -> ProviderChoice:
        """Return the provider in effect, and why."""
        wanted: StackProvider | None = "fake-replicate" if self.emulated else self.wanted
        return choose_provider(wanted, has_key=self.replicate.has_key)

    @property
    def provider(self) -> StackProvider:
        """Return the provider in effect."""
        return self.choice.name

    def estimate(
        self,
        durations_s: Sequence[float],
        *,
        provider: str | None = None,
        has_style: bool = False,
        continues: bool = False,
    ) -> Estimate:
        """Return the estimate for scenes of these lengths; `provider` None: the one in effect.

        `has_style`: the first scene continues a style sample; `continues`: it continues earlier
        music.

        Raises:
            ValueError: `provider` is unknown, and so is its cost.
        """
        first_window_s = self.window_s if continues else 0
        return estimate(
            durations_s,
            window_s=self.window_s,
            first_window_s=self.style_window_s if has_style else first_window_s,
            provider=provider or self.provider,
            usd_per_s=self.replicate.usd_per_s,
        )

"""Settings of a stack: its servers, its data and its provider.

The services read their own settings from the environment, except for the addresses of what the
stack starts.
"""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Literal

from pydantic import Field

from shared.local_stack import DataDirSettings
from shared.music_providers import ProviderChoice, StackProvider, choose_provider
from shared.pricing import ReplicateAccount
from shared.settings import SettingsGroup, TelemetrySettings

StackKind = Literal["embedded", "native", "external"]  #: described in `servers/__init__.py`


_OWN_SERVERS = "the stack starts its own servers; for yours: --stack external"
#: variables of the services that a stack does not use, and why
UNUSED_VARIABLES = {
    "KAFKA_BOOTSTRAP_SERVERS": _OWN_SERVERS,
    "DATABASE_URL": _OWN_SERVERS,
    "MINIO_ENDPOINT": _OWN_SERVERS,
    "SEGUE_STORE_DIR": _OWN_SERVERS,
    "SEGUE_HEALTH_PORT": "the api's readyz and metrics cover all services of the stack",
}


class StackSettings(SettingsGroup):
    """What `python -m embedded` reads from the environment."""

    #: None: replicate with a key, synth without
    wanted: StackProvider | None = Field(None, validation_alias="MUSIC_PROVIDER")
    #: the servers that the services use
    kind: StackKind = Field("embedded", validation_alias="SEGUE_STACK")
    #: address that the api listens on; others than loopback open it to the network
    host: str = Field("127.0.0.1", min_length=1, validation_alias="SEGUE_API_HOST")
    #: port of the api; 0: any free one
    port: int = Field(4000, ge=0, le=65_535, validation_alias="SEGUE_API_PORT")

    home: DataDirSettings = Field(default_factory=DataDirSettings.from_environment)
    replicate: ReplicateAccount = Field(default_factory=ReplicateAccount.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

    @property
    def choice(self) -> ProviderChoice:
        """Return the provider in effect, and why."""
        return choose_provider(self.wanted, has_key=self.replicate.has_key)

    @property
    def provider(self) -> StackProvider:
        """Return the provider in effect."""
        return self.choice.name


def unused_variables(kind: StackKind, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables of the environment that a stack of this kind does not use."""
    for name, reason in UNUSED_VARIABLES.items():
        if environment.get(name) and (kind != "external" or reason != _OWN_SERVERS):
            yield name


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an api that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Builds the four services with the settings of a stack on this machine.

Importing this module imports every service, which takes a second: the stack does it in a
thread while its servers start.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from embedded.servers import ServerAddresses
from embedded.supervisor import Service
from services.api.app import run as run_api
from services.api.settings import ApiSettings, DatabaseSettings
from services.generator.app import run as run_generator
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.settings import GeneratorSettings
from services.merger.app import run as run_merger
from services.merger.settings import MergerSettings
from services.muxer.app import run as run_muxer
from services.muxer.settings import MuxerSettings
from shared.music_providers import StackProvider
from shared.pricing import PricingSettings
from shared.security.signed_links import LinkSettings
from shared.settings import HealthSettings, LaneSettings, SettingsGroup, secrets_in
from shared.telemetry.redaction import register_secrets

G = TypeVar("G", bound=SettingsGroup)
_DRAIN_S = 2.0  # a user waits at the terminal; cancelled work is resumed at the next start


class _RunService(Protocol):
    """`run` of a service's app."""

    def __call__(self, settings: Any, *, stop: Any, ready: Any) -> Awaitable[None]: ...


@dataclass(frozen=True, kw_only=True)
class StackResources:
    """What the stack has started or created for its services."""

    addresses: ServerAddresses
    segment_keys: str
    host: str
    port: int
    provider: StackProvider
    replicate_emulator: tuple[str, str] | None = None  #: base URL and API key


def build_services(resources: StackResources) -> list[Service]:
    """Return the four services; the api is last: it consumes the others' topics.

    Raises:
        SettingsError: the environment is wrong for one of them.
    """
    addresses = resources.addresses
    servers: dict[str, Any] = {"kafka": addresses.kafka, "store": addresses.store}
    database = {} if addresses.database is None else {"url": addresses.database}
    lanes = _with_defaults(LaneSettings.from_environment(), drain_s=_DRAIN_S)
    links = _with_defaults(LinkSettings.from_environment(), keys=resources.segment_keys)
    provider = _provider_settings(resources)
    api = ApiSettings.from_environment(
        **servers,
        host=resources.host,
        port=resources.port,
        database=DatabaseSettings.from_environment(**database),
        pricing=PricingSettings.from_environment(**provider),
        links=links,
    )
    # one health port cannot serve three services of one process; the api's covers them
    stage: dict[str, Any] = {
        **servers,
        "lanes": lanes,
        "health": HealthSettings.from_environment(port=None),
    }
    generator = GeneratorSettings.from_environment(**stage, **provider, links=links)
    return [
        _service("generator", run_generator, generator),
        _service("merger", run_merger, MergerSettings.from_environment(**stage)),
        _service("muxer", run_muxer, MuxerSettings.from_environment(**stage)),
        _service("api", run_api, api),
    ]


def _provider_settings(resources: StackResources) -> dict[str, Any]:
    """Return the provider settings of generator and api."""
    if resources.replicate_emulator is None:
        return {"wanted": resources.provider}
    base_url, key = resources.replicate_emulator
    return {
        "wanted": "replicate",
        "emulated": True,
        "replicate": ReplicateSettings.from_environment(base_url=base_url, key=key),
    }


def _service(name: str, run: _RunService, settings: SettingsGroup) -> Service:
    register_secrets(secrets_in(settings))
    return Service(name=name, run=partial(run, settings))


def _with_defaults(group: G, **defaults: Any) -> G:
    """Return `group` with `defaults` for the fields that the environment does not set."""
    unset = {name: value for name, value in defaults.items() if name not in group.model_fields_set}
    return type(group).from_environment(**unset) if unset else group

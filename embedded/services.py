"""Line: the four services with the settings they have in a stack on this machine.

Importing this module imports every service, which takes a second: the stack does it in a
thread while its servers start.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from embedded.servers import Addresses
from embedded.settings import StackProvider
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
from shared.pricing import PricingSettings
from shared.security.signed_links import LinkSettings
from shared.settings import HealthSettings, LaneSettings, SettingsGroup, secrets_in
from shared.telemetry.redaction import register_secrets

G = TypeVar("G", bound=SettingsGroup)
_DRAIN_S = 2.0  # what is cut off goes on at the next start, and a person waits at the terminal


class _Door(Protocol):
    """`run` of a service's app."""

    def __call__(self, settings: Any, *, stop: Any, ready: Any) -> Awaitable[None]: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the stack has started or made for its services."""

    addresses: Addresses
    segment_keys: str
    port: int
    provider: StackProvider
    fake_replicate: tuple[str, str] | None = None  #: its address and the key it takes


def services(parts: Parts) -> list[Service]:
    """The four services; the api is the last one, for it watches the others' topics.

    Raises:
        SettingsError: the environment says something wrong to one of them.
    """
    addresses = parts.addresses
    given: dict[str, Any] = {"kafka": addresses.kafka, "store": addresses.store}
    database = {} if addresses.database is None else {"url": addresses.database}
    lanes = _unless_said(LaneSettings.from_environment(), drain_s=_DRAIN_S)
    links = _unless_said(LinkSettings.from_environment(), keys=parts.segment_keys)
    provider = _provider(parts)
    api = ApiSettings.from_environment(
        **given,
        host="127.0.0.1",
        port=parts.port,
        database=DatabaseSettings.from_environment(**database),
        pricing=PricingSettings.from_environment(**provider),
        links=links,
    )
    # one port cannot serve three services of one process; the api's has what there is to know
    stage: dict[str, Any] = {
        **given,
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


def _provider(parts: Parts) -> dict[str, Any]:
    """What generator and api are told of the provider."""
    if parts.fake_replicate is None:
        return {"wanted": parts.provider}
    base_url, key = parts.fake_replicate
    return {
        "wanted": "replicate",
        "replicate": ReplicateSettings.from_environment(base_url=base_url, key=key),
    }


def _service(name: str, run: _Door, settings: SettingsGroup) -> Service:
    register_secrets(secrets_in(settings))
    return Service(name=name, run=partial(run, settings))


def _unless_said(group: G, **fields: Any) -> G:
    """`group` with `fields` where the environment says nothing about them."""
    silent = {name: value for name, value in fields.items() if name not in group.model_fields_set}
    return type(group).from_environment(**silent) if silent else group

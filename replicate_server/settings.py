"""Settings of the Replicate emulator: speed, limits and retention.

Plain values, no environment: the caller passes them and may change them while the emulator runs
(`ReplicateEmulator.tune`, `PATCH /_fake/settings`).

Units: seconds, bytes, US dollars.
"""

import base64
import secrets
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
HARDWARE_S_PER_S = 1.5  #: of MusicGen on a warm A100: 1 to 2 seconds per second of music
_MIB = 1024 * 1024


def _token() -> str:
    return "r8_" + secrets.token_hex(18)


def _webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


class EmulatorSettings(BaseModel):
    """Settings; the defaults are a fast Replicate with high limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: port of 127.0.0.1; 0: a free one
    port: int = Field(0, ge=0, le=65_535)
    #: the API token
    token: str = Field(default_factory=_token, min_length=1)
    #: secret that signs webhooks: `whsec_` and base64
    webhook_secret: str = Field(default_factory=_webhook_secret, pattern=r"^whsec_")

    # Durations.
    #: every prediction is `starting` at least this long
    queue_s: Seconds = 0.0
    #: added if no prediction ran within `idle_s`
    cold_start_s: Seconds = 0.0
    idle_s: Seconds = 300.0
    #: minimum of `processing`: `work_s` plus `work_s_per_s` per second of the clip
    work_s: Seconds = 0.2
    work_s_per_s: Seconds = 0.0
    #: reported and charged: at least so many seconds of hardware per second of the clip, however
    #: fast this machine composes; 0.0: the real seconds
    hardware_s_per_s: Seconds = 0.0
    #: clips composed at once
    composers: int = Field(2, ge=1, le=64)

    # Retention.
    #: lifetime of an output URL
    delivery_ttl_s: Seconds = 3600.0
    #: time after its end until a prediction loses input, output and logs
    retention_s: Seconds = 3600.0

    # Limits.
    creations_per_min: float = Field(600, gt=0)
    #: creations at once; None: one minute's
    creation_burst: int | None = Field(None, ge=1)
    requests_per_min: float = Field(3000, gt=0)
    request_burst: int | None = Field(None, ge=1)
    #: whether a 429 also has a `Retry-After` header
    retry_after_header: bool = False
    #: dollars left; None: unlimited
    credit_usd: float | None = None
    #: per second of `predict_time`; the price of an A100
    price_usd_per_s: float = Field(0.0014, ge=0)
    #: inputs may be on this machine; the real Replicate cannot reach it
    reaches_loopback: bool = True
    #: webhooks may use http; the real Replicate requires https
    webhooks_over_http: bool = True

    # Webhooks.
    #: delays between the attempts of an unanswered `completed`; the last is after one minute
    webhook_delays_s: tuple[Seconds, ...] = (1, 2, 4, 8, 16, 29)
    webhook_timeout_s: float = Field(5.0, gt=0)
    #: whether an `aborted` prediction sends `completed` (unknown of the real Replicate)
    webhook_on_aborted: bool = False

    #: `Prefer: wait` responds as recorded: `processing` with the output as a data URL
    sync_traps: bool = True

    # Bounds.
    predictions_max: int = Field(2000, ge=1)
    page_size: int = Field(100, ge=1, le=100)
    body_bytes_max: int = Field(16 * _MIB, ge=1)
    input_bytes_max: int = Field(64 * _MIB, ge=1)
    delivery_bytes_max: int = Field(256 * _MIB, ge=1)
    #: longer clips run out of memory
    duration_s_max: int = Field(300, ge=1)

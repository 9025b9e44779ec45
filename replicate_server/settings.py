"""Settings of the fake Replicate: how fast it is, what it allows, and what it keeps.

Plain values, no environment: whoever starts it says what it wants, and may change its mind
while it runs (`ReplicateEmulator.tune`, `PATCH /_fake/settings`).

Units: seconds, bytes, US dollars.
"""

import base64
import secrets
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
_MIB = 1024 * 1024


def _token() -> str:
    return "r8_" + secrets.token_hex(18)


def _webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


class EmulatorSettings(BaseModel):
    """Everything that can be set; the defaults are a quick, generous Replicate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: of 127.0.0.1; 0: any free one
    port: int = Field(0, ge=0, le=65_535)
    #: the API token it takes
    token: str = Field(default_factory=_token, min_length=1)
    #: what webhooks are signed with: `whsec_` and base64
    webhook_secret: str = Field(default_factory=_webhook_secret, pattern=r"^whsec_")

    # How long things take.
    #: every prediction is `starting` for so long
    queue_s: Seconds = 0.0
    #: and so much longer when no other ran within `idle_s`
    cold_start_s: Seconds = 0.0
    idle_s: Seconds = 300.0
    #: `processing`, at least: `work_s` plus `work_s_per_s` for each second of the clip
    work_s: Seconds = 0.2
    work_s_per_s: Seconds = 0.0
    #: clips composed at once
    composers: int = Field(2, ge=1, le=64)

    # What is forgotten, and when.
    #: an output's URL answers for so long
    delivery_ttl_s: Seconds = 3600.0
    #: so long after its end, a prediction loses input, output and logs
    retention_s: Seconds = 3600.0

    # What is allowed.
    creations_per_min: float = Field(600, gt=0)
    #: creations at once; None: a minute's worth
    creation_burst: int | None = Field(None, ge=1)
    requests_per_min: float = Field(3000, gt=0)
    request_burst: int | None = Field(None, ge=1)
    #: say `Retry-After` on a 429 too, not only in the body
    retry_after_header: bool = False
    #: dollars left; None: no end of them
    credit_usd: float | None = None
    #: per second of `predict_time`, an A100's
    price_usd_per_s: float = Field(0.0014, ge=0)
    #: inputs may lie on this machine; the real one cannot reach it
    reaches_loopback: bool = True
    #: webhooks may go to http URLs; the real one takes https alone
    webhooks_over_http: bool = True

    # Webhooks.
    #: waits before each new try of an unanswered `completed`; the last comes after a minute
    webhook_delays_s: tuple[Seconds, ...] = (1, 2, 4, 8, 16, 29)
    webhook_timeout_s: float = Field(5.0, gt=0)
    #: whether an `aborted` prediction says `completed`: nobody knows of the real one
    webhook_on_aborted: bool = False

    #: `Prefer: wait` answers as recorded: `processing` with the output there, as a data URL
    sync_traps: bool = True

    # Bounds.
    predictions_max: int = Field(2000, ge=1)
    page_size: int = Field(100, ge=1, le=100)
    body_bytes_max: int = Field(16 * _MIB, ge=1)
    input_bytes_max: int = Field(64 * _MIB, ge=1)
    delivery_bytes_max: int = Field(256 * _MIB, ge=1)
    #: longer clips run out of memory, the model's and ours
    duration_s_max: int = Field(300, ge=1)

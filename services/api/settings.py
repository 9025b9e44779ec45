"""Settings of the api: HTTP, limits, and the defaults of a request.

Units are in the names.
"""

from pydantic import Field, SecretStr

from shared.contract.params import CostUsd, ErrorStrategy, OnMaxCost, PromptStyle, SyncMode
from shared.cost_estimate import MAX_COST_USD
from shared.pricing import PricingSettings
from shared.security.signed_links import LinkSettings
from shared.settings import (
    KafkaSettings,
    MediaSettings,
    RunLimitSettings,
    ScratchSettings,
    SettingsGroup,
    StoreSettings,
    TelemetrySettings,
)

_MIB = 1024 * 1024


class DefaultSettings(SettingsGroup):
    """Defaults of a request."""

    merge_with_video: bool = Field(False, validation_alias="AUDIO_MERGE_WITH_VIDEO")
    sync_mode: SyncMode = Field(SyncMode.TRIM, validation_alias="AUDIO_SYNC_MODE")
    error_strategy: ErrorStrategy = Field(
        ErrorStrategy.CONTINUE_WITH_SILENCE, validation_alias="AUDIO_ERROR_STRATEGY"
    )
    fail_on_error: bool = Field(False, validation_alias="AUDIO_FAIL_ON_ERROR")
    #: of scenes without a prompt of their own: the template, or with the scene's words
    prompt_style: PromptStyle = Field(PromptStyle.CONTRACT, validation_alias="AUDIO_PROMPT_STYLE")
    #: US dollars of one run
    max_cost: CostUsd | None = Field(MAX_COST_USD, validation_alias="AUDIO_MAX_COST")
    on_max_cost: OnMaxCost = Field(OnMaxCost.REFUSE, validation_alias="AUDIO_ON_MAX_COST")


class LimitSettings(RunLimitSettings):
    """Limits on requests."""

    body_bytes_max: int = Field(5 * _MIB, ge=1024, validation_alias="SEGUE_BODY_BYTES_MAX")
    video_bytes_max: int = Field(2048 * _MIB, ge=1024, validation_alias="SEGUE_VIDEO_BYTES_MAX")
    style_bytes_max: int = Field(25 * _MIB, ge=1024, validation_alias="SEGUE_STYLE_BYTES_MAX")
    #: concurrent uploads of videos and style samples; each needs its size in the temporary folder
    uploads_max: int = Field(4, ge=1, le=100, validation_alias="SEGUE_UPLOADS_MAX")
    #: bytes of all uploads that no job references; the oldest make room for a new one
    upload_quota_bytes: int = Field(
        10_240 * _MIB, ge=1024, validation_alias="SEGUE_UPLOAD_QUOTA_BYTES"
    )
    #: seconds after which an upload that no job references is deleted
    upload_retention_s: int = Field(
        86_400, ge=3600, le=365 * 86_400, validation_alias="SEGUE_UPLOAD_RETENTION_S"
    )
    #: concurrent requests in this process; one more is rejected with 503
    requests_max: int = Field(200, ge=1, le=100_000, validation_alias="SEGUE_REQUESTS_MAX")
    #: concurrent status streams (server-sent events) in this process
    listeners_max: int = Field(1000, ge=1, validation_alias="SEGUE_LISTENERS_MAX")
    #: open connections of this process; one client has at most three quarters of them
    connections_max: int = Field(2048, ge=16, le=100_000, validation_alias="SEGUE_CONNECTIONS_MAX")
    #: seconds until a body that stalls is rejected
    receive_s: float = Field(30, gt=0, le=600, validation_alias="SEGUE_RECEIVE_TIMEOUT_S")
    #: bytes per second of a body, on average; a slower one is rejected
    receive_rate_min: int = Field(16_384, ge=1, validation_alias="SEGUE_RECEIVE_RATE_MIN")
    #: seconds of a whole upload, at any rate
    upload_s: float = Field(3600, gt=0, le=86_400, validation_alias="SEGUE_UPLOAD_TIMEOUT_S")


class DatabaseSettings(SettingsGroup):
    """Connection to PostgreSQL."""

    url: SecretStr = Field(
        SecretStr("postgresql://postgres@127.0.0.1:5432/segue"), validation_alias="DATABASE_URL"
    )
    connections_max: int = Field(10, ge=2, le=200, validation_alias="SEGUE_DATABASE_CONNECTIONS")
    #: seconds for one statement, and for a free connection
    timeout_s: float = Field(10, gt=0, le=120, validation_alias="SEGUE_DATABASE_TIMEOUT_S")
    #: seconds that a start waits for the server
    start_s: float = Field(60, gt=0, le=3600, validation_alias="SEGUE_START_DEADLINE_S")


class ApiSettings(SettingsGroup):
    """Environment variables of the api."""

    host: str = Field("127.0.0.1", validation_alias="SEGUE_API_HOST")
    port: int = Field(4000, ge=0, le=65_535, validation_alias="SEGUE_API_PORT")
    #: host names by which clients reach the api, comma-separated; `*.name`: all below it, `*`: any
    trusted_hosts: str = Field("", validation_alias="SEGUE_TRUSTED_HOSTS")
    #: start a run for each new `video.stitched`
    auto_generate: bool = Field(False, validation_alias="AUTO_GENERATE_AUDIO")
    #: signing keys of Replicate's webhooks, `whsec_…`, comma-separated; empty: read from Replicate
    webhook_secret: SecretStr = Field(SecretStr(""), validation_alias="REPLICATE_WEBHOOK_SECRET")
    #: seconds that the response to an `Idempotency-Key` is stored
    idempotency_s: int = Field(86_400, ge=60, validation_alias="SEGUE_IDEMPOTENCY_S")

    defaults: DefaultSettings = Field(default_factory=DefaultSettings.from_environment)
    limits: LimitSettings = Field(default_factory=LimitSettings.from_environment)
    pricing: PricingSettings = Field(default_factory=PricingSettings.from_environment)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings.from_environment)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings.from_environment)
    store: StoreSettings = Field(default_factory=StoreSettings.from_environment)
    scratch: ScratchSettings = Field(default_factory=ScratchSettings.from_environment)
    media: MediaSettings = Field(default_factory=MediaSettings.from_environment)
    links: LinkSettings = Field(default_factory=LinkSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)

    @property
    def trusted_host_names(self) -> frozenset[str]:
        """Return the names in `trusted_hosts`, and that of the listen address."""
        names = (name.strip() for name in self.trusted_hosts.split(","))
        return frozenset(filter(None, (*names, self.host)))

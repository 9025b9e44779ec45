"""Settings groups that several services share, read from the environment once per process.

Every field has its unit, bounds and variable; an invalid value stops the start and names the
variable. `.env.example` lists all of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.contract.validation import plain_message
from shared.errors import SettingsError

G = TypeVar("G", bound="SettingsGroup")
_GIB = 1024**3


class SettingsGroup(BaseSettings):
    """A frozen group of settings; errors name the variable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        # for fields without an alias (nested groups): `ffmpeg` must not read FFMPEG
        env_prefix="SEGUE_GROUP_OF_SETTINGS_",
    )

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Return this group; `given` fields override the environment.

        Raises:
            SettingsError: the first invalid variable, and why.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SettingsError(place or cls.__name__, plain_message(first["msg"])) from error


def secrets_in(settings: object) -> Iterator[str]:
    """Yield every secret of these settings and their groups."""
    if isinstance(settings, SecretStr):
        yield settings.get_secret_value()
    elif isinstance(settings, BaseSettings):
        for name in type(settings).model_fields:
            yield from secrets_in(getattr(settings, name))


#: for a local broker without authentication, overriding the environment
UNSECURED: dict[str, Any] = {
    "security_protocol": "PLAINTEXT",
    "sasl_username": "",
    "ssl_ca_file": None,
    "ssl_cert_file": None,
    "ssl_key_file": None,
}


class KafkaSettings(SettingsGroup):
    """Connection to Kafka, and the behaviour of consumers."""

    bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    #: prefix of every topic and group name, so that several installations can share a cluster
    topic_prefix: str = Field("", validation_alias="SEGUE_TOPIC_PREFIX", pattern=r"^[\w.-]*$")
    #: create missing topics at start; false if the account may not (production ACLs)
    create_topics: bool = Field(True, validation_alias="SEGUE_CREATE_TOPICS")
    partitions: int = Field(4, ge=1, le=1000, validation_alias="SEGUE_PARTITIONS")
    replication: int = Field(1, ge=1, le=9, validation_alias="SEGUE_REPLICATION")
    #: a consumer without heartbeats for this long is removed from its group
    session_timeout_s: float = Field(15, ge=6, le=300, validation_alias="SEGUE_SESSION_TIMEOUT_S")
    heartbeat_s: float = Field(3, gt=0, le=60, validation_alias="SEGUE_HEARTBEAT_S")
    #: longest wait of a fetch at the broker; the embedded broker never ends one early
    fetch_max_wait_ms: int = Field(500, ge=1, le=60_000, validation_alias="SEGUE_FETCH_MAX_WAIT_MS")
    #: name of this log; a cluster that lost its records gets a new one and is read from the start
    epoch: str = Field("1", validation_alias="SEGUE_KAFKA_EPOCH")
    #: SSL means TLS, in Kafka's naming
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", validation_alias="KAFKA_SASL_MECHANISM"
    )
    sasl_username: str = Field("", validation_alias="KAFKA_SASL_USERNAME")
    sasl_password: SecretStr = Field(SecretStr(""), validation_alias="KAFKA_SASL_PASSWORD")
    #: PEM: CA of the brokers' certificates; None: the system's authorities
    ssl_ca_file: Path | None = Field(None, validation_alias="KAFKA_SSL_CA_FILE")
    #: PEM: client certificate and key, if the brokers require one
    ssl_cert_file: Path | None = Field(None, validation_alias="KAFKA_SSL_CERT_FILE")
    ssl_key_file: Path | None = Field(None, validation_alias="KAFKA_SSL_KEY_FILE")

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        protocol = self.security_protocol
        if protocol.startswith("SASL"):
            if not self.sasl_username:
                raise SettingsError("KAFKA_SASL_USERNAME", f"missing; {protocol} requires it")
            if not self.sasl_password.get_secret_value():
                raise SettingsError("KAFKA_SASL_PASSWORD", f"missing; {protocol} requires it")
        elif self.sasl_username:  # else an unused password would go unnoticed
            raise SettingsError(
                "KAFKA_SECURITY_PROTOCOL",
                f"{protocol} has no authentication; set SASL_SSL, or unset the username",
            )
        if not protocol.endswith("SSL") and (self.ssl_ca_file or self.ssl_cert_file):
            raise SettingsError(
                "KAFKA_SECURITY_PROTOCOL",
                f"{protocol} has no TLS; set SSL or SASL_SSL, or unset the files",
            )
        if (self.ssl_cert_file is None) != (self.ssl_key_file is None):
            raise SettingsError(
                "KAFKA_SSL_CERT_FILE", "must be set together with KAFKA_SSL_KEY_FILE"
            )
        return self


class StoreSettings(SettingsGroup):
    """Where media is stored: a folder or an S3-compatible server."""

    folder: Path | None = Field(None, validation_alias="SEGUE_STORE_DIR")
    endpoint: str = Field("http://127.0.0.1:9000", validation_alias="MINIO_ENDPOINT")
    access_key: SecretStr = Field(SecretStr(""), validation_alias="MINIO_ACCESS_KEY")
    secret_key: SecretStr = Field(SecretStr(""), validation_alias="MINIO_SECRET_KEY")
    #: of temporary credentials; empty: the keys are permanent
    session_token: SecretStr = Field(SecretStr(""), validation_alias="MINIO_SESSION_TOKEN")
    #: PEM file with authorities that sign the server's certificate, beside the system's
    ca_file: Path | None = Field(None, validation_alias="MINIO_CA_FILE")
    bucket: str = Field("segue", validation_alias="MINIO_BUCKET", min_length=3, max_length=63)
    region: str = Field("us-east-1", validation_alias="MINIO_REGION")
    #: concurrent calls to the server; more did not speed up puts (measured on 2 cores)
    threads: int = Field(8, ge=1, le=64, validation_alias="SEGUE_STORE_THREADS")


class LaneSettings(SettingsGroup):
    """Limits of concurrency and retries."""

    #: records received and not completed; the consumer pauses at this number
    in_flight_max: int = Field(10_000, ge=1, validation_alias="SEGUE_IN_FLIGHT_MAX")
    #: attempts at one record while a dependency is busy, before it becomes a dead letter
    attempts_max: int = Field(30, ge=1, le=1000, validation_alias="SEGUE_ATTEMPTS_MAX")
    #: longest time from the first failure to the last attempt at one record; a longer
    #: `Retry-After` is not waited for
    retry_deadline_s: float = Field(1800, gt=0, validation_alias="SEGUE_RETRY_DEADLINE_S")
    backoff_first_s: float = Field(1.0, gt=0, validation_alias="SEGUE_BACKOFF_FIRST_S")
    backoff_max_s: float = Field(60.0, gt=0, validation_alias="SEGUE_BACKOFF_MAX_S")
    #: consecutive dead letters that stop the consumer and keep its topic
    dead_letters_max: int = Field(20, ge=1, validation_alias="SEGUE_DEAD_LETTERS_MAX")
    #: how long a stop waits for running work
    drain_s: float = Field(5.0, ge=0, le=60, validation_alias="SEGUE_DRAIN_S")


class HealthSettings(SettingsGroup):
    """Health endpoints, and the deadline of a start."""

    host: str = Field("127.0.0.1", validation_alias="SEGUE_HEALTH_HOST")
    #: of `livez`, `readyz` and `metrics`; None: closed; 0: any free port
    port: int | None = Field(None, ge=0, le=65_535, validation_alias="SEGUE_HEALTH_PORT")
    #: how long a start waits for all of its servers together
    start_s: float = Field(60, gt=0, le=3600, validation_alias="SEGUE_START_DEADLINE_S")


def _log_format(value: object) -> object:
    """Return the format; true and false are the values of the earlier `SEGUE_LOG_PLAIN`."""
    return {"true": "text", "false": "json"}.get(str(value).lower(), value)


LogFormat = Annotated[Literal["auto", "text", "json"], BeforeValidator(_log_format)]


class TelemetrySettings(SettingsGroup):
    """Logs and traces."""

    log_level: str = Field(
        "info", validation_alias="SEGUE_LOG_LEVEL", pattern="^(debug|info|warning|error)$"
    )
    #: of lines on standard error: text for people, json for machines; auto: text on a terminal
    log_format: LogFormat = Field(
        "auto", validation_alias=AliasChoices("SEGUE_LOG_FORMAT", "SEGUE_LOG_PLAIN")
    )
    #: any value: text without colours (no-color.org)
    no_color: str = Field("", validation_alias="NO_COLOR")
    #: OpenTelemetry's variable: otlp or none; unset: otlp if an endpoint is set
    traces_exporter: Literal["", "otlp", "none"] = Field(
        "", validation_alias="OTEL_TRACES_EXPORTER"
    )
    #: base URL of the collector; the SDK reads this variable and more of its own
    otlp_endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    #: the same for traces alone, with its path
    otlp_traces_endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    #: protocol of the exporter; gRPC would need another library
    otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", validation_alias="OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    #: true: tracing off, overriding the others
    otel_off: bool = Field(False, validation_alias="OTEL_SDK_DISABLED")

    @property
    def traces_wanted(self) -> bool:
        """Return whether traces are exported."""
        if self.otel_off or self.traces_exporter == "none":
            return False
        endpoint = self.otlp_endpoint or self.otlp_traces_endpoint
        return bool(self.traces_exporter == "otlp" or endpoint)


class FfmpegSettings(SettingsGroup):
    """The ffmpeg binary and its timeout."""

    #: path of the binary; None: the one in the imageio-ffmpeg wheel
    binary: str | None = Field(None, validation_alias="FFMPEG")
    #: timeout of a run, plus a share of the media's length
    timeout_s: float = Field(60.0, gt=0, validation_alias="SEGUE_FFMPEG_TIMEOUT_S")
    #: memory of a process; a film of six hours takes 420 MB
    memory_bytes_max: int = Field(
        768 * 1024 * 1024, ge=64 * 1024 * 1024, validation_alias="SEGUE_FFMPEG_MEMORY_BYTES"
    )


class MediaSettings(SettingsGroup):
    """Limits of the processes that read untrusted media."""

    #: files read at once, each by a process of its own
    slots: int = Field(2, ge=1, le=64, validation_alias="SEGUE_MEDIA_SLOTS")
    #: of each process; its index takes 60 MB for a film of six hours
    memory_bytes_max: int = Field(
        256 * 1024 * 1024, ge=64 * 1024 * 1024, validation_alias="SEGUE_MEDIA_MEMORY_BYTES"
    )
    #: processor seconds of each process, plus one per 16 MiB of the file; four times as long in all
    cpu_s: float = Field(60, ge=1, le=3600, validation_alias="SEGUE_MEDIA_CPU_S")


class ScratchSettings(SettingsGroup):
    """Temporary files: where they are, and how much space they may use."""

    #: folder of media while it is processed; None: the system's temporary folder
    folder: Path | None = Field(None, validation_alias="SEGUE_SCRATCH_DIR")
    #: of all runs and uploads of one service
    bytes_max: int = Field(24 * _GIB, ge=1024, validation_alias="SEGUE_SCRATCH_BYTES_MAX")
    #: of one run: three times a video, or 1.4 GB per hour of a track
    run_bytes_max: int = Field(13 * _GIB, ge=1024, validation_alias="SEGUE_SCRATCH_RUN_BYTES_MAX")


class RunLimitSettings(SettingsGroup):
    """Limits of a run, whichever way it was requested."""

    scenes_max: int = Field(1000, ge=1, le=100_000, validation_alias="SEGUE_SCENES_MAX")
    #: seconds of one scene
    scene_s_max: float = Field(300, gt=0, le=3600, validation_alias="SEGUE_SCENE_S_MAX")
    #: seconds of all scenes together
    run_s_max: float = Field(21_600, gt=0, le=86_400, validation_alias="SEGUE_RUN_S_MAX")

    def exceeded_by(
        self, *, scene_count: int = 1, scene_s: float = 0.0, run_s: float = 0.0
    ) -> str | None:
        """Return which limit these values exceed, and its setting; None if none."""
        if scene_count > self.scenes_max:
            return (
                f"the run has {scene_count} scenes, at most {self.scenes_max} are allowed "
                "(SEGUE_SCENES_MAX)"
            )
        if scene_s > self.scene_s_max:
            return (
                f"the scene lasts {scene_s:g} s, at most {self.scene_s_max:g} s are allowed "
                "(SEGUE_SCENE_S_MAX): split the scene"
            )
        if run_s > self.run_s_max:
            return (
                f"the scenes last {run_s:g} s, at most {self.run_s_max:g} s are allowed "
                "(SEGUE_RUN_S_MAX): split the video"
            )
        return None


class WorkerSettings(SettingsGroup):
    """The groups of every service that processes events in lanes."""

    kafka: KafkaSettings = Field(default_factory=KafkaSettings.from_environment)
    store: StoreSettings = Field(default_factory=StoreSettings.from_environment)
    lanes: LaneSettings = Field(default_factory=LaneSettings.from_environment)
    health: HealthSettings = Field(default_factory=HealthSettings.from_environment)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings.from_environment)
    limits: RunLimitSettings = Field(default_factory=RunLimitSettings.from_environment)
    media: MediaSettings = Field(default_factory=MediaSettings.from_environment)
    scratch: ScratchSettings = Field(default_factory=ScratchSettings.from_environment)

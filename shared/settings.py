"""Settings: what the environment may say, read once in each `__main__`.

Groups that several services share. Every field says its unit, its bounds and its variable;
a wrong value stops the start with the variable's name. `.env.example` lists them all.
"""

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

G = TypeVar("G", bound="SettingsGroup")


class SettingsGroup(BaseSettings):
    """A frozen group of settings; `from_environment()` names what is wrong."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        # of fields without an alias, the nested groups: `ffmpeg` must not read FFMPEG as its own
        env_prefix="SEGUE_GROUP_OF_SETTINGS_",
    )

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Read this group; `given` fields win over the environment.

        Raises:
            SettingsError: the first variable that is wrong, and why.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SettingsError(place or cls.__name__, first["msg"]) from error


class KafkaSettings(SettingsGroup):
    """Where Kafka is and how a consumer behaves."""

    bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    #: put before every topic and group name, so that several Segues can share a cluster
    topic_prefix: str = Field("", validation_alias="SEGUE_TOPIC_PREFIX", pattern=r"^[\w.-]*$")
    #: make missing topics at start; off where the account may not (production ACLs)
    create_topics: bool = Field(True, validation_alias="SEGUE_CREATE_TOPICS")
    partitions: int = Field(4, ge=1, le=1000, validation_alias="SEGUE_PARTITIONS")
    replication: int = Field(1, ge=1, le=9, validation_alias="SEGUE_REPLICATION")
    #: a member that says nothing for so long is out of its group
    session_timeout_s: float = Field(15, ge=6, le=300, validation_alias="SEGUE_SESSION_TIMEOUT_S")
    heartbeat_s: float = Field(3, gt=0, le=60, validation_alias="SEGUE_HEARTBEAT_S")
    #: how long the broker may hold a fetch open; the embedded broker does not wake a waiting one
    fetch_max_wait_ms: int = Field(500, ge=1, le=60_000, validation_alias="SEGUE_FETCH_MAX_WAIT_MS")
    #: names this log; a broker that forgot everything gets a new name, and is read from its start
    epoch: str = Field("1", validation_alias="SEGUE_KAFKA_EPOCH")


class StoreSettings(SettingsGroup):
    """Where media lies: a folder, or an S3-compatible server."""

    folder: Path | None = Field(None, validation_alias="SEGUE_STORE_DIR")
    endpoint: str = Field("http://127.0.0.1:9000", validation_alias="MINIO_ENDPOINT")
    access_key: SecretStr = Field(SecretStr(""), validation_alias="MINIO_ACCESS_KEY")
    secret_key: SecretStr = Field(SecretStr(""), validation_alias="MINIO_SECRET_KEY")
    bucket: str = Field("segue", validation_alias="MINIO_BUCKET", min_length=3, max_length=63)
    region: str = Field("us-east-1", validation_alias="MINIO_REGION")
    #: calls to the server at once; more gained nothing on puts (measured on 2 cores)
    threads: int = Field(8, ge=1, le=64, validation_alias="SEGUE_STORE_THREADS")


class LaneSettings(SettingsGroup):
    """How much may be under way at once, and how patient a lane is."""

    #: records taken from Kafka and not done; beyond it the consumer stops polling
    in_flight_max: int = Field(10_000, ge=1, validation_alias="SEGUE_IN_FLIGHT_MAX")
    #: tries of one record while the world is busy, before it is a dead letter
    attempts_max: int = Field(30, ge=1, le=1000, validation_alias="SEGUE_ATTEMPTS_MAX")
    backoff_first_s: float = Field(1.0, gt=0, validation_alias="SEGUE_BACKOFF_FIRST_S")
    backoff_max_s: float = Field(60.0, gt=0, validation_alias="SEGUE_BACKOFF_MAX_S")
    #: dead letters in a row that stop the consumer with its topic intact
    dead_letters_max: int = Field(20, ge=1, validation_alias="SEGUE_DEAD_LETTERS_MAX")
    #: how long a stop waits for what runs
    drain_s: float = Field(5.0, ge=0, le=60, validation_alias="SEGUE_DRAIN_S")


class TelemetrySettings(SettingsGroup):
    """What is said, and where it can be read."""

    log_level: str = Field(
        "info", validation_alias="SEGUE_LOG_LEVEL", pattern="^(debug|info|warning|error)$"
    )
    #: lines for people instead of JSON
    log_plain: bool = Field(False, validation_alias="SEGUE_LOG_PLAIN")


class FfmpegSettings(SettingsGroup):
    """Which ffmpeg, and how long it may take."""

    #: path of the binary; None: the one in the imageio-ffmpeg wheel
    binary: str | None = Field(None, validation_alias="FFMPEG")
    #: a run may take this long plus a share of the media's length
    timeout_s: float = Field(60.0, gt=0, validation_alias="SEGUE_FFMPEG_TIMEOUT_S")

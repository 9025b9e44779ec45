"""Settings of the muxer."""

from pydantic import Field

from shared.http.fetcher import FetchGuardSettings
from shared.settings import FfmpegSettings, WorkerSettings


class FetchSettings(FetchGuardSettings):
    """Limits of fetching a video from a URL or the store."""

    #: a larger video is rejected
    bytes_max: int = Field(4 * 1024**3, ge=1, validation_alias="SEGUE_FETCH_BYTES_MAX")
    #: limit of a whole download, redirects included
    timeout_s: float = Field(600, gt=0, le=86_400, validation_alias="SEGUE_FETCH_TIMEOUT_S")


class MuxerSettings(WorkerSettings):
    """Settings of the muxer and the groups it shares."""

    #: videos muxed at once, each with its result in the scratch folder; downloads are not counted
    slots: int = Field(8, ge=1, le=256, validation_alias="SEGUE_MUX_SLOTS")

    ffmpeg: FfmpegSettings = Field(default_factory=FfmpegSettings.from_environment)
    fetch: FetchSettings = Field(default_factory=FetchSettings.from_environment)

"""Settings of the muxer."""

from pathlib import Path

from pydantic import Field

from shared.http.fetcher import FetchGuardSettings
from shared.settings import FfmpegSettings, MediaSettings, WorkerSettings


class FetchSettings(FetchGuardSettings):
    """Limits of fetching a video from a URL or the store."""

    #: a larger video is rejected
    bytes_max: int = Field(4 * 1024**3, ge=1, validation_alias="SEGUE_FETCH_BYTES_MAX")
    #: limit of a whole download, redirects included
    timeout_s: float = Field(600, gt=0, le=86_400, validation_alias="SEGUE_FETCH_TIMEOUT_S")


class MuxerSettings(WorkerSettings):
    """Settings of the muxer and the groups it shares."""

    #: videos muxed at once, from fetching to storing; each is in the scratch folder
    slots: int = Field(8, ge=1, le=256, validation_alias="SEGUE_MUX_SLOTS")
    #: folder for a video while it is muxed, three times its size; None: the system's own
    scratch_dir: Path | None = Field(None, validation_alias="SEGUE_SCRATCH_DIR")

    ffmpeg: FfmpegSettings = Field(default_factory=FfmpegSettings.from_environment)
    media: MediaSettings = Field(default_factory=MediaSettings.from_environment)
    fetch: FetchSettings = Field(default_factory=FetchSettings.from_environment)

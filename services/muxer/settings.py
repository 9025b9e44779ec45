"""Settings of the muxer."""

from pydantic import Field

from shared.http.video_source import FetchSettings
from shared.settings import FfmpegSettings, WorkerSettings


class MuxerSettings(WorkerSettings):
    """Settings of the muxer and the groups it shares."""

    #: videos muxed at once, each with its result in the scratch folder; downloads are not counted
    slots: int = Field(8, ge=1, le=256, validation_alias="SEGUE_MUX_SLOTS")

    ffmpeg: FfmpegSettings = Field(default_factory=FfmpegSettings.from_environment)
    fetch: FetchSettings = Field(default_factory=FetchSettings.from_environment)

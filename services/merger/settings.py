"""Settings of the merger.

Settings that several services share are in `shared/settings.py`.
"""

from pydantic import Field

from shared.settings import FfmpegSettings, WorkerSettings


class MergerSettings(WorkerSettings):
    """Settings of joining and mastering."""

    #: LUFS, integrated over the track; streaming services play at -14
    loudness_lufs: float = Field(-14.0, ge=-40, le=-5, validation_alias="SEGUE_LOUDNESS_LUFS")
    #: dBTP; the decoded track never exceeds it
    true_peak_dbtp: float = Field(-1.0, ge=-20, le=0, validation_alias="SEGUE_TRUE_PEAK_DBTP")
    #: milliseconds of crossfade where the music continues; ends at the join, inside the window
    crossfade_ms: int = Field(100, ge=10, le=1000, validation_alias="SEGUE_CROSSFADE_MS")
    #: runs merged at once; each holds two clips in memory, 23 MB per minute of a scene
    slots: int = Field(4, ge=1, le=256, validation_alias="SEGUE_MERGE_SLOTS")

    ffmpeg: FfmpegSettings = Field(default_factory=FfmpegSettings.from_environment)

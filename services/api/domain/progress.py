"""Maps a run's view to the published status, stage and progress.

The contract has five statuses and three stages; a run has more (`run_view.py`).

Pure.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from services.api.domain.run_view import RunStatus, RunView

AudioState = Literal["pending", "processing", "completed", "failed", "cancelled"]
StageName = Literal["audio_generation_pending", "audio_generation", "audio_completed"]
FINAL: frozenset[AudioState] = frozenset({"completed", "failed", "cancelled"})


def audio_state(status: RunStatus) -> AudioState:
    """Return the published status of a run."""
    match status:
        case RunStatus.COMPLETED:
            return "completed"
        case RunStatus.FAILED:
            return "failed"
        case RunStatus.CANCELLED:
            return "cancelled"
        case _:
            return "processing"


def stage_of(status: RunStatus) -> StageName:
    """Return the published stage of a run."""
    if status is RunStatus.SUBMITTED:
        return "audio_generation_pending"
    return "audio_completed" if status is RunStatus.COMPLETED else "audio_generation"


def progress_of(view: RunView) -> dict[str, Any]:
    """Return the progress JSON that the job's row stores."""
    return {
        "audio_status": audio_state(view.status),
        "audio_generated_at": _iso(view.generated_at),
        "audio_size": view.track.size_bytes if view.track else None,
        "video_with_audio": view.muxed is not None,
        "stage": stage_of(view.status),
        "percentage": view.percentage,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None

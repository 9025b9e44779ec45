"""Presenting: from what is known of a job to what clients are told.

The contract knows five statuses and three stages; inside there are more (`projection.py`).

Pure: the sealing of links is handed in.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from services.api.database.runs import RunRow
from services.api.database.status_view import StatusRow
from services.api.domain.run_view import UNFINISHED, RunStatus, RunView
from services.api.http.schemas import (
    AudioState,
    AudioStatus,
    CostEstimate,
    Failure,
    GenerateAnswer,
    Links,
    Progress,
    SceneStatus,
    StageName,
    StartedAudio,
    StatusAnswer,
    TrackFacts,
    VideoFacts,
)
from shared.contract.events import Origin

BASE_PATH = "/api/v3/audio"
FINAL: frozenset[AudioState] = frozenset({"completed", "failed", "cancelled"})
Seal = Callable[[str], str]  #: an object key's path, open to whoever has it


def audio_state(status: RunStatus) -> AudioState:
    """A run's status in the contract's words."""
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
    """A run's status as one of the contract's stages."""
    if status is RunStatus.SUBMITTED:
        return "audio_generation_pending"
    return "audio_completed" if status is RunStatus.COMPLETED else "audio_generation"


def progress_of(view: RunView) -> dict[str, Any]:
    """The contract's progress JSON, as the job's row keeps it."""
    return {
        "audio_status": audio_state(view.status),
        "audio_generated_at": _iso(view.generated_at),
        "audio_size": view.track.size_bytes if view.track else None,
        "video_with_audio": view.muxed is not None,
        "stage": stage_of(view.status),
        "percentage": view.percentage,
    }


def started_answer(job_id: str, run: RunRow, *, estimate: CostEstimate) -> GenerateAnswer:
    """What whoever asked for a run is told; `estimate` stands in for one that was not kept."""
    kept = run.estimate or estimate
    return GenerateAnswer(
        job_id=job_id,
        audio_status=StartedAudio(
            started_at=run.started_at, estimated_duration=f"{max(math.ceil(kept.seconds), 1)}s"
        ),
        estimate=kept,
        run=run.run,
        links=links_of(job_id),
    )


def links_of(job_id: str, *, download: bool = False, video: bool = False) -> Links:
    """The paths of a job."""
    name = quote(job_id, safe="")
    return Links(
        self=f"{BASE_PATH}/status/{name}",
        events=f"{BASE_PATH}/status/{name}/events",
        download=f"{BASE_PATH}/{name}/download" if download else None,
        video=f"{BASE_PATH}/{name}/video" if video else None,
    )


def status_answer(row: StatusRow, *, seal: Seal) -> StatusAnswer:
    """What is told of a job."""
    newest = row.newest or {}
    status = RunStatus(newest["status"]) if newest else None
    track, muxed, failure = newest.get("track"), newest.get("muxed"), newest.get("failure")
    scenes = _scenes(row, status, seal)
    told_failure = Failure.model_validate(failure) if failure else None
    cancelled = newest.get("cancelled") or {}
    state: AudioState = audio_state(status) if status else "pending"
    return StatusAnswer(
        job_id=row.job_id,
        audio_status=AudioStatus(
            status=state,
            generated_at=newest.get("generated_at"),
            size=track["size_bytes"] if track else None,
            merged_with_video=muxed is not None,
            error=_error(state, told_failure, cancelled),
        ),
        waiting=next((scene.waiting for scene in scenes if scene.waiting), None),
        run=row.run,
        state=status.value if status else "pending",
        progress=Progress(
            stage=stage_of(status) if status else "audio_generation_pending",
            percentage=row.progress.get("percentage", 0),
            scenes=scenes,
        ),
        track=TrackFacts.model_validate(track) if track else None,
        video=VideoFacts.model_validate(muxed) if muxed else None,
        failure=None if state == "completed" else told_failure,
        silent_scenes=[scene.index for scene in scenes if scene.origin is Origin.SILENCE],
        warnings=[*(track or {}).get("warnings", ()), *(muxed or {}).get("warnings", ())],
        cost_usd=_sum(scene.cost_usd for scene in scenes),
        saved_usd=_sum(scene.saved_usd for scene in scenes),
        generation_s=_sum(scene.generation_s for scene in scenes),
        estimate=newest.get("estimate"),
        links=links_of(row.job_id, download=row.has_track, video=row.has_video),
    )


def _scenes(row: StatusRow, status: RunStatus | None, seal: Seal) -> list[SceneStatus]:
    """The scenes of the run; in a running one, the first that is not done is being made."""
    told = []
    under_way = status in UNFINISHED
    for scene in row.scenes:
        state = scene["state"]
        if state == "waiting" and under_way:
            state, under_way = "generating", False
        key = scene["object_key"]
        told.append(
            SceneStatus(
                index=scene["scene_index"],
                state=state,
                duration_s=scene["duration_s"],
                origin=scene["origin"],
                reason=scene["reason"],
                provider=scene["provider"],
                cost_usd=scene["cost_usd"],
                saved_usd=scene["saved_usd"],
                generation_s=scene["generation_s"],
                warnings=scene["warnings"],
                waiting=scene["delay"] if state == "generating" else None,
                links={"segment": seal(key)} if key else {},
            )
        )
    return told


def _error(state: AudioState, failure: Failure | None, cancelled: Mapping[str, Any]) -> str | None:
    if state == "failed" and failure is not None:
        return failure.message
    return (cancelled.get("reason") or "cancelled") if state == "cancelled" else None


def _sum(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return round(sum(known), 6) if known else None


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None

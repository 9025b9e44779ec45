"""Builds the response bodies from rows and started runs.

No I/O: the function that signs links is a parameter.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from services.api.database.status_view import StatusRow
from services.api.domain.progress import AudioState, audio_state, stage_of
from services.api.domain.run_spec import NOT_MUXED, video_warnings
from services.api.domain.run_view import UNFINISHED, RunStatus
from services.api.http.schemas import (
    AudioStatus,
    CostEstimate,
    Failure,
    GenerateResponse,
    Links,
    Progress,
    SceneStatus,
    StartedAudio,
    StatusResponse,
    TrackFacts,
    VideoFacts,
)
from services.api.runs.start import StartedRun
from shared.contract.events import Origin
from shared.contract.params import AudioParams, VideoRef

BASE_PATH = "/api/v3/audio"
LinkSigner = Callable[[str], str]  #: returns the signed path of an object key


def started_response(
    job_id: str, started: StartedRun, *, prompts: Sequence[str], warnings: list[str]
) -> GenerateResponse:
    """Return the response to POST generate-scenes."""
    estimate = started.estimate
    return GenerateResponse(
        job_id=job_id,
        audio_status=StartedAudio(
            started_at=started.started_at,
            estimated_duration=f"{max(math.ceil(estimate.seconds), 1)}s",
        ),
        estimate=CostEstimate(**estimate.model_dump()),
        max_cost=started.spec.params.max_cost,
        prompts=list(prompts),
        run=started.run,
        warnings=warnings,
        links=links_of(job_id),
    )


def links_of(job_id: str, *, download: bool = False, video: bool = False) -> Links:
    """Return the paths of a job."""
    name = quote(job_id, safe="")
    return Links(
        self=f"{BASE_PATH}/status/{name}",
        events=f"{BASE_PATH}/status/{name}/events",
        download=f"{BASE_PATH}/{name}/download" if download else None,
        video=f"{BASE_PATH}/{name}/video" if video else None,
    )


def status_response(row: StatusRow, *, sign: LinkSigner) -> StatusResponse:
    """Return the status of a job."""
    newest = row.newest or {}
    status = RunStatus(newest["status"]) if newest else None
    track, muxed, failure = newest.get("track"), newest.get("muxed"), newest.get("failure")
    scenes = _scenes(row, status, sign)
    failed = Failure.model_validate(failure) if failure else None
    cancelled = newest.get("cancelled") or {}
    state: AudioState = audio_state(status) if status else "pending"
    return StatusResponse(
        job_id=row.job_id,
        audio_status=AudioStatus(
            status=state,
            generated_at=newest.get("generated_at"),
            size=track["size_bytes"] if track else None,
            merged_with_video=muxed is not None,
            error=_error(state, failed, cancelled),
        ),
        waiting=next((scene.waiting for scene in scenes if scene.waiting), None),
        run=row.run,
        state=status.value if status else "pending",
        provider=newest.get("provider"),
        progress=Progress(
            stage=stage_of(status) if status else "audio_generation_pending",
            percentage=row.progress.get("percentage", 0),
            scenes=scenes,
        ),
        track=TrackFacts.model_validate(track) if track else None,
        video=VideoFacts.model_validate(muxed) if muxed else None,
        failure=None if state == "completed" else failed,
        silent_scenes=[scene.index for scene in scenes if scene.origin is Origin.SILENCE],
        warnings=[
            *_video_warnings(newest),
            *(track or {}).get("warnings", ()),
            *(muxed or {}).get("warnings", ()),
        ],
        cost_usd=_sum(scene.cost_usd for scene in scenes),
        saved_usd=_sum(scene.saved_usd for scene in scenes),
        generation_s=_sum(scene.generation_s for scene in scenes),
        estimate=newest.get("estimate"),
        links=links_of(row.job_id, download=row.has_track, video=row.has_video),
    )


def missing_media(status: StatusResponse, *, noun: str) -> str:
    """Return why a job has no `noun` ("track" or "video") and what to do."""
    has_ended = status.audio_status.status in {"completed", "failed", "cancelled"}
    request = f"POST {BASE_PATH}/generate-scenes"
    if not status.run:
        reason = f"it has no run: start one with {request}"
    elif noun == "video" and NOT_MUXED in status.warnings:
        reason = (
            f"run {status.run} was requested without audio_params.merge_with_video and makes only "
            f"the track: start a run with it set to true, with {request}"
        )
    elif not has_ended:
        noun = f"{noun} yet"
        reason = f"run {status.run} is still running ({status.state}): follow {status.links.self}"
    elif status.audio_status.status == "completed":
        reason = (
            f"run {status.run} was requested without a video: send video, and "
            f"audio_params.merge_with_video true, with {request}"
        )
    else:
        reason = f"run {status.run} {status.audio_status.status}: {status.audio_status.error}"
    return f"job {status.job_id} has no {noun}: {reason}"


def _video_warnings(newest: Mapping[str, Any]) -> list[str]:
    params, video = newest.get("params"), newest.get("video")
    return video_warnings(
        VideoRef.model_validate(video) if video else None,
        AudioParams.model_validate(params) if params else None,
    )


def _scenes(row: StatusRow, status: RunStatus | None, sign: LinkSigner) -> list[SceneStatus]:
    """Return the scenes; in a running run the first unfinished one is `generating`."""
    scenes = []
    is_running = status in UNFINISHED
    for scene in row.scenes:
        state = scene["state"]
        if state == "waiting" and is_running:
            state, is_running = "generating", False
        key = scene["object_key"]
        scenes.append(
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
                links={"segment": sign(key)} if key else {},
            )
        )
    return scenes


def _error(state: AudioState, failure: Failure | None, cancelled: Mapping[str, Any]) -> str | None:
    if state == "failed" and failure is not None:
        return failure.message
    return (cancelled.get("reason") or "cancelled") if state == "cancelled" else None


def _sum(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return round(sum(known), 6) if known else None

"""Reads and writes runs and their scenes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.api.database import Connection, scene_delays, scene_spec, storable
from services.api.domain.cost_estimate import RunEstimate
from services.api.domain.run_spec import RunSpec
from services.api.domain.run_view import UNFINISHED, AnyRunEvent, RunStatus, RunView
from shared.contract.events import (
    AudioMerged,
    JobCancelled,
    JobFailed,
    Origin,
    SceneRequested,
    SegmentGenerated,
    VideoMuxed,
)
from shared.contract.params import AudioParams, VideoRef

RunKey = tuple[str, int]  #: job, run
_UNFINISHED = sorted(UNFINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run, as far as it decides whether a request starts a new one."""

    run: int
    status: RunStatus
    request_hash: str | None
    started_at: datetime
    estimate: RunEstimate | None  #: None: started by upstream or by an older api
    provider: str | None  #: None: the generator's own


async def find(connection: Connection, job_id: str, run: int) -> RunRow | None:
    """Return one run; None if there is none."""
    row = await connection.fetchrow(
        """
        SELECT run, status, request_hash, started_at, estimate, provider
        FROM runs WHERE job_id = $1 AND run = $2
        """,
        job_id,
        run,
    )
    if row is None:
        return None
    estimate = None if row["estimate"] is None else RunEstimate.model_validate(row["estimate"])
    return RunRow(**{**row, "status": RunStatus(row["status"]), "estimate": estimate})


async def insert(
    connection: Connection,
    spec: RunSpec,
    requests: Sequence[SceneRequested],
    *,
    estimate: RunEstimate,
    now: datetime,
) -> None:
    """Insert the run of `requests`; older unfinished runs of the job are superseded."""
    job_id, run = spec.job_id, requests[0].run
    await connection.execute(
        """
        INSERT INTO runs (job_id, run, status, scene_count, params, video, request_hash,
                               started_at, estimate, provider)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        job_id,
        run,
        RunStatus.SUBMITTED,
        len(requests),
        spec.params.model_dump(mode="json"),
        spec.video.model_dump(mode="json") if spec.video else None,
        spec.digest(),
        now,
        estimate.model_dump(mode="json"),
        spec.provider,
    )
    await connection.execute(
        """
        INSERT INTO scenes (job_id, run, scene_index, spec, state, duration_s)
        SELECT $1, $2, place - 1, spec, 'waiting', (spec->>'duration_s')::float8
        FROM unnest($3::jsonb[]) WITH ORDINALITY AS given (spec, place)
        """,
        job_id,
        run,
        [scene_spec.to_column(request) for request in requests],
    )
    if run > 1:
        await supersede(connection, [(job_id, run)])


async def supersede(connection: Connection, newest: Collection[RunKey]) -> None:
    """Mark older unfinished runs of these jobs as superseded."""
    await connection.execute(
        """
        UPDATE runs SET status = 'superseded'
        FROM unnest($1::text[], $2::integer[]) AS newest (job_id, run)
        WHERE runs.job_id = newest.job_id AND runs.run < newest.run AND runs.status = ANY($3)
        """,
        [job_id for job_id, _ in newest],
        [run for _, run in newest],
        _UNFINISHED,
    )


async def load(connection: Connection, keys: Collection[RunKey]) -> dict[RunKey, RunView]:
    """Return the views of these runs; unknown runs are missing."""
    rows = await connection.fetch(
        """
        SELECT job_id, run, r.scene_count, r.params, r.video, r.track, r.muxed, r.failure,
               r.cancelled, r.started_at, r.generated_at, r.provider, s.requested, s.done, s.delays
        FROM unnest($1::text[], $2::integer[]) AS wanted (job_id, run)
        JOIN runs r USING (job_id, run)
        LEFT JOIN LATERAL (
            SELECT array_agg(scene_index) FILTER (WHERE spec IS NOT NULL) AS requested,
                   array_agg(scene_index) FILTER (WHERE state = 'done') AS done,
                   jsonb_object_agg(scene_index, delay)
                       FILTER (WHERE delay IS NOT NULL AND state <> 'done') AS delays
            FROM scenes WHERE scenes.job_id = r.job_id AND scenes.run = r.run
        ) s ON true
        """,
        [job_id for job_id, _ in keys],
        [run for _, run in keys],
    )
    return {(row["job_id"], row["run"]): _view(row) for row in rows}


async def save(connection: Connection, views: Iterable[tuple[RunView, RunStatus]]) -> None:
    """Write the views of runs, each with its status in the job."""
    await connection.executemany(
        """
        INSERT INTO runs (job_id, run, status, scene_count, params, video, started_at,
                               generated_at, track, muxed, failure, cancelled, provider)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (job_id, run) DO UPDATE SET
            status = excluded.status, scene_count = excluded.scene_count,
            params = excluded.params, video = excluded.video, track = excluded.track,
            muxed = excluded.muxed, failure = excluded.failure, cancelled = excluded.cancelled,
            started_at = excluded.started_at, generated_at = excluded.generated_at,
            provider = excluded.provider
        """,
        [_run_row(view, status) for view, status in views],
    )


async def save_scenes(connection: Connection, events: Sequence[AnyRunEvent]) -> None:
    """Write the scenes that events change, in order."""
    requested = [_requested_row(event) for event in events if isinstance(event, SceneRequested)]
    done = [_done_row(event) for event in events if isinstance(event, SegmentGenerated)]
    failed = [
        (event.job_id, event.run, event.scene_index, storable(event.message), event.cost_usd)
        for event in events
        if isinstance(event, JobFailed)
    ]
    if requested:
        await connection.executemany(
            """
            INSERT INTO scenes AS s (job_id, run, scene_index, spec, state, duration_s)
            VALUES ($1, $2, $3, $4, 'waiting', $5)
            ON CONFLICT (job_id, run, scene_index) DO UPDATE
            SET spec = excluded.spec, duration_s = COALESCE(s.duration_s, excluded.duration_s)
            """,
            requested,
        )
    if failed:
        await connection.executemany(
            """
            INSERT INTO scenes AS s (job_id, run, scene_index, state, reason, cost_usd)
            VALUES ($1, $2, $3, 'failed', $4, $5)
            ON CONFLICT (job_id, run, scene_index) DO UPDATE
            SET state = 'failed', reason = excluded.reason,
                cost_usd = COALESCE(excluded.cost_usd, s.cost_usd)
            WHERE s.state <> 'done'
            """,
            failed,
        )
    if done:
        await connection.executemany(_DONE, done)


_DONE = """
    INSERT INTO scenes AS s (job_id, run, scene_index, state, origin, reason, object_key,
        duration_s, samples, provider, prediction_id, generation_s, cost_usd, saved_usd,
        warnings)
    VALUES ($1, $2, $3, 'done', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (job_id, run, scene_index) DO UPDATE SET
        state = 'done', origin = excluded.origin, reason = excluded.reason,
        object_key = excluded.object_key, duration_s = excluded.duration_s,
        samples = excluded.samples, provider = excluded.provider,
        prediction_id = excluded.prediction_id, generation_s = excluded.generation_s,
        cost_usd = excluded.cost_usd, saved_usd = excluded.saved_usd,
        warnings = excluded.warnings, delay = NULL
"""


async def unfinished_requests(connection: Connection) -> list[SceneRequested]:
    """Return the requests of every unfinished run, as they were or would be published."""
    rows = await connection.fetch(
        """
        SELECT job_id, run, scene_index, spec, r.scene_count, r.params, r.video, r.provider
        FROM runs r JOIN jobs j USING (job_id, run) JOIN scenes s USING (job_id, run)
        WHERE r.status = ANY($1) AND s.spec IS NOT NULL AND s.scene_index < r.scene_count
        ORDER BY job_id, scene_index
        """,
        _UNFINISHED,
    )
    return [
        scene_spec.to_request(
            row["spec"],
            job_id=row["job_id"],
            run=row["run"],
            scene_index=row["scene_index"],
            scene_count=row["scene_count"],
            params=AudioParams.model_validate(row["params"] or {}),
            video=VideoRef.model_validate(row["video"]) if row["video"] else None,
            provider=row["provider"],
        )
        for row in rows
    ]


def _view(row: asyncpg.Record) -> RunView:
    return RunView(
        job_id=row["job_id"],
        run=row["run"],
        scene_count=row["scene_count"],
        params=AudioParams.model_validate(row["params"]) if row["params"] else None,
        video=VideoRef.model_validate(row["video"]) if row["video"] else None,
        requested=frozenset(row["requested"] or ()),
        done=frozenset(row["done"] or ()),
        delays=scene_delays.delays_from(row["delays"]),
        track=AudioMerged.model_validate(row["track"]) if row["track"] else None,
        muxed=VideoMuxed.model_validate(row["muxed"]) if row["muxed"] else None,
        failure=JobFailed.model_validate(row["failure"]) if row["failure"] else None,
        cancelled=JobCancelled.model_validate(row["cancelled"]) if row["cancelled"] else None,
        started_at=row["started_at"],
        generated_at=row["generated_at"],
        provider=row["provider"],
    )


def _run_row(view: RunView, status: RunStatus) -> tuple[Any, ...]:
    facts = (view.params, view.video, view.track, view.muxed, view.failure, view.cancelled)
    params, video, *rest = [
        None if fact is None else fact.model_dump(mode="json") for fact in facts
    ]
    head = (view.job_id, view.run, status, view.scene_count, params, video)
    return (*head, view.started_at, view.generated_at, *rest, storable(view.provider))


def _requested_row(event: SceneRequested) -> tuple[Any, ...]:
    column = scene_spec.to_column(event)
    return (event.job_id, event.run, event.scene_index, column, event.duration_s)


def _done_row(event: SegmentGenerated) -> tuple[Any, ...]:
    return (
        event.job_id,
        event.run,
        event.scene_index,
        Origin(event.origin).value,
        storable(event.reason),
        storable(event.object_key),
        event.duration_s,
        event.samples,
        storable(event.provider),
        storable(event.prediction_id),
        event.generation_s,
        event.cost_usd,
        event.saved_usd,
        storable(event.warnings),
    )

"""Runs: the generations of a job and their scenes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.api.database import Connection, scene_delays, storable
from services.api.domain.run_spec import RunSpec
from services.api.domain.run_view import UNFINISHED, AnyRunEvent, RunStatus, RunView
from services.api.http.schemas import CostEstimate
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
    """What decides whether a request begins a new run."""

    run: int
    status: RunStatus
    request_hash: str | None
    started_at: datetime
    estimate: CostEstimate | None  #: None: begun by an api that made none


async def find(connection: Connection, job_id: str, run: int) -> RunRow | None:
    """One run; None if there is none."""
    row = await connection.fetchrow(
        """
        SELECT run, status, request_hash, started_at, estimate
        FROM runs WHERE job_id = $1 AND run = $2
        """,
        job_id,
        run,
    )
    if row is None:
        return None
    estimate = None if row["estimate"] is None else CostEstimate(**row["estimate"])
    return RunRow(**{**row, "status": RunStatus(row["status"]), "estimate": estimate})


async def begin(
    connection: Connection, asked: RunSpec, run: int, *, estimate: CostEstimate, now: datetime
) -> RunRow:
    """Begin a run that was asked for here; older ones that are not done are superseded."""
    begun = RunRow(
        run=run,
        status=RunStatus.SUBMITTED,
        request_hash=asked.digest(),
        started_at=now,
        estimate=estimate,
    )
    await connection.execute(
        """
        INSERT INTO runs (job_id, run, status, scene_count, params, video, request_hash,
                               started_at, estimate)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        asked.job_id,
        run,
        begun.status,
        len(asked.scenes),
        asked.params.model_dump(mode="json"),
        asked.video.model_dump(mode="json") if asked.video else None,
        begun.request_hash,
        now,
        estimate.model_dump(mode="json"),
    )
    await connection.execute(
        """
        INSERT INTO scenes (job_id, run, scene_index, spec, state, duration_s)
        SELECT $1, $2, place - 1, spec, 'waiting', (spec->>'duration_s')::float8
        FROM unnest($3::jsonb[]) WITH ORDINALITY AS given (spec, place)
        """,
        asked.job_id,
        run,
        [_spec(asked, index) for index in range(len(asked.scenes))],
    )
    if run > 1:
        await supersede(connection, [(asked.job_id, run)])
    return begun


async def supersede(connection: Connection, newest: Collection[RunKey]) -> None:
    """End what is older than the newest run of its job and not done."""
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
    """What is known of these runs; what nothing is known of is missing."""
    rows = await connection.fetch(
        """
        SELECT job_id, run, r.scene_count, r.params, r.video, r.track, r.muxed, r.failure,
               r.cancelled, r.started_at, r.generated_at, s.asked, s.done, s.delays
        FROM unnest($1::text[], $2::integer[]) AS wanted (job_id, run)
        JOIN runs r USING (job_id, run)
        LEFT JOIN LATERAL (
            SELECT array_agg(scene_index) FILTER (WHERE spec IS NOT NULL) AS asked,
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


async def save(connection: Connection, known: Iterable[tuple[RunView, RunStatus]]) -> None:
    """Write what is known of runs, each with the status it has in its job."""
    await connection.executemany(
        """
        INSERT INTO runs (job_id, run, status, scene_count, params, video, started_at,
                               generated_at, track, muxed, failure, cancelled)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (job_id, run) DO UPDATE SET
            status = excluded.status, scene_count = excluded.scene_count,
            params = excluded.params, video = excluded.video, track = excluded.track,
            muxed = excluded.muxed, failure = excluded.failure, cancelled = excluded.cancelled,
            started_at = excluded.started_at, generated_at = excluded.generated_at
        """,
        [_saved(view, status) for view, status in known],
    )


async def save_scenes(connection: Connection, events: Sequence[AnyRunEvent]) -> None:
    """Write what events say of scenes, in their order."""
    asked = [_asked(event) for event in events if isinstance(event, SceneRequested)]
    done = [_done(event) for event in events if isinstance(event, SegmentGenerated)]
    failed = [
        (event.job_id, event.run, event.scene_index, storable(event.message), event.cost_usd)
        for event in events
        if isinstance(event, JobFailed)
    ]
    if asked:
        await connection.executemany(
            """
            INSERT INTO scenes AS s (job_id, run, scene_index, spec, state, duration_s)
            VALUES ($1, $2, $3, $4, 'waiting', $5)
            ON CONFLICT (job_id, run, scene_index) DO UPDATE
            SET spec = excluded.spec, duration_s = COALESCE(s.duration_s, excluded.duration_s)
            """,
            asked,
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
    """The requests of every run that is not done, as they were or would have been published."""
    rows = await connection.fetch(
        """
        SELECT job_id, run, scene_index, spec, r.scene_count, r.params, r.video
        FROM runs r JOIN jobs j USING (job_id, run) JOIN scenes s USING (job_id, run)
        WHERE r.status = ANY($1) AND s.spec IS NOT NULL AND s.scene_index < r.scene_count
        ORDER BY job_id, scene_index
        """,
        _UNFINISHED,
    )
    return [
        SceneRequested(
            **row["spec"],
            job_id=row["job_id"],
            run=row["run"],
            scene_index=row["scene_index"],
            scene_count=row["scene_count"],
            params=AudioParams.model_validate(row["params"] or {}),
            video=VideoRef.model_validate(row["video"]) if row["video"] else None,
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
        requested=frozenset(row["asked"] or ()),
        done=frozenset(row["done"] or ()),
        delays=scene_delays.loaded(row["delays"]),
        track=AudioMerged.model_validate(row["track"]) if row["track"] else None,
        muxed=VideoMuxed.model_validate(row["muxed"]) if row["muxed"] else None,
        failure=JobFailed.model_validate(row["failure"]) if row["failure"] else None,
        cancelled=JobCancelled.model_validate(row["cancelled"]) if row["cancelled"] else None,
        started_at=row["started_at"],
        generated_at=row["generated_at"],
    )


def _saved(view: RunView, status: RunStatus) -> tuple[Any, ...]:
    facts = (view.params, view.video, view.track, view.muxed, view.failure, view.cancelled)
    params, video, *rest = [
        None if fact is None else fact.model_dump(mode="json") for fact in facts
    ]
    head = (view.job_id, view.run, status, view.scene_count, params, video)
    return (*head, view.started_at, view.generated_at, *rest)


def _spec(asked: RunSpec, index: int) -> dict[str, Any]:
    """What is asked of one scene, as its row keeps it."""
    spec = asked.scenes[index].model_dump(mode="json", exclude_none=True)
    if index in asked.kept:
        spec["kept"] = asked.kept[index].model_dump(mode="json")
    return {**spec, "anew": True} if index in asked.anew else spec


def _asked(event: SceneRequested) -> tuple[Any, ...]:
    spec = event.model_dump(
        mode="json",
        include={"description", "duration_s", "prompt", "mood", "kept"},
        exclude_none=True,
    )
    if event.anew:
        spec["anew"] = True
    return (event.job_id, event.run, event.scene_index, spec, event.duration_s)


def _done(event: SegmentGenerated) -> tuple[Any, ...]:
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

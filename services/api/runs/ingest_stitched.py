"""Ingest: what `video.stitched` does to a job; in the transaction that moves its offset.

The same content changes nothing, however often it is said and whatever came between: its digest
is remembered with the job, so a replay never pays. Other content replaces the job's scenes,
video and parameters. With `AUTO_GENERATE_AUDIO` it also begins a run, which supersedes one
under way; without, a run under way goes on with what it was given, and the next request uses
the new content. A run that would begin by itself over its cap (`AUDIO_MAX_COST`, or what
upstream named) cannot be used, as any wrong content.
"""

from datetime import datetime

from services.api.database import Connection, jobs
from services.api.domain.run_spec import build_run_spec, spec_of_stitched, stitched_digest
from services.api.runs.start import begin, lock_job
from services.api.settings import ApiSettings
from shared.contract.events import VideoStitched


async def take(
    connection: Connection,
    event: VideoStitched,
    *,
    settings: ApiSettings,
    now: datetime,
    traceparent: str | None = None,
) -> bool:
    """Take in what upstream says; whether it was new. To be called in a savepoint.

    Raises:
        RequestInvalidError: it cannot be used, whenever it is read.
    """
    said = spec_of_stitched(event, settings.limits)
    digest = stitched_digest(event)
    job = await lock_job(connection, event.job_id, said, now=now)
    assert job is not None, "upstream sends scenes, so the job is made"
    asked = build_run_spec(event.job_id, job=job.spec, params=None, defaults=settings.defaults)
    if digest in job.stitched_hashes:
        return False
    await jobs.remember_stitched(connection, event.job_id, digest)
    if settings.auto_generate:
        await begin(
            connection, job, asked, pricing=settings.pricing, now=now, traceparent=traceparent
        )
    else:
        await jobs.describe(connection, event.job_id, said, now=now)
        await jobs.notify(connection, [event.job_id])
    return True

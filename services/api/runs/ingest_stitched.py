"""Applies `video.stitched` to its job, in the transaction that moves its offset.

The same content changes nothing, however often it is read: the job stores its digest, so a replay
never pays. Other content replaces the job's scenes, video and parameters. With
`AUTO_GENERATE_AUDIO` it also starts a run, which supersedes a running one; without, a running run
continues unchanged and the next request uses the new content. Content whose automatic run would
exceed its cost limit (`AUDIO_MAX_COST`, or upstream's own) is invalid.
"""

from datetime import datetime

from services.api.database import Connection, jobs, uploads
from services.api.domain.run_spec import (
    build_run_spec,
    check_known_params,
    spec_of_stitched,
    stitched_digest,
)
from services.api.runs.start import lock_job, start_run
from services.api.settings import ApiSettings
from shared.contract.events import VideoStitched


async def ingest(
    connection: Connection,
    event: VideoStitched,
    *,
    settings: ApiSettings,
    now: datetime,
    traceparent: str | None = None,
) -> bool:
    """Apply `event`; return whether its content was new. Call it in a savepoint.

    Raises:
        RequestInvalidError: the content is invalid, on every read.
    """
    content = spec_of_stitched(event, settings.limits)
    digest = stitched_digest(event)
    job = await lock_job(connection, event.job_id, content, now=now)
    assert job is not None, "upstream sends scenes, so the job is created"
    spec = build_run_spec(event.job_id, job=job.spec, params=None, defaults=settings.defaults)
    if digest in job.stitched_hashes:
        return False
    check_known_params(event.audio_params)  # a replay of an earlier record stays valid
    await uploads.reference(connection, spec.object_keys)
    await jobs.remember_stitched(connection, event.job_id, digest)
    if settings.auto_generate:
        await start_run(
            connection, job, spec, pricing=settings.pricing, now=now, traceparent=traceparent
        )
    else:
        await jobs.describe(connection, event.job_id, content, now=now)
        await jobs.notify(connection, [event.job_id])
    return True

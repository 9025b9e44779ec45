"""Requests unfinished runs again on a Kafka log that does not contain them.

An embedded broker loses its log when it stops, and a cluster may be created again. PostgreSQL is
authoritative: the scenes of every unfinished run are requested again through the outbox, in one
transaction. That costs nothing: every object and every event is a function of job, run and scene,
so the services find stored results and publish their events again.
"""

from services.api.database import Connection, Database, offsets, outbox, runs
from shared.clock import Clock
from shared.telemetry.log import Logger


async def resume_in_new_epoch(database: Database, epoch: str, *, clock: Clock, log: Logger) -> int:
    """Request unfinished runs again if the epoch is new; return the number of records.

    Raises:
        DatabaseUnavailableError: nothing was changed.
    """
    now = clock.now()
    async with database.transaction() as connection:
        if not await offsets.begin_epoch(connection, epoch, now=now):
            return 0
        return await resume(connection, clock=clock, log=log)


async def resume(connection: Connection, *, clock: Clock, log: Logger) -> int:
    """Request unfinished runs again in this transaction; return the number of records.

    Raises:
        DatabaseUnavailableError: nothing was changed.
    """
    requests = await runs.unfinished_requests(connection)
    await outbox.add_events(connection, requests, now=clock.now())
    if requests:
        log.info("unfinished runs requested again", action="job.resumed", records=len(requests))
    return len(requests)

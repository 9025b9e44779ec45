"""Resuming: a log that is new to us knows nothing of the runs that are under way.

An embedded broker forgets everything when it stops, and a cluster may be made anew. PostgreSQL
is the truth: the scenes of every unfinished run are asked for again, through the outbox, in one
transaction. It costs nothing: every object and every event is a function of job, run and scene,
so whatever was made is recognised and said again.
"""

from services.api.database import Connection, Database, offsets, outbox, runs
from shared.clock import Clock
from shared.telemetry.log import Logger


async def resume_in_new_epoch(database: Database, epoch: str, *, clock: Clock, log: Logger) -> int:
    """Ask again for what is unfinished if this epoch was never seen; how many records that took.

    Raises:
        DatabaseUnavailableError: nothing was done.
    """
    now = clock.now()
    async with database.transaction() as connection:
        if not await offsets.begin_epoch(connection, epoch, now=now):
            return 0
        return await resume(connection, clock=clock, log=log)


async def resume(connection: Connection, *, clock: Clock, log: Logger) -> int:
    """Ask again for everything unfinished, in this transaction; how many records that took.

    Raises:
        DatabaseUnavailableError: nothing was done.
    """
    requests = await runs.unfinished_requests(connection)
    await outbox.add_events(connection, requests, now=clock.now())
    return _told(len(requests), log)


def _told(count: int, log: Logger) -> int:
    if count:
        log.info("unfinished runs asked for again", action="job.resumed", records=count)
    return count

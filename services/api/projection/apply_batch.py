"""Applying: a batch of records to the database, with its offset, in one transaction.

All or nothing: the rows change and `next_offset` moves together, and only from where the batch
begins. So a record counts once however often it is read, and a projector that was overtaken
changes nothing (`StaleBatchError`).

A record of `video.stitched` that cannot be used goes to its dead-letter topic through the
outbox, in the same transaction. On the other topics whoever owns the work dead-letters; here
such a record is counted and passed over. A record that nothing here should stumble over is
found by applying its batch one by one, and is a dead letter with its traceback.

The moment of a record is the one its writer put into it, if that was one of ours: what is said
again, or read again from the beginning, is dated as it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from services.api.database import Connection, Database, jobs, offsets, outbox, runs
from services.api.database import scene_delays as delays
from services.api.database.jobs import JobProgress
from services.api.database.outbox import OutboxRecord
from services.api.database.runs import RunKey
from services.api.database.scene_delays import SceneKey
from services.api.domain.progress import progress_of
from services.api.domain.run_spec import RequestInvalidError
from services.api.domain.run_view import AnyRunEvent, Delay, RunView, project, run_event
from services.api.projection import run_durations
from services.api.runs import ingest_stitched
from services.api.settings import ApiSettings
from shared.clock import Clock
from shared.contract.events import SceneDelayed, VideoStitched
from shared.contract.topics import DLQ_SUFFIX
from shared.errors import InvalidEventError, RetryableError, SegueError
from shared.kafka.codec import VALUE_BYTES_MAX, Envelope, Record, Unreadable, try_decode
from shared.kafka.dead_letters import dead_letter_headers
from shared.kafka.tracing import process_span, process_spans
from shared.telemetry.log import Logger
from shared.telemetry.metrics import DEAD_LETTERS_TOTAL, RECORDS_TOTAL

SERVICE = "api"


class StaleBatchError(SegueError):
    """The partition does not stand where this batch begins: somebody else was here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one partition, in order; the log is read from `start` to before `end`."""

    topic: str  #: with prefix
    partition: int
    start: int
    end: int
    records: tuple[Record, ...]

    def singles(self) -> Iterator["Batch"]:
        """The same as batches of one record."""
        start = self.start
        for record in self.records:
            end = self.end if record is self.records[-1] else record.offset + 1
            yield Batch(
                topic=self.topic,
                partition=self.partition,
                start=start,
                end=end,
                records=(record,),
            )
            start = end


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Applies batches."""

    database: Database
    settings: ApiSettings
    clock: Clock
    log: Logger

    async def apply(self, batch: Batch) -> None:
        """Apply `batch`.

        Raises:
            StaleBatchError: nothing was changed; read the stored offset again.
            DatabaseUnavailableError: nothing was changed.
        """
        try:
            await self._apply(batch)
        except (RetryableError, StaleBatchError):
            raise
        except Exception as error:  # noqa: BLE001 - a bug stops its record, never the topic
            self.log.warning(
                "batch failed; its records are applied one by one",
                action="batch.split",
                reason=repr(error),
            )
            await self._one_by_one(batch)

    async def _one_by_one(self, batch: Batch) -> None:
        for single in batch.singles():
            try:
                await self._apply(single)
            except (RetryableError, StaleBatchError):
                raise
            except Exception as error:  # noqa: BLE001 - as above
                async with self.database.transaction() as connection:
                    await self._advance(connection, single)
                    await self._dead_letter(connection, single.records[0], error)

    async def _apply(self, batch: Batch) -> None:
        stitched = bool(batch.records) and batch.records[0].topic == VideoStitched.kind
        ended: list[tuple[str, float]] = []
        with process_spans(() if stitched else batch.records):
            async with self.database.transaction() as connection:
                await self._advance(connection, batch)
                received = [try_decode(record) for record in batch.records]
                for one in received if stitched else ():
                    with process_span(one.record, one.event if isinstance(one, Envelope) else None):
                        await self._stitched(connection, one)
                ended = [] if stitched else await self._project(connection, received)
        run_durations.observe(ended)

    async def _advance(self, connection: Connection, batch: Batch) -> None:
        moved = await offsets.advance(
            connection,
            self.settings.kafka.epoch,
            (batch.topic, batch.partition),
            start=batch.start,
            end=batch.end,
        )
        if not moved:
            raise StaleBatchError(f"{batch.topic}/{batch.partition} is not at {batch.start}")

    async def _stitched(self, connection: Connection, one: Envelope | Unreadable) -> None:
        if isinstance(one, Unreadable):
            await self._dead_letter(connection, one.record, one.error)
            return
        assert isinstance(one.event, VideoStitched), "its topic carries nothing else"
        try:
            async with connection.transaction():
                new = await ingest_stitched.ingest(
                    connection,
                    one.event,
                    settings=self.settings,
                    now=self.clock.now(),
                    traceparent=one.traceparent,
                )
        except RequestInvalidError as error:
            await self._dead_letter(connection, one.record, InvalidEventError(str(error)))
            return
        _count(one.record, "done" if new else "repeated")

    async def _dead_letter(self, connection: Connection, record: Record, error: Exception) -> None:
        now = self.clock.now()
        told = dead_letter_headers(record, error, attempts=1, service=SERVICE, now=now)
        letter = OutboxRecord(
            topic=record.topic + DLQ_SUFFIX,
            key=record.key,
            value=record.value,
            headers=record.headers + told,
        )
        await outbox.add(connection, [_fitting(letter)], now=now)
        DEAD_LETTERS_TOTAL.labels(SERVICE, record.topic).inc()
        _count(record, "dead_lettered")
        self.log.error(
            "record is a dead letter",
            action="record.dead_lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error),
        )

    async def _project(
        self, connection: Connection, received: Sequence[Envelope | Unreadable]
    ) -> list[tuple[str, float]]:
        """How the runs ended that did, each with its seconds."""
        events: list[tuple[AnyRunEvent, datetime]] = []
        for one in received:
            if isinstance(one, Unreadable):
                self._pass_over(one)
            elif (event := run_event(one.event)) is not None:
                events.append((event, self._moment(one.record)))
            else:
                _count(one.record, "done")  # news for the generator: it changes no row
        if not events:
            return []
        job_ids = {event.job_id for event, _ in events}
        self.log.debug("rows change", action="projection.applied", jobs=sorted(job_ids))
        now = self.clock.now()
        await jobs.create(connection, job_ids, now=now)
        locked = await jobs.lock(connection, job_ids)
        newest = {job.job_id: job.run for job in locked.values()}
        about = {(event.job_id, event.run) for event, _ in events}
        before = await runs.load(connection, about | set(newest.items()))
        folded = _fold(before, newest, events)
        await _write(connection, folded, now=now)
        return run_durations.ended_in(before, folded.views, events)

    def _moment(self, record: Record) -> datetime:
        if (said := _said_at(record)) is not None:
            return said
        if not record.timestamp_ms or record.timestamp_ms < 0:
            return self.clock.now()
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)

    def _pass_over(self, one: Unreadable) -> None:
        _count(one.record, "unreadable")
        self.log.warning(
            "record passed over",
            action="record.skipped",
            topic=one.record.topic,
            partition=one.record.partition,
            offset=one.record.offset,
            reason=str(one.error),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folded:
    """What a batch did to the views of its jobs."""

    views: dict[RunKey, RunView]  #: of every run that it spoke of, and of each job's newest
    newest: dict[str, int]
    changed: set[RunKey]
    begun: set[RunKey]  #: runs that are the newest of their job since this batch
    scenes: list[AnyRunEvent]
    delays: dict[SceneKey, Delay | None]


def _fold(
    before: Mapping[RunKey, RunView],
    newest: Mapping[str, int],
    events: Sequence[tuple[AnyRunEvent, datetime]],
) -> _Folded:
    views, last = dict(before), dict(newest)
    scenes: list[AnyRunEvent] = []
    waits: dict[SceneKey, Delay | None] = {}
    for event, moment in events:
        key = (event.job_id, event.run)
        last[event.job_id] = max(last.get(event.job_id, 0), event.run)
        outcome = "stale" if event.run < last[event.job_id] else "done"
        RECORDS_TOTAL.labels(SERVICE, event.kind, outcome).inc()
        change = project(views.get(key), event, at=moment)
        views[key] = change.view
        if isinstance(change.scene, SceneDelayed):
            scene = change.scene.scene_index
            waits[event.job_id, event.run, scene] = change.view.delays.get(scene)
        elif change.scene is not None:
            scenes.append(change.scene)
    return _Folded(
        views=views,
        newest=last,
        changed={key for key, view in views.items() if view != before.get(key)},
        begun={key for key in last.items() if key not in before},
        scenes=scenes,
        delays=waits,
    )


async def _write(connection: Connection, folded: _Folded, *, now: datetime) -> None:
    if not (folded.changed or folded.scenes or folded.delays):
        return
    views, newest = folded.views, folded.newest
    saved = [views[key] for key in sorted(folded.changed)]
    await runs.save(connection, [(view, view.status_beside(newest[view.job_id])) for view in saved])
    if folded.begun:
        await runs.supersede(connection, folded.begun)
    await runs.save_scenes(connection, folded.scenes)
    await delays.save(connection, folded.delays)
    shown = [views[job_id, newest[job_id]] for job_id in sorted({job for job, _ in folded.changed})]
    told = [
        JobProgress(job_id=view.job_id, run=view.run, progress=progress_of(view), video=view.video)
        for view in shown
    ]
    await jobs.save_progress(connection, told, now=now)


def _said_at(record: Record) -> datetime | None:
    """When a service of ours said it; what upstream says of time is not relied on."""
    if not (record.header("ce_source") or "").startswith("/segue/"):
        return None
    try:
        said = datetime.fromisoformat(record.header("ce_time") or "")
    except ValueError:
        return None
    return said.astimezone(UTC) if said.tzinfo else None


def _fitting(letter: OutboxRecord) -> OutboxRecord:
    """`letter`, cut if no broker would take it: it came in whole, but without our headers."""
    value, headers = letter.value or b"", letter.headers
    room = VALUE_BYTES_MAX - sum(len(name) + len(value) for name, value in headers)
    if len(value) <= room:
        return letter
    cut = ("dlq-truncated-from", str(len(value)).encode())
    return replace(letter, value=value[: max(room, 0)], headers=(*headers, cut))


def _count(record: Record, outcome: str) -> None:
    RECORDS_TOTAL.labels(SERVICE, record.topic, outcome).inc()

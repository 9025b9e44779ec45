"""Applies a batch of records and its offset to the database in one transaction.

The rows change and `next_offset` moves together, and only if the offset is at the start of the
batch. A record therefore counts once however often it is read, and a consumer that was overtaken
changes nothing (`StaleBatchError`).

An invalid record of `video.stitched` goes to its dead-letter topic through the outbox, in the
same transaction, and so does an undecodable record of a topic that no other service consumes. On
the other topics the consuming service writes the dead letter; the projection counts such a record
and skips it. If a batch fails unexpectedly, its records are applied one by
one; the failing record becomes a dead letter with its traceback.

The time of a record is its `ce_time` if a service of Segue wrote it, so records that are
published or read again keep their time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.api.database import Connection, Database, jobs, offsets, outbox, runs
from services.api.database import scene_delays as delays
from services.api.database.jobs import RunProgress
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
from shared.contract.topics import DLQ_SUFFIX, topic_named
from shared.errors import InvalidEventError, RetryableError, SegueError
from shared.kafka.codec import VALUE_BYTES_MAX, Envelope, Record, Unreadable, try_decode
from shared.kafka.dead_letters import dead_letter_headers
from shared.kafka.original_records import Letter, store_original
from shared.kafka.tracing import process_span, process_spans
from shared.storage import ObjectStore
from shared.telemetry.log import Logger
from shared.telemetry.metrics import DEAD_LETTERS_TOTAL, RECORDS_TOTAL, UNDECODABLE_TOTAL

SERVICE = "api"


class StaleBatchError(SegueError):
    """The stored offset is not at the start of the batch: another consumer applied it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one partition in order; covers the offsets `[start, end)`."""

    topic: str  #: with prefix
    partition: int
    start: int
    end: int
    records: tuple[Record, ...]

    def singles(self) -> Iterator["Batch"]:
        """Yield the same records as batches of one."""
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
    """Applies batches to the database."""

    database: Database
    settings: ApiSettings
    clock: Clock
    log: Logger
    store: ObjectStore | None = None  #: keeps records that are too large for their dead letter
    writes_dead_letters: bool = True  #: False: the records were applied before (a rebuild)

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
                decoded = [try_decode(record) for record in batch.records]
                for item in decoded if stitched else ():
                    event = item.event if isinstance(item, Envelope) else None
                    with process_span(item.record, event):
                        await self._ingest(connection, item)
                ended = [] if stitched else await self._project(connection, decoded)
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

    async def _ingest(self, connection: Connection, item: Envelope | Unreadable) -> None:
        if isinstance(item, Unreadable):
            UNDECODABLE_TOTAL.labels(SERVICE, item.record.topic).inc()
            await self._dead_letter(connection, item.record, item.error)
            return
        assert isinstance(item.event, VideoStitched), "the only event of its topic"
        try:
            async with connection.transaction():
                is_new = await ingest_stitched.ingest(
                    connection,
                    item.event,
                    settings=self.settings,
                    now=self.clock.now(),
                    traceparent=item.traceparent,
                )
        except RequestInvalidError as error:
            await self._dead_letter(connection, item.record, InvalidEventError(str(error)))
            return
        _count(item.record, "done" if is_new else "repeated")

    async def _dead_letter(self, connection: Connection, record: Record, error: Exception) -> None:
        now = self.clock.now()
        headers = dead_letter_headers(record, error, attempts=1, service=SERVICE, now=now)
        letter = await self._fitted(Letter(record=record, added=headers))
        published = OutboxRecord(
            topic=record.topic + DLQ_SUFFIX,
            key=letter.record.key,
            value=letter.record.value,
            headers=letter.record.headers + letter.added,
        )
        await outbox.add(connection, [published], now=now)
        DEAD_LETTERS_TOTAL.labels(SERVICE, record.topic).inc()
        _count(record, "dead_lettered")
        self.log.error(
            "record dead-lettered",
            action="record.dead_lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error),
        )

    async def _fitted(self, letter: Letter) -> Letter:
        """Return the letter, truncated if it is too large for the broker; store the whole record.

        Raises:
            StoreUnavailableError: nothing was stored.
        """
        if letter.size() <= VALUE_BYTES_MAX:
            return letter
        original = None
        if self.store is not None:
            original = await store_original(self.store, letter.record)
        return letter.fitted(VALUE_BYTES_MAX, original=original)

    async def _project(
        self, connection: Connection, decoded: Sequence[Envelope | Unreadable]
    ) -> list[tuple[str, float]]:
        """Apply the events; return the outcome and duration of each run that ended."""
        events: list[tuple[AnyRunEvent, datetime]] = []
        for item in decoded:
            if isinstance(item, Unreadable) and self._owns(item.record):
                UNDECODABLE_TOTAL.labels(SERVICE, item.record.topic).inc()
                await self._dead_letter(connection, item.record, item.error)
            elif isinstance(item, Unreadable):
                self._skip(item)
            elif (event := run_event(item.event)) is not None:
                events.append((event, self._time_of(item.record)))
            else:
                _count(item.record, "done")  # changes no row
        if not events:
            return []
        job_ids = {event.job_id for event, _ in events}
        self.log.debug("applying events", action="projection.applied", jobs=sorted(job_ids))
        now = self.clock.now()
        await jobs.create(connection, job_ids, now=now)
        locked = await jobs.lock(connection, job_ids)
        newest = {job.job_id: job.run for job in locked.values()}
        affected = {(event.job_id, event.run) for event, _ in events}
        before = await runs.load(connection, affected | set(newest.items()))
        folded = _fold(before, newest, events)
        await _write(connection, folded, now=now)
        return run_durations.ended_in(before, folded.views, events)

    def _time_of(self, record: Record) -> datetime:
        if (published_at := _published_at(record)) is not None:
            return published_at
        if not record.timestamp_ms or record.timestamp_ms < 0:
            return self.clock.now()
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)

    def _owns(self, record: Record) -> bool:
        """Return whether no other service writes the record's dead letter."""
        topic = topic_named(record.topic)
        return self.writes_dead_letters and topic is not None and topic.read_by == (SERVICE,)

    def _skip(self, item: Unreadable) -> None:
        UNDECODABLE_TOTAL.labels(SERVICE, item.record.topic).inc()
        _count(item.record, "unreadable")
        self.log.warning(
            "unreadable record skipped",
            action="record.skipped",
            topic=item.record.topic,
            partition=item.record.partition,
            offset=item.record.offset,
            reason=str(item.error),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FoldedBatch:
    """Effect of a batch on the views of its jobs."""

    views: dict[RunKey, RunView]  #: of every run in the batch, and of each job's newest
    newest: dict[str, int]
    changed: set[RunKey]
    started: set[RunKey]  #: runs that became the newest of their job
    scenes: list[AnyRunEvent]
    delays: dict[SceneKey, Delay | None]


def _fold(
    before: Mapping[RunKey, RunView],
    newest: Mapping[str, int],
    events: Sequence[tuple[AnyRunEvent, datetime]],
) -> _FoldedBatch:
    views, last = dict(before), dict(newest)
    scenes: list[AnyRunEvent] = []
    scene_delays: dict[SceneKey, Delay | None] = {}
    for event, moment in events:
        key = (event.job_id, event.run)
        last[event.job_id] = max(last.get(event.job_id, 0), event.run)
        outcome = "stale" if event.run < last[event.job_id] else "done"
        RECORDS_TOTAL.labels(SERVICE, event.kind, outcome).inc()
        change = project(views.get(key), event, at=moment)
        views[key] = change.view
        if isinstance(change.scene, SceneDelayed):
            scene = change.scene.scene_index
            scene_delays[event.job_id, event.run, scene] = change.view.delays.get(scene)
        elif change.scene is not None:
            scenes.append(change.scene)
    return _FoldedBatch(
        views=views,
        newest=last,
        changed={key for key, view in views.items() if view != before.get(key)},
        started={key for key in last.items() if key not in before},
        scenes=scenes,
        delays=scene_delays,
    )


async def _write(connection: Connection, folded: _FoldedBatch, *, now: datetime) -> None:
    if not (folded.changed or folded.scenes or folded.delays):
        return
    views, newest = folded.views, folded.newest
    saved = [views[key] for key in sorted(folded.changed)]
    await runs.save(connection, [(view, view.status_beside(newest[view.job_id])) for view in saved])
    if folded.started:
        await runs.supersede(connection, folded.started)
    await runs.save_scenes(connection, folded.scenes)
    await delays.save(connection, folded.delays)
    newest_views = [
        views[job_id, newest[job_id]] for job_id in sorted({job for job, _ in folded.changed})
    ]
    progress = [
        RunProgress(job_id=view.job_id, run=view.run, progress=progress_of(view), video=view.video)
        for view in newest_views
    ]
    await jobs.save_progress(connection, progress, now=now)


def _published_at(record: Record) -> datetime | None:
    """Return the `ce_time` of Segue's own services; other producers' times are ignored."""
    if not (record.header("ce_source") or "").startswith("/segue/"):
        return None
    try:
        moment = datetime.fromisoformat(record.header("ce_time") or "")
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


def _count(record: Record, outcome: str) -> None:
    RECORDS_TOTAL.labels(SERVICE, record.topic, outcome).inc()

"""The job command: shows every event of a job with its place in the log.

Replayed and requeued records name their origin, dead letters their reason. The command only reads.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ops.cli.job_id import unknown_job
from ops.cli.layout import Hanging, Line, count_of
from ops.cli.operator import Operator, operator_command
from ops.cli.options import DataDir, Json
from ops.cli.progress import progress_reporter
from ops.cli.servers import server_problems
from ops.cli.times import format_time
from ops.kafka_log.selection import REPLAY_ID, REPLAY_ORIGIN
from services.api.operators import (
    Action,
    RunState,
    RunStatus,
    audit,
    dead_letters,
    dollars,
    run_state,
)
from shared.contract.events import (
    AudioMerged,
    Event,
    JobCancelled,
    JobFailed,
    RunEvent,
    SceneDelayed,
    SceneRequested,
    SegmentGenerated,
    VideoMuxed,
    VideoStitched,
)
from shared.contract.topics import DLQ_SUFFIX, EVENT_TOPICS
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.log_reader import LogReader, open_log_reader
from shared.kafka.parked_runs import REQUEUE_ID, REQUEUE_OF

SKEW = timedelta(hours=1)  # between the clocks of brokers and services
PARKED_ATTEMPTS = "0"  # a record that is parked behind a dead letter was not processed


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One record of a job."""

    at: datetime  #: the broker's timestamp
    topic: str
    partition: int
    offset: int
    summary: str
    run: int | None = None
    scene_index: int | None = None
    cost_usd: float | None = None
    object_key: str | None = None
    replay: str | None = None  #: the replay that wrote it
    origin: str | None = None  #: the replayed record or requeued letter: topic/partition/offset
    attempts: str | None = None  #: of a dead letter
    requeue: str | None = None  #: the requeue that wrote it

    def as_json(self) -> dict[str, Any]:
        """Return the record for `--json`."""
        return {**asdict(self), "at": self.at.isoformat()}


def job(job_id: str, *, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show every event of JOB_ID, with its offset, cost and replays."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        command.run(lambda operator: _history(operator, job_id), lines=lines)


async def _history(operator: Operator, job_id: str) -> dict[str, Any]:
    async with operator.database.connection() as connection:
        created_at = await run_state.created_at(connection, job_id)
        runs = await run_state.for_job(connection, job_id)
        failure = await run_state.newest_failure(connection, job_id)
        redrives = await audit.of_job(connection, job_id, command="redrive")
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        since = None if created_at is None else created_at - SKEW
        records = [record async for record in _records(operator, reader, job_id, since)]
    if created_at is None and not records:
        raise unknown_job(job_id)
    records.sort(key=lambda record: (record.at, record.offset))
    is_running = any(state.is_running for state in runs.values())
    cause = cause_of(await _unresolved(operator, records), runs)
    return {
        "job_id": job_id,
        "runs": [{"run": number, "status": state.status.value} for number, state in runs.items()],
        "cause": _cause_json(cause, failure),
        "redrives": [_redrive(action) for action in reversed(redrives) if "run" in action.progress],
        "cost_usd": round(sum(_costs(records)), 6),
        "events": [record.as_json() for record in records],
        "problems": await server_problems(operator) if is_running else [],
    }


def _cause_json(cause: JobRecord | None, failure: str | None) -> dict[str, Any] | None:
    """Return the cause; without its record, which the log no longer has, the stored failure."""
    if cause is not None:
        return cause.as_json()
    return None if failure is None else {"summary": f"failed: {failure}"}


async def _unresolved(operator: Operator, records: Sequence[JobRecord]) -> Sequence[JobRecord]:
    """Return the records without the dead letters that were requeued or discarded."""
    topics = {record.topic for record in records if record.topic.endswith(DLQ_SUFFIX)}
    if not topics:
        return records
    async with operator.database.connection() as connection:
        resolved = await dead_letters.resolutions(connection, operator.kafka.epoch, topics)
    return [
        record
        for record in records
        if (record.topic, record.partition, record.offset) not in resolved
    ]


def cause_of(records: Sequence[JobRecord], runs: Mapping[int, RunState]) -> JobRecord | None:
    """Return why the newest run has no result: its oldest dead letter, else its first failure.

    Records that are parked behind a dead letter are no cause. None: it has its result, or nothing
    failed yet.
    """
    newest = max(runs, default=None)
    if newest is not None and runs[newest].status in {RunStatus.COMPLETED, RunStatus.CANCELLED}:
        return None
    started = [record.at for record in records if record.run == newest]
    letters = (
        record
        for record in records
        if record.topic.endswith(DLQ_SUFFIX)
        and record.attempts != PARKED_ATTEMPTS
        and (not started or record.at >= started[0])
    )
    failures = (
        record for record in records if record.topic == JobFailed.kind and record.run == newest
    )
    return next(letters, next(failures, None))


def _redrive(action: Action) -> dict[str, Any]:
    """Return the run that a redrive started, its operator and reason."""
    started = {name: action.progress[name] for name in ("run", "of_run", "made")}
    return {"redrive": action.id, **started, "who": action.who, "reason": action.reason}


async def _records(
    operator: Operator, reader: LogReader, job_id: str, since: datetime | None
) -> AsyncIterator[JobRecord]:
    """Yield every record of the job, unordered."""
    on_progress = progress_reporter(operator.report, "records read")
    topics = [name for topic in EVENT_TOPICS for name in (topic.name, topic.dead_letters)]
    stored = await reader.ranges_of(topics)
    ranges = [offsets for topic in topics for offsets in stored[topic]]
    if since is not None:
        ranges = list(await reader.since(ranges, since))
    total, done = sum(offsets.length for offsets in ranges), 0
    async for records in reader.read_together(ranges):
        for record in records:
            if may_belong(record, job_id) and (found := _job_record(record, job_id)) is not None:
                yield found
        done += len(records)
        on_progress(done, total)


def may_belong(record: Record, job_id: str) -> bool:
    """Return False if neither the key nor the value contains the job's id; much faster."""
    name = job_id.encode()
    is_plain = job_id.isascii() and job_id.isprintable() and not {'"', "\\", "/"} & set(job_id)
    return (
        not is_plain
        or name == record.key
        or name in (record.value or b"")
        or (
            b"\\u" in (record.value or b"")  # a letter may be written as an escape
        )
    )


def _job_record(record: Record, job_id: str) -> JobRecord | None:
    """Return `record` if it belongs to the job; None otherwise."""
    if record.topic.endswith(DLQ_SUFFIX):
        event, summary = None, f"dead letter: {record.header('dlq-reason')}"
    else:
        received = try_decode(record)
        event = received.event if isinstance(received, Envelope) else None
        summary = "not an event" if event is None else summary_of(event)
    key = None if record.key is None else record.key.decode(errors="replace")
    if (event.job_id if event is not None else key) != job_id:
        return None
    return JobRecord(
        at=datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        summary=summary,
        run=event.run if isinstance(event, RunEvent) else None,
        scene_index=getattr(event, "scene_index", None),
        cost_usd=getattr(event, "cost_usd", None),
        object_key=getattr(event, "object_key", None),
        replay=record.header(REPLAY_ID),
        origin=record.header(REPLAY_ORIGIN) or record.header(REQUEUE_OF),
        attempts=record.header("dlq-attempts"),
        requeue=None if event is None else record.header(REQUEUE_ID),
    )


def summary_of(event: Event) -> str:
    """Return an event as text."""
    match event:
        case VideoStitched():
            summary = f"video stitched: {count_of(len(event.scenes), 'scene')}"
        case SceneRequested():
            number = f"{event.scene_index + 1}/{event.scene_count}"
            source = f", kept from run {event.kept.run}" if event.kept else ""
            summary = f"scene {number} requested: {event.duration_s:g} s{source}"
        case SceneDelayed():
            summary = f"scene {event.scene_index + 1} waiting: {event.reason}"
        case SegmentGenerated():
            action = f"kept from run {event.kept.run}" if event.kept else "generated"
            number = f"{event.scene_index + 1}/{event.scene_count}"
            reason = f" ({event.reason})" if event.reason else ""
            summary = f"scene {number} {action}: {event.origin.value}{reason}"
        case AudioMerged():
            level = "silent" if event.loudness_lufs is None else f"{event.loudness_lufs:.1f} LUFS"
            summary = f"track: {event.duration_s:g} s, {level}{_seams(event)}"
        case VideoMuxed():
            summary = f"video: {event.duration_s:g} s"
        case JobFailed():
            summary = f"failed at {event.stage.value}: {event.message}"
        case JobCancelled():
            summary = f"cancelled: {event.reason}"
        case _:
            summary = event.kind
    return summary


def _seams(event: AudioMerged) -> str:
    """Return the number of seams, and the largest change of level at one."""
    if not event.seams:
        return ""
    steps = [seam for seam in event.seams if seam.level_step_db is not None]
    text = f", {count_of(len(event.seams), 'seam')}"
    if not steps:
        return text
    largest = max(steps, key=lambda seam: abs(seam.level_step_db or 0.0))
    step_db = abs(largest.level_step_db or 0.0)
    return f"{text}, largest step {step_db:.1f} dB before scene {largest.scene_index + 1}"


def _costs(records: Sequence[JobRecord]) -> Iterator[float]:
    """Yield the cost of each result once, however often it was published."""
    results: set[tuple[object, ...]] = set()
    for record in records:
        result = (record.topic, record.run, record.scene_index)
        if record.cost_usd is not None and result not in results:
            results.add(result)
            yield record.cost_usd


def lines(history: dict[str, Any]) -> list[Line]:
    """Return the history as text, one line per record."""
    runs = ", ".join(f"run {run['run']} {run['status']}" for run in history["runs"])
    text: list[Line] = [f"{history['job_id']}: {runs or 'no run'}, {dollars(history['cost_usd'])}"]
    if cause := history["cause"]:
        text.append(Hanging("cause: ", cause["summary"]))
    text += [Hanging("! ", problem) for problem in history["problems"]]
    text += [
        f"run {redrive['run']} regenerates a part of run {redrive['of_run']} "
        f"(redrive {redrive['redrive']} by {redrive['who']}): {redrive['reason']}"
        for redrive in history["redrives"]
    ]
    return text + [_record_line(record) for record in history["events"]]


def _record_line(record: dict[str, Any]) -> Hanging:
    at = format_time(datetime.fromisoformat(record["at"]))
    place = f"{record['topic']}/{record['partition']}/{record['offset']}"
    number = "" if record["run"] is None else f"run {record['run']}"
    command = next((name for name in ("requeue", "replay") if record[name]), None)
    source = f" ({command} {record[command]} of {record['origin']})" if command else ""
    cost = "" if record["cost_usd"] is None else f" {dollars(record['cost_usd'])}"
    attempts = _attempts(record["attempts"])
    return Hanging(
        f"{at}  ",
        f"{place:<24} {number:<6} {record['summary']}{cost}{attempts}{source}",
    )


def _attempts(attempts: str | None) -> str:
    """Return how often a dead letter was tried; a parked record was not."""
    if attempts is None or attempts == PARKED_ATTEMPTS:
        return ""
    return f" ({count_of(int(attempts), 'attempt') if attempts.isdecimal() else attempts})"

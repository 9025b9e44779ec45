"""Job: the command that tells one job's story: every event with its place in the log.

What was said again by a replay or put back by a requeue says so, and a dead letter says why. It
reads; it writes nothing.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, run_with_operator
from ops.cli.options import DataDir, Json
from ops.cli.progress import progress_reporter
from ops.kafka_log.selection import REPLAY_ID, REPLAY_ORIGIN
from services.api.operators import Action, audit, dollars, run_state
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One record of a job."""

    at: datetime  #: when the broker took it
    topic: str
    partition: int
    offset: int
    says: str
    run: int | None = None
    scene_index: int | None = None
    cost_usd: float | None = None
    object_key: str | None = None
    replay: str | None = None  #: the replay that said it again
    origin: str | None = None  #: of which record: topic/partition/offset
    attempts: str | None = None  #: of a dead letter
    requeue: str | None = None  #: the requeue that put it back

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "at": self.at.isoformat()}


def job(job_id: str, *, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Tell the story of JOB_ID: every event with its offset, its cost, and who said it again."""
    with report_errors(as_json=as_json):
        told = run_with_operator(
            lambda operator: _job(operator, job_id), as_json=as_json, data_dir=data_dir
        )
        if as_json:
            print_json(told)
            return
        for line in lines(told):
            print(line)


async def _job(operator: Operator, job_id: str) -> dict[str, Any]:
    async with operator.database.connection() as connection:
        began = await run_state.created_at(connection, job_id)
        runs = await run_state.for_job(connection, job_id)
        redrives = await audit.of_job(connection, job_id, command="redrive")
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        since = None if began is None else began - SKEW
        story = [one async for one in _story(operator, reader, job_id, since)]
    if began is None and not story:
        raise CommandError(Exit.REFUSED, f"nobody knows a job {job_id}")
    return {
        "job_id": job_id,
        "runs": [{"run": number, "status": stands.status.value} for number, stands in runs.items()],
        "redrives": [_redrive(one) for one in reversed(redrives) if "run" in one.progress],
        "cost_usd": round(sum(_costs(story)), 6),
        "events": [one.as_json() for one in sorted(story, key=lambda one: (one.at, one.offset))],
    }


def _redrive(action: Action) -> dict[str, Any]:
    """Who asked for a run that keeps a part of an earlier one, and why."""
    began = {name: action.progress[name] for name in ("run", "of_run", "made")}
    return {"redrive": action.id, **began, "who": action.who, "reason": action.reason}


async def _story(operator: Operator, reader: LogReader, job_id: str, since: datetime | None) -> Any:
    """Every record of the job, in no order."""
    tell = progress_reporter(operator.report, "records looked at")
    topics = [name for one in EVENT_TOPICS for name in (one.name, one.dead_letters)]
    spans = [span for topic in topics for span in await reader.ranges(topic)]
    total, done = sum(span.length for span in spans), 0
    for span in spans:
        start = span.start if since is None else await reader.first_at(span, since)
        async for records in reader.read(span.since(start)):
            for record in records:
                if (found := _told(record, job_id)) is not None:
                    yield found
            done += len(records)
            tell(done, total)


def _told(record: Record, job_id: str) -> Told | None:
    """What `record` tells of the job; None: it is another's."""
    if record.topic.endswith(DLQ_SUFFIX):
        event, says = None, f"dead letter: {record.header('dlq-reason')}"
    else:
        received = try_decode(record)
        event = received.event if isinstance(received, Envelope) else None
        says = "no event" if event is None else said_by(event)
    key = None if record.key is None else record.key.decode(errors="replace")
    if (event.job_id if event is not None else key) != job_id:
        return None
    return Told(
        at=datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        says=says,
        run=event.run if isinstance(event, RunEvent) else None,
        scene_index=getattr(event, "scene_index", None),
        cost_usd=getattr(event, "cost_usd", None),
        object_key=getattr(event, "object_key", None),
        replay=record.header(REPLAY_ID),
        origin=record.header(REPLAY_ORIGIN) or record.header(REQUEUE_OF),
        attempts=record.header("dlq-attempts"),
        requeue=None if event is None else record.header(REQUEUE_ID),
    )


def said_by(event: Event) -> str:
    """An event in words."""
    match event:
        case VideoStitched():
            says = f"stitched: {len(event.scenes)} scenes"
        case SceneRequested():
            place = f"{event.scene_index + 1}/{event.scene_count}"
            source = f", kept from run {event.kept.run}" if event.kept else ""
            says = f"scene {place} asked for: {event.duration_s:g} s{source}"
        case SceneDelayed():
            says = f"scene {event.scene_index + 1} waits: {event.reason}"
        case SegmentGenerated():
            does = f"kept from run {event.kept.run}" if event.kept else "made"
            place = f"{event.scene_index + 1}/{event.scene_count}"
            says = f"scene {place} {does}: {event.origin.value}"
        case AudioMerged():
            level = "silent" if event.loudness_lufs is None else f"{event.loudness_lufs:.1f} LUFS"
            says = f"track: {event.duration_s:g} s, {level}"
        case VideoMuxed():
            says = f"video: {event.duration_s:g} s"
        case JobFailed():
            says = f"failed at {event.stage.value}: {event.message}"
        case JobCancelled():
            says = f"cancelled: {event.reason}"
        case _:
            says = event.kind
    return says


def _costs(story: Sequence[Told]) -> Iterator[float]:
    """What each thing cost, once however often it was said."""
    seen: set[tuple[object, ...]] = set()
    for one in story:
        what = (one.topic, one.run, one.scene_index)
        if one.cost_usd is not None and what not in seen:
            seen.add(what)
            yield one.cost_usd


def lines(told: dict[str, Any]) -> list[str]:
    """The story in words, a line per event."""
    runs = ", ".join(f"run {one['run']} {one['status']}" for one in told["runs"])
    found = [f"{told['job_id']}: {runs or 'no run'}, {dollars(told['cost_usd'])}"]
    found += [
        f"run {one['run']} makes a part of run {one['of_run']} again "
        f"(redrive {one['redrive']} of {one['who']}): {one['reason']}"
        for one in told["redrives"]
    ]
    for one in told["events"]:
        at = datetime.fromisoformat(one["at"]).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        place = f"{one['topic']}/{one['partition']}/{one['offset']}"
        number = "" if one["run"] is None else f"run {one['run']}"
        how = next((name for name in ("requeue", "replay") if one[name]), None)
        again = f" ({how} {one[how]} of {one['origin']})" if how else ""
        cost = "" if one["cost_usd"] is None else f" {dollars(one['cost_usd'])}"
        tried = f" ({one['attempts']} attempts)" if one["attempts"] else ""
        found.append(f"{at}  {place:<30} {number:<6} {one['says']}{cost}{tried}{again}")
    return found

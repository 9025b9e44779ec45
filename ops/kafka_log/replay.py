"""The replay command: publishes records again on their own topics, in order, each once.

The services recognize finished work and skip it; unfinished work continues. A copy has the key,
value, partition and headers of its original, and two more headers: the replay that wrote it and
the original's place. So the log itself records how far a replay came: after an interruption the
same command finds the last copy there and continues behind it. The ranges are fixed before the
first copy: a replay never reads its own copies.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import RESUMABLE, CommandError, Exit
from ops.cli.job_id import check_job
from ops.cli.layout import Line, count_of, counted, figure
from ops.cli.operator import AuditRow, Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Rate, Reason, Since, Until
from ops.cli.output import dry_run
from ops.cli.progress import ProgressReporter, progress_reporter
from ops.kafka_log.exclusive import acquire_exclusive, find_interrupted
from ops.kafka_log.republish import UNAVAILABLE, RateLimit, RepublishPlan, appended_since
from ops.kafka_log.selection import (
    REPLAY_ID,
    REPLAY_ORIGIN,
    RecordFilter,
    ReplaySelection,
    origin_of,
)
from services.api.operators import Action, dollars
from shared.errors import RetryableError
from shared.kafka.codec import Envelope, Headers, Record
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader
from shared.kafka.producer import Publisher
from shared.pricing import PricingSettings

COMMAND = "replay"
RUNNING_MAX = 5  # running jobs that a message names
Topic = Annotated[
    str | None, typer.Argument(metavar="[TOPIC]", help="Default: all topics of --job, in order.")
]


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """How the selected records are replayed."""

    force: bool
    restart: bool
    rate: float | None


def replay(
    topic: Topic = None,
    *,
    job: Annotated[str | None, typer.Option(help="Only records of this job.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only of this partition.")] = None,
    from_offset: Annotated[int | None, typer.Option(min=0, help="From this offset on.")] = None,
    to_offset: Annotated[int | None, typer.Option(min=0, help="Before this offset.")] = None,
    since: Since = None,
    until: Until = None,
    rate: Rate = None,
    force: Annotated[bool, typer.Option("--force", help="Even if the jobs are running.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over instead of resuming an interrupted one.")
    ] = False,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish records of TOPIC again, on the same topic and partition, in order.

    Finished work is skipped and costs nothing. After an interruption the same command resumes.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json, interrupted=RESUMABLE
    ) as command:
        selection = ReplaySelection(
            topic=topic,
            job_id=job,
            partition=partition,
            from_offset=from_offset,
            to_offset=to_offset,
            since=since,
            until=until,
        )
        options = ReplayOptions(force=force, restart=restart, rate=rate)
        command.run(lambda operator: _replay(operator, selection, options), lines=lines)


async def _replay(
    operator: Operator, selection: ReplaySelection, options: ReplayOptions
) -> dict[str, Any]:
    selection.check(now=operator.clock.now())
    async with (
        operator.database.dedicated() as lock_holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if operator.apply:
            await acquire_exclusive(operator, lock_holder)
        arguments = selection.as_json()
        earlier = None if options.restart else await find_interrupted(operator, COMMAND, arguments)
        if earlier is not None:
            selection = selection.resumed(earlier.progress)
        ranges = (
            await selection.ranges(reader) if earlier is None else _saved_ranges(earlier.progress)
        )
        work = Replay(operator=operator, reader=reader, selection=selection, ranges=ranges)
        plan, record_filter = await work.plan(progress_reporter(operator.report, "records read"))
        if not plan.records and not record_filter.left_out:
            await check_job(operator, selection.job_id)
        result = _result(await operator.pricing(), plan, record_filter, resumes=earlier)
        if not operator.apply:
            return result
        if plan.running and earlier is None and not options.force:
            raise CommandError(Exit.REFUSED, _still_running(plan), detail=result)
        return await _apply(work, options, result, resumes=earlier)


async def _apply(
    work: "Replay", options: ReplayOptions, result: dict[str, Any], *, resumes: Action | None
) -> dict[str, Any]:
    operator, total = work.operator, result["records"]
    async with audited_action(
        operator, COMMAND, arguments=work.selection.as_json(), resumes=resumes
    ) as row:
        if resumes is None:
            await row.save_progress(_progress(work, total=total, copied=0))
        try:
            copied = await work.copy(
                row,
                total=total,
                rate=options.rate,
                on_progress=progress_reporter(operator.report, "records replayed"),
            )
        except RetryableError as error:
            raise RetryableError(UNAVAILABLE.format(error=error)) from error.__cause__
        await row.save_progress(_progress(work, total=total, copied=copied))
    return {**result, "applied": True, "replay": row.number, "copied": copied}


@dataclass(kw_only=True)
class Replay:
    """One replay of fixed offset ranges."""

    operator: Operator
    reader: LogReader
    selection: ReplaySelection
    ranges: Sequence[OffsetRange]

    async def plan(self, on_progress: ProgressReporter) -> tuple[RepublishPlan, RecordFilter]:
        """Read every selected record and compare it with the rows of its run."""
        plan, record_filter = RepublishPlan(), await self._filter()
        total, done = sum(offsets.length for offsets in self.ranges), 0
        for offsets in self.ranges:
            async for records in self.reader.read(offsets):
                for envelope in record_filter.select(records):
                    plan.add(envelope.event)
                done += len(records)
                on_progress(done, total)
        await plan.compare_with_rows(self.operator)
        return plan, record_filter

    async def copy(
        self, row: AuditRow, *, total: int, rate: float | None, on_progress: ProgressReporter
    ) -> int:
        """Publish the copies that are missing; return how many copies the log has now.

        Raises:
            RetryableError: the broker did not acknowledge; the next attempt finds what it stored.
        """
        record_filter, limit, copied = await self._filter(), RateLimit(rate), 0
        publisher = Publisher(self.operator.kafka, source="ops", clock=self.operator.clock)
        await publisher.start()
        try:
            for offsets in self.ranges:
                before, last = await self._find_copies(offsets, row.number)
                copied += before
                async for records in self.reader.read(offsets):
                    missing = [
                        envelope
                        for envelope in record_filter.select(records)
                        if envelope.record.offset > last
                    ]
                    for at in range(0, len(missing), limit.batch):
                        batch = missing[at : at + limit.batch]
                        await limit.wait(len(batch))
                        await publisher.send_all(
                            [_copy(envelope, row.number) for envelope in batch]
                        )
                        copied += len(batch)
                        await row.save_progress(_progress(self, total=total, copied=copied))
                        on_progress(copied, total)
        finally:
            await publisher.stop()
        return copied

    async def _filter(self) -> RecordFilter:
        """Return a new filter, whose counts are zero."""
        topics = dict.fromkeys(offsets.topic for offsets in self.ranges)
        stored = await self.reader.ranges_of(list(topics))
        return RecordFilter(
            selection=self.selection,
            start_offsets={
                (offsets.topic, offsets.partition): offsets.start
                for ranges in stored.values()
                for offsets in ranges
            },
        )

    async def _find_copies(self, offsets: OffsetRange, number: int) -> tuple[int, int]:
        """Return how many copies of the range exist, and the last copied offset (-1: none)."""
        replay_id, copies, last = str(number), 0, -1
        async for records in self.reader.read(await appended_since(self.reader, offsets)):
            for record in records:
                origin = origin_of(record)
                if record.header(REPLAY_ID) == replay_id and origin is not None:
                    copies, last = copies + 1, origin[2]
        return copies, last


def _progress(work: Replay, *, total: int, copied: int) -> dict[str, Any]:
    """Return the progress for the audit; an interrupted replay resumes from it."""
    spans = [asdict(offsets) for offsets in work.ranges]
    return {"spans": spans, **work.selection.bounds(), "total": total, "copied": copied}


def _saved_ranges(progress: Mapping[str, Any]) -> list[OffsetRange]:
    """Return the ranges from the audit's progress."""
    return [OffsetRange(**offsets) for offsets in progress["spans"]]


def _copy(envelope: Envelope, number: int) -> Record:
    """Return the copy of a record, with the headers that mark it."""
    record = envelope.record
    marks: Headers = (
        (REPLAY_ID, str(number).encode()),
        (REPLAY_ORIGIN, f"{record.topic}/{record.partition}/{record.offset}".encode()),
    )
    headers = tuple(
        header for header in record.headers if header[0] not in {REPLAY_ID, REPLAY_ORIGIN}
    )
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=headers + marks,
    )


def _result(
    pricing: PricingSettings,
    plan: RepublishPlan,
    record_filter: RecordFilter,
    *,
    resumes: Action | None,
) -> dict[str, Any]:
    """Return the plan as the command's result.

    Raises:
        CommandError: no record is selected.
    """
    records = sum(plan.records.values())
    left_out = {
        "not_events": record_filter.not_events,
        "copies": record_filter.copies,
        "repeats": record_filter.repeats,
    }
    if not records:
        message = _nothing_selected(record_filter)
        raise CommandError(Exit.REFUSED, message, detail={"left_out": left_out})
    return {
        "applied": False,
        "replay": resumes and resumes.id,
        "resumes": resumes is not None,
        "records": records,
        "topics": dict(plan.records),
        "left_out": left_out,
        "already_done": plan.already_done,
        "runs": dict(plan.states),
        "running_jobs": sorted(set(plan.running))[:RUNNING_MAX],
        "calls_at_most": plan.calls_at_most,
        "cost_usd_at_most": plan.cost_usd(pricing),
        "provider": pricing.provider,
        "copied": (resumes.progress.get("copied", 0) if resumes else 0),
    }


def _nothing_selected(record_filter: RecordFilter) -> str:
    message = "no record is selected: check the bounds"
    if record_filter.selection.job_id is not None:
        message = f"no record of job {record_filter.selection.job_id} is selected"
    if record_filter.copies:
        message += f"; left out: {count_of(record_filter.copies, 'copy', 'copies')}"
        message += " of earlier replays"
    if record_filter.not_events:
        message += f"; left out: {count_of(record_filter.not_events, 'record')}"
        message += " not an event" if record_filter.not_events == 1 else " not events"
    return message


def _still_running(plan: RepublishPlan) -> str:
    names = sorted(set(plan.running))
    more = f" and {len(names) - RUNNING_MAX} more" if len(names) > RUNNING_MAX else ""
    jobs = ", ".join(names[:RUNNING_MAX]) + more
    return f"jobs are still running: {jobs}; wait until they end, or add --force"


def lines(result: dict[str, Any]) -> list[Line]:
    """Return the result as text."""
    text: list[Line] = [
        counted(count, "record", f"of {topic}") for topic, count in result["topics"].items()
    ]
    text.append(figure(result["already_done"], "of them already done: 0 provider calls"))
    reasons = {
        "not_events": "not events",
        "copies": "copies of earlier replays",
        "repeats": "repeats of selected events",
    }
    text += [
        counted(count, "record", f"left out: {reason}")
        for name, reason in reasons.items()
        if (count := result["left_out"][name])
    ]
    text += [counted(count, "run", status) for status, count in sorted(result["runs"].items())]
    cost = dollars(result["cost_usd_at_most"])
    text.append(counted(result["calls_at_most"], "scene", f"to generate at most, at most {cost}"))
    copied = count_of(result["copied"], "record")
    if result["applied"]:
        return [*text, f"replay {result['replay']}: {copied} replayed"]
    if result["running_jobs"]:
        text.append(f"jobs are still running: {', '.join(result['running_jobs'])}; add --force")
    if result["resumes"]:
        text.append(
            f"Replay {result['replay']} was interrupted after {copied}; "
            "--apply resumes it, --restart starts over."
        )
    left = count_of(result["records"] - result["copied"], "record")
    return [*text, dry_run(f"{left} would be replayed", "replay them")]

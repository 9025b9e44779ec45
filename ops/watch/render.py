"""Draws a snapshot of `segue watch`, for 80 columns and more.

No I/O: the caller owns the console.
"""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.cli.output import wide
from ops.jobs.list import format_age, format_reason, format_scenes, job_row
from ops.watch.snapshot import (
    LAG_S_MAX,
    DatabaseFigures,
    KafkaFigures,
    Problem,
    ServerState,
    ServiceFigures,
    Snapshot,
    problems_of,
)
from services.api.operators import CostTotals, dollars

SERVICE_COLUMNS = ("service", "members", "lag", "oldest", "topic", "lanes", "slots", "in flight")
JOB_COLUMNS = ("running", "run", "status", "scenes", "cost", "age", "why")
END_STATUSES = ("completed", "failed", "cancelled")
ROWS = ("jobs", "today", "total", "cost", "dead letters", "outbox")
ID_CHARS = 28  # of a job id: what 80 columns leave for it
_UNKNOWN = "?"
_IN_STACK = "(stack)"  # the embedded broker runs in the process of the services
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"
_EMBEDDED_BROKER_NOTE = (
    "(stack): the embedded broker does not list members; the services run in its process, and run "
    "as long as it answers"
)
_NO_HEALTH_NOTE = (
    "lag: records not committed yet, including those in flight; lanes and slots are read from the "
    "health ports that --ask names"
)


def draw(snapshot: Snapshot) -> RenderableType:
    """Return the whole screen."""
    parts: list[RenderableType] = [_header(snapshot), ""]
    kafka, database = snapshot.kafka.figures, snapshot.database.figures
    if kafka is not None:
        parts += [_services(kafka.services), ""]
    parts.append(_figures(kafka, database))
    if database is not None and database.oldest:
        parts += ["", _oldest_jobs(snapshot, database)]
    if problems := problems_of(snapshot):
        parts += ["", *(_problem(problem) for problem in problems)]
    if kafka is not None:
        parts += ["", *(Text(note, style=_QUIET) for note in _notes(kafka.services))]
    return Group(*parts)


def _header(snapshot: Snapshot) -> Text:
    header = Text(f"segue watch  {snapshot.at:%Y-%m-%d %H:%M:%S} UTC", style="bold")
    for name, state in (("Kafka", snapshot.kafka), ("PostgreSQL", snapshot.database)):
        header.append("   ").append(*_server(name, state))
    return header


def _server(
    name: str, state: ServerState[KafkaFigures] | ServerState[DatabaseFigures]
) -> tuple[str, str]:
    if state.problem is None:
        return f"{name} answers", _GOOD
    return f"{name} is unavailable", _BAD


def _services(services: Sequence[ServiceFigures]) -> Table:
    table = wide(
        *SERVICE_COLUMNS, right={"members", "lag", "oldest", "lanes", "slots", "in flight"}
    )
    for service in services:
        members = _IN_STACK if service.members is None else str(service.members)
        table.add_row(
            service.name,
            Text(members, style=_BAD if service.members == 0 else ""),
            _UNKNOWN if service.records is None else str(service.records),
            Text(
                format_age(service.seconds) if service.records else "",
                style=_BAD if service.seconds >= LAG_S_MAX else "",
            ),
            service.behind_on or "",
            "" if service.lanes is None else str(service.lanes),
            "" if service.slots is None else f"{service.slots_taken}/{service.slots}",
            "" if service.in_flight is None else str(service.in_flight),
        )
    return table


def _figures(kafka: KafkaFigures | None, database: DatabaseFigures | None) -> Table:
    """Return one row per subject."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    if database is not None:
        totals = database.totals
        values = [
            _counts(database.counts.stages),
            _counts({status: totals.ended_today.get(status, 0) for status in END_STATUSES}),
            _counts({status: totals.ended.get(status, 0) for status in END_STATUSES}),
            _costs(totals),
        ]
        for name, value in zip(ROWS[:4], values, strict=True):
            grid.add_row(name, value)
    if kafka is not None:
        letters = kafka.dead_letters
        waiting = f"{sum(letters.values())} waiting"
        text = f"{waiting}: {_counts(letters)}" if letters else waiting
        grid.add_row(ROWS[4], Text(text, style=_BAD if letters else ""))
    if database is not None:
        grid.add_row(ROWS[5], f"{database.counts.outbox} records to publish")
        if database.counts.uploads:
            mib = database.counts.upload_bytes / 2**20
            grid.add_row("uploads", f"{database.counts.uploads} that no job uses, {mib:.1f} MiB")
    return grid


def _costs(totals: CostTotals) -> str:
    saved = f" (saved {dollars(totals.saved_today_usd)})" if totals.saved_today_usd else ""
    return f"today {dollars(totals.spent_today_usd)}{saved}   total {dollars(totals.spent_usd)}"


def _counts(counts: Mapping[str, int]) -> str:
    return "   ".join(f"{name} {count}" for name, count in counts.items())


def _oldest_jobs(snapshot: Snapshot, database: DatabaseFigures) -> Table:
    table = wide(*JOB_COLUMNS, right={"run", "scenes", "cost", "age"}, rest="why")
    for summary in database.oldest:
        job = job_row(summary, now=snapshot.at)
        table.add_row(
            _shortened(job["job_id"]),
            str(job["run"]),
            job["status"],
            format_scenes(job),
            "" if job["cost_usd"] is None else dollars(job["cost_usd"]),
            format_age(job["age_s"]),
            format_reason(job),
        )
    return table


def _shortened(job_id: str) -> str:
    """Return the start of a long id; `segue jobs` prints all of it."""
    return job_id if len(job_id) <= ID_CHARS else f"{job_id[: ID_CHARS - 1]}…"


def _problem(problem: Problem) -> Text:
    return Text("! ", style=_BAD).append(problem.what).append(f"  -> {problem.do}", style=_QUIET)


def _notes(services: Sequence[ServiceFigures]) -> list[str]:
    """Return what a reader must know about the services' figures."""
    is_embedded = any(service.members is None for service in services)
    has_no_health = all(service.lanes is None for service in services)
    return [
        *([_EMBEDDED_BROKER_NOTE] if is_embedded else []),
        *([_NO_HEALTH_NOTE] if has_no_health else []),
    ]

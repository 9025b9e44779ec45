"""Draws a snapshot of `segue watch`, for 80 columns and more.

No I/O: the caller owns the console.
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from ops.cli.layout import Hanging, Line, Listing, count_of, wrap
from ops.cli.servers import KAFKA, POSTGRES, PROVIDER, STORE
from ops.cli.times import format_time
from ops.jobs.list import format_age, format_reason, format_scenes, job_row
from ops.watch.snapshot import (
    LAG_S_MAX,
    DatabaseFigures,
    KafkaFigures,
    Problem,
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


class Wrapped:
    """A line that wraps at word boundaries; a renderable of rich."""

    def __init__(self, line: Line, *, style: str = "", head_style: str = "") -> None:
        self.line, self.style, self.head_style = line, style, head_style

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines."""
        head = "" if isinstance(self.line, str) else self.line.head
        for number, part in enumerate(wrap(self.line, options.max_width)):
            text = Text(part, style=self.style)
            if not number and part.startswith(head):
                text.stylize(self.head_style, 0, len(head))
            yield text


def draw(snapshot: Snapshot) -> RenderableType:
    """Return the whole screen."""
    parts: list[RenderableType] = [_header(snapshot), ""]
    kafka, database = snapshot.kafka.figures, snapshot.database.figures
    if kafka is not None:
        parts += [_services(kafka.services), ""]
    parts += _figures(kafka, database)
    if database is not None and database.oldest:
        parts += ["", _oldest_jobs(snapshot, database)]
    if problems := problems_of(snapshot):
        parts += ["", *(_problem(problem) for problem in problems)]
    if kafka is not None:
        parts += ["", *(Wrapped(note, style=_QUIET) for note in _notes(kafka.services))]
    return Group(*parts)


def _header(snapshot: Snapshot) -> Text:
    header = Text(f"segue watch  {format_time(snapshot.at)}", style="bold")
    servers = {
        KAFKA: snapshot.kafka.problem,
        POSTGRES: snapshot.database.problem,
        STORE: snapshot.store,
    }
    for name, problem in servers.items():
        state, style = ("up", _GOOD) if problem is None else ("unavailable", _BAD)
        header.append(f"   {name} {state}", style)
    if snapshot.provider is not None:
        header.append(f"   {PROVIDER} paused", _BAD)
    return header


def _services(services: Sequence[ServiceFigures]) -> Listing:
    table = Listing(
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


def _figures(kafka: KafkaFigures | None, database: DatabaseFigures | None) -> list[Wrapped]:
    """Return one line per subject."""
    rows: list[tuple[str, str, str]] = []
    if database is not None:
        totals = database.totals
        values = [
            _counts(database.counts.stages),
            _counts({status: totals.ended_today.get(status, 0) for status in END_STATUSES}),
            _counts({status: totals.ended.get(status, 0) for status in END_STATUSES}),
            _costs(totals),
        ]
        rows += [(name, value, "") for name, value in zip(ROWS[:4], values, strict=True)]
    if kafka is not None:
        letters = kafka.dead_letters
        waiting = f"{sum(letters.values())} waiting"
        text = f"{waiting}: {_counts(letters)}" if letters else waiting
        rows.append((ROWS[4], text, _BAD if letters else ""))
    if database is not None:
        rows.append((ROWS[5], f"{count_of(database.counts.outbox, 'record')} to publish", ""))
        if database.counts.uploads:
            mib = database.counts.upload_bytes / 2**20
            unused = f"{database.counts.uploads} that no job uses, {mib:.1f} MiB"
            rows.append(("uploads", unused, ""))
    longest = max(map(len, ROWS))
    return [
        Wrapped(Hanging(f"{name:<{longest}}  ", value), style=style) for name, value, style in rows
    ]


def _costs(totals: CostTotals) -> str:
    saved = f" (saved {dollars(totals.saved_today_usd)})" if totals.saved_today_usd else ""
    return f"today {dollars(totals.spent_today_usd)}{saved}   total {dollars(totals.spent_usd)}"


def _counts(counts: Mapping[str, int]) -> str:
    return "   ".join(f"{name} {count}" for name, count in counts.items())


def _oldest_jobs(snapshot: Snapshot, database: DatabaseFigures) -> Listing:
    table = Listing(
        *JOB_COLUMNS, right={"run", "scenes", "cost", "age"}, wraps={JOB_COLUMNS[0], "why"}
    )
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


def _problem(problem: Problem) -> Wrapped:
    return Wrapped(Hanging("! ", f"{problem.what}  -> {problem.do}"), head_style=_BAD)


def _notes(services: Sequence[ServiceFigures]) -> list[str]:
    """Return what a reader must know about the services' figures."""
    is_embedded = any(service.members is None for service in services)
    has_no_health = all(service.lanes is None for service in services)
    return [
        *([_EMBEDDED_BROKER_NOTE] if is_embedded else []),
        *([_NO_HEALTH_NOTE] if has_no_health else []),
    ]
